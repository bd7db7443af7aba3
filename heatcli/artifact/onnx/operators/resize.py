"""Resize and Upsample, in all modes, as one matrix for each axis.

A mode defines, for one axis, the weights of the inputs in each output. If an ATen operator has the same matrices, it is
called. Else elements are selected by index (nearest), or the axes are multiplied by their matrices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from heatcli.artifact.onnx.node import Call, axes_of, numbers
from heatcli.artifact.onnx.value import Operator

_ATEN_MODES: dict[str, list[dict[str, object]]] = {
    "nearest": [{"mode": "nearest"}, {"mode": "nearest-exact"}],
    "linear": [{"mode": "bilinear", "align_corners": c} for c in (False, True)],
    "cubic": [{"mode": "bicubic", "align_corners": c} for c in (False, True)],
}
_BY_RANK = {("bilinear", 3): "linear", ("bilinear", 5): "trilinear"}


@dataclass(frozen=True, eq=False)
class _Axis:
    """One axis: `matrix` [out, in]; `outside` [out]: whether an output lies outside the input."""

    matrix: Tensor
    outside: Tensor

    @property
    def chosen(self) -> Tensor | None:
        """The index of the input that equals each output, or None if some output is a weighted sum."""
        one = (self.matrix != 0).sum(1) == 1
        kept = bool((one & (self.matrix.sum(1) == 1)).all())
        return self.matrix.argmax(1) if kept else None


@dataclass(frozen=True)
class _Way:
    """The options of resizing an axis."""

    mode: str = "nearest"
    coordinates: str = "asymmetric"
    nearest: str = "simple"
    antialias: bool = False
    cubic: float = -0.75
    exclude: bool = False

    def axis(self, n: int, size: int, scale: float, roi: tuple[float, float]) -> _Axis:
        """The axis from `n` inputs to `size` outputs."""
        x = _position(self.coordinates, n, size, scale, roi)
        crops = self.coordinates == "tf_crop_and_resize"
        outside = ((x < 0) | (x > n - 1)) & crops
        if self.mode == "nearest":
            places = _nearest(x, self.nearest, scale).clamp(0, n - 1).long()
            matrix = functional.one_hot(places, n).double()
        else:
            kernel, reach = (_triangle, 1.0) if self.mode == "linear" else (lambda t: _cubic(t, self.cubic), 2.0)
            narrow = min(scale, 1.0) if self.antialias else 1.0
            matrix = _weights(x.double(), n, kernel, reach / narrow, narrow, self.exclude)
        return _Axis(torch.where(outside[:, None], torch.zeros_like(matrix), matrix), outside)


def _position(name: str, n: int, size: int, scale: float, roi: tuple[float, float]) -> Tensor:
    """The position of each output among the inputs, [size], in float32 like other runtimes."""
    i, by = torch.arange(size, dtype=torch.float32), torch.tensor(scale, dtype=torch.float32)
    if name == "asymmetric":
        return i / by
    if name == "align_corners":
        return i * (n - 1) / (size - 1) if size > 1 else i * 0
    if name == "tf_half_pixel_for_nn":
        return (i + 0.5) / by
    if name == "tf_crop_and_resize":
        start, end = torch.tensor(roi, dtype=torch.float32)
        if size == 1:
            middle: Tensor = i + 0.5 * (start + end) * (n - 1)
            return middle
        along: Tensor = start * (n - 1) + i * (end - start) * (n - 1) / (size - 1)
        return along
    if name == "pytorch_half_pixel" and size == 1:
        return i * 0
    if name == "half_pixel_symmetric":
        return (1 - size / (by * n)) * (n / 2) + (i + 0.5) / by - 0.5
    if name in ("half_pixel", "pytorch_half_pixel"):
        return (i + 0.5) / by - 0.5
    raise ValueError(f"coordinate_transformation_mode {name!r} is none of the standard's")


def _nearest(x: Tensor, how: str, scale: float) -> Tensor:
    """Positions rounded to whole ones as `how`, a `nearest_mode`, says."""
    if how == "simple":  # Upsample, and Resize of opset 10
        return torch.ceil(x) if scale < 1 else torch.floor(x)
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "round_prefer_floor": lambda x: torch.ceil(x - 0.5),
        "round_prefer_ceil": lambda x: torch.floor(x + 0.5),
        "floor": torch.floor,
        "ceil": torch.ceil,
    }
    return ways[how](x)


def _triangle(t: Tensor) -> Tensor:
    """The linear kernel: 1 − |t| within ±1, else 0."""
    return (1 - t.abs()).clamp(min=0)


def _cubic(t: Tensor, a: float) -> Tensor:
    """The cubic convolution kernel of Keys (1981)."""
    t = t.abs()
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return torch.where(t <= 1, near, torch.where(t < 2, far, torch.zeros_like(t)))


def _weights(
    x: Tensor, n: int, kernel: Callable[[Tensor], Tensor], reach: float, narrow: float, exclude: bool
) -> Tensor:
    """[out, in]: the kernel around each position, normalised to sum 1. Positions outside use the edge element."""
    first = torch.ceil(x - reach).long()
    places = first[:, None] + torch.arange(math.ceil(2 * reach) + 1)
    weights = kernel((places - x[:, None]) * narrow)
    if exclude:
        weights = torch.where((places < 0) | (places >= n), torch.zeros_like(weights), weights)
    weights = weights / weights.sum(1, keepdim=True)
    return torch.zeros(len(x), n, dtype=torch.float64).scatter_add(1, places.clamp(0, n - 1), weights)


def _resized(x: Tensor, axes: dict[int, _Axis], way: _Way, beyond: float) -> Tensor:
    """`x` with the given axes resized; `beyond` fills outputs outside the input."""
    moved = {d: axis for d, axis in axes.items() if not _is_identity(axis)}
    outside = [(d, axis.outside) for d, axis in axes.items() if bool(axis.outside.any())]
    y = x if x.dtype.is_floating_point else x.to(torch.float32)
    same = None if outside else _aten(y, moved, way)
    y = _by_axes(y, moved) if same is None else same
    for d, where in outside:
        shape = [1] * x.dim()
        shape[d] = -1
        y = torch.where(where.to(x.device).reshape(shape), torch.full((), beyond, dtype=y.dtype, device=x.device), y)
    return y.to(x.dtype)


def _is_identity(axis: _Axis) -> bool:
    """Whether the axis stays as it is."""
    return axis.matrix.shape[0] == axis.matrix.shape[1] and torch.equal(
        axis.matrix, torch.eye(len(axis.matrix)).double()
    )


def _by_axes(x: Tensor, axes: dict[int, _Axis]) -> Tensor:
    """`x` with each axis selected by index, or multiplied by its matrix."""
    for d, axis in axes.items():
        chosen = axis.chosen
        if chosen is not None:
            x = torch.index_select(x, d, chosen.to(x.device))
            continue
        matrix = axis.matrix.to(x.dtype).to(x.device)
        last = d == x.dim() - 1
        y = torch.matmul(x if last else torch.transpose(x, d, -1), matrix.t())
        x = y if last else torch.transpose(y, d, -1)
    return x


def _aten(x: Tensor, axes: dict[int, _Axis], way: _Way) -> Tensor | None:
    """The result of one ATen operator with the same matrices, or None if there is none."""
    if not axes or min(axes) < 2 or not 3 <= x.dim() <= 5:
        return None
    size = [len(axes[d].matrix) if d in axes else x.shape[d] for d in range(2, x.dim())]
    for how in _ATEN_MODES[way.mode]:
        more = {**how, "antialias": True} if way.antialias else how
        mode = _BY_RANK.get((str(how["mode"]), x.dim()), how["mode"])
        if (x.dim() != 4 and (way.antialias or mode == "bicubic")) or (way.antialias and mode == "nearest"):
            continue
        if all(_same(axis.matrix, more) for axis in axes.values()):
            return functional.interpolate(x, size=size, **{**more, "mode": mode})  # type: ignore[arg-type]
    return None


def _same(matrix: Tensor, how: dict[str, object]) -> bool:
    """Whether ATen's operator has this matrix."""
    out, n = matrix.shape
    eye = torch.eye(n).reshape(1, n, 1, n)
    theirs = functional.interpolate(eye, size=(1, out), **how).reshape(n, out).t()  # type: ignore[arg-type]
    return torch.allclose(theirs.double(), matrix, rtol=0, atol=1e-5)


