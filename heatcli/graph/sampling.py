"""Grid sampling for explained models: gathers, products and scatters in place of kernels that runtimes lack.

A value at a place is a sum over taps, pixels near the place, each with a weight for each axis. So the adjoint by the
picture scatters the multiplier to the taps, and the adjoint by the place takes the weights' derivatives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

_BILINEAR, _NEAREST = 0, 1  # interpolations of ATen; 2 is bicubic
_ZEROS, _BORDER = 0, 1  # paddings of ATen; 2 is reflection
_SHARPNESS = -0.75  # of torch's cubic convolution


@dataclass(frozen=True, slots=True, eq=False)
class _Tap:
    """One pixel along one axis for each place [N, P]: its index, its weight and the weight's derivative.

    `inside`: 1 where there is such a pixel, else 0; None for 1 everywhere.
    """

    index: Tensor
    weight: Tensor
    slope: Tensor
    inside: Tensor | None


def grid_sampled(x: Tensor, grid: Tensor, mode: int, padding: int, corners: bool) -> Tensor:
    """`x` [N, C, …] at the places of `grid` [N, *sizes, axes], the last axis first: [N, C, *sizes]."""
    plane, sampled = x.flatten(2), None
    for index, weight in _corners(x, _axes(x, grid, mode, padding, corners)):
        part = plane.gather(2, index.unsqueeze(1).expand(-1, x.shape[1], -1)) * weight.unsqueeze(1)
        sampled = part if sampled is None else sampled + part
    assert sampled is not None
    return sampled.reshape(*x.shape[:2], *grid.shape[1:-1])


def grid_sampler_back(
    m: Tensor, x: Tensor, grid: Tensor, mode: int, padding: int, corners: bool, wanted: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """The multipliers of picture and grid of `grid_sampled`; `m` [N, C, *sizes]. `wanted`: which of the two."""
    axes = _axes(x, grid, mode, padding, corners)
    by_picture = _by_picture(m.flatten(2), x, axes) if wanted[0] else None
    by_grid = _by_grid(m.flatten(2), x, axes).reshape(grid.shape) if wanted[1] else None
    return by_picture, by_grid


def _by_picture(m: Tensor, x: Tensor, axes: Sequence[Sequence[_Tap]]) -> Tensor:
    """The multiplier [N, C, P] of the places, scattered to the taps."""
    indices, parts = zip(*((i, m * w.unsqueeze(1)) for i, w in _corners(x, axes)), strict=True)
    index = torch.cat(indices, 1).unsqueeze(1).expand(-1, x.shape[1], -1)
    return torch.zeros_like(x).flatten(2).scatter_add(2, index, torch.cat(parts, 2)).reshape(x.shape)


def _by_grid(m: Tensor, x: Tensor, axes: Sequence[Sequence[_Tap]]) -> Tensor:
    """The multiplier [N, P, axes] of the coordinates, the last axis of the picture first."""
    plane, sums = x.flatten(2), [torch.zeros_like(m[:, 0]) for _ in axes]
    for taps in product(*axes):
        index = _flat(x, taps).unsqueeze(1).expand(-1, x.shape[1], -1)
        value = (plane.gather(2, index) * m).sum(1)
        for tap in taps:
            value = value if tap.inside is None else value * tap.inside
        for i in range(len(taps)):
            others = [tap.slope if j == i else tap.weight for j, tap in enumerate(taps)]
            part = value
            for factor in others:
                part = part * factor
            sums[i] = sums[i] + part
    return torch.stack(sums[::-1], -1)


def _corners(x: Tensor, axes: Sequence[Sequence[_Tap]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Each combination of taps: index in the flat picture and weight, [N, P]."""
    for taps in product(*axes):
        weight: Tensor | None = None
        for tap in taps:
            one = tap.weight if tap.inside is None else tap.weight * tap.inside
            weight = one if weight is None else weight * one
        assert weight is not None
        yield _flat(x, taps), weight


