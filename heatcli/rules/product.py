"""Rules for products of two activations: squeeze-and-excitation gates, attention, quotients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from heatcli.graph.facts import LAYOUT, facts_of
from heatcli.graph.kinds import is_diagonal
from heatcli.rules.rule import Rule, Sent, Step


@dataclass(frozen=True)
class Share(Rule):
    """Each factor gets half: Δ(ab) = Δa·(b + b0)/2 + Δb·(a + a0)/2, the gradient halfway between image and reference.

    Exact for bilinear operators, and the Shapley value of two factors. A quotient q = a/b is written as the product
    a = q·b, so Δq = (Δa − Δb·(q + q0)/2)·2/(b + b0), which stays bounded if only one of b and b0 is near 0. Where b and
    b0 have different signs, q = a·(1/b). From reference 0, where 1/b is undefined, the numerator takes all.
    """

    source: ClassVar[str] = "Shapley value of a product of two: Shapley 1953; Lundberg & Lee 2017"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Exact with either reference."""
        if step.operator.title == "div":
            return self._quotient(step, multiplier)
        if step.operator.title == "mul" and len(step.inputs) == 2:
            a, b = step.sums()
            return Sent([_half(multiplier, b, step.inputs[0]), _half(multiplier, a, step.inputs[1])])
        if step.without_reference:  # bilinear: derivatives at half the inputs are half the derivatives
            return Sent(step.adjoint(multiplier / 2), offsets_at=multiplier)
        return Sent(step.adjoint_at(step.midpoints(), multiplier), offsets_at=multiplier)

    @staticmethod
    def _quotient(step: Step, multiplier: Tensor) -> Sent:
        """The multipliers of numerator and denominator."""
        if step.reference_inputs is None:
            return Sent([step.adjoint(multiplier)[0], torch.zeros_like(step.inputs[1])])
        (a, b), (a0, b0) = step.inputs, step.reference_inputs
        alike = b * b0 > 0
        whole = torch.where(alike, b + b0, 1)
        by_a = torch.where(alike, 2 / whole, (1 / b + 1 / b0) / 2)
        by_b = torch.where(alike, (a / b + a0 / b0) / whole, (a + a0) / 2 / (b * b0))
        return Sent([(multiplier * by_a).sum_to_size(a.shape), (-multiplier * by_b).sum_to_size(b.shape)])


def _half(multiplier: Tensor, other: Tensor, like: Tensor) -> Tensor:
    """multiplier·other/2, with the shape of `like`; the smaller tensor is halved."""
    if other.numel() < multiplier.numel():
        return (multiplier * (other / 2)).sum_to_size(like.shape)
    return (multiplier * other).sum_to_size(like.shape) / 2


@dataclass(frozen=True)
class SignalTakesAll(Rule):
    """The gate is a weight and the signal takes all: Δ(gs) = Δs·g + Δg·s0, so from reference 0 the gate gets nothing.

    The gate is the factor that comes from a sigmoid, a softmax or a tanh, scaled and shifted (as 1 − z in a GRU) or
    not. Of a sigmoid and a tanh, as in an LSTM, the sigmoid is the gate. Where neither or both factors are gates,
    `Share` applies.
    """

    source: ClassVar[str] = "Arras et al. 2017, sec. 3.2 (signal-take-all); of LSTMs: Arras et al. 2019, sec. 3.2"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Exact with either reference."""
        strengths = [_gating(producer) for producer in step.producers]
        if step.operator.title == "div" or strengths[0] == strengths[-1]:
            return Share()(step, multiplier)
        gate = strengths.index(max(strengths))
        references = step.references() or [torch.zeros_like(x) for x in step.inputs]
        # derivative by the signal at the gate's value, derivative by the gate at the signal's reference
        points = [step.inputs[i] if i == gate else references[i] for i in (0, 1)]
        return Sent(step.adjoint_at(points, multiplier), offsets_at=multiplier)


def _gating(producer: Step | None) -> int:
    """How much a factor is a gate: 2 from a sigmoid or softmax, 1 from a tanh, whose signs are a signal's, else 0."""
    while producer is not None and (producer.operator.kind == LAYOUT or is_diagonal(producer.operator)):
        producer = producer.producers[0]
    facts = None if producer is None else facts_of(producer.operator)
    return 0 if facts is None or not facts.gate else 2 if facts.nonnegative else 1
