"""Rules that separate weights by sign, α–β, z⁺ and γ, with undivided relevance and in place."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from heatcli.engine.fast.numerics import above_zero, below_zero, row_dots, row_sums, summed
from heatcli.engine.fast.passed import Passed, relevance_over
from heatcli.graph.operator import collect
from heatcli.rules.affine import AlphaBeta, Gamma, ZPlus, offsets_at
from heatcli.rules.numerics import signed
from heatcli.rules.reveal_cancel import Parts
from heatcli.rules.rule import Carried, Sent, Step
from heatcli.rules.weights import Signs, bent


class FastSigns(Signs):
    """`Signs` without terms known to be zero: if no x is below 0, the terms for x < 0 are left out."""

    def __init__(self, step: Step) -> None:
        super().__init__(step)
        self.x = self.x.detach()

    @cached_property
    def _one_sided(self) -> bool:
        """Whether no x is below 0, as far as that is quick to tell."""
        producer = self.step.producers[0] if self.step.producers else None
        if self.step.without_reference and producer is not None and producer.operator.nonnegative:
            return True
        if self.step.fixed or bool(self.x[0].amin() < 0):  # the first image usually decides
            return False
        return bool(self.x.amin() >= 0)

    def positive(self, bias: Tensor | None, stabiliser: float = 0.0) -> Tensor:
        """Σ_i (x_i w_ij)⁺ + b_j⁺ + stabiliser; `bias` broadcasts against the output."""
        return self._total(1, (0.0 if bias is None else bias.clamp(min=0)) + stabiliser)

    def negative(self, bias: Tensor | None, stabiliser: float = 0.0) -> Tensor:
        """Σ_i (x_i w_ij)⁻ + b_j⁻ − stabiliser, a number ≤ 0; `bias` broadcasts against the output."""
        return self._total(-1, (0.0 if bias is None else bias.clamp(max=0)) - stabiliser)

    def _total(self, sign: int, more: Tensor | float) -> Tensor:
        """The sum of the contributions of that sign, plus `more`."""
        operators, others = (bent(self.step.operator, s) for s in (sign, -sign)), self.step.others
        above = next(operators)
        if self._one_sided:
            return above.run(others, [self.x]).add_(more)
        part = self.x.clamp(min=0)
        total = above.run(others, [part])
        return total.add_(next(operators).run(others, [torch.clamp(self.x, max=0, out=part)])).add_(more)

    def back(self, to_positive: Tensor | None, to_negative: Tensor | None, halved: bool = False) -> Tensor:
        """As in `Signs.back`, in the memory of both sides; both multipliers [N, …]."""
        above = self.one_side(to_positive, to_negative)
        if self._one_sided and not halved:
            return above
        below = self.one_side(to_negative, to_positive)
        if not halved:
            return above_zero(above, self.x, above).add_(below_zero(below, self.x, below))
        m = above_zero(above, self.x).add_(below_zero(below, self.x))
        return torch.where(self.x == 0, above.add_(below).div_(2), m)


@dataclass(frozen=True)
class FastAlphaBeta(AlphaBeta):
    """`AlphaBeta` without storing the relevance: it is divided at once."""

    accepts: ClassVar[tuple[type[Carried], ...]] = (Passed,)
    reads_output: ClassVar[bool] = False

    def __call__(self, step: Step, multiplier: Tensor | Passed) -> Sent:
        """As in `AlphaBeta`."""
        signs, bias = FastSigns(step), step.bias if self.bias == "book" else None
        to_positive = relevance_over(step, multiplier, signs.positive(bias, self.stabilizer))
        if self.alpha != 1:
            to_positive = to_positive * self.alpha
        positive, to_negative, negative = summed(to_positive, bias), None, None
        absorbed = row_sums(positive) * self.stabilizer
        if self.beta:
            to_negative = relevance_over(step, multiplier, signs.negative(bias, self.stabilizer)) * -self.beta
            negative = summed(to_negative, bias)
            absorbed = absorbed - row_sums(negative) * self.stabilizer
        return Sent([signs.back(to_positive, to_negative)], offsets_at(bias, positive, negative), absorbed)


@dataclass(frozen=True)
class FastZPlus(ZPlus):
    """`ZPlus`, computed by `FastAlphaBeta`."""

    accepts: ClassVar[tuple[type[Carried], ...]] = (Passed,)
    reads_output: ClassVar[bool] = False

    def __call__(self, step: Step, multiplier: Tensor | Passed) -> Sent:
        """As in `ZPlus`."""
        return FastAlphaBeta(1.0, 0.0, self.stabilizer, self.bias)(step, multiplier)


@dataclass(frozen=True)
class FastGamma(Gamma):
    """`Gamma`, computed by `FastSigns`."""

    accepts: ClassVar[tuple[type[Carried], ...]] = (Passed,)

    def __call__(self, step: Step, multiplier: Tensor | Passed) -> Sent:
        """As in `Gamma`."""
        z, whole, signs = step.difference, step.bias, FastSigns(step)
        bias = whole if self.bias == "book" else None
        favoured = above_zero(signs.positive(bias), z) + below_zero(signs.negative(bias), z)
        base = z if bias is not None or whole is None else z - whole
        denominator = base + self.gamma * favoured
        stabiliser = signed(self.stabilizer, denominator)
        s = relevance_over(step, multiplier, denominator + stabiliser)
        more = self.gamma * s
        up, down = above_zero(more, z), below_zero(more, z)
        extra = signs.back(up, down)
        (plain,) = step.adjoint(s)
        assert plain is not None
        booked = offsets_at(bias, up, down)
        if booked is not None and bias is not None:
            booked = booked + collect(s, bias)
        return Sent([plain + extra], booked, row_dots(s, stabiliser, step.fixed))


@dataclass(frozen=True)
class FastParts(Parts):
    """`Parts`, computed by `FastSigns`."""

    def signs(self, step: Step) -> Signs:
        """As in `Parts.signs`."""
        return FastSigns(step)
