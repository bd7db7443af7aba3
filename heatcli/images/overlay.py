"""The overlay: relevance over the picture, at the picture's own resolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from heatcli.errors import UsageError, unknown_name
from heatcli.images.preprocess import WHOLE, Box
from heatcli.images.read import as_mode
from heatcli.system.memory import STRIP

DIVERGING = (
    "bwr", "seismic", "coolwarm", "RdBu", "RdYlBu", "RdYlGn", "RdGy", "PiYG", "PRGn", "BrBG", "PuOr", "Spectral",
    "berlin", "managua", "vanimo",
)  # fmt: skip
FADED = np.rint(0.25 * 255 + 0.6 * np.arange(256)).astype(np.uint8)  # backdrop: paler, less contrast
GREYS = np.repeat(FADED, 4).view(np.uint32)  # in the format of `_tints`
CLIP = 98.5  # percentile of |relevance| with the full colour, so that single large pixels do not pale the rest
SHARE = 0.01  # of the score: maps with less Σ|relevance| are paler, by the square root of the ratio
GREY, COLOUR = "grey", "colour"
BACKDROPS = (GREY, COLOUR)
BETWEEN = 8  # pixels between two pictures
HATCH = 8  # pixels between hatching lines outside the network's input


@dataclass(frozen=True)
class Scale:
    """The relevance of a pixel with the full colour, `full` > 0, and its origin. |relevance| is clipped at `cut`.

    `by`: `percentile`: full and cut are the percentile `clip` of the map's own |relevance|. `share`: Σ|relevance| is
    only the share s < `SHARE` of the score, so full is that percentile times √(`SHARE`/s), and a map is paler the less
    it explains. `run`: one scale for several maps. `given`: the user's number.
    """

    full: float
    cut: float
    by: Literal["percentile", "share", "run", "given"] = "percentile"
    clip: float = CLIP

    @staticmethod
    def of(relevance: NDArray[np.float64], score: float | None = None, clip: float = CLIP) -> Scale:
        """The scale of a map [H, W] whose method divides `score`; None for methods that divide no score."""
        sizes = np.abs(relevance).ravel()
        percentile = _percentile(sizes, clip) or float(sizes.max(initial=0)) or 1.0
        mass, least = float(sizes.sum()), SHARE * abs(score or 0.0)
        if 0 < mass < least:
            return Scale(percentile * math.sqrt(least / mass), percentile, "share", clip)
        return Scale(percentile, percentile, "percentile", clip)

    def signed(self, relevance: NDArray[np.float64]) -> NDArray[np.float64]:
        """Relevance [H, W] as a position on the colour map, −1 to 1."""
        return np.clip(relevance, -self.cut, self.cut) / self.full


@lru_cache(maxsize=8)
def colour_map(name: str) -> Any:
    """matplotlib's diverging colour map of that name, reversed with suffix `_r`. Raises `UsageError`.

    The number of colours is odd, so that 0 has the middle colour.
    """
    known = [*DIVERGING, *(f"{n}_r" for n in DIVERGING)]
    if name not in known:
        raise unknown_name("diverging colour map", name, known, ways="; others have no neutral colour for 0")
    from matplotlib import colormaps

    return colormaps[name].resampled(255)


def overlay(
    image: Image.Image, relevance: NDArray[np.float64], box: Box, cmap: str, opacity: float,
    scale: Scale | None = None, backdrop: str = GREY, hatch: bool = True,
) -> Image.Image:  # fmt: skip
    """Draw `relevance` [H, W] over `image`; `box` is the part of the image that the network reads.

    The colour scale `scale` is symmetric about 0. Opacity grows with |relevance| up to `opacity` (0..1). At relevance 0
    the picture shows, paler and by default grey, so that colour means relevance. `hatch`: hatch the rest of the image.
    Raises `UsageError`.
    """
    if not 0 <= opacity <= 1:
        raise UsageError(f"opacity {opacity:g} is not allowed; it is a number from 0 to 1")
    scale = scale or Scale.of(relevance)
    signed = onto_picture(scale.signed(relevance), image.size, box)
    rows = max(1, STRIP // image.width)
    if rows >= image.height:
        picture = _laid_over(image, signed, cmap, opacity, backdrop)
    else:
        picture = Image.new("RGB", image.size)
        for top in range(0, image.height, rows):  # large pictures in strips, which need little extra memory
            strip = image.crop((0, top, image.width, min(image.height, top + rows)))
            picture.paste(_laid_over(strip, signed[top : top + rows], cmap, opacity, backdrop), (0, top))
    return hatched(picture, box) if hatch else picture


def _laid_over(
    image: Image.Image, signed: NDArray[np.float32], cmap: str, opacity: float, backdrop: str
) -> Image.Image:
    """`signed` relevance in −1..1 over each pixel of `image`. Overwrites `signed`."""
    signed *= 127
    signed += 128.5
    level = signed.astype(np.uint8)
    picture = faded(image, backdrop)
    picture.paste(_coloured(level, _tints(cmap)), mask=Image.fromarray(_strengths(opacity).take(level)))
    return picture


def faded(image: Image.Image, backdrop: str = GREY) -> Image.Image:
    """The backdrop: the picture in RGB, paler and with less contrast, grey or in colour."""
    if backdrop == COLOUR:
        return as_mode(image, "RGB").point([*FADED.tolist()] * 3)
    return _coloured(np.asarray(as_mode(image, "L")), GREYS)


def hatched(picture: Image.Image, box: Box, step: int = HATCH) -> Image.Image:
    """Thin lines, `step` pixels apart, outside `box` of an RGB picture. Changes the picture.

    Lines are dark on bright pixels and bright on dark pixels.
    """
    left, top, right, bottom = (round(edge) for edge in box)
    width, height = picture.size
    strips = (
        (0, 0, width, top), (0, bottom, width, height),
        (0, max(0, top), left, min(height, bottom)), (right, max(0, top), width, min(height, bottom)),
    )  # fmt: skip
    for x0, y0, x1, y1 in strips:
        x0, y0, x1, y1 = max(0, x0), max(0, y0), min(width, x1), min(height, y1)
        if x0 < x1 and y0 < y1:
            lines = (np.arange(y0, y1)[:, None] + np.arange(x0, x1)) % step == 0
            part = np.asarray(picture.crop((x0, y0, x1, y1))).copy()
            darker = part[lines] // 3
            part[lines] = np.where(darker.max(1, keepdims=True) > 35, darker, darker + 110)
            picture.paste(Image.fromarray(part), (x0, y0))
    return picture


def beside(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures side by side, on white; a single one as it is."""
    if len(pictures) == 1:
        return pictures[0]
    width = sum(picture.width + BETWEEN for picture in pictures) - BETWEEN
    whole, x = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white"), 0
    for picture in pictures:
        whole.paste(picture, (x, 0))
        x += picture.width + BETWEEN
    return whole


