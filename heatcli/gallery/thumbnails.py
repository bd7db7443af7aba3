"""The small pictures of a page: each explanation's picture and maps side by side in one WebP."""

from __future__ import annotations

import io
from dataclasses import dataclass

import msgspec
from PIL import Image

from heatcli.artifact.layout import PICTURES
from heatcli.artifact.sidecar import Input
from heatcli.errors import HeatcliError
from heatcli.gallery.read import Item
from heatcli.images.overlay import overlay
from heatcli.images.preprocess import Fit, seen_box
from heatcli.images.read import Picture, Reader

QUALITY = 60
EFFORT = 3  # of WebP's 0..6: above it, little is gained
EDGES = ((500, 200), (3000, 144))  # up to so many explanations: pixels of a thumbnail's longer side
SMALLEST = 104


@dataclass(frozen=True)
class Thumbnail:
    """A WebP of `tiles` pictures in a row, each width × height: the picture, then a map a run."""

    webp: bytes
    width: int
    height: int


def edge_of(count: int) -> int:
    """The longer side of a thumbnail on a page of so many explanations."""
    return next((edge for most, edge in EDGES if count <= most), SMALLEST)


def picture_of(item: Item) -> Picture | None:
    """The picture that was explained; None where it is not found, or another one has its name now."""
    path = item.picture()
    if path is None or item.report is None:
        return None
    given = _input(item)
    try:
        found = Reader(_channels(given), given.range or "").picture(path) if given.layout == PICTURES else None
    except HeatcliError:
        return None
    return found if found is not None and found.sha256 == item.row.sha256 else None


def fit_of(item: Item) -> Fit | None:
    """How the picture was made to fit the network; None where the report does not say."""
    if item.report is None:
        return None
    given, shape = _input(item), item.report.pixels.shape
    if given.layout != PICTURES:
        return None
    return Fit(_channels(given), shape[0], shape[1], given.resize_to, given.interpolation)


def _input(item: Item) -> Input:
    return Input() if item.report is None else msgspec.convert(item.report.model.input, Input)


def _channels(given: Input) -> int:
    means = len(given.mean) if isinstance(given.mean, tuple) else 0
    return given.channels or means or 3


def map_of(item: Item, picture: Image.Image | None) -> Image.Image | None:
    """The map over its picture, as it was written; drawn anew where the file is missing or of another shape."""
    content = item.content("overlay")
    if content is not None:
        try:
            found = Reader(3).ready(item.row.stem, Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "WEBP")))
            if isinstance(found, Image.Image) and (picture is None or _alike(found, picture)):
                return found
        except (HeatcliError, OSError, ValueError, Image.DecompressionBombError):
            pass
    fit = fit_of(item)
    if picture is None or fit is None or item.pixels is None:
        return None
    return overlay(picture, item.pixels, seen_box(picture.size, fit), "bwr", 0.9)


def _alike(a: Image.Image, b: Image.Image) -> bool:
    return abs(a.width * b.height - a.height * b.width) <= 0.02 * a.width * b.height


def thumbnail(pictures: list[Image.Image | None], edge: int) -> Thumbnail:
    """The pictures side by side, each brought to the first one's shape; a missing one is left blank."""
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
    small = max(size) < 64  # few pixels: each counts
    whole.save(buffer, "WEBP", quality=90 if small else QUALITY, method=EFFORT)
    return Thumbnail(buffer.getvalue(), *size)
