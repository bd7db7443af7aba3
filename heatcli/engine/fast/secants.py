"""Secants of nonlinearities: derivatives only at the few places that need them, large images one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from heatcli.engine.fast.in_place import remade
from heatcli.engine.fast.numerics import quotient
from heatcli.engine.fast.passed import Passed
from heatcli.graph.facts import facts_of
from heatcli.rules.elementwise import Slope, derivative, finite, rise, tolerance
from heatcli.rules.reveal_cancel import RevealCancel
from heatcli.rules.rule import Sent, Step

# f(x)/x in closed form.
_FROM_ZERO: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": torch.sigmoid,
    "hardswish": functional.hardsigmoid,
    "mish": lambda x: functional.softplus(x).tanh_(),
}
_FEW = 1 / 16  # above this share of places, derivatives are computed everywhere
_STRETCH = 64  # consecutive elements that are tested together
_LARGE = 1 << 17  # elements above which an image is processed alone


@dataclass(frozen=True)
class FastSlope(Slope):
    """`Slope`, which passes relevance on undivided where the nonlinearity keeps signs or order."""

    reads_input: ClassVar[bool] = False

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """As in `Slope`."""
        facts = facts_of(step.operator)
        if step.without_reference and not step.operator.finite_at_zero:
            return super().__call__(step, multiplier)
        passes = facts.keeps_sign if step.without_reference else facts.keeps_order
        if passes and step.bias is None and step.inputs[0].shape == step.output.shape:
            return Sent([Passed(step, multiplier, _times_slope)])
        return Sent([_times_slope(step, multiplier)], offsets_at=multiplier)


@dataclass(frozen=True)
class FastRevealCancel(RevealCancel):
    """`RevealCancel` with fast slopes."""

    def slope(self, step: Step) -> Tensor:
        """As in `RevealCancel.slope`."""
        return slope(step)


def _times_slope(step: Step, multiplier: Tensor) -> Tensor:
    """multiplier · slope, with the input's shape."""
    title, x = step.operator.title, step.inputs[0]
    if step.without_reference and facts_of(step.operator).homogeneous:
        (m,) = step.adjoint(multiplier)
        return torch.zeros_like(x) if m is None else m
    if step.without_reference and title in _FROM_ZERO:
        return multiplier * _FROM_ZERO[title](x)
    m = slope(step, multiplier)
    return m if m.shape == x.shape else m.sum_to_size(x.shape)


def slope(step: Step, times: Tensor | None = None) -> Tensor:
    """As `heatcli.rules.elementwise.slope`, multiplied by `times`, of the output's shape, if given."""
    compared = not step.without_reference and step.inputs[0].shape == step.output.shape
    if compared and step.operator.title == "relu":
        return _relu_slopes(step, times)
    limit = tolerance(step)
    everywhere_alike = step.operator.refs == step.operator.sources and not step.operator.constants
    if compared and everywhere_alike and not step.fixed and not facts_of(step.operator).steep:
        secants = _secants(step, limit, times)
        if secants is not None:
            return secants
    m = quotient(rise(step), step.input_difference(0), derivative(step), limit, step.fixed)
    return m if times is None else times * m


def _at_once(values: Tensor, fixed: bool) -> list[slice]:
    """Slices of images to process together: large images one by one, so that intermediate tensors fit the caches."""
    if fixed or values.device.type != "cpu" or values[0].numel() < _LARGE:
        return [slice(None)]
    return [slice(i, i + 1) for i in range(len(values))]


def _rows(values: Tensor, rows: slice) -> Tensor:
    """The given rows; the only row of a tensor that has one row for all images."""
    return values if len(values) == 1 else values[rows]


def _secants(step: Step, limit: Tensor | float, times: Tensor | None) -> Tensor | None:
    """The slope if few places need the derivative, else None."""
    assert step.reference_inputs is not None
    assert step.reference_output is not None
    x, y, x0, y0 = (v.detach() for v in (step.inputs[0], step.output, step.reference_inputs[0], step.reference_output))
    parts, m, places = _at_once(x, step.fixed), torch.empty_like(x), list[Tensor]()
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
    """Indices in memory order where a dense `distance` [N, …] is at most its image's limit; None if there are many.

    The minimum of each stretch of memory is tested first: most stretches have no such place, so this is several times
    faster than testing every element.
    """
    order = _in_memory(distance)
    if order[0]:  # the batch is not the outermost dimension in memory
        return None
    rows = distance.permute(order).reshape(len(distance), -1)
    count, size = rows.shape
    limits = torch.as_tensor(limit, dtype=rows.dtype, device=rows.device).reshape(-1, 1).expand(count, 1)
    whole = size - size % _STRETCH
    stretches = rows[:, :whole].reshape(count, whole // _STRETCH, _STRETCH)
    image, stretch = (stretches.amin(2) <= limits).nonzero(as_tuple=True)
    if len(image) * _STRETCH > rows.numel() / 2:
        return None
    near, place = (stretches[image, stretch] <= limits[image]).nonzero(as_tuple=True)
    last, end = (rows[:, whole:] <= limits).nonzero(as_tuple=True)
    places = torch.cat([image[near] * size + stretch[near] * _STRETCH + place, last * size + whole + end])
    return None if len(places) > _FEW * rows.numel() else places


def _in_memory(values: Tensor) -> list[int]:
    """The dimensions of a tensor, outermost in memory first."""
    strides = values.stride()
    return sorted(range(values.dim()), key=lambda d: -strides[d])


def _with_derivatives(step: Step, m: Tensor, places: Tensor, times: Tensor | None) -> Tensor:
    """m, with the derivative (times `times`) at the given places in memory order."""
    if not len(places):
        return m
    (x,) = step.inputs
    order = _in_memory(m)

    def some(values: Tensor) -> Tensor:
        """The values at the places."""
        return values.detach().permute(order).reshape(-1)[places]

    point = some(x)
    (slopes,) = step.adjoint_at([point], torch.ones_like(point))
    slopes = torch.zeros_like(point) if slopes is None else finite(step, slopes)
    m.permute(order).view(-1)[places] = slopes if times is None else slopes * some(times)
    return m


def _relu_slopes(step: Step, times: Tensor | None) -> Tensor:
    """max(x, x0)/|x − x0| clamped to [0, 1]: the secant of a ReLU, also where x = x0."""
    assert step.reference_inputs is not None
    (x0,) = step.reference_inputs
    x = remade(step) if step.in_place else step.inputs[0].detach()
    m, parts, tiny = x if step.in_place else torch.empty_like(x), _at_once(x, step.fixed), torch.finfo(x.dtype).tiny
    distance = torch.empty_like(m[parts[0]])
    for rows in parts:
        torch.sub(x[rows], _rows(x0, rows), out=distance).abs_().clamp_(min=tiny)
        torch.maximum(x[rows], _rows(x0, rows), out=m[rows]).div_(distance).clamp_(0, 1)
        if times is not None:
            m[rows].mul_(times[rows])
    return m
