"""Vector-Jacobian products in closed form, for walks, and in forward operators, for explained models.

A closed form (`closed_form`) needs no autograd tape, and some are faster than autograd. Runtimes for inference have no
backward operators: `exportable` says what is written in their place, torch's decompositions or the functions at the end
of this file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from heatcli.graph.axes import (
    PADDINGS,
    RESIZES,
    adaptive_avg_pool_back,
    avg_pool_back,
    pad_back,
    resize,
    resize_back,
)
from heatcli.graph.kinds import has_fixed_statistics
from heatcli.graph.offsets import batch_norm_scale_shift
from heatcli.graph.operator import Operator, Ref
from heatcli.system.torch_private import (
    BACKWARD_BY_INPUT,
    BACKWARD_BY_OUTPUT,
    convolution_backward,
    relu_backward,
    written_forward,
)

_ATEN = torch.ops.aten

# (operator, inputs, output, multiplier of the output) → a multiplier for each input.
Product = Callable[[Operator, Sequence[Tensor], Tensor, Tensor], list[Tensor]]


def closed_form(operator: Operator, differentiable: bool = False) -> Product | None:
    """The vector-Jacobian product of `operator` in closed form, or None if there is none.

    `differentiable`: leave out ATen's backward kernels, not all of which have a derivative.
    """
    form = _CLOSED.get(operator.title) or (None if differentiable else _FUNCTIONS.get(operator.title))
    if form is None or operator.kwargs:
        return None
    applies, product = form
    return product if applies(operator) else None


def _always(operator: Operator) -> bool:
    """For forms that apply to every call."""
    return True


def _one_source(operator: Operator) -> bool:
    """Whether exactly one tensor carries the image, and the operator reads no other tensor of the graph."""
    return len(operator.sources) == len(operator.refs) == 1


def _weighted(position: int) -> Callable[[Operator], bool]:
    """Whether the argument at `position` is a constant and only the argument before it carries the image."""

    def applies(operator: Operator) -> bool:
        x = operator.args[position - 1]
        return isinstance(x, Ref) and operator.sources == (x.name,) and operator.constant(position) is not None

    return applies


def _keeps_dimensions(operator: Operator) -> bool:
    return _one_source(operator) and len(operator.shape) == len(operator.source_shapes[0])


def _of_all(operator: Operator) -> bool:
    """Whether all joined tensors carry the image and have equally many dimensions."""
    return len(operator.args[0]) == len(operator.sources) and len({len(s) for s in operator.source_shapes}) == 1


def _scales(operator: Operator) -> bool:
    """Whether the operator is a batch norm that multiplies each channel by a constant."""
    return _one_source(operator) and has_fixed_statistics(operator)


def _mean(operator: Operator, inputs: Sequence[Tensor], output: Tensor, m: Tensor) -> list[Tensor]:
    """An equal share for each input element, as an expanded view. Autograd writes it out, channels first."""
    (x,) = inputs
    return [(m / (x.numel() // m.numel())).expand_as(x)]


def _batch_norm(operator: Operator, inputs: Sequence[Tensor], output: Tensor, m: Tensor) -> list[Tensor]:
    """One factor for each channel. Autograd's kernel takes twice as long with channels last."""
    return [m * batch_norm_scale_shift(operator)[0].reshape(-1, *(1,) * (m.dim() - 2))]


def _matrix(position: int) -> Product:
    """The product for rows times a constant matrix, the argument at `position`."""

    def product(operator: Operator, inputs: Sequence[Tensor], output: Tensor, m: Tensor) -> list[Tensor]:
        matrix = operator.args[position].value
        return [m @ (matrix if operator.title == "linear" else matrix.mT)]

    return product


def _convolution(operator: Operator, inputs: Sequence[Tensor], output: Tensor, m: Tensor) -> list[Tensor]:
    """`_convolution_by_phases` where it applies, else the kernel that autograd calls."""
    (x,), weights = inputs, operator.args[1].value
    gradient = _convolution_by_phases(operator, weights, x, m)
    if gradient is None:
        gradient = convolution_backward(m, x.detach(), weights, operator.args[3:])
    return [gradient]