def outlined(picture: Image.Image, boxes: Sequence[Box]) -> Image.Image:
    """Boxes as dark lines with a bright core, which show on any ground, on an RGB picture. Changes the picture."""
    draw, width = ImageDraw.Draw(picture), max(1, round(max(picture.size) / 200))
    for left, top, right, bottom in boxes:
        x0, y0 = max(left, 0), max(top, 0)
        edges = x0, y0, max(x0, min(right, picture.width - 1)), max(y0, min(bottom, picture.height - 1))
        draw.rectangle(edges, outline=(0, 0, 0), width=width + 2)
        inner = [a + b for a, b in zip(edges, (1, 1, -1, -1), strict=True)]
        if inner[0] <= inner[2] and inner[1] <= inner[3]:
            draw.rectangle(inner, outline=(255, 214, 0), width=width)
    return picture


def stamped(picture: Image.Image, text: str) -> Image.Image:
    """`picture` with a band of equal width above it that shows `text`, so that the figure cannot be mistaken."""
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
    """The RGB picture of `values` [H, W], indices of 256 colours. Faster than Pillow's palettes."""
    return Image.frombytes("RGB", values.shape[::-1], colours.take(values), "raw", "RGBX")


def _percentile(sizes: NDArray[np.float64], clip: float) -> float:
    """The percentile `clip`, interpolated like numpy's `percentile`."""
    whole, part = divmod(clip / 100 * (sizes.size - 1), 1)
    split = np.partition(sizes, int(whole))  # elements to the right are not smaller
    low, right = split[int(whole)], split[int(whole) + 1 :]
    return float(low + part * (right.min() - low if right.size else 0))


LEVELS = (np.arange(256) - 128) / 127  # the values of the 256 colours: −128/127 … 1


@lru_cache(maxsize=8)
def _tints(cmap: str, palest: float = 1.0) -> NDArray[np.uint32]:
    """The overlay's colour for each of `LEVELS`: red, green, blue and an unused byte.

    The hue is that of the colour map's ends, since paler colours look like haze on dark pictures
    (`tests/measure/legibility.py`).

    """
    values = np.sign(LEVELS) * np.maximum(np.minimum(np.abs(LEVELS), 1), palest)
    colours: NDArray[np.uint8] = np.rint(255 * colour_map(cmap)(0.5 + values / 2)).astype(np.uint8, order="C")
    return colours.view(np.uint32).ravel()


@lru_cache(maxsize=8)
def _strengths(opacity: float, power: float = 1.0) -> NDArray[np.uint8]:
    """The opacity of each of `LEVELS`, 0 to 255."""
    return np.rint(255 * opacity * np.minimum(1, np.abs(LEVELS)) ** power).astype(np.uint8)


def onto_picture(values: NDArray[np.float64], size: tuple[int, int], box: Box) -> NDArray[np.float32]:
    """`values` [H, W], clipped to ±1, over `box` of a picture of `size` (width, height); 0 outside: [height, width]."""
    left, top, right, bottom = (round(edge) for edge in box)
    inside = (max(1, right - left), max(1, bottom - top))
    stretched = np.clip(values, -1, 1, dtype=np.float32, casting="same_kind")
    if inside[0] * inside[1] > max(WHOLE, 4 * size[0] * size[1]):  # a crop far larger than its picture
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
