"""The thumbnails of a page: the picture and the maps of an explanation side by side in one WebP."""

from __future__ import annotations

import io
from dataclasses import dataclass

import msgspec
from PIL import Image

from heatcli.artifact.layout import PICTURES
from heatcli.errors import HeatcliError
from heatcli.figures.draw import Style, draw
from heatcli.figures.reading import scale_of, with_seen
from heatcli.figures.view import View
from heatcli.images.preprocess import Fit
from heatcli.images.read import Reader
from heatcli.run.index.folder import Item, channels_of

QUALITY = 60
EFFORT = 3  # of WebP's 0..6; higher values save little
EDGES = ((500, 200), (3000, 144))  # (up to this number of explanations, longer side of a thumbnail in pixels)
SMALLEST = 104  # the longer side for more explanations


@dataclass(frozen=True)
class Thumbnail:
    """A WebP of pictures in a row, each `width` × `height`: the picture, then the map of each run."""

    webp: bytes
    width: int
    height: int


def edge_of(count: int) -> int:
    """The longer side in pixels of a thumbnail on a page of `count` explanations."""
    return next((edge for most, edge in EDGES if count <= most), SMALLEST)


def is_of_picture(item: Item) -> bool:
    """Whether an explanation is of a picture, and not of a sequence, signal, volume or table."""
    return item.report is None or (item.report.image.sequence is msgspec.UNSET and item.input.layout == PICTURES)


def fit_of(item: Item) -> Fit | None:
    """How the picture was fitted to the network's input; None if the report does not say."""
    if item.report is None:
        return None
    given, shape = item.input, item.report.pixels.shape
    if given.layout != PICTURES:
        return None
    return Fit(channels_of(given), shape[0], shape[1], given.resize_to, given.interpolation)


def map_of(item: Item, picture: Image.Image | None) -> Image.Image | None:
    """The overlay that the run wrote; drawn anew if the file is missing or has another shape than the picture.

    The colour scale is that of the figure that the report describes. None if it cannot be drawn either.
    """
    content = item.content("overlay")
    if content is not None:
        try:
            found = Reader(3).ready(item.row.stem, Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "WEBP")))
            if isinstance(found, Image.Image) and (picture is None or _alike(found, picture)):
                return found
        except (HeatcliError, OSError, ValueError, Image.DecompressionBombError):
            pass
    if picture is None or fit_of(item) is None or item.pixels is None or item.report is None:
        return None
    return draw([View(picture, item.pixels, with_seen(item.report), scale_of(item.report))], Style()).image


def _alike(a: Image.Image, b: Image.Image) -> bool:
    return abs(a.width * b.height - a.height * b.width) <= 0.02 * a.width * b.height


def thumbnail(pictures: list[Image.Image | None], edge: int) -> Thumbnail:
    """The pictures side by side, each resized to the shape of the first; the place of a missing one is grey."""
    first = next((p for p in pictures if p is not None), None)
    if first is None:
        return Thumbnail(b"", 0, 0)
    scale = min(1.0, edge / max(first.size))
    size = max(1, round(first.width * scale)), max(1, round(first.height * scale))
    whole = Image.new("RGB", (size[0] * len(pictures), size[1]), (128, 128, 128))
    for i, one in enumerate(pictures):
        if one is not None:
            whole.paste(one.convert("RGB").resize(size, Image.Resampling.LANCZOS, reducing_gap=2), (i * size[0], 0))
    buffer = io.BytesIO()
    small = max(size) < 64  # a picture of few pixels needs a higher quality
    whole.save(buffer, "WEBP", quality=90 if small else QUALITY, method=EFFORT)
    return Thumbnail(buffer.getvalue(), *size)
