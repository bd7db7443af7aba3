"""Rules for affine operators: convolution, dense layers, batch norm, average pooling, upsampling, `·c`, `+c`.

`Epsilon` serves all of them; the others need weights whose signs they can tell apart: convolutions and dense layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from heatcli.errors import UsageError
from heatcli.graph.operator import collect
from heatcli.parameters import Parameters, choice, number
from heatcli.rules.base import (
    Passed,
    Sent,
    Step,
    above_zero,
    below_zero,
    per_image,
    row_dots,
    row_sums,
    shared,
    signed,
    wide,
)  # fmt: skip
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
    takes: ClassVar[tuple[type, ...]] = (Passed,)
    reads_input: ClassVar[bool] = False
    source: ClassVar[str] = "Bach et al. 2015, eq. 58"

    @property
    def reads_output(self) -> bool:
        """Only to take the bias off."""
        return self.bias == "ignore"

    def __call__(self, step: Step, multiplier: Tensor | Passed) -> Sent:
        """Absorbs s·ε·sign(z)."""
        if self.bias == "ignore" and step.bias is not None:
            alone = step.difference - step.bias
            s = shared(step, multiplier, alone + signed(self.epsilon, alone))
            return Sent(step.adjoint(s), absorbed=per_image(s * signed(self.epsilon, alone)))
        if self.epsilon == 0:
            s = multiplier if isinstance(multiplier, Tensor) else multiplier.multiplier()
            return Sent(step.adjoint(s), offsets_at=s, absorbed=wide(s.new_zeros(len(s))))
        if isinstance(multiplier, Tensor) and step.differentiable:
            z = step.difference
            stabiliser = signed(self.epsilon, z)
            s = multiplier * (z / (z + stabiliser))
            return Sent(step.adjoint(s), offsets_at=s, absorbed=per_image(s * stabiliser))
        return self._stabilised(step, multiplier)

    def _stabilised(self, step: Step, multiplier: Tensor | Passed) -> Sent:
        """The same with ε > 0 and no tape, in as few passes over memory as it takes.

        Of R = m·y with y of the sign of z, as a nonlinearity passes it on or with y = z: q = m/(|z| + ε), s = q·|y|,
        and ε takes q·y·ε.
        """
        z = y = step.difference.detach()
        m = multiplier
        if isinstance(multiplier, Passed):
            m, y = multiplier.m, multiplier.step.difference.detach()
        assert isinstance(m, Tensor)
        dtype = z.dtype
        if dtype.itemsize < 4:  # m/ε is out of their range
            z, y, m = z.float(), y.float(), m.float()
        if isinstance(multiplier, Passed) and step.blamed and multiplier.step.operator.title == "relu":
            many = min(1 / self.epsilon, torch.finfo(y.dtype).max)
            s = torch.add(y.new_ones(()), y, alpha=many, out=y if multiplier.step.in_place else None)
            torch.addcdiv(m, m, s, value=-1, out=s)  # m·y/(y + ε), rounded once; 0 where y is
            booked = summed(s, step.bias)
            return Sent(step.adjoint(s.to(dtype)), booked, row_sums(booked) * self.epsilon)
        if y is z:
            q = z.abs().add_(self.epsilon)
            torch.div(m, q, out=q)
            absorbed = row_dots(q, z) * self.epsilon
            s = torch.add(m, q, alpha=-self.epsilon, out=q)
        else:
            stabiliser = signed(self.epsilon, z)
            s = z + stabiliser
            torch.div(m, s, out=s).mul_(y)
            absorbed = row_dots(s, stabiliser)
        s = s.to(dtype)
        return Sent(step.adjoint(s), s, absorbed)


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
    takes: ClassVar[tuple[type, ...]] = (Passed,)
    reads_output: ClassVar[bool] = False
    source: ClassVar[str] = "Bach et al. 2015, eq. 60"

    def __post_init__(self) -> None:
        super().__post_init__()
        if abs(self.alpha - self.beta - 1) > 1e-9:
            raise UsageError(f"alpha={self.alpha:g}, beta={self.beta:g} is not allowed; alpha − beta must be 1")

    def __call__(self, step: Step, multiplier: Tensor | Passed) -> Sent:
        """Relevance of the output is multiplied out: R = m·(z − z0)."""
        signs, bias = Signs(step), step.bias if self.bias == "book" else None
        to_positive = shared(step, multiplier, signs.positive(bias, self.stabilizer))
        if self.alpha != 1:
            to_positive = to_positive * self.alpha
        positive, to_negative, negative = summed(to_positive, bias), None, None
        absorbed = row_sums(positive) * self.stabilizer
        if self.beta:
            to_negative = shared(step, multiplier, signs.negative(bias, self.stabilizer)) * -self.beta
            negative = summed(to_negative, bias)
            absorbed = absorbed - row_sums(negative) * self.stabilizer
        return Sent([signs.back(to_positive, to_negative)], offsets_at(bias, positive, negative), absorbed)


def summed(multiplier: Tensor, bias: Tensor | None) -> Tensor:
    """Summed over the positions that share an element of the bias, once for it and for what is absorbed."""
    return multiplier if bias is None else collect(multiplier, bias)


def offsets_at(bias: Tensor | None, to_positive: Tensor, to_negative: Tensor | None) -> Tensor | None:
    """The multiplier of a bias, that of contributions of its sign, summed over the positions that share an element."""
    if bias is None:
        return None
    positive = collect(to_positive, bias)
    return torch.where(bias > 0, positive, 0 if to_negative is None else collect(to_negative, bias))


@dataclass(frozen=True)
class ZPlus(Parameters):
    """R_i = Σ_j (x_i w_ij)⁺ / Σ_k (x_k w_kj)⁺ R_j: only positive contributions count. A positive bias is one."""

    stabilizer: float = number(1e-6, 0)
    bias: str = choice("book", BIAS)
    takes: ClassVar[tuple[type, ...]] = (Passed,)
    reads_output: ClassVar[bool] = False
    source: ClassVar[str] = "Montavon et al. 2017, eq. 17 (for any sign of x: α = 1, β = 0)"

    def __call__(self, step: Step, multiplier: Tensor | Passed) -> Sent:
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
    takes: ClassVar[tuple[type, ...]] = (Passed,)
    source: ClassVar[str] = "Montavon et al. 2019, sec. 10.2.3; any sign: Andéol et al. 2021"

    def __call__(self, step: Step, multiplier: Tensor | Passed) -> Sent:
        """Absorbs s·stabilizer·sign(z)."""
        z, whole, signs = step.difference, step.bias, Signs(step)
        bias = whole if self.bias == "book" else None
        own = above_zero(signs.positive(bias), z) + below_zero(signs.negative(bias), z)
        base = z if bias is not None or whole is None else z - whole
        denominator = base + self.gamma * own
        stabiliser = signed(self.stabilizer, denominator)
        s = shared(step, multiplier, denominator + stabiliser)
        more = self.gamma * s
        up, down = above_zero(more, z), below_zero(more, z)
        extra = signs.back(up, down)
        (plain,) = step.adjoint(s)
        assert plain is not None
        booked = offsets_at(bias, up, down)
        if booked is not None and bias is not None:
            booked = booked + collect(s, bias)
        return Sent([plain + extra], booked, row_dots(s, stabiliser))


# --- first layers: these answer in relevance ----------------------------------------------------------------------


@dataclass(frozen=True)
class WSquare(Parameters):
    """R_i = Σ_j w_ij² / (Σ_k w_kj² + b_j²) R_j, whatever the input; the bias takes b_j²/(…)."""

    stabilizer: float = number(1e-6, 0)
    bias: str = choice("book", BIAS)
    takes: ClassVar[tuple[type, ...]] = (Passed,)
    reads_output: ClassVar[bool] = False
    source: ClassVar[str] = "Montavon et al. 2017, eq. 12"

    def __call__(self, step: Step, multiplier: Tensor | Passed) -> Sent:
        """Absorbs what the stabiliser takes of the denominators."""
        bias = step.bias if self.bias == "book" else None
        squares, ones = step.run(linear(step.operator, torch.square), [torch.ones_like(step.inputs[0])])
        denominator = squares if bias is None else squares + bias**2
        s = shared(step, multiplier, denominator + self.stabilizer)
        (r,) = step.gradient(squares, ones, s)
        return Sent([None], None if bias is None else s * bias, per_image(s) * self.stabilizer, relevance=r)


@dataclass(frozen=True)
class Flat(Parameters):
    """R_i = Σ_j 1/Σ_k 1 · R_j: evenly over the inputs that a unit sees."""

    stabilizer: float = number(1e-6, 0)
    takes: ClassVar[tuple[type, ...]] = (Passed,)
    reads_output: ClassVar[bool] = False
    source: ClassVar[str] = "Lapuschkin et al. 2019, supplement"

    def __call__(self, step: Step, multiplier: Tensor | Passed) -> Sent:
        """Biases get nothing."""
        counts, ones = step.run(linear(step.operator, torch.ones_like), [torch.ones_like(step.inputs[0])])
        s = shared(step, multiplier, counts + self.stabilizer)
        (r,) = step.gradient(counts, ones, s)
        return Sent([None], None, per_image(s) * self.stabilizer, relevance=r)


@dataclass(frozen=True)
class ZBox(Parameters):
    """R_i = Σ_j (x_i w_ij − l_i w_ij⁺ − h_i w_ij⁻) / Σ_k (…) R_j, for inputs between l and h: the range of pixels."""

    stabilizer: float = number(1e-6, 0)
    takes: ClassVar[tuple[type, ...]] = (Passed,)
    source: ClassVar[str] = "Montavon et al. 2017, eq. 19"

    def __call__(self, step: Step, multiplier: Tensor | Passed) -> Sent:
        """Biases get nothing. Raises `UsageError` without the range of pixels."""
        if step.bounds is None:
            raise UsageError("the zB rule needs the range of pixels, which only pictures with a mean and std have")
        low, high = (b.expand_as(step.inputs[0]) for b in step.bounds)
        bounds = [step.run(bent(step.operator, sign), [x]) for sign, x in ((1, low), (-1, high))]
        bias = step.operator.bias
        plain = step.output if bias is None else step.output - bias
        z = plain - bounds[0][0] - bounds[1][0]
        stabiliser = signed(self.stabilizer, z)
        s = shared(step, multiplier, z + stabiliser)
        (to_x,), (to_low,), (to_high,) = step.adjoint(s), *(step.gradient(*bound, s) for bound in bounds)
        assert to_x is not None and to_low is not None and to_high is not None  # noqa: PT018
        r = step.inputs[0] * to_x - low * to_low - high * to_high
        return Sent([None], None, per_image(s * stabiliser), relevance=r)
