"""Rules for elementwise nonlinearities y = f(x)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from heatcli.graph.facts import facts_of
from heatcli.parameters import Parameters
from heatcli.rules.base import Booked, Passed, Sent, Step, per_image, quotient, recorded

# f(x)/x where that has a closed form.
_FROM_ZERO: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": torch.sigmoid,
    "hardswish": functional.hardsigmoid,
    "mish": lambda x: functional.softplus(x).tanh_(),
}
# A slope whose rounding error would exceed a thousandth gives way to the derivative.
_ROUNDING = 1e3
# From this share of places on, derivatives are taken everywhere.
_FEW = 1 / 16
_STRETCH = 64  # places in memory that are looked at together
_LARGE = 1 << 17  # values of an image that is worked on alone


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
        facts, blamed = facts_of(step.operator), step.blamed
        if blamed and not step.operator.vanishes:
            return Booked()(step, multiplier)
        passes = (facts.keeps_sign if blamed else facts.keeps_order) and step.bias is None
        if passes and not step.differentiable and step.inputs[0].shape == step.output.shape:
            return Sent([Passed(step, multiplier, _times_slope)])
        return Sent([_times_slope(step, multiplier)], offsets_at=multiplier)


def _times_slope(step: Step, multiplier: Tensor) -> Tensor:
    """The multiplier of the input, of its shape."""
    title, x = step.operator.title, step.inputs[0]
    if step.blamed and facts_of(step.operator).homogeneous:
        (m,) = step.adjoint(multiplier)
        return torch.zeros_like(x) if m is None else m
    if step.blamed and title in _FROM_ZERO:
        return multiplier * _FROM_ZERO[title](x)
    m = slope(step, multiplier)
    return m if m.shape == x.shape else m.sum_to_size(x.shape)


def slope(step: Step, times: Tensor | None = None) -> Tensor:
    """(f(x) − f(x0)) / (x − x0), of the output's shape; the derivative where that would be 0/0 or rounding.

    In so small a step the derivative errs only in second order. `times`: what it is multiplied by.
    """
    compared = not step.blamed and not step.differentiable and step.inputs[0].shape == step.output.shape
    if compared and step.operator.title == "relu":
        return _relu_slopes(step, times)
    tolerance = _tolerance(step)
    everywhere_alike = step.operator.refs == step.operator.sources and not step.operator.constants
    if compared and everywhere_alike and not recorded():
        found = _secants(step, tolerance, times)
        if found is not None:
            return found
    dy = step.difference if step.bias is None else step.difference - step.bias
    m = quotient(dy, step.input_difference(0), _derivative(step).detach(), tolerance)
    return m if times is None else times * m


def _tolerance(step: Step) -> Tensor | float:
    """Steps from the reference at which a slope gives way to the derivative, [1 or N, 1, …]."""
    if facts_of(step.operator).exact or (step.blamed and step.bias is None):
        return 0.0
    # so near to the reference, the output is no larger
    y = step.output.detach() if step.reference_output is None else step.reference_output.detach()
    every = tuple(range(1, y.dim()))
    size = torch.maximum(y.amax(every, keepdim=True), -y.amin(every, keepdim=True)) if every else y.abs()
    return size * (_ROUNDING * torch.finfo(y.dtype).eps)


def _at_once(values: Tensor) -> list[slice]:
    """Which images are worked on together: large ones one by one, so that what is made of them stays in the caches."""
    if recorded() or values.device.type != "cpu" or values[0].numel() < _LARGE:
        return [slice(None)]
    return [slice(i, i + 1) for i in range(len(values))]


def _rows(values: Tensor, rows: slice) -> Tensor:
    """Those rows; of what has one row for all, that one."""
    return values if len(values) == 1 else values[rows]


def _secants(step: Step, limit: Tensor | float, times: Tensor | None) -> Tensor | None:
    """The slope where derivatives are wanted at few places; None where at many."""
    assert step.reference_inputs is not None
    assert step.reference_output is not None
    x, y, x0, y0 = (v.detach() for v in (step.inputs[0], step.output, step.reference_inputs[0], step.reference_output))
    parts, m, places = _at_once(x), torch.empty_like(x), list[Tensor]()
    dx, distance = (torch.empty_like(m[parts[0]]) for _ in range(2))
    for number, rows in enumerate(parts):
        torch.sub(x[rows], _rows(x0, rows), out=dx)
        torch.abs(dx, out=distance)
        few = _few_below(distance, _rows(limit, rows) if isinstance(limit, Tensor) else limit)
        if few is None:
            return None
        places.append(few + number * dx.numel())
        torch.sub(y[rows], _rows(y0, rows), out=m[rows]).div_(dx)
        if times is not None:
            m[rows].mul_(times[rows])
    return _with_derivatives(step, m, torch.cat(places), times)


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


def _with_derivatives(step: Step, m: Tensor, places: Tensor, times: Tensor | None) -> Tensor:
    """m, but at those places in memory the derivative, times what m was."""
    if not len(places):
        return m
    assert step.reference_inputs is not None
    (x,), (x0,) = step.inputs, step.reference_inputs
    order = _in_memory(m)

    def some(values: Tensor) -> Tensor:
        return values.detach().permute(order).reshape(-1)[places]

    point = (some(x) + some(x0.expand_as(x))) / 2 if facts_of(step.operator).steep else some(x)
    (found,) = step.adjoint_at([point], torch.ones_like(point))[1]
    found = torch.zeros_like(point) if found is None else _finite(step, found)
    m.permute(order).view(-1)[places] = found if times is None else found * some(times)
    return m


def _derivative(step: Step) -> Tensor:
    """f'(x), of the output's shape; halfway to the reference where that can be infinite."""
    ones = torch.ones_like(step.output)
    (x,) = step.midpoints() if facts_of(step.operator).steep else step.inputs
    if x is step.inputs[0] and x.shape == ones.shape:
        (found,) = step.adjoint(ones)
    else:
        (found,) = step.adjoint_at([x.expand(ones.shape)], ones)[1]
    return torch.zeros_like(ones) if found is None else _finite(step, found)


def _finite(step: Step, derivative: Tensor) -> Tensor:
    """A derivative, but 0 where that has no bound, as of √x at x = x0 = 0: times a step of 0, either is right."""
    return derivative.nan_to_num(0, 0, 0) if facts_of(step.operator).steep else derivative


def _relu_slopes(step: Step, times: Tensor | None) -> Tensor:
    """max(x, x0)/|x − x0| within 0 and 1: what the secant of a ReLU comes to, also where x = x0."""
    assert step.reference_inputs is not None
    (x0,) = step.reference_inputs
    x = step.remade() if step.in_place else step.inputs[0].detach()
    m, parts, tiny = x if step.in_place else torch.empty_like(x), _at_once(x), torch.finfo(x.dtype).tiny
    distance = torch.empty_like(m[parts[0]])
    for rows in parts:
        torch.sub(x[rows], _rows(x0, rows), out=distance).abs_().clamp_(min=tiny)
        torch.maximum(x[rows], _rows(x0, rows), out=m[rows]).div_(distance).clamp_(0, 1)
        if times is not None:
            m[rows].mul_(times[rows])
    return m


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
