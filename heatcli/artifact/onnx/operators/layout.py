"""Operators that move, select and repeat elements, with plain numbers as indices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from heatcli.artifact.onnx.node import Call, axes_of, integers, numbers
from heatcli.artifact.onnx.operators.convolution import padded
from heatcli.artifact.onnx.quantised import Quantised, whole
from heatcli.artifact.onnx.value import Operator, RefusedError, Value

_ATEN = torch.ops.aten


def _reshape(call: Call, x: Tensor, shape: Tensor | None = None) -> Tensor:
    """ONNX's Reshape."""
    sizes = call.get("shape") if shape is None else numbers(shape)
    if not call.get("allowzero", 0):
        sizes = [x.shape[i] if n == 0 else n for i, n in enumerate(sizes)]
    if -1 in sizes and not x.numel():  # torch cannot infer the size
        known = math.prod(n for n in sizes if n != -1)
        sizes = [(x.numel() // known if known else 0) if n == -1 else n for n in sizes]
    return torch.reshape(x, sizes)


def _flatten(call: Call, x: Tensor) -> Tensor:
    """ONNX's Flatten."""
    axis = call.get("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    return torch.reshape(x, [math.prod(x.shape[:axis]), math.prod(x.shape[axis:])])


def _squeeze(call: Call, x: Tensor, given: Tensor | None = None) -> Tensor:
    """ONNX's Squeeze."""
    axes = call.get("axes") if given is None else numbers(given)
    dims = [d for d, n in enumerate(x.shape) if n == 1] if axes is None else axes_of(axes, x.dim())
    for d in dims:
        if x.shape[d] != 1:
            raise ValueError(f"axis {d} of shape {tuple(x.shape)} cannot be squeezed")
    return torch.reshape(x, [n for d, n in enumerate(x.shape) if d not in dims])


def _unsqueeze(call: Call, x: Tensor, given: Tensor | None = None) -> Tensor:
    """ONNX's Unsqueeze."""
    axes = call.get("axes") if given is None else numbers(given)
    rank = x.dim() + len(axes)
    shape, rest = [1] * rank, iter(x.shape)
    dims = axes_of(axes, rank)
    for d in range(rank):
        if d not in dims:
            shape[d] = next(rest)
    return torch.reshape(x, shape)


def _transpose(call: Call, x: Tensor) -> Tensor:
    """ONNX's Transpose."""
    return torch.permute(x, call.get("perm") or list(reversed(range(x.dim()))))


def _concat(call: Call, *values: Tensor) -> Tensor:
    """ONNX's Concat."""
    axis = call.get("axis", 1)
    return torch.cat(list(values), axis) if len(values) > 1 else values[0]


def _split(call: Call, x: Tensor, given: Tensor | None = None) -> tuple[Tensor, ...]:
    """ONNX's Split."""
    axis, sizes = call.get("axis", 0), call.get("split") if given is None else numbers(given)
    if not sizes:
        count = call.get("num_outputs") or len(call.node.outputs)
        each = -(-x.shape[axis] // count)
        sizes = [each] * (count - 1) + [x.shape[axis] - each * (count - 1)]
    return torch.split_with_sizes(x, sizes, axis)


def _slice(
    call: Call, x: Tensor, starts: Tensor | None = None, ends: Tensor | None = None,
    axes: Tensor | None = None, steps: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """ONNX's Slice."""
    first, last = (call.get(n) if v is None else numbers(v) for n, v in (("starts", starts), ("ends", ends)))
    dims = call.get("axes") if starts is None else (None if axes is None else numbers(axes))
    by = numbers(steps) or [1] * len(first)
    for d, start, end, step in zip(axes_of(dims or range(len(first)), x.dim()), first, last, by, strict=True):
        chosen = range(*slice(start, _end(end, step, x.shape[d]), step).indices(x.shape[d]))
        x = taken(x, d, chosen)
    return x


def _end(end: int, step: int, size: int) -> int | None:
    """The end of a slice. For negative steps, an end before the first element means no end."""
    return None if step < 0 and end < -size else end


def taken(x: Tensor, axis: int, chosen: range) -> Tensor:
    """The elements `chosen` along an axis of `x`, a tensor of any shape."""
    if chosen == range(x.shape[axis]):
        return x
    if chosen.step > 0:
        end = max(chosen.stop, chosen.start)
        return _ATEN.slice.Tensor(x, axis, chosen.start, end, chosen.step)  # type: ignore[no-any-return]
    return torch.index_select(x, axis, integers(x, list(chosen)))


def _counted(index: Tensor, size: int) -> Tensor:
    """Indices with negative ones counted from the end."""
    index = index.long()
    return torch.where(index < 0, index + size, index)


def _gather(call: Call, x: Tensor, index: Tensor) -> Tensor:
    """ONNX's Gather."""
    (axis,) = axes_of([call.get("axis", 0)], x.dim())
    if call.fixed(1) and not index.dim():
        return torch.select(x, axis, int(index))
    places = _counted(index, x.shape[axis])
    y = torch.index_select(x, axis, places.reshape(-1))
    return y if index.dim() == 1 else torch.reshape(y, [*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]])


def _gather_elements(call: Call, x: Tensor, index: Tensor) -> Tensor:
    """ONNX's GatherElements."""
    axis = call.get("axis", 0)
    return torch.gather(x, axis, _counted(index, x.shape[axis]))


def _gather_nd(call: Call, x: Tensor, index: Tensor) -> Tensor:
    """ONNX's GatherND."""
    batch = call.get("batch_dims", 0)
    parts: list[Tensor] = []
    for d in range(batch):
        shape = [1] * (index.dim() - 1)
        shape[d] = -1
        parts.append(torch.arange(x.shape[d], device=x.device).reshape(shape))
    for i, column in enumerate(torch.unbind(index, -1)):
        parts.append(_counted(column, x.shape[batch + i]))
    selected = _ATEN.index.Tensor(x, _alike(parts))
    return selected  # type: ignore[no-any-return]


def _alike(parts: list[Tensor]) -> list[Tensor]:
    """Index tensors broadcast to one shape."""
    shape = _together([part.shape for part in parts])
    return [part.expand(shape) for part in parts]


def _together(shapes: Sequence[Sequence[int]]) -> list[int]:
    """The shape after broadcasting all shapes."""
    return list(torch.broadcast_shapes(*map(tuple, shapes)))  # type: ignore[no-untyped-call]


_REDUCTIONS = {"mul": "prod", "max": "amax", "min": "amin"}


def _scatter_elements(call: Call, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    """ONNX's ScatterElements and Scatter."""
    axis, how = call.get("axis", 0), call.get("reduction", "none")
    return scattered(x, axis, _counted(index, x.shape[axis]), updates, how)


def scattered(x: Tensor, axis: int, index: Tensor, updates: Tensor, how: str) -> Tensor:
    """`x` with `updates` at the indices `index` along an axis, assigned or combined by `how`.

    `index`, `updates`: of one shape, with as many axes as `x`.
    """
    if how == "none":
        return torch.scatter(x, axis, index, updates)
    if how == "add":
        return torch.scatter_add(x, axis, index, updates)
    return torch.scatter_reduce(x, axis, index, updates, _REDUCTIONS[how], include_self=True)


def _scatter_nd(call: Call, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    """ONNX's ScatterND."""
    how = call.get("reduction", "none")
    columns = [_counted(column, x.shape[i]) for i, column in enumerate(torch.unbind(index, -1))]
    if how in ("none", "add"):
        return torch.index_put(x, tuple(columns), updates, how == "add")
    depth = index.shape[-1]
    rows = torch.zeros_like(columns[0])
    for column, n in zip(columns, x.shape, strict=False):
        rows = rows * n + column
    each = math.prod(x.shape[depth:])
    flat = torch.reshape(x, [math.prod(x.shape[:depth]), each])
    places = rows.reshape(-1, 1).expand(-1, each)
    return scattered(flat, 0, places, updates.reshape(-1, each), how).reshape(x.shape)


def _expand(call: Call, x: Tensor, shape: Tensor) -> Tensor:
    """ONNX's Expand."""
    return x.expand(_together([x.shape, numbers(shape)]))


def _tile(call: Call, x: Tensor, repeats: Tensor, axis: Tensor | None = None) -> Tensor:
    """ONNX's Tile."""
    if call.opset >= 6 and axis is None:
        return x.repeat(numbers(repeats))
    raise RefusedError("repeats as before opset 6")


def _pad(
    call: Call, x: Value, given: Tensor | None = None, constant: Value = None, axes: Tensor | None = None
) -> Value:
    """ONNX's Pad."""
    if not isinstance(x, Quantised) or x.axis is not None:
        return _padded(call, whole(x), given, whole(constant), axes)
    value = torch.zeros((), dtype=x.dtype) if constant is None else whole(constant)
    zero = 0.0 if x.zero_point is None else x.zero_point.reshape(()).to(x.real.dtype)
    real = (value.reshape(()).to(x.real.dtype) - zero) * x.scale.reshape(())
    return x.with_real(_padded(call, x.real, given, real, axes))


def _padded(
    call: Call, x: Tensor, given: Tensor | None = None, constant: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    """As `_pad`, of a tensor."""
    pads = call.get("pads") if given is None else numbers(given)
    mode = call.get("mode", "constant")
    dims = axes_of(numbers(axes), x.dim()) if axes is not None else list(range(x.dim()))
    before, after = [0] * x.dim(), [0] * x.dim()
    for i, d in enumerate(dims):
        before[d], after[d] = pads[i], pads[i + len(dims)]
    if mode == "constant":
        value = call.get("value", 0.0) if call.opset < 11 else 0.0 if constant is None else constant.item()
        if x.dtype == torch.bool:
            return padded(x.to(torch.uint8), before, after, int(value)).to(torch.bool)
        return padded(x, before, after, value if x.dtype.is_floating_point else int(value))
    for d in range(x.dim()):
        x = _repeated_edge(x, d, before[d], after[d], mode)
    return x


def _repeated_edge(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    """Padding with repeated, mirrored or wrapped elements. Negative numbers crop."""
    n = x.shape[axis]
    places = range(-before, n + after)
    if mode == "edge":
        chosen = [min(max(i, 0), n - 1) for i in places]
    elif mode == "wrap":
        cut = range(max(-before, 0), n + min(after, 0))
        chosen = [cut[(i - cut.start) % len(cut)] for i in places]
    elif mode == "reflect":
        period = max(2 * (n - 1), 1)
        chosen = [min(i % period, period - i % period) if n > 1 else 0 for i in places]
    else:
        raise ValueError(f"mode {mode!r} is none of constant, reflect, edge, wrap")
    return x if chosen == list(range(n)) else torch.index_select(x, axis, integers(x, chosen))


def _depth_to_space(call: Call, x: Tensor) -> Tensor:
    """ONNX's DepthToSpace."""
    size = call.get("blocksize")
    if call.get("mode", "DCR") == "CRD":
        return torch.pixel_shuffle(x, size)
    n, c, h, w = x.shape
    blocks = torch.reshape(x, [n, size, size, c // size**2, h, w])
    return torch.reshape(torch.permute(blocks, [0, 3, 4, 1, 5, 2]), [n, c // size**2, h * size, w * size])


def _space_to_depth(call: Call, x: Tensor) -> Tensor:
    """ONNX's SpaceToDepth."""
    size = call.get("blocksize")
    if call.get("mode", "DCR") == "CRD":
        return torch.pixel_unshuffle(x, size)
    n, c, h, w = x.shape
    blocks = torch.reshape(x, [n, c, h // size, size, w // size, size])
    return torch.reshape(torch.permute(blocks, [0, 3, 5, 1, 2, 4]), [n, c * size**2, h // size, w // size])


def _triangle(call: Call, x: Tensor, k: Tensor | None = None) -> Tensor:
    """ONNX's Trilu."""
    return (torch.triu if call.get("upper", 1) else torch.tril)(x, 0 if k is None else int(k))


def _reverse_sequence(call: Call, x: Tensor, lengths: Tensor) -> Tensor:
    """ONNX's ReverseSequence."""
    time, batch = call.get("time_axis", 0), call.get("batch_axis", 1)
    rows = []
    for i, length in enumerate(numbers(lengths)):
        row = torch.narrow(x, batch, i, 1)
        chosen = [*reversed(range(length)), *range(length, x.shape[time])]
        rows.append(torch.index_select(row, time, integers(x, chosen)))
    return torch.cat(rows, batch)


def _compress(call: Call, x: Tensor, condition: Tensor) -> Tensor:
    """ONNX's Compress."""
    axis = call.get("axis")
    x, axis = (torch.reshape(x, [-1]), 0) if axis is None else (x, axis)
    return torch.index_select(x, axis, integers(x, [i for i, kept in enumerate(numbers(condition)) if kept]))


def _center_crop_pad(call: Call, x: Tensor, shape: Tensor) -> Tensor:
    """ONNX's CenterCropPad."""
    wanted = numbers(shape)
    for axis, size in zip(axes_of(call.get("axes") or range(x.dim()), x.dim()), wanted, strict=True):
        spare = x.shape[axis] - size
        if spare > 0:
            x = torch.narrow(x, axis, spare // 2, size)
        elif spare < 0:
            before, after = [0] * x.dim(), [0] * x.dim()
            before[axis], after[axis] = -spare // 2, -spare - (-spare // 2)
            x = padded(x, before, after)
    return x


def _columns_to_image(call: Call, x: Tensor, image: Tensor, block: Tensor) -> Tensor:
    """ONNX's Col2Im: overlapping blocks are summed."""
    size, kernel = numbers(image), numbers(block)
    rank = len(size)
    pads = list(call.get("pads") or [0] * 2 * rank)
    strides, dilations = (list(call.get(name) or [1] * rank) for name in ("strides", "dilations"))
    n, area = x.shape[0], math.prod(kernel)
    channels = x.shape[1] // area
    whole = [s + pads[i] + pads[i + rank] for i, s in enumerate(size)]
    places = _window_places(whole, kernel, strides, dilations).to(x.device)
    flat = torch.zeros(n, channels, math.prod(whole), dtype=x.dtype, device=x.device)
    values = torch.reshape(x, [n, channels, area * x.shape[2]])
    y = torch.index_add(flat, 2, places.reshape(-1), values).reshape(n, channels, *whole)
    return padded(y, [-p for p in pads[:rank]], [-p for p in pads[rank:]])


def _window_places(
    size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Tensor:
    """Indices into a flat picture of `size`, [elements of a window, windows]."""
    starts, inside = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    for n, k, s, d in zip(size, kernel, strides, dilations, strict=True):
        count = (n - (k - 1) * d - 1) // s + 1
        starts = (starts[:, None] * n + torch.arange(count) * s).reshape(-1)
        inside = (inside[:, None] * n + torch.arange(k) * d).reshape(-1)
    return inside[:, None] + starts


def _tensor_scatter(call: Call, past: Tensor, update: Tensor, start: Tensor | None = None) -> Tensor:
    """ONNX's TensorScatter: `update` written into `past` at `start`, along an axis, for each image."""
    axis = call.get("axis", -2) % past.dim()
    size, count = past.shape[axis], update.shape[axis]
    starts = [0] * past.shape[0] if start is None else numbers(start)
    rows = []
    for i, begin in enumerate(starts):
        places = [(begin + j) % size if call.get("mode", "linear") == "circular" else begin + j for j in range(count)]
        row = torch.narrow(past, 0, i, 1)
        rows.append(torch.index_copy(row, axis, integers(past, places), torch.narrow(update, 0, i, 1)))
    return torch.cat(rows)


OPERATORS: dict[str, Operator] = {
    "Reshape": _reshape, "Flatten": _flatten, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze, "Transpose": _transpose,
    "Concat": _concat, "Split": _split, "Slice": _slice, "Gather": _gather, "GatherElements": _gather_elements,
    "GatherND": _gather_nd, "ScatterElements": _scatter_elements, "Scatter": _scatter_elements,
    "ScatterND": _scatter_nd, "Expand": _expand, "Tile": _tile, "Pad": _pad, "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth, "Trilu": _triangle, "ReverseSequence": _reverse_sequence,
    "Compress": _compress, "CenterCropPad": _center_crop_pad, "Col2Im": _columns_to_image,
    "TensorScatter": _tensor_scatter,
}  # fmt: skip
