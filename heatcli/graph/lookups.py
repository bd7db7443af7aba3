"""Lookups: operators that turn the whole numbers of an input into real ones, position by position, as embeddings do.

An input of tokens is explained from what is looked up: the relevance of a position is that of its row of the table. To
carry it, the input is a real number, `CODE` above its token, and each lookup has that input as its source.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from heatcli.graph.operator import Graph, Operator, Ref

CODE = 0.5  # a token n is the input n + CODE, which differs from every baseline, and as a whole number is n
BYTES = 256
# Operators on whole numbers that keep positions apart and in order.
_EACH = frozenset(
    """_to_copy clone alias detach contiguous lift_fresh_copy view _unsafe_view reshape flatten squeeze
    unsqueeze expand add sub rsub mul neg abs clamp clamp_min clamp_max minimum maximum where remainder fmod
    floor_divide lt le gt ge eq ne logical_and logical_or logical_not bitwise_and bitwise_or""".split()
)
_TABLES = {"embedding": 0, "index_select": 0, "index": 0}  # the table's place among the arguments
_LEADING = 2  # axes of an input of tokens: images and positions


class Positions:
    """What recording an input of tokens, [N, T], knows of values that depend on it."""

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self._input, self._shape = name, shape
        self._known: dict[str, tuple[tuple[int, ...], bool]] = {name: (shape, False)}  # → shape, whole numbers

    def told(self, op: Operator) -> tuple[Operator, Operator | None]:
        """The operator; where it is a lookup, with its source, which the second operator makes of the input if any."""
        if op.sources and op.dtype.is_floating_point:
            return op, None
        shape = self._of(op)
        if shape is None:
            return op, None
        if not op.dtype.is_floating_point:
            self._known[op.name] = (op.shape, op.dtype != torch.bool or _marks(op) is not None)
            return op, None
        name, made = self._input, None
        if shape != self._shape:
            name = f"positions_{op.name}"
            made = Operator(
                name=name, target=torch.ops.aten.reshape.default, args=(Ref(self._input), list(shape)), kwargs={},
                index=None, shape=shape, dtype=torch.get_default_dtype(), sources=(self._input,),
                source_shapes=(self._shape,),
            )  # fmt: skip
        return replace(op, sources=(name,), source_shapes=(shape,)), made

    def _of(self, op: Operator) -> tuple[int, ...] | None:
        """The shape of the input that broadcasts against the operator's output, each position at its own place.

        None if the operator reads other values, moves positions, or reads no whole numbers.
        """
        read = [self._known.get(name) for name in op.refs]
        if not read or any(one is None for one in read) or not self._keeps(op):
            return None
        shape, whole = max((one for one in read if one is not None), key=lambda one: one[1])
        if op.dtype.is_floating_point and not whole:
            return None
        count = math.prod(self._shape)
        if op.title in _EACH and math.prod(op.shape) == count:
            return op.shape
        if op.shape[: len(shape)] == shape and math.prod(shape) == count:
            return (*shape, *(1,) * (len(op.shape) - len(shape)))
        if op.shape[:_LEADING] == self._shape:
            return (*self._shape, *(1,) * (len(op.shape) - _LEADING))
        return None

    @staticmethod
    def _keeps(op: Operator) -> bool:
        """Whether what is at each position depends on the token there alone, by way of this operator."""
        if op.title in _TABLES:
            return op.constant(0) is not None and (op.title != "index_select" or op.arg(1) == 0)
        if op.title == "scatter":  # one-hot: a 1 at the token, on an axis of its own
            return op.arg(1) in (-1, len(op.shape) - 1) and len(op.shape) > _LEADING and op.constant(0) is not None
        return op.title in _EACH


def beyond(token: int, known: int) -> str:
    """What to say of a token that no table knows; `known`: how many tokens there are."""
    few = ", too few for the bytes of a text" if token < BYTES and known < BYTES else ""
    return f"holds the token {token}, and the model knows 0 to {known - 1}{few}"


def vocabulary(graph: Graph) -> int | None:
    """How many tokens the tables of a graph's lookups know; None if it has no table."""
    known = {op.name: op for op in graph.operators}
    found = [_rows(op) for op in graph.operators]
    found += [_marks(known[name]) for op in graph.operators if op.is_lookup for name in op.refs if name in known]
    return min((rows for rows in found if rows is not None), default=None)


def _rows(op: Operator) -> int | None:
    if op.is_lookup and op.title in _TABLES:
        table = op.constant(0)
        return None if table is None else len(table.value)
    if op.title == "scatter" and not op.dtype.is_floating_point:
        return op.shape[-1]
    return None


def _marks(op: Operator) -> int | None:
    """How many tokens a one-hot code knows that compares each token with 0, 1, …; None of any other operator."""
    table = next(iter(op.constants), None) if op.title == "eq" else None
    if table is None or table.value.numel() < 2 or op.shape[-1:] != table.value.shape[-1:]:
        return None
    counted = torch.arange(op.shape[-1], device=table.value.device)
    return op.shape[-1] if torch.equal(table.value.flatten().long(), counted) else None
