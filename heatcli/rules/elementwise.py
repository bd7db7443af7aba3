"""Rules for elementwise nonlinearities y = f(x)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from heatcli.parameters import Parameters
from heatcli.rules.base import Booked, Passed, Sent, Step, per_image, quotient, recorded

# f(c·x) = c·f(x) for c > 0, so the slope from 0 is the gradient.
_HOMOGENEOUS = frozenset("relu leaky_relu _prelu_kernel prelu abs".split())
# Piecewise linear through exact arithmetic: differences carry no rounding error worth avoiding.
_EXACT = _HOMOGENEOUS | frozenset("hardtanh clamp clamp_min clamp_max threshold maximum minimum".split())
# f(x) is nowhere of another sign than x, and nowhere falls.
_KEEPS_SIGN = frozenset("relu hardtanh clamp clamp_min silu gelu hardswish mish tanh elu".split())
_KEEPS_ORDER = frozenset("relu hardtanh clamp clamp_min tanh elu sigmoid hardsigmoid".split())
# f(x)/x where that has a closed form.
_FROM_ZERO: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": torch.sigmoid,
    "hardswish": functional.hardsigmoid,
    "mish": lambda x: functional.softplus(x).tanh_(),
}
# Their derivative has no bound.
_STEEP = frozenset("sqrt rsqrt reciprocal log log2 log10 log1p pow tan exp exp2 expm1 sinh cosh".split())
# A slope whose rounding error would exceed a thousandth gives way to the derivative.
_ROUNDING = 1e3
# From this share of places on, derivatives are taken everywhere.
_FEW = 1 / 16
_STRETCH = 64  # places in memory that are looked at together


@dataclass(frozen=True)
class Slope(Parameters):
    """m_in = m·(f(x) − f(x0)) / (x − x0), the secant; the derivative where x = x0.

    DeepLIFT's rescale rule; from reference 0 it hands an activation's relevance through unchanged (LRP's rule for
    nonlinearities), and f(0) is booked as the operator's offset.
    """

    reads_input: ClassVar[bool] = False
    source: ClassVar[str] = "Shrikumar et al. 2017, sec. 3.5.1 (rescale)"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Exact: m·(y − y0) = m_in·(x − x0)."""
        title, blamed = step.operator.title, step.blamed
        if blamed and not step.operator.vanishes:
            return Booked()(step, multiplier)
        passes = title in (_KEEPS_SIGN if blamed else _KEEPS_ORDER) and step.bias is None
        if passes and not step.differentiable and step.inputs[0].shape == step.output.shape:
            return Sent([Passed(step, multiplier, _times_slope)])
        return Sent([_times_slope(step, multiplier)], offsets_at=multiplier)


def _times_slope(step: Step, multiplier: Tensor) -> Tensor:
    """The multiplier of the input, of its shape."""
    title, x = step.operator.title, step.inputs[0]
    if step.blamed and title in _HOMOGENEOUS:
        (m,) = step.adjoint(multiplier)
        return torch.zeros_like(x) if m is None else m
    if step.blamed and title in _FROM_ZERO:
        return multiplier * _FROM_ZERO[title](x)
    m = slope(step)
    m = multiplier * m if step.differentiable else m.mul_(multiplier)
    return m if m.shape == x.shape else m.sum_to_size(x.shape)


def slope(step: Step) -> Tensor:
    """(f(x) − f(x0)) / (x − x0), of the output's shape; the derivative where that would be 0/0 or rounding.

    In so small a step the derivative errs only in second order.
    """
    title = step.operator.title
    if title == "relu" and not step.blamed and not step.differentiable:
        return _relu_slope(step)
    dx, y = step.input_difference(0), step.output.detach()
    tolerance: Tensor | float = 0.0
    if title not in _EXACT and not (step.blamed and step.bias is None):
        z = y if step.reference_output is None else step.reference_output.detach()  # so near to it, y is no larger
        every = tuple(range(1, z.dim()))
        size = torch.maximum(z.amax(every, keepdim=True), -z.amin(every, keepdim=True)) if every else z.abs()
        tolerance = size * (_ROUNDING * torch.finfo(y.dtype).eps)
    if step.differentiable or step.blamed or dx.shape != y.shape:
        dy = step.difference if step.bias is None else step.difference - step.bias
        return quotient(dy, dx, _derivative(step).detach(), tolerance)
    assert step.reference_output is not None
    distance = dx.detach().abs()
    everywhere_alike = step.operator.refs == step.operator.sources and not step.operator.constants
    places = _few_below(distance, tolerance) if everywhere_alike and not recorded() else None
    if places is None:
        near = distance <= tolerance
    m = torch.sub(y, step.reference_output.detach(), out=distance).div_(dx.detach())
    return torch.where(near, _derivative(step).detach(), m) if places is None else _with_derivatives(step, m, places)


