"""Fourier transforms and related operators, as products with constant matrices."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from heatcli.artifact.onnx.node import Call
from heatcli.artifact.onnx.tensors import dtype_of
from heatcli.artifact.onnx.value import Operator


def _transform(x: Tensor, size: int, inverse: bool, onesided: bool) -> Tensor:
    """The Fourier transform of [..., n, 1 or 2] along the second to last dimension: [..., size or size/2+1, 2]."""
    n = min(x.shape[-2], size)
    x = x.narrow(-2, 0, n)
    full = onesided and inverse  # the input is half of the spectrum, the rest is its mirror image
    out = size // 2 + 1 if onesided and not inverse else size
    angles = torch.outer(torch.arange(out), torch.arange(n)).remainder(size).double() * (2 * math.pi / size)
    scale = torch.full((n,), 1 / size if inverse else 1.0, dtype=torch.float64)
    if full:
        scale = scale * torch.tensor([1.0 if k in (0, size - k) else 2.0 for k in range(n)], dtype=torch.float64)
    cosine, sine = ((f(angles) * scale).t().to(x.dtype).to(x.device) for f in (torch.cos, torch.sin))
    sine = sine if inverse else -sine
    real = torch.select(x, -1, 0)
    if x.shape[-1] == 1:
        parts = [torch.matmul(real, cosine), torch.matmul(real, sine)]
    else:
        other = torch.select(x, -1, 1)
        parts = [
            torch.matmul(real, cosine) - torch.matmul(other, sine),
            torch.matmul(real, sine) + torch.matmul(other, cosine),
        ]
    return parts[0].unsqueeze(-1) if full else torch.stack(parts, -1)


def _dft(call: Call, x: Tensor, length: Tensor | None = None, along: Tensor | None = None) -> Tensor:
    """ONNX's DFT."""
    inverse, onesided = bool(call.get("inverse", 0)), bool(call.get("onesided", 0))
    axis = call.get("axis", 1) if call.opset < 20 else -2 if along is None else int(along)
    axis = axis % x.dim()
    n = x.shape[axis]
    size = (2 * (n - 1) if inverse and onesided else n) if length is None else int(length)
    y = _transform(torch.transpose(x, axis, -2), size, inverse, onesided)
    return torch.transpose(y, axis, -2)


def _short_time(
    call: Call, x: Tensor, step: Tensor, window: Tensor | None = None, length: Tensor | None = None
) -> Tensor:
    """ONNX's STFT: the Fourier transform of each window."""
    size = int(length) if length is not None else window.shape[0] if window is not None else x.shape[1]
    by = int(step)
    frames = [x.narrow(1, start, size) for start in range(0, x.shape[1] - size + 1, by)]
    frame = torch.stack(frames, 1)
    if window is not None:
        frame = frame * window.reshape(-1, 1)
    return _transform(frame, size, False, bool(call.get("onesided", 1)))


def _mel(call: Call, *given: Tensor) -> Tensor:
    """ONNX's MelWeightMatrix: the weights of mel filters."""
    bins, length, rate = (int(v) for v in given[:3])
    low, high = (float(v) for v in given[3:])
    spectrum = length // 2 + 1
    ends = [2595 * math.log10(1 + f / 700) for f in (low, high)]
    step = (ends[1] - ends[0]) / (bins + 2)
    points = [700 * (10 ** ((ends[0] + step * i) / 2595) - 1) for i in range(bins + 2)]
    at = [int((length + 1) * f // rate) for f in points]
    weights = torch.zeros(spectrum, bins, dtype=torch.float64)
    for i in range(bins):
        lower, centre, upper = at[i : i + 3]
        up, down = centre - lower, upper - centre
        if up == 0:
            weights[centre, i] = 1
        for j in range(lower, centre + 1 if up else lower):
            weights[j, i] = (j - lower) / up
        for j in range(centre, upper):
            weights[j, i] = (upper - j) / down
    return weights.to(dtype_of(call.get("output_datatype", 1)))


OPERATORS: dict[str, Operator] = {"DFT": _dft, "STFT": _short_time, "MelWeightMatrix": _mel}
