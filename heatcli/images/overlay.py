"""The overlay: relevance over the picture, at the picture's own resolution."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from heatcli.errors import UsageError, unknown_name
from heatcli.images.preprocess import WHOLE, Box
from heatcli.images.read import STRIP

DIVERGING = (
    "bwr", "seismic", "coolwarm", "RdBu", "RdYlBu", "RdYlGn", "RdGy", "PiYG", "PRGn", "BrBG", "PuOr", "Spectral",
    "berlin", "managua", "vanimo",
)  # fmt: skip
FADED = np.rint(0.25 * 255 + 0.6 * np.arange(256)).astype(np.uint8)  # the backdrop: paler, and with less contrast
GREYS = np.repeat(FADED, 4).view(np.uint32)  # as `_palette` has colours
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
    signed = _onto_picture(relevance / _scale(relevance), image.size, box)
    rows = max(1, STRIP // image.width)
    if rows >= image.height:
        return _laid_over(image, signed, cmap, opacity)
    picture = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):  # a large picture in strips, which take little more memory than itself
        strip = image.crop((0, top, image.width, min(image.height, top + rows)))
        picture.paste(_laid_over(strip, signed[top : top + rows], cmap, opacity), (0, top))
    return picture


def _laid_over(image: Image.Image, signed: NDArray[np.float32], cmap: str, opacity: float) -> Image.Image:
    """`signed` relevance in −1..1 over each pixel of `image`; changes `signed`."""
    colours = _coloured((127 * signed + 128.5).astype(np.uint8), _palette(cmap))
    np.abs(signed, out=signed)
    np.sqrt(signed, out=signed)
    signed *= 255 * opacity
    signed += 0.5  # rounds
    picture = _coloured(np.asarray(image.convert("L")), GREYS)
    picture.paste(colours, mask=Image.fromarray(signed.astype(np.uint8)))
    return picture


def stamped(picture: Image.Image, text: str) -> Image.Image:
    """`picture` with a band above it, as wide, that says `text`: nobody takes the figure for what it is not."""
    size = max(10, picture.width // 24)
    font = ImageFont.load_default(size)
    width, height = picture.width, round(1.6 * size)
    while size > 5 and font.getlength(text) > width - 4:
        size -= 1
        font = ImageFont.load_default(size)
    whole = Image.new("RGB", (width, picture.height + height), "black")
    whole.paste(picture, (0, height))
    ImageDraw.Draw(whole).text((width / 2, height / 2), text, "white", font, anchor="mm")
    return whole


def _coloured(values: NDArray[np.uint8], colours: NDArray[np.uint32]) -> Image.Image:
    """The RGB picture of `values` [H, W], each in its one of 256 colours: faster than Pillow's palettes."""
    return Image.frombytes("RGB", values.shape[::-1], colours.take(values), "raw", "RGBX")


def _scale(relevance: NDArray[np.float64]) -> float:
    """The percentile `CLIP` of |relevance|, as numpy's `percentile` interpolates it; the largest where that is 0."""
    sizes = np.abs(relevance).ravel()
    whole, part = divmod(CLIP / 100 * (sizes.size - 1), 1)
    split = np.partition(sizes, int(whole))  # what is right of it is not smaller
    low, right = split[int(whole)], split[int(whole) + 1 :]
    return float(low + part * (right.min() - low if right.size else 0)) or float(sizes.max()) or 1.0


@lru_cache(maxsize=8)
def _palette(cmap: str) -> NDArray[np.uint32]:
    """The colours of the values −128/127 … 1, one number each: red, green, blue and a byte that says nothing."""
    values = (np.arange(256) - 128) / 127
    colours: NDArray[np.uint8] = np.rint(255 * colour_map(cmap)(0.5 + values / 2)).astype(np.uint8, order="C")
    return colours.view(np.uint32).ravel()


def _onto_picture(values: NDArray[np.float64], size: tuple[int, int], box: Box) -> NDArray[np.float32]:
    """`values` [H, W], cut off at ±1, over `box` of a picture of `size` (width, height); 0 outside: [height, width]."""
    left, top, right, bottom = (round(edge) for edge in box)
    inside = (max(1, right - left), max(1, bottom - top))
    stretched = np.clip(values, -1, 1, dtype=np.float32, casting="same_kind")
    if inside[0] * inside[1] > max(WHOLE, 4 * size[0] * size[1]):  # a crop far larger than the picture that it is of
        source = Image.fromarray(stretched)
        seen = (max(0, left), max(0, top), min(size[0], right), min(size[1], bottom))
        x, y = source.width / inside[0], source.height / inside[1]
        part = ((seen[0] - left) * x, (seen[1] - top) * y, (seen[2] - left) * x, (seen[3] - top) * y)
        wanted = (seen[2] - seen[0], seen[3] - seen[1])
        stretched = np.asarray(source.resize(wanted, Image.Resampling.BILINEAR, box=part))
        left, top = seen[:2]
    elif stretched.shape[::-1] != inside:
        stretched = np.asarray(Image.fromarray(stretched).resize(inside, Image.Resampling.BILINEAR))
    canvas = np.zeros((size[1], size[0]), np.float32)
    part = stretched[max(0, -top) : size[1] - top, max(0, -left) : size[0] - left]
    canvas[max(0, top) :, max(0, left) :][: part.shape[0], : part.shape[1]] = part
    return canvas