def _resize(
    call: Call, x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None
) -> Tensor:
    """ONNX's Resize."""
    if call.opset == 10:
        return _upsample(call, x, roi)
    dims = axes_of(call.get("axes") or range(x.dim()), x.dim())
    lengths = [x.shape[d] for d in dims]
    if sizes is not None and sizes.numel():
        wanted = numbers(sizes)
        factors = [w / n for w, n in zip(wanted, lengths, strict=True)]
        policy = call.get("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            factors = [(min if policy == "not_larger" else max)(factors)] * len(dims)
            wanted = [math.floor(f * n + 0.5) for f, n in zip(factors, lengths, strict=True)]
    else:
        factors = numbers(scales)
        wanted = [math.floor(f * n) for f, n in zip(factors, lengths, strict=True)]
    ends = numbers(roi) or [0.0] * len(dims) + [1.0] * len(dims)
    way = _Way(
        call.get("mode", "nearest"), call.get("coordinate_transformation_mode", "half_pixel"),
        call.get("nearest_mode", "round_prefer_floor"), bool(call.get("antialias", 0)),
        call.get("cubic_coeff_a", -0.75), bool(call.get("exclude_outside", 0)),
    )  # fmt: skip
    axes = {d: way.axis(lengths[i], wanted[i], factors[i], (ends[i], ends[i + len(dims)])) for i, d in enumerate(dims)}
    return _resized(x, axes, way, call.get("extrapolation_value", 0.0))


def _upsample(call: Call, x: Tensor, scales: Tensor | None = None) -> Tensor:
    """ONNX's Upsample."""
    factors: Sequence[float] = call.get("scales") if scales is None else numbers(scales)
    mode = call.get("mode", "nearest")
    way = _Way("linear" if mode in ("linear", "bilinear") else mode)
    axes = {d: way.axis(n, math.floor(f * n), f, (0, 1)) for d, (n, f) in enumerate(zip(x.shape, factors, strict=True))}
    return _resized(x, axes, way, 0.0)


OPERATORS: dict[str, Operator] = {"Resize": _resize, "Upsample": _upsample}
