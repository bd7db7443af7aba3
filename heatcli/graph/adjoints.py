"""Vector-Jacobian products in closed form: they spare a tape, and some take less time than torch's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from heatcli.graph.kinds import batch_norm_scale_shift, has_fixed_statistics
from heatcli.graph.operator import Operator, Ref

_ATEN = torch.ops.aten
# Of an operator at its inputs, one for each source, where it has this output: a multiplier for each of them.
Product = Callable[[Operator, Sequence[Tensor], Tensor, Tensor], list[Tensor]]


def relu_over_output(output: Tensor, multiplier: Tensor) -> Tensor:
    """Of a ReLU, from its output alone and in its memory."""
    return _ATEN.threshold_backward.grad_input(multiplier, output, 0, grad_input=output)  # type: ignore[no-any-return]


def closed_form(operator: Operator, differentiable: bool = False) -> Product | None:
    """The product of `operator`, whatever its inputs; None where there is no such form, or it has no derivative."""
    found = _CLOSED.get(operator.title) or (None if differentiable else _FUNCTIONS.get(operator.title))
    if found is None or operator.kwargs:
        return None
    applies, product = found
    return product if applies(operator) else None


def _always(operator: Operator) -> bool:
    return True


def _alone(operator: Operator) -> bool:
    """One tensor carries the image, once."""
    return len(operator.sources) == len(operator.refs) == 1


def _weighted(position: int) -> Callable[[Operator], bool]:
    """Its argument there is a constant, and the one before alone carries the image."""

    def applies(operator: Operator) -> bool:
        x = operator.args[position - 1]
        return isinstance(x, Ref) and operator.sources == (x.name,) and operator.constant(position) is not None

    return applies


def _keeps_dimensions(operator: Operator) -> bool:
    return _alone(operator) and len(operator.shape) == len(operator.source_shapes[0])


def _of_all(operator: Operator) -> bool:
    """All that it joins carries the image, and is of as many dimensions."""
    return len(operator.args[0]) == len(operator.sources) and len({len(s) for s in operator.source_shapes}) == 1


def _scales(operator: Operator) -> bool:
    """It is a batch norm that multiplies each channel by a constant."""
    return _alone(operator) and has_fixed_statistics(operator)


def _mean(operator: Operator, inputs: Sequence[Tensor], output: Tensor, m: Tensor) -> list[Tensor]:
    """Each input's share, not written out; torch lays it out as if channels came first."""
    (x,) = inputs
    return [(m / (x.numel() // m.numel())).expand_as(x)]


def _batch_norm(operator: Operator, inputs: Sequence[Tensor], output: Tensor, m: Tensor) -> list[Tensor]:
    """A factor for each channel; torch takes twice as long with channels last."""
    return [m * batch_norm_scale_shift(operator)[0].reshape(-1, *(1,) * (m.dim() - 2))]


def _matrix(position: int) -> Product:
    """Of rows times a matrix, the argument there."""

    def product(operator: Operator, inputs: Sequence[Tensor], output: Tensor, m: Tensor) -> list[Tensor]:
        matrix = operator.args[position].value
        return [m @ (matrix if operator.title == "linear" else matrix.mT)]

    return product


def _convolution(operator: Operator, inputs: Sequence[Tensor], output: Tensor, m: Tensor) -> list[Tensor]:
    """What torch's tape calls; of pictures, whose channels are few, what takes less time."""
    (x,), weights = inputs, operator.args[1].value
    found = _of_pictures(operator, weights, x, m)
    if found is None:
        only_input = [True, False, False]
        found = _ATEN.convolution_backward.default(m, x.detach(), weights, None, *operator.args[3:], only_input)[0]
    return [found]


def _of_pictures(operator: Operator, weights: Tensor, x: Tensor, multiplier: Tensor) -> Tensor | None:
    """Of one that sees few channels through wide windows, some steps apart: torch takes far longer.

    Places between steps become channels of a convolution without steps (Shi et al. 2016, arXiv 1609.07009, sec. 2).
    """
    steps, padding = operator.arg(3), operator.arg(4)
    if weights.dim() != 4 or x.device.type != "cpu" or tuple(operator.args[5:]) != _PLAIN:
        return None
    out, channels, *kernel = weights.shape
    step = steps[0]
    if channels > 4 or step < 2 or min(kernel) < 4 or list(steps) != [step, step] or len(padding) != 2:
        return None
    windows = [-(-k // step) for k in kernel]  # in steps, rounded up
    high, wide = (step * n - k for n, k in zip(windows, kernel, strict=True))
    phases = functional.pad(weights, (0, wide, 0, high)).reshape(out, channels, windows[0], step, windows[1], step)
    phases = phases.flip(2, 4).permute(1, 3, 5, 0, 2, 4).reshape(-1, out, *windows)
    phases = phases.contiguous(memory_format=torch.channels_last)
    between = functional.conv2d(multiplier, phases, padding=[n - 1 for n in windows])
    apart = between.permute(0, 2, 3, 1).reshape(-1, *between.shape[2:], channels, step, step)
    # a pixel shuffle; torch's own takes twice as long
    found = apart.permute(0, 3, 1, 4, 2, 5).reshape(len(apart), channels, *(step * n for n in between.shape[2:]))
    short = [max(0, p + n - m) for p, n, m in zip(padding, x.shape[2:], found.shape[2:], strict=True)]
    if any(short):  # pixels at the far ends that no window sees
        found = functional.pad(found, (0, short[1], 0, short[0]))
    top, left = padding
    return found[:, :, top : top + x.shape[2], left : left + x.shape[3]]


_PLAIN = ([1, 1], False, [0, 0], 1)  # dilation, transposed, output padding, groups


def _sum(operator: Operator, inputs: Sequence[Tensor], output: Tensor, m: Tensor) -> list[Tensor]:
    return [m.sum_to_size(x.shape) for x in inputs]


def _join(operator: Operator, inputs: Sequence[Tensor], output: Tensor, m: Tensor) -> list[Tensor]:
    dim = operator.arg(1, 0)
    return list(m.split_with_sizes([x.shape[dim] for x in inputs], dim))


def _layout(operator: Operator, inputs: Sequence[Tensor], output: Tensor, m: Tensor) -> list[Tensor]:
    return [m.reshape(x.shape) for x in inputs]


def _product(operator: Operator, inputs: Sequence[Tensor], output: Tensor, m: Tensor) -> list[Tensor]:
    a, b = inputs
    return [(m * b).sum_to_size(a.shape), (m * a).sum_to_size(b.shape)]


def _by_input(backward: Callable[..., Tensor]) -> Product:
    """Of y = f(x), by a function of the multiplier and x."""
    return lambda operator, inputs, output, m: [backward(m, inputs[0])]


def _by_output(backward: Callable[..., Tensor]) -> Product:
    """Of y = f(x), by a function of the multiplier and y."""
    return lambda operator, inputs, output, m: [backward(m, output)]


Form = tuple[Callable[[Operator], bool], Product]  # where it applies, and what it is
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
    **dict.fromkeys("view _unsafe_view reshape flatten squeeze unsqueeze".split(), (_alone, _layout)),
}
_FUNCTIONS: dict[str, Form] = {  # ATen's backwards, of which not all have a derivative
    "relu": (_alone, _by_output(lambda m, y: _ATEN.threshold_backward(m, y, 0))),
    "sigmoid": (_alone, _by_output(_ATEN.sigmoid_backward)),
    "tanh": (_alone, _by_output(_ATEN.tanh_backward)),
    "silu": (_alone, _by_input(_ATEN.silu_backward)),
    "hardswish": (_alone, _by_input(_ATEN.hardswish_backward)),
    "hardsigmoid": (_alone, _by_input(_ATEN.hardsigmoid_backward)),
}
