"""Vector-Jacobian products in closed form, for walks.

A closed form (`closed_form`) needs no autograd tape, and some are faster than autograd. What stands for backward
operators in runtimes that have none: `graph/exportable.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from heatcli.graph.kinds import has_fixed_statistics
from heatcli.graph.offsets import batch_norm_scale_shift
from heatcli.graph.operator import Operator, Ref
from heatcli.system.torch_private import (
    BACKWARD_BY_INPUT,
    BACKWARD_BY_OUTPUT,
    convolution_backward,
    relu_backward,
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
