"""Max pooling with indices of the winners: divides once per window instead of once per input."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from heatcli.engine.fast.numerics import quotient
from heatcli.graph.facts import facts_of
from heatcli.rules.candidates import dimensions
from heatcli.rules.maximum import Winner, share_among, ties
from heatcli.rules.rule import Sent, Step


@dataclass(frozen=True)
class FastWinner(Winner):
    """`Winner`, by the indices of the winners if the operator returns them."""

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """As in `Winner`."""
        if step.reference_inputs is None or step.reference_output is None or not facts_of(step.operator).indexed:
            return super().__call__(step, multiplier)
        which, space = replace(step.operator, index=1), dimensions(step.operator)

        def flat(values: Tensor) -> Tensor:
            """[N, positions, C], the memory order of channels last."""
            return values.movedim(-space - 1, -1).flatten(-space - 1, -2)

        def lifted(values: Tensor, like: Tensor) -> Tensor:
            """The inverse of `flat`, with the shape of `like`."""
            return values.reshape(like.movedim(-space - 1, -1).shape).movedim(-1, -space - 1)

        x, x0, y, y0 = step.inputs[0], step.reference_inputs[0], step.output, step.reference_output
        change, half = multiplier * step.difference, multiplier / 2
        with torch.no_grad():
            at_image, at_baseline = (flat(which.run(step.others, [v]).expand_as(y)) for v in (x, x0))
        tied = ties(step)
        any_tied, part = tied.any(0), None
        if step.fixed or bool(any_tied.any()):
            (part,) = share_among(step, tied, torch.where(any_tied, change, 0))
            change, half = torch.where(any_tied, 0, change), torch.where(any_tied, 0, half)
        fell = step.difference < 0
        risen, fallen = torch.where(fell, 0, change), torch.where(fell, change, 0)
        rise_of_winner = y - lifted(flat(x0.expand_as(x)).gather(-2, at_image), y)
        (m,) = step.adjoint(quotient(risen, rise_of_winner, half, 0.0, step.fixed))
        assert m is not None
        m = m if part is None else m.add_(part)
        fall_of_winner = lifted(flat(x).gather(-2, at_baseline), y) - y0
        back = flat(quotient(fallen, fall_of_winner, half, 0.0, step.fixed))
        return Sent([lifted(flat(m).scatter_add_(-2, at_baseline, back), x)])
