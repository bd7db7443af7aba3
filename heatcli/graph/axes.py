"""Average pooling, resizes and padding for explained models, one axis after the other.

What averages or interpolates is a linear map of each axis, so a matrix an axis says all of it, forward and back. The
matrices come from torch's own operators. Functions take ATen's arguments; where ATen allows that, a batch may be
missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from heatcli.errors import UsageError
from heatcli.system.torch_private import schema_of, unrecorded

_ATEN = torch.ops.aten
RESIZES = (
    "upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d", "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
    "_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d",
)  # fmt: skip
PADDINGS = tuple(f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3))
# ([size, 1, …], axis) → [size, 1, …], where the other axes have and keep `_WIDTH` equal positions.
OneAxis = Callable[[Tensor, int], Tensor]
_LARGEST = 2**24  # numbers of a matrix
_WIDTH = 2  # torch's antialiased resize of a width of 1 returns its first value everywhere


def _by_axes(x: Tensor, sizes: Sequence[int], work: OneAxis, back: bool = False) -> Tensor:
    """What `work` makes of x […, *sizes]; `back`: from its multiplier to that of an input with these `sizes`.

    Raises `UsageError` for an axis whose matrix would be larger than most networks.
    """
    count = len(sizes)
    for axis, size in enumerate(sizes):
        if size * x.shape[axis - count] > _LARGEST:
            raise UsageError(
                f"this explanation cannot be written: pooling or resizing {size:,} positions to others would be a "
                f"matrix of more than {_LARGEST:,} numbers; export it for shorter inputs (--size)"
            )
        with unrecorded():  # the matrix is a constant
            each = torch.eye(size, dtype=x.dtype, device=x.device).reshape(size, 1, *_only(axis, count, size, 1))
            each = each.expand(size, 1, *_only(axis, count, size, _WIDTH)).contiguous()
            matrix = work(each, axis).movedim(axis + 2, -1).reshape(size, _WIDTH ** (count - 1), -1)[:, 0]
            matrix = matrix.mT.contiguous() if back else matrix
        x = (x.transpose(axis - count, -1) @ matrix).transpose(axis - count, -1)
    return x


def _only(axis: int, count: int, there: Any, elsewhere: Any) -> list[Any]:
    """A value for each of `count` axes."""
    return [there if i == axis else elsewhere for i in range(count)]


def _averaging(
    count: int, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], ceil_mode: bool,
    count_include_pad: bool, divisor: int | None,
) -> OneAxis:  # fmt: skip
    """Average pooling along one axis; sums, if there is a divisor, which counts once, at the end."""
    pooling = (_ATEN.avg_pool2d if count == 2 else _ATEN.avg_pool3d).default
    kernel, steps, sides = ([*each] * (count // len(each)) for each in (kernel, stride or kernel, padding))

    def work(each: Tensor, axis: int) -> Tensor:
        """The pooling along one axis."""
        windows = (_only(axis, count, *pair) for pair in ((kernel[axis], 1), (steps[axis], 1), (sides[axis], 0)))
        return pooling(each, *windows, ceil_mode, count_include_pad, 1 if divisor else None)  # type: ignore[no-any-return]

    return work


def avg_pool(
    count: int, x: Tensor, kernel: Sequence[int], stride: Sequence[int] = (), padding: Sequence[int] = (0,),
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None,
) -> Any:  # fmt: skip
    """Each window's sum by a divisor, along `count` axes, which torch's exporter leaves out."""
    if not divisor_override:
        return NotImplemented
    work = _averaging(count, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return _by_axes(x, x.shape[-count:], work) / divisor_override


def avg_pool_back(count: int, m: Tensor, x: Tensor, *windows: Any) -> Tensor:
    """Each window's multiplier, spread evenly over the window, along `count` axes."""
    kernel, stride, padding, ceil_mode, _, divisor = windows
    sides = [*kernel] * (count // len(kernel))
    side_by_side = list(stride or kernel) == list(kernel) and not any(padding)
    if side_by_side and not ceil_mode:  # no matrix is needed
        evenly: Tensor = _repeated(m, x.shape[-count:], sides) / (divisor or math.prod(sides))
        return evenly
    spread = _by_axes(m, x.shape[-count:], _averaging(count, *windows), back=True)
    return spread / divisor if divisor else spread


def _repeated(m: Tensor, sizes: Sequence[int], times: Sequence[int]) -> Tensor:
    """Each value, so many times along each of the last axes; zeros after them, up to `sizes`."""
    for axis, (size, each) in enumerate(zip(sizes, times, strict=True), m.dim() - len(sizes)):
        shape = [*m.shape[: axis + 1], each, *m.shape[axis + 1 :]]
        m = m.unsqueeze(axis + 1).expand(shape).flatten(axis, axis + 1)
        m = _padded(m, axis, 0, size - m.shape[axis])
    return m


def _adaptive_averaging(count: int, cells: Sequence[int]) -> OneAxis:
    """Adaptive average pooling to so many cells, along one axis."""
    pooling = (_ATEN._adaptive_avg_pool2d if count == 2 else _ATEN._adaptive_avg_pool3d).default
    return lambda each, axis: pooling(each, _only(axis, count, cells[axis], _WIDTH))


def adaptive_avg_pool(count: int, x: Tensor, cells: Sequence[int]) -> Tensor:
    """The mean of the positions of each cell, along `count` axes."""
    return _by_axes(x, x.shape[-count:], _adaptive_averaging(count, cells))


def adaptive_avg_pool_back(count: int, m: Tensor, x: Tensor) -> Tensor:
    """Each cell's multiplier, spread evenly over the positions that the cell is the mean of, along `count` axes."""
    return _by_axes(m, x.shape[-count:], _adaptive_averaging(count, m.shape[-count:]), back=True)


def _resizing(operator: Any, sizes: Sequence[int], options: Sequence[Any]) -> OneAxis:
    """A resize to the spatial `sizes`, along one axis.

    `options`: align_corners, if it has that, and the scales, which may be missing.
    """
    count = len(sizes)
    options = [*options, *[None] * (len(schema_of(operator).arguments) - 2 - len(options))]
    corners, scales = options[:-count], options[-count:]

    def work(each: Tensor, axis: int) -> Tensor:
        """The resize along one axis."""
        wanted, scale = _only(axis, count, sizes[axis], _WIDTH), _only(axis, count, scales[axis], None)
        return operator(each, wanted, *corners, *scale)  # type: ignore[no-any-return]

    return work


def resize(name: str) -> Callable[..., Any]:
    """The resize of ATen by that name, (x, sizes, *options) → [N, C, *sizes].

    torch's exporter leaves out the factor if a size is rounded, and knows no antialiasing.
    """
    operator = getattr(_ATEN, name).default

    def written(x: Tensor, sizes: Sequence[int], *options: Any) -> Any:
        """By matrices, but for nearest neighbours at whole factors."""
        if name.startswith("upsample_nearest") and not any(s % n for s, n in zip(sizes, x.shape[2:], strict=True)):
            return NotImplemented  # whole factors are safe, and a resize is faster
        return _by_axes(x, x.shape[2:], _resizing(operator, sizes, options))

    return written


def resize_back(name: str) -> Callable[..., Tensor]:
    """The adjoint of the resize of ATen by that name, (m, sizes, input's shape, *options) → the input's multiplier."""
    operator = getattr(_ATEN, name).default

    def written(m: Tensor, sizes: Sequence[int], shape: Sequence[int], *options: Any) -> Tensor:
        return _by_axes(m, shape[2:], _resizing(operator, sizes, options), back=True)

    return written


def pad_back(name: str) -> Callable[..., Tensor]:
    """The adjoint of the padding of ATen by that name, (m, x, sides) → the input's multiplier.

    Slices, not a matrix, which would have a row and a column for each sample of a long signal.
    """
    mirrors = name.startswith("reflection")

    def written(m: Tensor, x: Tensor, sides: Sequence[int]) -> Tensor:
        """`sides`: before and after, the last axis first; what is below 0 cuts off."""
        for i in range(len(sides) // 2):
            m = _folded(m, x.dim() - 1 - i, x.shape[-1 - i], sides[2 * i : 2 * i + 2], mirrors)
        return m

    return written


def _folded(m: Tensor, axis: int, size: int, sides: Sequence[int], mirrors: bool) -> Tensor:
    """The multiplier of `size` values along an axis, from that of the padded ones: each counts for all its copies."""
    m = _padded(m, axis, *(max(0, -side) for side in sides))
    before, after = (max(0, side) for side in sides)
    found = m.narrow(axis, before, size)
    for start, count, first in ((0, before, True), (before + size, after, False)):
        if not count:
            continue
        part = m.narrow(axis, start, count)
        part = part.flip(axis) if mirrors else part.sum(axis, keepdim=True)
        left = size - part.shape[axis] - mirrors
        found = found + _padded(part, axis, *((mirrors, left) if first else (left, mirrors)))
    return found


def _padded(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    """x with zeros before and after along an axis."""
    nothing = [0] * 2 * (x.dim() - 1 - axis)
    return x if not before and not after else functional.pad(x, [*nothing, int(before), int(after)])
