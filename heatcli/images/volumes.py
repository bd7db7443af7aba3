"""Volumes: stretched to other sides, and as a sheet of slices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SLICES = 16  # at most, on a sheet


def stretched(values: NDArray[np.float32], sides: Sequence[int]) -> NDArray[np.float32]:
    """A volume [C, D, H, W] with other sides, by trilinear interpolation, which shrinks by averaging.

    A volume that has these sides is returned as it is.
    """
    if values.shape[1:] == tuple(sides):
        return values
    import torch  # shells complete names of colours by way of this file, without torch
    from torch.nn import functional

    whole = torch.from_numpy(np.ascontiguousarray(values, np.float32))[None]
    less = tuple(min(a, b) for a, b in zip(values.shape[1:], sides, strict=True))
    if less != values.shape[1:]:  # each voxel counts where several become one
        whole = functional.adaptive_avg_pool3d(whole, less)
    found: NDArray[np.float32] = functional.interpolate(
        whole, tuple(sides), mode="trilinear", align_corners=False
    )[0].numpy()  # fmt: skip
    return found


def onto_volume(relevance: NDArray[np.float64], sides: Sequence[int]) -> NDArray[np.float32]:
    """A map [D, H, W] of the input on a volume's own voxels. Each voxel has its share, so that sums stay."""
    share = relevance.size / math.prod(sides)
    found: NDArray[np.float32] = stretched(np.asarray(relevance[None], np.float32), sides)[0] * np.float32(share)
    return found


def upright(values: NDArray[np.float64], scanner: bool) -> NDArray[np.float64]:
    """A volume [D, H, W] as slices to look at; of a `scanner`'s [x, y, z], slices along z, with y upwards."""
    return values.transpose(2, 1, 0)[:, ::-1] if scanner else values


def chosen(relevance: NDArray[np.float64], most: int = SLICES) -> list[int]:
    """The slices of a map [D, H, W] that are shown: as many as may be, of each stretch the one with most relevance."""
    mass = np.abs(relevance).sum((1, 2))
    edges = np.linspace(0, len(mass), min(most, len(mass)) + 1).round().astype(int)
    return [int(a + mass[a:b].argmax()) for a, b in pairwise(edges)]


def sheet_of(slices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slices [K, H, W] side by side, row by row, nearly as many across as down: [rows·H, columns·W]."""
    count, height, width = slices.shape
    columns = max(1, min(count, round(math.sqrt(count * height / width))))
    rows = -(-count // columns)
    whole = np.zeros((rows * columns, height, width), slices.dtype)
    whole[:count] = slices
    return whole.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, columns * width)


def grey_sheet(slices: NDArray[np.float64], numbers: Sequence[int]) -> Image.Image:
    """Slices [K, H, W] as a grey picture, stretched to full contrast, with their numbers in the corners."""
    low, high = float(slices.min()), float(slices.max())
    sheet = Image.fromarray(np.uint8(255 * (sheet_of(slices) - low) / ((high - low) or 1)))
    height, width = slices.shape[1:]
    if min(height, width) >= 24:
        draw = ImageDraw.Draw(sheet)
        for i, number in enumerate(numbers):
            x, y = i % (sheet.width // width) * width, i // (sheet.width // width) * height
            draw.text((x + 1, y), str(number), 255)
    return sheet
