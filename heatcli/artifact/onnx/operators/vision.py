"""Sampling between pixels, and boxes."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor
from torch.nn import functional

from heatcli.artifact.onnx.node import Call, numbers
from heatcli.artifact.onnx.operators.convolution import pads_of
from heatcli.artifact.onnx.value import Operator, RefusedError


def _grid_sample(call: Call, x: Tensor, grid: Tensor) -> Tensor:
    """ONNX's GridSample."""
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(call.get("mode", "linear"), call.get("mode", "linear"))
    if x.dim() == 5 and mode == "bicubic":
        raise RefusedError("samples volumes by cubic interpolation, which heatcli does not know")
    how = call.get("padding_mode", "zeros")
    return functional.grid_sample(x, grid.to(x.dtype), mode, how, bool(call.get("align_corners", 0)))


def _between(x: Tensor, y: Tensor, column: Tensor) -> Tensor:
    """[C, H, W] interpolated bilinearly at positions [P], 0 outside: [C, P]."""
    _, height, width = x.shape
    sampled = torch.zeros_like(x[:, 0, :1])
    top, left = torch.floor(y), torch.floor(column)
    for i, j in itertools.product((0, 1), (0, 1)):
        row, at = top + i, left + j
        weight = (1 - (y - row).abs()) * (1 - (column - at).abs())
        inside = (row >= 0) & (row < height) & (at >= 0) & (at < width)
        place = row.clamp(0, height - 1).long() * width + at.clamp(0, width - 1).long()
        pixels = torch.index_select(torch.reshape(x, [x.shape[0], -1]), 1, place)
        sampled = sampled + pixels * torch.where(inside, weight, torch.zeros_like(weight))
    return sampled


def _roi_align(call: Call, x: Tensor, rois: Tensor, which: Tensor) -> Tensor:
    """ONNX's RoiAlign: boxes of the maps, sampled and averaged."""
    import torchvision  # noqa: F401  (two seconds, so only where the operator is needed)

    if (mode := call.get("mode", "avg")) != "avg":
        raise RefusedError(f"pools boxes by {mode!r}, which heatcli does not know; it knows avg")
    aligned = call.get("coordinate_transformation_mode", "half_pixel" if call.opset >= 16 else "output_half_pixel")
    places = torch.cat([which.to(rois.dtype)[:, None], rois], 1)
    pooled: Tensor = torch.ops.torchvision.roi_align(
        x, places, call.get("spatial_scale", 1.0), call.get("output_height", 1), call.get("output_width", 1),
        call.get("sampling_ratio", 0), aligned == "half_pixel",
    )  # fmt: skip
    return pooled


def _deform_conv(
    call: Call, x: Tensor, weight: Tensor, offset: Tensor, bias: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Each tap of the kernel samples at its offset. The taps are the input channels of a 1×1 convolution."""
    n, channels, height, width = x.shape
    kernel = list(weight.shape[2:])
    before, _ = pads_of(call, [height, width], kernel)
    strides, dilations = (call.get(name) or [1, 1] for name in ("strides", "dilations"))
    groups, apart = call.get("group", 1), call.get("offset_group", 1)
    out_h, out_w = offset.shape[2:]
    taps = math.prod(kernel)
    moves = torch.reshape(offset, [n, apart, taps, 2, out_h, out_w])
    rows = (torch.arange(out_h) * strides[0] - before[0]).to(x)[:, None]
    columns = (torch.arange(out_w) * strides[1] - before[1]).to(x)[None]
    images = []
    for image in range(n):
        parts = []
        for group, tap in itertools.product(range(apart), range(taps)):
            i, j = divmod(tap, kernel[1])
            y = rows + i * dilations[0] + moves[image, group, tap, 0]
            column = columns + j * dilations[1] + moves[image, group, tap, 1]
            channels_of_group = torch.chunk(x[image], apart)[group]
            values = _between(channels_of_group, y.reshape(-1), column.reshape(-1))
            if mask is not None:
                values = values * torch.reshape(mask, [n, apart, taps, -1])[image, group, tap]
            parts.append(values)
        stacked = torch.stack(parts).reshape(apart, taps, channels // apart, -1)
        images.append(torch.permute(stacked, [0, 2, 1, 3]).reshape(channels * taps, out_h, out_w))
    flat = torch.stack(images)
    return functional.conv2d(flat, weight.reshape(weight.shape[0], -1, 1, 1), bias, groups=groups)


def _suppressed(
    call: Call, boxes: Tensor, scores: Tensor, most: Tensor | None = None, overlap: Tensor | None = None,
    least: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """NonMaxSuppression: selected boxes as [selected, 3] rows of image, class and box."""
    limit, threshold, lowest = (None if x is None else numbers(x)[0] for x in (most, overlap, least))
    found: Tensor = _selected(
        boxes, scores, int(limit or 0), float(threshold or 0.0), -math.inf if lowest is None else float(lowest),
        bool(call.get("center_point_box", 0)),
    )  # fmt: skip
    return found


@torch.library.custom_op("heatcli::non_max_suppression", mutates_args=())
def _selected(boxes: Tensor, scores: Tensor, limit: int, overlap: float, least: float, centred: bool) -> Tensor:
    """The suppression as one call, of which no recorder sees the inside: boxes [N, A, 4], scores [N, C, A]."""
    chosen: list[list[int]] = []
    corners = [[_corners(box, centred) for box in image] for image in boxes.tolist()]
    for image, label in itertools.product(range(scores.shape[0]), range(scores.shape[1])):
        above = (scores[image, label] > least).nonzero()[:, 0].tolist()
        ranked = [(float(scores[image, label, i]), i) for i in above]
        kept: list[int] = []
        for _, i in sorted(ranked, key=lambda pair: (-pair[0], pair[1])):
            if len(kept) >= limit:
                break
            if all(_overlap(corners[image][i], corners[image][k]) <= overlap for k in kept):
                kept.append(i)
        chosen += [[image, label, i] for i in kept]
    return torch.tensor(chosen, dtype=torch.int64, device=boxes.device).reshape(-1, 3)


def _corners(box: list[float], centred: bool) -> tuple[float, float, float, float]:
    """A box as its lowest and highest coordinates. `centred`: it is given by centre and size."""
    a, b, c, d = box
    if centred:
        return a - c / 2, b - d / 2, a + c / 2, b + d / 2
    return min(a, c), min(b, d), max(a, c), max(b, d)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union of two boxes."""
    sides = [max(min(a[i + 2], b[i + 2]) - max(a[i], b[i]), 0.0) for i in (0, 1)]
    both = sides[0] * sides[1]
    areas = [(v[2] - v[0]) * (v[3] - v[1]) for v in (a, b)]
    return both / (sum(areas) - both) if both else 0.0


OPERATORS: dict[str, Operator] = {
    "GridSample": _grid_sample,
    "RoiAlign": _roi_align,
    "DeformConv": _deform_conv,
    "NonMaxSuppression": _suppressed,
}