def _convolution_by_phases(operator: Operator, weights: Tensor, x: Tensor, multiplier: Tensor) -> Tensor | None:
    """The gradient of a strided convolution of few channels with a large kernel (a first layer); None for any other.

    Autograd takes far longer there. The positions between strides become channels of a convolution with stride 1
    (Shi et al. 2016, arXiv 1609.07009, sec. 2).
    """
    steps, padding = operator.arg(3), operator.arg(4)
    if weights.dim() != 4 or x.device.type != "cpu" or tuple(operator.args[5:]) != _PLAIN:
        return None
    out, channels, *kernel = weights.shape
    step = steps[0]
    if channels > 4 or step < 2 or min(kernel) < 4 or list(steps) != [step, step] or len(padding) != 2:
        return None
    windows = [-(-k // step) for k in kernel]  # kernel size in strides, rounded up
    high, wide = (step * n - k for n, k in zip(windows, kernel, strict=True))
    phases = functional.pad(weights, (0, wide, 0, high)).reshape(out, channels, windows[0], step, windows[1], step)
    phases = phases.flip(2, 4).permute(1, 3, 5, 0, 2, 4).reshape(-1, out, *windows)
    phases = phases.contiguous(memory_format=torch.channels_last)
    between = functional.conv2d(multiplier, phases, padding=[n - 1 for n in windows])
    apart = between.permute(0, 2, 3, 1).reshape(-1, *between.shape[2:], channels, step, step)
    # A pixel shuffle. torch's own takes twice as long.
    gradient = apart.permute(0, 3, 1, 4, 2, 5).reshape(len(apart), channels, *(step * n for n in between.shape[2:]))
    short = [max(0, p + n - m) for p, n, m in zip(padding, x.shape[2:], gradient.shape[2:], strict=True)]
    if any(short):  # trailing pixels that no window covers
        gradient = functional.pad(gradient, (0, short[1], 0, short[0]))
    top, left = padding
    return gradient[:, :, top : top + x.shape[2], left : left + x.shape[3]]


_PLAIN = ([1, 1], False, [0, 0], 1)  # dilation, transposed, output padding, groups


def _sum(operator: Operator, inputs: Sequence[Tensor], output: Tensor, m: Tensor) -> list[Tensor]:
    """The multiplier of each term, summed over broadcast dimensions."""
    return [m.sum_to_size(x.shape) for x in inputs]


def _join(operator: Operator, inputs: Sequence[Tensor], output: Tensor, m: Tensor) -> list[Tensor]:
    """The part of the multiplier of each joined tensor."""
    dim = operator.arg(1, 0)
    return list(m.split_with_sizes([x.shape[dim] for x in inputs], dim))


def _layout(operator: Operator, inputs: Sequence[Tensor], output: Tensor, m: Tensor) -> list[Tensor]:
    """The multiplier in the shape of the source."""
    return [m.reshape(x.shape) for x in inputs]


def _product(operator: Operator, inputs: Sequence[Tensor], output: Tensor, m: Tensor) -> list[Tensor]:
    """The multiplier times the other factor."""
    a, b = inputs
    return [(m * b).sum_to_size(a.shape), (m * a).sum_to_size(b.shape)]


def _by_input(backward: Callable[..., Tensor]) -> Product:
    """The product of y = f(x) from a function of the multiplier and x."""
    return lambda operator, inputs, output, m: [backward(m, inputs[0])]


def _by_output(backward: Callable[..., Tensor]) -> Product:
    """The product of y = f(x) from a function of the multiplier and y."""
    return lambda operator, inputs, output, m: [backward(m, output)]


Form = tuple[Callable[[Operator], bool], Product]  # (whether the form applies, the form)
_CLOSED: dict[str, Form] = {
    "convolution": (_weighted(1), _convolution),
    "linear": (_weighted(1), _matrix(1)),
    "mm": (_weighted(1), _matrix(1)),
    "addmm": (_weighted(2), _matrix(2)),
    "native_batch_norm": (_scales, _batch_norm),
    "_native_batch_norm_legit_no_training": (_scales, _batch_norm),
    "mean": (_keeps_dimensions, _mean),
    "add": (_always, _sum),
    "cat": (_of_all, _join),
    "mul": (lambda operator: len(operator.sources) == 2, _product),
    **dict.fromkeys("view _unsafe_view reshape flatten squeeze unsqueeze".split(), (_one_source, _layout)),
}
_FUNCTIONS: dict[str, Form] = {  # ATen's backward kernels; not all have a derivative
    "relu": (_one_source, _by_output(relu_backward)),
    **{name: (_one_source, _by_output(kernel)) for name, kernel in BACKWARD_BY_OUTPUT.items()},
    **{name: (_one_source, _by_input(kernel)) for name, kernel in BACKWARD_BY_INPUT.items()},
}


# --- in forward operators ------------------------------------------------------------------------------------------


def _convolution_written(
    m: Tensor, x: Tensor, weights: Tensor, bias_sizes: Any, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], transposed: bool, output_padding: Sequence[int], groups: int, wanted: Sequence[bool],
) -> Any:  # fmt: skip
    """The multiplier of a convolution's input: a transposed convolution, or the plain one of a transposed one.

    `m` [N, K, …], `x` [N, C, …]. Multipliers of weight and bias are not computed. In ONNX Runtime a plain convolution
    with turned weights is faster if the stride is 1, and twice as fast if a stride puts zeros between the multipliers
    of channels that are apart (depthwise).
    """
    if wanted[1] or wanted[2]:
        return NotImplemented
    count = weights.dim() - 2
    stride, padding, dilation = ([*each] * (count // len(each)) for each in (stride, padding, dilation))
    none = [0] * count
    if transposed:
        back = _ATEN.convolution.default(m, weights, None, stride, padding, dilation, False, none, groups)
        return back, None, None
    around = [d * (k - 1) - p for k, p, d in zip(weights.shape[2:], padding, dilation, strict=True)]
    sizes = zip(x.shape[2:], m.shape[2:], weights.shape[2:], stride, padding, dilation, strict=True)
    short = [size - ((out - 1) * s - 2 * p + d * (k - 1) + 1) for size, out, k, s, p, d in sizes]
    apart = groups == x.shape[1] == m.shape[1] > 1
    if min(around) < 0 or (not apart and max(stride) > 1):
        back = _ATEN.convolution.default(m, weights, None, stride, padding, dilation, True, short, groups)
        return back, None, None
    ones = [1] * count
    if max(stride) > 1:
        one = weights.new_ones(groups, 1, *ones)
        m = _ATEN.convolution.default(m, one, None, stride, none, ones, True, short, groups)
    turned = _turned(weights, groups)
    return _ATEN.convolution.default(m, turned, None, ones, around, dilation, False, none, groups), None, None


def _turned(weights: Tensor, groups: int) -> Tensor:
    """The weights [K, C/groups, …] of the plain convolution that walks back through one of stride 1, [C, K/groups, …].

    ONNX Runtime turns constants when it loads the file.
    """
    if any(size > 1 for size in weights.shape[2:]):
        weights = weights.flip(tuple(range(2, weights.dim())))
    if groups == 1:
        return weights.transpose(0, 1)
    apart = weights.reshape(groups, -1, *weights.shape[1:]).transpose(1, 2)
    return apart.reshape(-1, *apart.shape[2:])


def _max_pool(
    m: Tensor, x: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, indices: Tensor
) -> Tensor:
    """Each window's multiplier goes to its winner, whose index in the channel the forward run returned."""
    plane = torch.zeros_like(x).flatten(2)
    return plane.scatter_add(-1, indices.flatten(2), m.flatten(2)).reshape(x.shape)


def _threshold(m: Tensor, x: Tensor, threshold: float) -> Tensor:
    """The multiplier where x is above the threshold, else 0. ONNX Runtime multiplies much faster than it selects."""
    return m * (x > threshold).to(m.dtype)


def _hardtanh(m: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    """The multiplier where low < x < high, else 0."""
    inside = [side for side, end in ((x > low, low), (x < high, high)) if abs(end) != math.inf]
    return m * (inside[0] if len(inside) == 1 else (x > low) & (x < high)).to(m.dtype)


def _adaptive_max_pool(m: Tensor, x: Tensor, indices: Tensor) -> Tensor:
    """As `_max_pool`, which says what goes where."""
    return _max_pool(m, x, None, None, None, None, False, indices)


def _in_windows(x: Tensor, sizes: Sequence[int]) -> Any:
    """Adaptive max pooling whose windows are equal and apart: [N, C, *sizes] and the winners' indices."""
    if any(size % cells for size, cells in zip(x.shape[2:], sizes, strict=True)):
        return NotImplemented
    kernel = [size // cells for size, cells in zip(x.shape[2:], sizes, strict=True)]
    pooling = _ATEN.max_pool2d_with_indices if len(kernel) == 2 else _ATEN.max_pool3d_with_indices
    return pooling.default(x, kernel, kernel)


def _copysign(size: Tensor, x: Tensor) -> Tensor:
    """|size| with the sign of x. The sign of 0 is plus, since the result is then multiplied by that 0."""
    return size.abs() - (x < 0).to(x.dtype) * (2 * size.abs())


def _addcdiv(x: Tensor, top: Tensor, bottom: Tensor, *, value: float = 1) -> Tensor:
    """x + value · top/bottom; torch's decomposition multiplies by −1, too."""
    return x - top / bottom if value == -1 else x + top / bottom * value


def _copy(into: Tensor, x: Tensor, non_blocking: bool = False) -> Tensor:
    """`x` in the shape and dtype of `into`; torch's ONNX exporter leaves the broadcast out."""
    return x.to(into.dtype).expand_as(into).clone()


def _rrelu(
    x: Tensor, noise: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, generator: Any = None
) -> Any:
    """A leaky ReLU whose slope is the mean of the bounds, as outside training."""
    return NotImplemented if training else _ATEN.leaky_relu.default(x, (lower + upper) / 2)


def _trilinear(
    a: Tensor, b: Tensor, c: Tensor, apart_a: Sequence[int], apart_b: Sequence[int], apart_c: Sequence[int],
    summed: Sequence[int], unroll: int = 1,
) -> Tensor:  # fmt: skip
    """The sum over products of three tensors, each with dimensions of size 1 put in."""
    product: Tensor | float = 1.0
    for tensor, places in ((a, apart_a), (b, apart_b), (c, apart_c)):
        shape = list(tensor.shape)
        for place in sorted(places):
            shape.insert(place, 1)
        product = product * tensor.reshape(shape)
    assert isinstance(product, Tensor)
    return product.sum(tuple(summed)) if summed else product


_WRITTEN: Mapping[str, Callable[..., Any]] = {  # by the name of the operator whose backward it is
    "convolution": _convolution_written,
    "max_pool2d_with_indices": _max_pool,
    "max_pool3d_with_indices": _max_pool,
    "adaptive_max_pool2d": _adaptive_max_pool,
    "adaptive_max_pool3d": _adaptive_max_pool,
    "threshold": _threshold,
    "hardtanh": _hardtanh,
    "avg_pool2d": avg_pool_back,
    "avg_pool3d": avg_pool_back,
    "_adaptive_avg_pool2d": adaptive_avg_pool_back,
    "_adaptive_avg_pool3d": adaptive_avg_pool_back,
    **{name: resize_back(name) for name in RESIZES},
    **{name: pad_back(name) for name in PADDINGS},
}


@cache
def exportable() -> Mapping[Any, Callable[..., Any]]:
    """ATen's backward operators, and forward ones that ONNX lacks → functions of their arguments."""
    return {
        **written_forward(_WRITTEN),
        **{getattr(_ATEN, name).default: resize(name) for name in RESIZES},
        _ATEN.adaptive_max_pool2d.default: _in_windows,
        _ATEN.adaptive_max_pool3d.default: _in_windows,
        _ATEN.copysign.Tensor: _copysign,
        _ATEN.addcdiv.default: _addcdiv,
        _ATEN.copy.default: _copy,
        _ATEN.rrelu_with_noise.default: _rrelu,
        _ATEN.rrelu_with_noise_functional.default: lambda x, noise, *given: (_rrelu(x, noise, *given), noise),
        _ATEN._trilinear.default: _trilinear,
    }
