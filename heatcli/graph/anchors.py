"""Anchors: boxes that a detector's raw numbers are relative to. They are no part of the network; the user gives them.

For an anchor with centre (x, y) and sides (w, h), and raw numbers (a, b, c, d):
`ssd` (Liu et al. 2016): centre (x + a·w/10, y + b·h/10), sides (w·exp(c/5), h·exp(d/5)).
`retinanet` (Lin et al. 2017): the same without 10 and 5.
`fcos` (Tian et al. 2019): distances to the left, top, right and bottom, in sides of the anchor.

Distances in cells of a grid, as from distributions (Li et al. 2020, Generalized Focal Loss), are the last with the
cells for anchors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SSD, RETINANET, FCOS = "ssd", "retinanet", "fcos"
_DIVISORS = {SSD: (10.0, 5.0), RETINANET: (1.0, 1.0)}
_LARGEST = math.log(1000 / 16)  # sides grow by a factor of at most 62.5, as in torchvision


@dataclass(frozen=True, eq=False)
class Anchors:
    """`boxes` [A, 4]: x1, y1, x2, y2 in the input's pixels, or as shares of its size if none exceeds 2.

    `offsets`: how the raw numbers are relative to them, `ssd`, `retinanet` or `fcos`.
    """

    boxes: Tensor
    offsets: str

    @property
    def is_softmax(self) -> bool:
        """Whether the classes, the first of which is none, share one softmax."""
        return self.offsets == SSD

    def decoded(self, raw: Tensor, size: tuple[int, int], corners: bool) -> Tensor:
        """The boxes [N, 4, A] of raw numbers [N, 4, A], in pixels of an input of `size` (height, width).

        As corners (x1, y1, x2, y2) or as centre and sides (x, y, w, h).
        """
        x1, y1, x2, y2 = self._in_pixels(raw, size)
        (x, y), (w, h) = ((x1 + x2) / 2, (y1 + y2) / 2), (x2 - x1, y2 - y1)
        a, b, c, d = raw.unbind(1)
        if self.offsets == FCOS:
            ends = [x - a * w, y - b * h, x + c * w, y + d * h]
            return torch.stack(ends if corners else _as_centre(ends), 1)
        of_centre, of_sides = _DIVISORS[self.offsets]
        sides = [w * (c / of_sides).clamp(max=_LARGEST).exp(), h * (d / of_sides).clamp(max=_LARGEST).exp()]
        centre = [x + a / of_centre * w, y + b / of_centre * h]
        return torch.stack(_as_corners(centre, sides) if corners else [*centre, *sides], 1)

    def _in_pixels(self, raw: Tensor, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """The four numbers of each anchor, [A] each."""
        boxes = self.boxes.to(raw)
        height, width = size
        scale = [width, height, width, height] if bool(self.boxes.abs().max() <= 2) else [1, 1, 1, 1]
        return tuple(boxes[:, i] * factor for i, factor in enumerate(scale))


def cells(size: tuple[int, int], strides: Sequence[int]) -> Anchors:
    """The cells of grids over an input of `size` (height, width), grid by grid and row by row, as anchors."""
    grids = []
    for stride in strides:
        y, x = torch.meshgrid(*(torch.arange(0, side, stride) for side in size), indexing="ij")
        corner = torch.stack([x, y], 2).reshape(-1, 2)
        grids.append(torch.cat([corner, corner + stride], 1))
    return Anchors(torch.cat(grids).float(), FCOS)


def expected(weights: Tensor, bins: int) -> Tensor:
    """Distances [N, A, 4], in cells, of the numbers [N, A, 4·bins] of their distributions: Σ k·softmax_k."""
    chances = weights.reshape(*weights.shape[:2], 4, bins).softmax(3)
    return (chances * torch.arange(bins).to(weights)).sum(3)


def _as_corners(centre: list[Tensor], sides: list[Tensor]) -> list[Tensor]:
    (x, y), (w, h) = centre, sides
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


def _as_centre(ends: list[Tensor]) -> list[Tensor]:
    x1, y1, x2, y2 = ends
    return [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
