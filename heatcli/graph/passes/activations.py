"""The graph pass `join-activations`: an activation becomes one operator, however it is written."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from heatcli.graph.operator import Constant, Graph, Operator, Ref
from heatcli.graph.passes.regions import Region, Regions, is_pointwise
from heatcli.graph.passes.rewriting import made, replaced

_ATEN = torch.ops.aten
_HUGE = 1e36  # larger bounds, such as the largest float32, count as no bound
_ENDS = torch.tensor([20, 50, 100, 1e3, 1e4, _HUGE], dtype=torch.float64)
# Points at which functions are compared. Steps of 1/8 contain the kinks at 0, ±1, ±3, 6. Geometric steps of a fifth
# separate bounds of any size.
_NEAR = 12
_SIZES = torch.logspace(-5, 4, 109, dtype=torch.float64)
_STEPS = torch.linspace(-_NEAR, _NEAR, 193, dtype=torch.float64)
_POINTS = torch.unique(torch.cat([-_ENDS, -_SIZES, _STEPS, _SIZES, _ENDS]))
_LARGEST = 4096  # elements of the constants, as many as channels; more are no activation's but a bias of positions
_FEW, _ALL = slice(None, None, 23), slice(None)  # of the points: most functions differ at a few of them already
_ROUNDINGS = 8  # tolerance, in units of eps of the graph's dtype or float32, since constants are rounded to these
Value = Callable[[float], Tensor]  # a function, called with one of `_POINTS`
Arguments = tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Activation:
    """An activation operator, and its arguments if a region's function `f` may be that activation, else None."""

    target: Any
    arguments: Callable[[Value, Region], Arguments | None] = lambda f, region: ()  # noqa: ARG005
    kwargs: Mapping[str, Any] | None = None
    index: int | None = None

    def values(self, arguments: Arguments) -> Tensor:
        """The activation at `_POINTS`, [P, …]."""
        plain = [a.value.double() if isinstance(a, Constant) else a for a in arguments]
        shape = next((a.shape[1:] for a in plain if isinstance(a, Tensor)), ())
        points = _POINTS.reshape(-1, *(1,) * len(shape)).expand(-1, *shape)
        returned = self.target(points, *plain, **(self.kwargs or {}))
        output: Tensor = returned if self.index is None else returned[self.index]
        return output


def _number(x: Tensor) -> float | None:
    """The common value of all elements; None if elements differ."""
    return float(x.flatten()[0]) if bool((x == x.flatten()[0]).all()) else None


def _bounds(f: Value, region: Region) -> Arguments | None:  # noqa: ARG001
    """Lower and upper bound, None where there is none; None without any bound."""
    low, high = _number(f(-_HUGE)), _number(f(_HUGE))
    if low is None or high is None or not low < high:
        return None
    bounds = (None if low <= -_HUGE else low, None if high >= _HUGE else high)
    return None if bounds == (None, None) else bounds


def _bounds_around_zero(f: Value, region: Region) -> Arguments | None:
    """Both bounds, the lower ≤ 0 ≤ the upper."""
    low, high = _bounds(f, region) or (None, None)
    return None if low is None or high is None or not low <= 0 <= high else (low, high)


def _slope(f: Value, region: Region) -> Arguments | None:
    """The slope below 0 of a leaky ReLU."""
    slope = _number(-f(-1))
    return None if slope is None or slope in (0, 1) else (_known(slope, region),)


def _slopes(f: Value, region: Region) -> Arguments | None:
    """The slopes below 0 of a PReLU, one for each channel."""
    slopes = -f(-1)
    if slopes.numel() == 1:
        return None
    return (Constant(region.name_of(slopes) or f"{region.end.name}.weight", slopes.reshape(1, *slopes.shape)),)


def _alpha(f: Value, region: Region) -> Arguments | None:
    """The α that an ELU or CELU approaches, with opposite sign, at −∞."""
    alpha = _number(-f(-_HUGE))
    return None if alpha is None or not 0 < alpha < _HUGE else (_known(alpha, region),)


def _threshold(f: Value, region: Region) -> Arguments | None:
    """The number at which a threshold jumps, and the value below it."""
    below, at = _number(f(-_HUGE)), _jump(region)
    return None if below is None or at is None else (at, below)


def _shrinking(f: Value, region: Region) -> Arguments | None:
    """The λ by which a softshrink moves large inputs towards 0."""
    size = _number(_NEAR - f(_NEAR))
    return None if size is None or not 0 < size < _NEAR else (_known(size, region),)


def _jumping(f: Value, region: Region) -> Arguments | None:  # noqa: ARG001
    """The λ at which a hardshrink jumps."""
    at = _jump(region)
    return None if at is None else (abs(at),)


def _jump(region: Region) -> float | None:
    """The number in the region at which its function jumps, if any."""
    for number in region.numbers:
        ends = region.at(torch.tensor([number - 1e-6, number + 1e-6], dtype=torch.float64))
        if ends is not None and ends.numel() == 2 and float((ends[1] - ends[0]).abs()) > 1e-5:
            return number
    return None


def _known(x: float, region: Region) -> float:
    """The number in the region that x was computed from, else x."""
    return next((number for number in region.numbers if abs(abs(number) - x) <= 1e-9 * abs(x) and number > 0), x)


