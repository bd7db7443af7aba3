"""Positions that an artifact chooses in the middle of its network: regions that a detector looks at again.

How many there are depends on the picture, and no relevance goes to positions. So they are constants of a graph that is
of one picture alone. Their fingerprint, a number, is a guard of that graph: a picture with other positions is another
graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from heatcli.graph.nested import mapped
from heatcli.graph.operator import Constant, Operator, Ref
from heatcli.graph.recorder import Call
from heatcli.graph.schemas import has_free_shape, tensors_in
from heatcli.system.torch_private import name_of

SUPPRESSING = frozenset("nms non_max_suppression".split())
_TURN = 0.7310585786300049  # of no simple ratio to a full turn, so that no two positions have one sine


def is_free(call: Call) -> bool:
    """Whether the shape of the call's output depends on values."""
    picks = tensors_in(call.args[1:2])
    return name_of(call.target) in SUPPRESSING or has_free_shape(call.target, (mask.dtype for mask in picks))


def chosen_for(output: Tensor, calls: Sequence[Call]) -> list[Tensor]:
    """The positions, of no fixed number, that `output` depends on."""
    found, positions = {id(output)}, list[Tensor]()
    for call in reversed(calls):
        made = tensors_in(call.output)
        if any(id(x) in found for x in made):
            found.update(id(x) for x in tensors_in(call.args, call.kwargs))
            if is_free(call):
                positions += [x for x in made if not x.is_floating_point() and x.dtype != torch.bool]
    return positions


def fingerprint_of(positions: Sequence[Tensor]) -> Tensor:
    """A float64 number that other positions, or the same in another order or number, do not have.

    Its operators take any number of positions: use it while a recorder is on.
    """
    total = torch.zeros((), dtype=torch.float64)
    for i, one in enumerate(positions):
        spread = one.reshape(-1).double().add(1).mul(_TURN).sin().add(2)
        total = total + spread.cumsum(0).sum() * (1 + i / 7)
    return total


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
    return replace(operator, args=args, kwargs=kwargs)
