"""Rules for elementwise nonlinearities y = f(x)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from heatcli.graph.facts import facts_of
from heatcli.rules.numerics import per_image, quotient
from heatcli.rules.rule import Booked, Rule, Sent, Step

_ROUNDING = 1e3  # use the derivative where the rounding error of the secant could exceed a thousandth


@dataclass(frozen=True)
class Slope(Rule):
    """m_in = m·(f(x) − f(x0)) / (x − x0), the secant; the derivative where x = x0.

    DeepLIFT's rescale rule. From reference 0 an activation's relevance passes unchanged (LRP's rule for
    nonlinearities), and f(0) is booked as the operator's offset.
    """

    source: ClassVar[str] = "Shrikumar et al. 2017, sec. 3.5.1 (rescale)"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Exact: m·(y − y0) = m_in·(x − x0)."""
        if step.without_reference and not step.operator.finite_at_zero:
            return Booked()(step, multiplier)
        return Sent([(multiplier * slope(step)).sum_to_size(step.inputs[0].shape)], offsets_at=multiplier)


def slope(step: Step) -> Tensor:
    """(f(x) − f(x0)) / (x − x0), with the output's shape; the derivative where x − x0 is 0 or mostly rounding error.

    There the derivative's error is of second order in x − x0.
    """
    return quotient(rise(step), step.input_difference(0), derivative(step).detach(), tolerance(step))


def rise(step: Step) -> Tensor:
    """f(x) − f(x0)."""
    return step.difference if step.bias is None else step.difference - step.bias


def tolerance(step: Step) -> Tensor | float:
    """The largest |x − x0| at which the derivative replaces the secant: 0, [1 or N, 1, …], or for steep f [N, …].

    The slope of a steep f has no usual size, so what counts is how far apart its values are, each beside its own size.
    """
    facts = facts_of(step.operator)
    if facts.exact or (step.without_reference and step.bias is None):
        return 0.0
    if facts.steep:
        y, apart = step.output.detach(), rise(step).detach()
        near = apart.abs() <= torch.maximum(y.abs(), (y - apart).abs()) * (_ROUNDING * torch.finfo(y.dtype).eps)
        return near.to(y.dtype) * torch.finfo(y.dtype).max
    # The tolerance uses the reference's magnitude, because x ≈ x0 there.
    y = step.output.detach() if step.reference_output is None else step.reference_output.detach()
    every = tuple(range(1, y.dim()))
    size = torch.maximum(y.amax(every, keepdim=True), -y.amin(every, keepdim=True)) if every else y.abs()
    return size * (_ROUNDING * torch.finfo(y.dtype).eps)


def derivative(step: Step) -> Tensor:
    """f'(x), with the output's shape; for steep f at the midpoint between x and its reference."""
    ones, (x,) = torch.ones_like(step.output), step.inputs
    steep = facts_of(step.operator).steep
    if x.shape == ones.shape and not steep:
        (slopes,) = step.adjoint(ones)
    else:
        (slopes,) = step.adjoint_at([(step.midpoints()[0] if steep else x).expand(ones.shape)], ones)
    return torch.zeros_like(ones) if slopes is None else finite(step, slopes)


def finite(step: Step, derivative: Tensor) -> Tensor:
    """A derivative, of the input's shape, with 0 where it is infinite, as for √x at x = x0 = 0.

    Any value is right for a difference of 0.
    """
    return derivative.nan_to_num(0, 0, 0) if facts_of(step.operator).steep else derivative


@dataclass(frozen=True)
class Pass(Rule):
    """R_in = R_out: relevance passes unchanged, including f(0)'s, so nonlinearities book nothing.

    In multipliers m_in = m·Δy/Δx. Relevance where Δx = 0 cannot be passed and is booked as unexplained.
    """

    source: ClassVar[str] = "Bach et al. 2015, sec. 2.2 (nonlinearities pass relevance on)"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Conserves except where the input equals its reference."""
        dx, dy = step.input_difference(0), step.difference
        m = multiplier * quotient(dy, dx, torch.zeros_like(dy))
        lost = torch.where(dx == 0, multiplier * dy, 0)
        return Sent([m.sum_to_size(step.inputs[0].shape)], unexplained=per_image(lost))


@dataclass(frozen=True)
class Repeat(Rule):
    """m_in = m: the multiplier passes as if there were no nonlinearity."""

    source: ClassVar[str] = "straight-through: Bengio et al. 2013, arXiv 1308.3432"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Does not conserve."""
        return Sent([multiplier.sum_to_size(step.inputs[0].shape)])


@dataclass(frozen=True)
class Deconvnet(Rule):
    """m_in = max(m, 0): a ReLU on the way back, independent of the input. For rectifiers."""

    source: ClassVar[str] = "Zeiler & Fergus 2014, sec. 2.1"
    reads_input: ClassVar[bool] = False

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:  # noqa: ARG002 - independent of the input
        """Does not conserve."""
        return Sent([multiplier.clamp(min=0)])


@dataclass(frozen=True)
class Guided(Rule):
    """m_in = f'(x)·max(m, 0): the gradient of positive multipliers only. For rectifiers."""

    source: ClassVar[str] = "Springenberg et al. 2014, sec. 3.4"
    reads_input: ClassVar[bool] = False

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Does not conserve."""
        return Sent(step.adjoint(multiplier.clamp(min=0)))
