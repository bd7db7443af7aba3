"""Positions that an artifact chooses in the middle of its network: regions that a detector looks at again.

How many there are depends on the picture, and no relevance goes to positions. So they are constants of a graph that is
of one picture alone: whole numbers, and the boxes that maps are read at. Another picture is another graph. For a
baseline and changed pictures the positions of the explained picture are held
(`heatcli.engine.network.Network.holding`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from heatcli.graph.facts import LAYOUT, READING_MAPS, TABLE
from heatcli.graph.nested import mapped
from heatcli.graph.operator import Constant, Operator, Ref
from heatcli.graph.recorder import Call
from heatcli.graph.schemas import has_free_shape, tensors_in, title_of
from heatcli.system.torch_private import name_of

SUPPRESSING = frozenset("nms non_max_suppression".split())
_READING = frozenset("index index_select gather take_along_dim".split())
_JOINING = frozenset("cat stack".split())


def is_free(call: Call) -> bool:
    """Whether the shape of the call's output depends on values."""
    picks = tensors_in(call.args[1:2])
    return name_of(call.target) in SUPPRESSING or has_free_shape(call.target, (mask.dtype for mask in picks))


def calls_before(values: Sequence[Tensor], calls: Sequence[Call]) -> set[int]:
    """The calls that these values depend on, by identity."""
    needed, found = {id(x) for x in values}, set[int]()
    for call in reversed(calls):
        if any(id(x) in needed for x in tensors_in(call.output)):
            found.add(id(call))
            needed.update(id(x) for x in tensors_in(call.args, call.kwargs))
    return found


def chosen_for(output: Tensor, calls: Sequence[Call]) -> list[Tensor]:
    """The positions that `output` depends on; [] where all are whole numbers, of a fixed number."""
    needed, positions, indices = calls_before([output], calls), list[Tensor](), list[Tensor]()
    for call in calls:
        if id(call) not in needed:
            continue
        name = name_of(call.target)
        if is_free(call):
            positions += filter(_is_whole, tensors_in(call.output))
        if name in READING_MAPS:
            positions += _moved(call.args[1], calls)
        if name in _READING:
            indices += filter(_is_whole, tensors_in(call.args[1:]))
    every = positions + indices if positions else []
    return list({id(x): x for x in every}.values())


def _is_whole(x: Tensor) -> bool:
    return not x.is_floating_point() and x.dtype != torch.bool


def _moved(boxes: Tensor, calls: Sequence[Call]) -> list[Tensor]:
    """The boxes, and what they are joined and moved from without a computation."""
    found = {id(boxes): boxes}
    for call in reversed(calls):
        title = title_of(call.target)
        moves = title in _JOINING or (title in TABLE and TABLE[title].kind == LAYOUT)
        if moves and any(id(x) in found for x in tensors_in(call.output)):
            found |= {id(x): x for x in tensors_in(call.args, call.kwargs) if x.is_floating_point()}
    return list(found.values())


def held(operators: Iterable[Operator], positions: Mapping[str, Tensor]) -> list[Operator]:
    """The operators, in forward order, that depend on the image when the values of those names are constants."""
    known, kept = dict(positions), []
    for operator in operators:
        one = _with_constants(operator, known)
        if one.refs:
            kept.append(one)
        elif operator.name not in known:
            known[operator.name] = one.run({})
    return kept


def _with_constants(operator: Operator, known: Mapping[str, Tensor]) -> Operator:
    """The operator with the values of those names that it reads as constants."""
    if not any(name in known for name in operator.refs):
        return operator

    def constant(x: object) -> object:
        return Constant(x.name, known[x.name]) if isinstance(x, Ref) and x.name in known else x

    args, kwargs = mapped(constant, (operator.args, operator.kwargs))
    left = [pair for pair in zip(operator.sources, operator.source_shapes, strict=True) if pair[0] not in known]
    sources, shapes = ((name for name, _ in left), (shape for _, shape in left))
    return replace(operator, args=args, kwargs=kwargs, sources=tuple(sources), source_shapes=tuple(shapes))
