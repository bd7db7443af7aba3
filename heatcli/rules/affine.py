"""Rules for affine operators: convolution, dense layers, batch norm, average pooling, upsampling, `·c`, `+c`.

`Epsilon` serves all of them. The others serve only convolutions and dense layers, whose weights have signs to separate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from heatcli.errors import UsageError
from heatcli.graph.operator import collect
from heatcli.rules.numerics import per_image, signed, wide
from heatcli.rules.parameters import choice, number
from heatcli.rules.rule import Rule, Sent, Step
from heatcli.rules.weights import Signs

BIAS = ("book", "ignore")


@dataclass(frozen=True)
class Epsilon(Rule):
    """LRP-ε: R_i = Σ_j x_i w_ij R_j / (z_j + ε·sign(z_j)). The bias takes b_j R_j / (…), ε absorbs the rest.

    In multipliers: s = m·z / (z + ε·sign z), m_in = Wᵀ s. With a baseline, z is the difference from it. With
    `bias="ignore"` the denominator leaves the bias out, and the bias gets nothing.
    """

    epsilon: float = number(1e-6, 0)
    bias: str = choice("book", BIAS)
    source: ClassVar[str] = "Bach et al. 2015, eq. 58"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Absorbs s·ε·sign(z)."""
        ignored = step.bias if self.bias == "ignore" else None
        if self.epsilon == 0 and ignored is None:
            return Sent(step.adjoint(multiplier), multiplier, wide(multiplier.new_zeros(len(multiplier))))
        z = step.difference if ignored is None else step.difference - ignored
        stabiliser = signed(self.epsilon, z)
        s = multiplier * (step.difference / (z + stabiliser))
        return Sent(step.adjoint(s), s if ignored is None else None, per_image(s * stabiliser))


@dataclass(frozen=True)
class AlphaBeta(Rule):
    """R_i = Σ_j (α (x_i w_ij)⁺/Σ⁺ − β (x_i w_ij)⁻/Σ⁻) R_j with α − β = 1; Σ± includes a bias of that sign.

    A positive bias takes α b R_j/Σ⁺, a negative one β |b| R_j/|Σ⁻|. A stabiliser keeps the sums away from zero. The
    stabiliser's share is absorbed, and so is relevance without any contribution of its sign.
    """

    alpha: float = number(2.0, 0)
    beta: float = number(1.0, 0)
    stabilizer: float = number(1e-6, 0)
    bias: str = choice("book", BIAS)
    source: ClassVar[str] = "Bach et al. 2015, eq. 60"

    def __post_init__(self) -> None:
        super().__post_init__()
        if abs(self.alpha - self.beta - 1) > 1e-9:
            raise UsageError(f"alpha={self.alpha:g}, beta={self.beta:g} is not allowed; alpha − beta must be 1")

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Absorbs the stabiliser's share of both sums."""
        signs, relevance = Signs(step), multiplier * step.difference
        bias = step.bias if self.bias == "book" else None
        to_positive = self.alpha * relevance / signs.positive(bias, self.stabilizer)
        absorbed, to_negative = per_image(to_positive) * self.stabilizer, None
        if self.beta:
            to_negative = -self.beta * relevance / signs.negative(bias, self.stabilizer)
            absorbed = absorbed - per_image(to_negative) * self.stabilizer
        return Sent([signs.back(to_positive, to_negative)], offsets_at(bias, to_positive, to_negative), absorbed)


def offsets_at(bias: Tensor | None, to_positive: Tensor, to_negative: Tensor | None) -> Tensor | None:
    """The multiplier of a bias, by its sign, summed over the positions that share an element of the bias.

    `to_positive`, `to_negative`: multipliers [N, …] of the positive and negative sums. The result broadcasts as `bias`.
    """
    if bias is None:
        return None
    positive = collect(to_positive, bias)
    return torch.where(bias > 0, positive, 0 if to_negative is None else collect(to_negative, bias))


@dataclass(frozen=True)
class ZPlus(Rule):
    """R_i = Σ_j (x_i w_ij)⁺ / Σ_k (x_k w_kj)⁺ R_j: only positive contributions count, among them a positive bias."""

    stabilizer: float = number(1e-6, 0)
    bias: str = choice("book", BIAS)
    source: ClassVar[str] = "Montavon et al. 2017, eq. 17 (for any sign of x: α = 1, β = 0)"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """α–β with α = 1, β = 0."""
        return AlphaBeta(1.0, 0.0, self.stabilizer, self.bias)(step, multiplier)


@dataclass(frozen=True)
class Gamma(Rule):
    """Contributions with the sign of z_j count 1 + γ times, the others once.

    For non-negative inputs and z_j > 0 this is w + γ w⁺ of Montavon et al. 2019, else its generalisation.
    """

    gamma: float = number(0.25, 0)
    stabilizer: float = number(1e-6, 0)
    bias: str = choice("book", BIAS)
    source: ClassVar[str] = "Montavon et al. 2019, sec. 10.2.3; any sign: Andéol et al. 2021"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Absorbs s·stabilizer·sign(z)."""
        z, bias, signs = step.difference, step.bias, Signs(step)
        plain = z if bias is None or self.bias == "book" else z - bias
        bias = bias if self.bias == "book" else None
        favoured = torch.where(z < 0, signs.negative(bias), signs.positive(bias))
        denominator = plain + self.gamma * favoured
        stabiliser = signed(self.stabilizer, denominator)
        s = multiplier * z / (denominator + stabiliser)
        to_positive, to_negative = torch.where(z < 0, 0, self.gamma * s), torch.where(z < 0, self.gamma * s, 0)
        booked = offsets_at(bias, s + to_positive, s + to_negative)
        (once,) = step.adjoint(s)
        assert once is not None  # a layer with weights depends on its input
        return Sent([once + signs.back(to_positive, to_negative)], booked, per_image(s * stabiliser))
