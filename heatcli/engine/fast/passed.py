"""Relevance that a nonlinearity passes on undivided, for rules that divide it anyway: saves one division each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from heatcli.rules.rule import Carried, Step


@dataclass(frozen=True, slots=True, eq=False)
class Passed(Carried):
    """Relevance m·(y − y0) of a nonlinearity y = f(x), passed to its input without the division by x − x0.

    f keeps signs (with a reference: order), so y − y0 never has the opposite sign of x − x0. `divided(step, m)` is the
    multiplier of x.
    """

    step: Step
    m: Tensor
    divided: Callable[[Step, Tensor], Tensor]

    def multiplier(self) -> Tensor:
        """m·(y − y0)/(x − x0), with the shape of x."""
        return self.divided(self.step, self.m)

    def at_output(self, step: Step) -> tuple[Tensor, Tensor | None]:  # noqa: ARG002 - its own step is stored
        """The multiplier; no relevance is lost."""
        return self.multiplier(), None

    def at_image(self, difference: Tensor) -> Tensor:  # noqa: ARG002
        """The multiplier; `difference`: [N, …]."""
        return self.multiplier()

    def __add__(self, other: Tensor | Carried) -> Tensor | Carried:
        return self.multiplier() + (other.multiplier() if isinstance(other, Passed) else other)


def relevance_over(step: Step, multiplier: Tensor | Passed, by: Tensor) -> Tensor:
    """The relevance of a step's output, m·(z − z0), divided by the tensor `by` of its shape, in the memory of `by`."""
    m, of = (multiplier.m, multiplier.step) if isinstance(multiplier, Passed) else (multiplier, step)
    if by.dtype.itemsize < 4:  # m/by overflows half precision
        return m * of.difference / by
    return torch.div(m, by, out=by).mul_(of.difference)
