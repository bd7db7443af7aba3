"""What an artifact computes at the places it chose, computed at all places.

A detector may choose its best places first, and turn these alone into boxes (RetinaNet, FCOS), or scale the boxes that
remain to the picture it was given. The operators behind the choice compute each row from the same row, so they are run
again on all rows. The result is new calls of the same operators: the decoding of every box is in the graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from heatcli.graph.facts import LAYOUT, MAXIMUM, NORMALISER, TABLE
from heatcli.graph.nested import leaves
from heatcli.graph.recorder import Call
from heatcli.graph.schemas import tensors_in
from heatcli.system.torch_private import name_of, unrecorded

_READING = frozenset("index index_select gather take_along_dim masked_select".split())
_ORDERING = frozenset("topk sort".split())
_OFF = 1e-4  # relative difference of a box at a chosen place from the same box among all


@dataclass(frozen=True, eq=False)
class Rows:
    """A value with a row for each place: its parts, in the order in which the artifact joins them along `axis`."""

    parts: tuple[Tensor, ...]
    axis: int


class Everywhere:
    """Runs the operators `after` a choice on all rows. Its tensors are new: use it while a recorder is on."""

    def __init__(self, calls: Sequence[Call], after: frozenset[int]) -> None:
        self._made: dict[int, Call] = {
            id(x): call for call in calls if id(call) in after for x in leaves(call.output) if isinstance(x, Tensor)
        }
        self._known: dict[int, Rows | None] = {}
        self.sources: list[Tensor] = []  # the values whose rows are chosen

    def __call__(self, x: Tensor) -> Rows | None:
        """All rows of a value computed at chosen places; None if an operator on the way mixes rows."""
        if id(x) not in self._known:
            self._known[id(x)] = self._rows(x)
        return self._known[id(x)]

    def _rows(self, x: Tensor) -> Rows | None:
        call = self._made.get(id(x))
        if call is None:
            return None
        title, (source, *others) = name_of(call.target), call.args
        if title in _READING and (id(source) not in self._made or self._chooses(others)):
            return self(source) if id(source) in self._made else self._read(source, title, others)
        if title in _ORDERING:
            axis = others[-1] if title == "sort" else others[1] if len(others) > 1 else -1
            ordered = self(source) if id(source) in self._made else self._whole(source, axis)
            return ordered if x is call.output[0] else None
        if title == "cat":
            joined = self._joined(call)
            if joined is not None:
                return joined
        return self._row_by_row(call, title, x)

    def _chooses(self, indices: Sequence[Any]) -> bool:
        """Whether rows are chosen by a mask, by places that were chosen, or by none, and not by fixed places."""
        given = tensors_in(indices)
        return any(id(y) in self._made or y.dtype == torch.bool or not y.numel() for y in given)

    def _read(self, source: Tensor, title: str, others: Sequence[Any]) -> Rows | None:
        """The value that rows are read from, and the axis of its rows."""
        if title == "index":
            (indices,) = others
            at = [axis for axis, index in enumerate(indices) if index is not None]
            return self._whole(source, at[0]) if len(at) == 1 and indices[at[0]].dim() == 1 else None
        if title == "masked_select":
            return None
        return self._whole(source, others[1] if title == "take_along_dim" else others[0])

    def _whole(self, source: Tensor, axis: int) -> Rows:
        """A value whose rows are chosen, as it is."""
        self.sources.append(source)
        return Rows((source,), axis % max(source.dim(), 1))

    def _joined(self, call: Call) -> Rows | None:
        """The parts of rows that are joined along their own axis, each once; None if another axis is joined."""
        every = [self(part) for part in call.args[0]]
        rows = [one for one in every if one is not None]
        axis = call.args[1] if len(call.args) > 1 else 0
        if len(rows) < len(every) or {one.axis for one in rows} != {axis % call.output.dim()}:
            return None
        parts = {id(part): part for one in rows for part in one.parts}
        return Rows(tuple(parts.values()), rows[0].axis)

    def _row_by_row(self, call: Call, title: str, x: Tensor) -> Rows | None:
        """The call on all rows of its inputs, part by part."""
        inputs = tensors_in(call.args, call.kwargs)
        given = {id(y): self(y) for y in inputs if id(y) in self._made}
        rows = [one for one in given.values() if one is not None]
        if title not in TABLE or TABLE[title].kind in (MAXIMUM, NORMALISER) or len(rows) < max(1, len(given)):
            return None
        axis, lengths = rows[0].axis, [_lengths(one) for one in rows]
        if any(one.axis != axis for one in rows) or any(one != lengths[0] for one in lengths):
            return None
        if title == "slice" and (call.args[1] if len(call.args) > 1 else 0) == axis:  # the first of the best
            return rows[0]
        chosen = next(y.shape[axis] for y in inputs if id(y) in given)
        parts = []
        for i, length in enumerate(lengths[0]):
            swapped = {key: one.parts[i] for key, one in given.items() if one is not None}
            output = _run(call, swapped, TABLE[title].kind == LAYOUT, axis, (chosen, length))
            if output is None:
                return None
            returned, made = tensors_in(call.output), tensors_in(output)
            part = made[next(k for k, y in enumerate(returned) if y is x)]
            if part.dim() <= axis or part.shape[axis] != length:
                return None
            parts.append(part)
        return Rows(tuple(parts), axis)


def _lengths(rows: Rows) -> list[int]:
    return [part.shape[rows.axis] for part in rows.parts]


def _run(call: Call, swapped: Mapping[int, Tensor], resizes: bool, axis: int, lengths: tuple[int, int]) -> Any:
    """The call on other rows; None where it cannot be run on them. Sizes that a layout names are those of all rows."""
    chosen, every = lengths

    def given(x: Any) -> Any:
        if isinstance(x, Tensor):
            return swapped.get(id(x), x)
        if isinstance(x, list | tuple):
            whole = [given(y) for y in x]
            if resizes and len(x) > axis and isinstance(x[axis], int) and x[axis] == chosen:
                whole[axis] = every
            return whole
        return x

    try:
        return call.target(*map(given, call.args), **{name: given(x) for name, x in call.kwargs.items()})
    except (RuntimeError, IndexError):
        return None


def boxes(
    calls: Sequence[Call], after: frozenset[int], returned: Sequence[Tensor]
) -> Iterator[tuple[Rows, list[Tensor]]]:
    """Every returned value of boxes [K, 4] or [N, K, 4], at all places, and the values whose rows were chosen.

    The boxes that are returned must be among them.
    """
    for x in of_boxes(returned):
        everywhere = Everywhere(calls, after)
        rows = everywhere(x)
        if rows is not None and rows.axis == x.dim() - 2 and holds(rows.parts, x):
            yield rows, everywhere.sources


def of_boxes(returned: Sequence[Tensor]) -> list[Tensor]:
    """The values [K, 4] or [N, K, 4] among those that an artifact returns."""
    return [x for x in returned if x.is_floating_point() and x.dim() in (2, 3) and x.shape[-1] == 4]


def holds(parts: Sequence[Tensor], chosen: Tensor) -> bool:
    """Whether every chosen row [4] is one of the rows of the parts."""
    with unrecorded():
        every = torch.cat([part.reshape(-1, 4) for part in parts])
        off = _OFF * max(1.0, float(every.abs().max()) if every.numel() else 1.0)
        return all(bool(((every - row).abs() < off).all(1).any()) for row in chosen.reshape(-1, 4))
