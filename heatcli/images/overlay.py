"""The overlay: relevance over the picture, at the picture's own resolution."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from heatcli.errors import UsageError, unknown_name
from heatcli.images.preprocess import Box

DIVERGING = (
    "bwr", "seismic", "coolwarm", "RdBu", "RdYlBu", "RdYlGn", "RdGy", "PiYG", "PRGn", "BrBG", "PuOr", "Spectral",
    "berlin", "managua", "vanimo",
)  # fmt: skip
CLIP = 98.5  # percentile of |relevance| that gets the full colour, so that a single pixel does not bleach the rest


def colour_map(name: str) -> Any:
    """matplotlib's diverging colour map of that name, or reversed with `_r`. Raises `UsageError`."""
    known = [*DIVERGING, *(f"{n}_r" for n in DIVERGING)]
    if name not in known:
        raise unknown_name("colour map", name, known)
    from matplotlib import colormaps

    return colormaps[name]


def overlay(image: Image.Image, relevance: NDArray[np.float64], box: Box, cmap: str, opacity: float) -> Image.Image:
    """Lay `relevance` [H, W] over `image`, where `box` says which part of it the network saw.

    The colour scale is symmetric about 0; a pixel is the more opaque, up to `opacity` (0..1), the larger its
    |relevance|. The picture itself turns grey, so that colour means relevance.
    """
    if not 0 <= opacity <= 1:
        raise UsageError(f"opacity {opacity:g} is not allowed; it is a number from 0 to 1")
    scale = np.percentile(np.abs(relevance), CLIP) or np.abs(relevance).max() or 1.0
    signed = _onto_picture(np.clip(relevance / scale, -1, 1), image.size, box)
    colours = Image.fromarray((np.rint(127 * signed) + 128).astype(np.uint8))
    colours.putpalette(_palette(cmap))
    alpha = np.rint(255 * opacity * np.sqrt(np.abs(signed))).astype(np.uint8)
    backdrop = image.convert("L").point([round(0.25 * 255 + 0.6 * grey) for grey in range(256)])
    return Image.composite(colours.convert("RGB"), backdrop.convert("RGB"), Image.fromarray(alpha))


@lru_cache(maxsize=8)
def _palette(cmap: str) -> list[int]:
    """Red, green, blue (0..255) for the values −128/127 … 1."""
    values = (np.arange(256) - 128) / 127
    colours: list[int] = np.rint(255 * colour_map(cmap)(0.5 + values / 2)[:, :3]).astype(int).ravel().tolist()
    return colours


def _onto_picture(values: NDArray[np.float64], size: tuple[int, int], box: Box) -> NDArray[np.float32]:
    """`values` [H, W] stretched over `box` of a picture of `size` (width, height); 0 outside it: [height, width]."""
    left, top, right, bottom = (round(edge) for edge in box)
    inside = (max(1, right - left), max(1, bottom - top))
    stretched = Image.fromarray(values.astype(np.float32)).resize(inside, Image.Resampling.BILINEAR)
    canvas = Image.new("F", size, 0.0)
    canvas.paste(stretched, (left, top))
    return np.asarray(canvas, dtype=np.float32)