def _few_below(distance: Tensor, limit: Tensor | float) -> Tensor | None:
    """Where a dense `distance` [N, …] is not above the limit of its image, as places in memory; None where many are.

    Most stretches of memory have none, which their minimum tells several times as fast as a look at every place.
    """
    order = _in_memory(distance)
    if order[0]:  # images are interleaved
        return None
    rows = distance.permute(order).reshape(len(distance), -1)
    count, size = rows.shape
    limits = torch.as_tensor(limit, dtype=rows.dtype, device=rows.device).reshape(-1, 1).expand(count, 1)
    whole = size - size % _STRETCH
    stretches = rows[:, :whole].reshape(count, whole // _STRETCH, _STRETCH)
    image, stretch = (stretches.amin(2) <= limits).nonzero(as_tuple=True)
    if len(image) * _STRETCH > rows.numel() / 2:
        return None
    found, at = (stretches[image, stretch] <= limits[image]).nonzero(as_tuple=True)
    last, end = (rows[:, whole:] <= limits).nonzero(as_tuple=True)
    places = torch.cat([image[found] * size + stretch[found] * _STRETCH + at, last * size + whole + end])
    return None if len(places) > _FEW * rows.numel() else places


def _in_memory(values: Tensor) -> list[int]:
    """Its dimensions, the outermost in memory first."""
    strides = values.stride()
    return sorted(range(values.dim()), key=lambda d: -strides[d])


def _with_derivatives(step: Step, m: Tensor, places: Tensor) -> Tensor:
    """m, but at those places in memory the derivative."""
    assert step.reference_inputs is not None
    (x,), (x0,) = step.inputs, step.reference_inputs
    order = _in_memory(m)

    def some(values: Tensor) -> Tensor:
        return values.detach().permute(order).reshape(-1)[places]

    point = (some(x) + some(x0.expand_as(x))) / 2 if step.operator.title in _STEEP else some(x)
    (found,) = step.adjoint_at([point], torch.ones_like(point))[1]
    m.permute(order).view(-1)[places] = torch.zeros_like(point) if found is None else found
    return m


def _derivative(step: Step) -> Tensor:
    """f'(x), of the output's shape; halfway to the reference where that can be infinite."""
    ones = torch.ones_like(step.output)
    (x,) = step.midpoints() if step.operator.title in _STEEP else step.inputs
    if x is step.inputs[0] and x.shape == ones.shape:
        (found,) = step.adjoint(ones)
    else:
        (found,) = step.adjoint_at([x.expand(ones.shape)], ones)[1]
    return torch.zeros_like(ones) if found is None else found


def _relu_slope(step: Step) -> Tensor:
    """max(x, x0)/|x − x0| within 0 and 1: what the secant of a ReLU comes to, also where x = x0."""
    assert step.reference_inputs is not None
    (x0,) = step.reference_inputs
    x = step.remade() if step.in_place else step.inputs[0].detach()
    distance = (x - x0).abs_().clamp_(min=torch.finfo(x.dtype).tiny)
    return torch.maximum(x, x0, out=x if step.in_place else None).div_(distance).clamp_(0, 1)


@dataclass(frozen=True)
class Pass(Parameters):
    """R_in = R_out: relevance goes through as it is, f(0)'s too, so that nonlinearities book nothing.

    In multipliers m_in = m·Δy/Δx; what arrives where Δx = 0 has nowhere to go and is booked as unexplained.
    """

    source: ClassVar[str] = "Bach et al. 2015, sec. 2.2 (nonlinearities pass relevance on)"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Conserves but where the input is at its reference."""
        dx, dy = step.input_difference(0), step.difference
        m = multiplier * quotient(dy, dx, torch.zeros_like(dy))
        lost = torch.where(dx == 0, multiplier * dy, 0)
        x = step.inputs[0]
        return Sent([m if m.shape == x.shape else m.sum_to_size(x.shape)], unexplained=per_image(lost))


@dataclass(frozen=True)
class Repeat(Parameters):
    """m_in = m: the multiplier goes through as if there were no nonlinearity."""

    source: ClassVar[str] = "straight-through: Bengio et al. 2013, arXiv 1308.3432"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Does not conserve."""
        x = step.inputs[0]
        return Sent([multiplier if multiplier.shape == x.shape else multiplier.sum_to_size(x.shape)])


@dataclass(frozen=True)
class Deconvnet(Parameters):
    """m_in = max(m, 0): a ReLU on the way back, whatever the way there. For rectifiers."""

    reads_input: ClassVar[bool] = False
    source: ClassVar[str] = "Zeiler & Fergus 2014, sec. 2.1"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:  # noqa: ARG002 - whatever the way there
        """Does not conserve."""
        return Sent([multiplier.clamp(min=0)])


@dataclass(frozen=True)
class Guided(Parameters):
    """m_in = f'(x)·max(m, 0): the gradient where it is positive. For rectifiers."""

    reads_input: ClassVar[bool] = False
    source: ClassVar[str] = "Springenberg et al. 2014, sec. 3.4"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Does not conserve."""
        return Sent(step.adjoint(multiplier.clamp(min=0)))
