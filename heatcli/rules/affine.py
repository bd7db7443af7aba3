"""Rules for affine operators: convolution, dense layers, batch norm, average pooling, upsampling, `·c`, `+c`.

`Epsilon` serves all of them; the others need weights whose signs they can tell apart: convolutions and dense layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from heatcli.errors import UsageError
from heatcli.parameters import Parameters, choice, number
from heatcli.rules.base import Sent, Step, flat, per_image, signed, wide
from heatcli.rules.weights import Signs, bent, linear

BIAS = ("book", "ignore")


@dataclass(frozen=True)
class Epsilon(Parameters):
    """LRP-ε: R_i = Σ_j x_i w_ij R_j / (z_j + ε·sign(z_j)); the bias takes b_j R_j / (…), ε the rest.

    In multipliers: s = m·z / (z + ε·sign z), m_in = Wᵀ s. With a baseline, z is the difference from it. With
    `bias="ignore"` z leaves the bias out, which then gets nothing.
    """

    epsilon: float = number(1e-6, 0)
    bias: str = choice("book", BIAS)
    source: ClassVar[str] = "Bach et al. 2015, eq. 58"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Absorbs s·ε·sign(z)."""
        if self.bias == "ignore" and step.bias is not None:
            z = step.difference
            alone = z - step.bias
            s = multiplier * z / (alone + signed(self.epsilon, alone))
            return Sent(step.adjoint(s), absorbed=per_image(s * signed(self.epsilon, alone)))
        if self.epsilon == 0:
            nothing = wide(multiplier.new_zeros(len(multiplier)))
            return Sent(step.adjoint(multiplier), offsets_at=multiplier, absorbed=nothing)
        z = step.difference
        if step.differentiable:
            stabiliser = signed(self.epsilon, z)
            s = multiplier * (z / (z + stabiliser))
            return Sent(step.adjoint(s), offsets_at=s, absorbed=per_image(s * stabiliser))
        z, dtype = z.detach(), z.dtype
        if dtype.itemsize < 4:  # m/ε is out of their range
            z, multiplier = z.float(), multiplier.float()
        q = z.abs().add_(self.epsilon)
        torch.div(multiplier, q, out=q)  # s = m·|z|/(|z| + ε) = m − q·ε, and ε absorbs q·z·ε
        absorbed = torch.linalg.vecdot(flat(q), flat(z))
        s = torch.add(multiplier, q, alpha=-self.epsilon, out=q).to(dtype)
        return Sent(step.adjoint(s), offsets_at=s, absorbed=wide(absorbed) * self.epsilon)


@dataclass(frozen=True)
class AlphaBeta(Parameters):
    """R_i = Σ_j (α (x_i w_ij)⁺/Σ⁺ − β (x_i w_ij)⁻/Σ⁻) R_j with α − β = 1; Σ± holds the bias of that sign too.

    A positive bias takes α b R_j/Σ⁺, a negative one β |b| R_j/|Σ⁻|. A stabiliser keeps the sums off zero; what it
    swallows is absorbed, and so is relevance that finds no contribution of its sign.
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
        """Relevance of the output is multiplied out: R = m·(z − z0)."""
        relevance = multiplier * step.difference
        signs, bias = Signs(step), step.bias if self.bias == "book" else None
        to_positive = self.alpha * relevance / (signs.positive(bias) + self.stabilizer)
        absorbed = per_image(to_positive) * self.stabilizer
        to_negative = None
        if self.beta:
            to_negative = -self.beta * relevance / (signs.negative(bias) - self.stabilizer)
            absorbed = absorbed - per_image(to_negative) * self.stabilizer
        return Sent([signs.back(to_positive, to_negative)], offsets_at(bias, to_positive, to_negative), absorbed)


def offsets_at(bias: Tensor | None, to_positive: Tensor, to_negative: Tensor | None) -> Tensor | None:
    """The multiplier of a bias: that of contributions of its sign."""
    if bias is None:
        return None
    return torch.where(bias > 0, to_positive, 0 if to_negative is None else to_negative)


@dataclass(frozen=True)
class ZPlus(Parameters):
    """R_i = Σ_j (x_i w_ij)⁺ / Σ_k (x_k w_kj)⁺ R_j: only positive contributions count. A positive bias is one."""

    stabilizer: float = number(1e-6, 0)
    bias: str = choice("book", BIAS)
    source: ClassVar[str] = "Montavon et al. 2017, eq. 17 (for any sign of x: α = 1, β = 0)"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """α–β with α = 1, β = 0."""
        return AlphaBeta(1.0, 0.0, self.stabilizer, self.bias)(step, multiplier)


@dataclass(frozen=True)
class Gamma(Parameters):
    """Contributions of the sign of z_j count 1 + γ times, the others once.

    For non-negative inputs and z_j > 0 this is w + γ w⁺ of Montavon et al. 2019; else its generalisation.
    """

    gamma: float = number(0.25, 0)
    stabilizer: float = number(1e-6, 0)
    bias: str = choice("book", BIAS)
    source: ClassVar[str] = "Montavon et al. 2019, sec. 10.2.3; any sign: Andéol et al. 2021"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Absorbs s·stabilizer·sign(z)."""
        z, whole, signs = step.difference, step.bias, Signs(step)
        bias = whole if self.bias == "book" else None
        up = z > 0
        own = torch.where(up, signs.positive(bias), signs.negative(bias))
        base = z if bias is not None or whole is None else z - whole
        denominator = base + self.gamma * own
        stabiliser = signed(self.stabilizer, denominator)
        s = multiplier * z / (denominator + stabiliser)
        more = self.gamma * s
        extra = signs.back(torch.where(up, more, 0), torch.where(up, 0, more))
        (plain,) = step.adjoint(s)
        assert plain is not None
        offsets_at = None if bias is None else s + torch.where((bias > 0) == up, more, 0)
        return Sent([plain + extra], offsets_at, per_image(s * stabiliser))


