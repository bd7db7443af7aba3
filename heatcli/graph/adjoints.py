"""Vector-Jacobian products in closed form, of operators for which torch's own takes longer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from heatcli.graph.kinds import batch_norm_scale_shift, has_fixed_statistics
from heatcli.graph.operator import Operator

_BACKWARD = torch.ops.aten.convolution_backward.default


def relu_over_output(output: Tensor, multiplier: Tensor) -> Tensor:
    """Of a ReLU, from its output alone and in its memory."""
    return torch.ops.aten.threshold_backward.grad_input(multiplier, output, 0, grad_input=output)  # type: ignore[no-any-return]


def closed(operator: Operator, x: Tensor, multiplier: Tensor) -> Tensor | None:
    """Of `operator` at its input `x`: a tensor of the shape of x. None where there is no such form."""
    found = _CLOSED.get(operator.title)
    return None if found is None or operator.kwargs else found(operator, x, multiplier)


def _mean(operator: Operator, x: Tensor, multiplier: Tensor) -> Tensor | None:  # noqa: ARG001 - they share a signature
    """Each input's share, not written out; torch lays it out as if channels came first."""
    if multiplier.dim() != x.dim():
        return None
    return (multiplier / (x.numel() // multiplier.numel())).expand_as(x)


def _batch_norm(operator: Operator, x: Tensor, multiplier: Tensor) -> Tensor | None:
    """In eval mode a factor for each channel; torch takes twice as long with channels last."""
    if not has_fixed_statistics(operator):
        return None
    return multiplier * batch_norm_scale_shift(operator)[0].reshape(-1, *(1,) * (x.dim() - 2))


def _matrix(operator: Operator, x: Tensor, multiplier: Tensor) -> Tensor | None:  # noqa: ARG001
    """Of rows times a matrix."""
    matrix = operator.constant(1)
    return None if matrix is None else multiplier @ (matrix.value if operator.title == "linear" else matrix.value.mT)


def _convolution(operator: Operator, x: Tensor, multiplier: Tensor) -> Tensor | None:
    """What torch's tape calls, without a tape; of pictures, whose channels are few, what takes less time."""
    weights = operator.constant(1)
    if weights is None:
        return None
    found = _of_pictures(operator, weights.value, x, multiplier)
    if found is None:
        found = _BACKWARD(multiplier, x.detach(), weights.value, None, *operator.args[3:], [True, False, False])[0]
    return found


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
_CLOSED: dict[str, Callable[[Operator, Tensor, Tensor], Tensor | None]] = {
    "mean": _mean,
    "convolution": _convolution,
    "linear": _matrix,
    "mm": _matrix,
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
}