def _flat(x: Tensor, taps: Sequence[_Tap]) -> Tensor:
    """The index in the flat picture, int64 [N, P]."""
    flat: Tensor | None = None
    for tap, size in zip(taps, x.shape[2:], strict=True):
        flat = tap.index if flat is None else flat * size + tap.index
    assert flat is not None
    return flat


def _axes(x: Tensor, grid: Tensor, mode: int, padding: int, corners: bool) -> list[list[_Tap]]:
    """The taps along each axis of the picture, in its order."""
    sizes = x.shape[2:]
    places = grid.flatten(1, -2)
    return [_taps(places[..., len(sizes) - 1 - i], size, mode, padding, corners) for i, size in enumerate(sizes)]


def _taps(g: Tensor, size: int, mode: int, padding: int, corners: bool) -> list[_Tap]:
    """The taps of coordinates `g` in −1..1 along an axis of that size."""
    place, slope = ((g + 1) / 2 * (size - 1), (size - 1) / 2) if corners else (((g + 1) * size - 1) / 2, size / 2)
    steep = torch.full_like(place, slope)
    if mode in (_BILINEAR, _NEAREST):
        place, turned = _padded(place, size, padding, corners)
        steep = steep * turned
    if mode == _NEAREST:
        return [_tap(place.round(), torch.ones_like(place), torch.zeros_like(place), size, padding)]
    low = place.floor()
    t = place - low
    if mode == _BILINEAR:
        return [_tap(low, 1 - t, -steep, size, padding), _tap(low + 1, t, steep, size, padding)]
    return [
        _tap(_padded(low + offset, size, padding, corners)[0], weight, rise * steep, size, padding)
        for offset, (weight, rise) in zip(range(-1, 3), _cubic(t), strict=True)
    ]


def _tap(index: Tensor, weight: Tensor, slope: Tensor, size: int, padding: int) -> _Tap:
    """A tap at a whole number, which may be outside if the padding is zeros."""
    inside = ((index >= 0) & (index <= size - 1)).to(weight.dtype) if padding == _ZEROS else None
    return _Tap(index.clamp(0, size - 1).to(torch.int64), weight, slope, inside)


def _padded(place: Tensor, size: int, padding: int, corners: bool) -> tuple[Tensor, Tensor]:
    """Where the place is read, and the derivative of that: −1, 0 or 1."""
    turned = torch.ones_like(place)
    if padding == _ZEROS:
        return place, turned
    if padding != _BORDER:
        start, span = (0.0, size - 1.0) if corners else (-0.5, float(size))
        if span == 0:
            return torch.zeros_like(place), torch.zeros_like(place)
        away = place - start
        turned = 1 - 2 * (away < 0).to(place.dtype)
        away = away.abs()
        rounds = (away / span).floor()
        rest, odd = away - rounds * span, rounds - 2 * (rounds / 2).floor()
        place = rest + odd * (span - 2 * rest) + start
        turned = turned * (1 - 2 * odd)
    return place.clamp(0, size - 1), turned * ((place > 0) & (place < size - 1)).to(place.dtype)


def _cubic(t: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Weights of the four taps at −1, 0, 1, 2 of a place `t` behind 0, and their derivatives (Keys 1981, eq. 4)."""
    a = _SHARPNESS

    def near(d: Tensor) -> tuple[Tensor, Tensor]:
        """For a distance up to 1."""
        return ((a + 2) * d - (a + 3)) * d * d + 1, (3 * (a + 2) * d - 2 * (a + 3)) * d

    def far(d: Tensor) -> tuple[Tensor, Tensor]:
        """For a distance from 1 to 2."""
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a, (3 * a * d - 10 * a) * d + 8 * a

    found = [far(t + 1), near(t), near(1 - t), far(2 - t)]
    return [(weight, slope if i < 2 else -slope) for i, (weight, slope) in enumerate(found)]
