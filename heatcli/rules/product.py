"""Rules for products of two activations: squeeze-and-excitation gates, attention, quotients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from heatcli.rules.base import Sent, Step


@dataclass(frozen=True)
class Share:
    """Each factor gets half: Δ(ab) = Δa·(b + b0)/2 + Δb·(a + a0)/2, the gradient halfway between image and reference.

    Exact for everything bilinear, and the Shapley value of two factors. A quotient a/b is a·(1/b); from reference 0,
    where 1/b has no value, the numerator takes all.
    """

    source: ClassVar[str] = "Shapley value of a product of two"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Exact with either reference."""
        if step.operator.title == "div":
            return self._quotient(step, multiplier)
        _, multipliers = step.adjoint_at(step.midpoints(), multiplier)
        return Sent(multipliers, offsets_at=multiplier)

    @staticmethod
    def _quotient(step: Step, multiplier: Tensor) -> Sent:
        if step.reference_inputs is None:
            return Sent([step.adjoint(multiplier)[0], torch.zeros_like(step.inputs[1])])
        (a, b), (a0, b0) = step.inputs, step.reference_inputs
        to_a = (multiplier * (1 / b + 1 / b0) / 2).sum_to_size(a.shape)
        to_b = (-multiplier * (a + a0) / 2 / (b * b0)).sum_to_size(b.shape)
        return Sent([to_a, to_b])
