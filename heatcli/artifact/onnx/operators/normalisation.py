"""Normalisation by fixed statistics or by the input's own, and softmax."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from heatcli.artifact.onnx.node import Call, axes_of
from heatcli.artifact.onnx.value import Operator, RefusedError


def _channelwise(x: Tensor, like: Tensor) -> Tensor:
    """[C] broadcast along dimension 1 of `like`."""
    return x.reshape(1, -1, *(1,) * (like.dim() - 2))


def _batch_norm(
    call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor | tuple[Tensor, ...]:
    """ONNX's BatchNormalization, by the given statistics; in training mode by those of `x`, if `x` is a constant.

    Networks whose weights are standardised (Brock et al. 2021, arXiv 2102.06171) are exported so by torch.
    """
    trains = call.get("training_mode", 0) or (call.opset >= 14 and call.wants(1))
    if trains and not call.fixed(0):
        raise RefusedError("normalises in training mode, by all images together; export the network for inference")
    if call.get("spatial", 1) != 1:
        raise RefusedError("has statistics for every pixel (spatial = 0), which heatcli does not know")
    scale, bias, mean, variance = (value.to(mean.dtype) for value in (scale, bias, mean, variance))
    wide, epsilon = x.to(mean.dtype), call.get("epsilon", 1e-5)
    if not trains:
        return torch.batch_norm(wide, scale, bias, mean, variance, False, 0.0, epsilon, False).to(x.dtype)
    others = [d for d in range(x.dim()) if d != 1]
    own_variance, own_mean = torch.var_mean(wide, others, correction=0)
    kept = call.get("momentum", 0.9)
    y = torch.batch_norm(wide, scale, bias, own_mean, own_variance, False, 0.0, epsilon, False)
    return y.to(x.dtype), mean.lerp(own_mean, 1 - kept), variance.lerp(own_variance, 1 - kept)


def _instance_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """ONNX's InstanceNormalization."""
    return torch.group_norm(x, x.shape[1], scale, bias, call.get("epsilon", 1e-5))


def _group_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """ONNX's GroupNormalization."""
    groups, wide = call.get("num_groups"), _stash(call, x)
    if call.opset < 21:  # scale and bias per group
        y = torch.group_norm(wide, groups, None, None, call.get("epsilon", 1e-5)).to(x.dtype)
        each = x.shape[1] // groups
        more = [torch.repeat_interleave(v, each) if v.numel() != x.shape[1] else v for v in (scale, bias)]
        return y * _channelwise(more[0], x) + _channelwise(more[1], x)
    scale, bias = scale.to(wide.dtype), bias.to(wide.dtype)
    return torch.group_norm(wide, groups, scale, bias, call.get("epsilon", 1e-5)).to(x.dtype)


def _stash(call: Call, x: Tensor) -> Tensor:
    """`x` in the precision for computing statistics."""
    return x.float() if call.get("stash_type", 1) == 1 and x.dtype.itemsize < 4 else x


def layer_norm(
    x: Tensor, axis: int, scale: Tensor | None, bias: Tensor | None, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Layer norm over the dimensions from `axis` on, with mean and reciprocal standard deviation.

    `scale`, `bias`: of the shape of these dimensions, or broadcasting against it.
    """
    shape = x.shape[axis:]
    fits = all(value is None or value.shape == shape for value in (scale, bias))
    y, mean, deviation = torch.native_layer_norm(x, list(shape), *((scale, bias) if fits else (None, None)), epsilon)
    if not fits:
        y = y if scale is None else y * scale
        y = y if bias is None else y + bias
    return y, mean, deviation


def _layer_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> tuple[Tensor, ...]:
    """ONNX's LayerNormalization."""
    wide = _stash(call, x)
    scale, bias = scale.to(wide.dtype), None if bias is None else bias.to(wide.dtype)
    (axis,) = axes_of([call.get("axis", -1)], x.dim())
    y, mean, deviation = layer_norm(wide, axis, scale, bias, call.get("epsilon", 1e-5))
    return y.to(x.dtype), mean, deviation


def _rms_norm(call: Call, x: Tensor, scale: Tensor) -> Tensor:
    """ONNX's RMSNormalization."""
    wide = _stash(call, x)
    (axis,) = axes_of([call.get("axis", -1)], x.dim())
    square = torch.mean(torch.square(wide), list(range(axis, x.dim())), True)
    return (wide * torch.rsqrt(square + call.get("epsilon", 1e-5))).to(x.dtype) * scale


def _mean_variance(call: Call, x: Tensor) -> Tensor:
    """ONNX's MeanVarianceNormalization."""
    axes = list(call.get("axes") or [0, 2, 3])
    apart = x - torch.mean(x, axes, True)
    return apart / torch.sqrt(torch.mean(torch.square(x), axes, True) - torch.square(torch.mean(x, axes, True)) + 1e-9)


def _local_response(call: Call, x: Tensor) -> Tensor:
    """ONNX's LRN: x over a power of the sum of squares of neighbouring channels."""
    size = call.get("size")
    squares = torch.nn.functional.pad(
        torch.square(x), [0, 0] * (x.dim() - 2) + [(size - 1) // 2, size - 1 - (size - 1) // 2]
    )
    sums = squares.narrow(1, 0, x.shape[1])
    for start in range(1, size):
        sums = sums + squares.narrow(1, start, x.shape[1])
    scaled = call.get("bias", 1.0) + sums * (call.get("alpha", 1e-4) / size)
    return x / torch.pow(scaled, call.get("beta", 0.75))


def _norm(call: Call, x: Tensor) -> Tensor:
    """ONNX's LpNormalization."""
    norm = torch.linalg.vector_norm(x, call.get("p", 2), [call.get("axis", -1)], True)
    return x / torch.where(norm == 0, torch.ones_like(norm), norm)


def _over_classes(function: Callable[[Tensor, int], Tensor]) -> Operator:
    """Softmax and related operators: over one axis, before opset 13 over all axes from `axis` on."""

    def run(call: Call, x: Tensor) -> Tensor:
        """The function along the node's axis."""
        if call.opset >= 13:
            return function(x, call.get("axis", -1))
        (axis,) = axes_of([call.get("axis", 1)], x.dim()) if call.get("axis", 1) != x.dim() else (x.dim(),)
        if math.prod(x.shape[axis + 1 :]) == 1 and axis < x.dim():
            return function(x, axis)
        rows = x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))
        return function(rows, 1).reshape(x.shape)

    return run


def _hardmax(x: Tensor, axis: int) -> Tensor:
    """1 at the first maximum along the axis, else 0."""
    shape = [1] * x.dim()
    shape[axis] = -1
    places = torch.arange(x.shape[axis], device=x.device).reshape(shape)
    return (places == torch.argmax(x, axis, True)).to(x.dtype)


OPERATORS: dict[str, Operator] = {
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "MeanVarianceNormalization": _mean_variance,
    "LRN": _local_response,
    "LpNormalization": _norm,
    "Softmax": _over_classes(torch.softmax),
    "LogSoftmax": _over_classes(torch.log_softmax),
    "Hardmax": _over_classes(_hardmax),
}