_SELU = (1.6732632423543772, 1.0507009873554805)  # α and scale: Klambauer et al. 2017, eq. 14
_TABLE = (
    Activation(_ATEN.relu.default),
    Activation(_ATEN.hardtanh.default, _bounds_around_zero),
    Activation(_ATEN.clamp.default, _bounds),
    Activation(_ATEN.abs.default),
    Activation(_ATEN.leaky_relu.default, _slope),
    Activation(_ATEN._prelu_kernel.default, _slopes),
    Activation(_ATEN.silu.default),
    Activation(_ATEN.gelu.default),
    Activation(_ATEN.gelu.default, kwargs={"approximate": "tanh"}),
    Activation(_ATEN.hardswish.default),
    Activation(_ATEN.hardsigmoid.default),
    Activation(_ATEN.mish.default),
    Activation(_ATEN.sigmoid.default),
    Activation(_ATEN.tanh.default),
    Activation(_ATEN.softplus.default),
    Activation(_ATEN.log_sigmoid_forward.default, index=0),
    Activation(_ATEN.elu.default, _alpha),
    Activation(_ATEN.elu.default, lambda f, region: _SELU),  # noqa: ARG005
    Activation(_ATEN.celu.default, _alpha),
    Activation(_ATEN.softshrink.default, _shrinking),
    Activation(_ATEN.hardshrink.default, _jumping),
    Activation(_ATEN.threshold.default, _threshold),
    Activation(_ATEN.sqrt.default),
    Activation(_ATEN.rsqrt.default),
    Activation(_ATEN.reciprocal.default),
)
# A lone operator with one of these titles is in canonical form. Bounds, and constants in place of numbers, are not.
_OWN = frozenset(
    """relu abs leaky_relu silu gelu hardswish hardsigmoid mish sigmoid tanh softplus log_sigmoid_forward elu celu sqrt
    rsqrt reciprocal _prelu_kernel softshrink hardshrink threshold exp log erf neg sign""".split()
)


def join_activations(graph: Graph) -> Graph:
    """x·0.5·(1 + erf(x/√2)) becomes gelu(x), min(max(x, 0), 6) hardtanh(x, 0, 6), and so on: see `_TABLE`."""
    regions, by, gone = Regions(graph), dict[str, tuple[Operator, ...]](), set[str]()
    for end in reversed(graph.operators):
        if end.name in gone or not end.dtype.is_floating_point or 0 in end.shape:
            continue
        for region in reversed(list(regions.ending_in(end, is_pointwise))):
            joined = _joined(region)
            if joined is not None:
                by[end.name] = (joined,)
                gone.update(op.name for op in region.operators)
                break
    return replaced(graph, by) if by else graph


def _joined(region: Region) -> Operator | None:
    """The region as one operator of the table; None if it is none, or is that operator already."""
    is_single = len(region.operators) == 1
    if (is_single and _is_own(region.end)) or region.end.shape != region.source_shape:
        return None
    few = region.at(_POINTS[:2])
    if few is None or few.shape[:1] != (2,) or few[0].numel() > _LARGEST:
        return None
    values = region.at(_POINTS)
    if values is None:
        return None
    index_of = {float(x): i for i, x in enumerate(_POINTS)}
    tolerance = _ROUNDINGS * max(torch.finfo(dtype).eps for dtype in (region.end.dtype, torch.float32))
    best: tuple[float, Activation, Arguments] | None = None
    for activation in _TABLE:
        arguments = activation.arguments(lambda x: values[index_of[x]], region)
        if arguments is None:
            continue
        by = activation.values(arguments) if arguments else _fixed(activation)
        if _difference(values, by, _FEW) > tolerance:
            continue
        error = _difference(values, by, _ALL)
        if error <= tolerance and (best is None or error < best[0]):
            best = error, activation, arguments
    if best is None:
        return None
    _, activation, arguments = best
    end, args = region.end, (Ref(region.source), *(_as_in(a, region) for a in arguments))
    if is_single and activation.target is end.target and end.args == args:
        return None
    return made(
        end, activation.target, args, {region.source: region.source_shape}, index=activation.index,
        kwargs=activation.kwargs,
    )  # fmt: skip


def _is_own(op: Operator) -> bool:
    """Whether a lone operator is already in canonical form, so that matching is pointless."""
    return op.title in _OWN or (len(op.refs) == 1 and op.title in ("add", "sub", "rsub", "mul"))


def _as_in(argument: Any, region: Region) -> Any:
    """An argument computed in float64, converted to the dtype and device of the region's graph."""
    return region.constant(argument.name, argument.value) if isinstance(argument, Constant) else argument


@functools.cache
def _fixed(activation: Activation) -> Tensor:
    return activation.values(())


def _difference(values: Tensor, by: Tensor, points: slice) -> float:
    """The largest difference between a function's values and an operator's at some of `_POINTS`, relative above 1.

    Points beyond `_NEAR` where the function overflows and the operator does not, as log(1 + exp(x)), are ignored.
    """
    by = by.reshape(*by.shape, *(1,) * (values.dim() - by.dim()))
    values, by = values[points], by[points]
    is_near = _POINTS[points].abs().reshape(-1, *(1,) * (values.dim() - 1)) <= _NEAR
    same = (values == by) | (values.isnan() & by.isnan()) | ~(is_near | values.isfinite())
    return float(torch.where(same, 0, (values - by).abs() / by.abs().clamp(min=1)).nan_to_num(nan=torch.inf).max())