# --- first layers: these answer in relevance ----------------------------------------------------------------------


@dataclass(frozen=True)
class WSquare(Parameters):
    """R_i = Σ_j w_ij² / (Σ_k w_kj² + b_j²) R_j, whatever the input; the bias takes b_j²/(…)."""

    stabilizer: float = number(1e-6, 0)
    bias: str = choice("book", BIAS)
    source: ClassVar[str] = "Montavon et al. 2017, eq. 12"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Absorbs what the stabiliser takes of the denominators."""
        bias = step.bias if self.bias == "book" else None
        squares, ones = step.run(linear(step.operator, torch.square), [torch.ones_like(step.inputs[0])])
        denominator = squares if bias is None else squares + bias**2
        s = multiplier * step.difference / (denominator + self.stabilizer)
        (relevance,) = step.gradient(squares, ones, s)
        return Sent([None], None if bias is None else s * bias, per_image(s) * self.stabilizer, relevance=relevance)


@dataclass(frozen=True)
class Flat(Parameters):
    """R_i = Σ_j 1/Σ_k 1 · R_j: evenly over the inputs that a unit sees."""

    stabilizer: float = number(1e-6, 0)
    source: ClassVar[str] = "Lapuschkin et al. 2019, supplement"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Biases get nothing."""
        counts, ones = step.run(linear(step.operator, torch.ones_like), [torch.ones_like(step.inputs[0])])
        s = multiplier * step.difference / (counts + self.stabilizer)
        (relevance,) = step.gradient(counts, ones, s)
        return Sent([None], None, per_image(s) * self.stabilizer, relevance=relevance)


@dataclass(frozen=True)
class ZBox(Parameters):
    """R_i = Σ_j (x_i w_ij − l_i w_ij⁺ − h_i w_ij⁻) / Σ_k (…) R_j, for inputs between l and h: the range of pixels."""

    stabilizer: float = number(1e-6, 0)
    source: ClassVar[str] = "Montavon et al. 2017, eq. 19"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Biases get nothing. Raises `UsageError` without the range of pixels."""
        if step.bounds is None:
            raise UsageError("the zB rule needs the range of pixels, which only pictures with a mean and std have")
        low, high = (b.expand_as(step.inputs[0]) for b in step.bounds)
        bounds = [step.run(bent(step.operator, sign), [x]) for sign, x in ((1, low), (-1, high))]
        plain = step.output if not step.operator.offsets else step.output - _all_offsets(step)
        z = plain - bounds[0][0] - bounds[1][0]
        stabiliser = signed(self.stabilizer, z)
        s = multiplier * step.difference / (z + stabiliser)
        ends = [(step.output, step.inputs), *bounds]
        to_x, to_low, to_high = (step.gradient(out, leaves, s)[0] for out, leaves in ends)
        assert to_x is not None and to_low is not None and to_high is not None  # noqa: PT018
        relevance = step.inputs[0] * to_x - low * to_low - high * to_high
        return Sent([None], None, per_image(s * stabiliser), relevance=relevance)


def _all_offsets(step: Step) -> Tensor:
    first, *rest = step.operator.offsets
    return sum((o.value for o in rest), first.value)
