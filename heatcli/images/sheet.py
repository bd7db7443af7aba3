"""Labelled sheets of small pictures: feature maps, filters, prototypes, samples."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from heatcli.images.volumes import chosen, sheet_of

TEXT, GAP, MARGIN = 10, 6, 8  # pixels
_INK, _PAPER, _EDGE = "#202020", "white", "#c0c0c0"


@dataclass(frozen=True, eq=False)
class Tile:
    """One small picture and its caption."""

    picture: Image.Image
    label: str = ""


@dataclass(frozen=True, eq=False)
class Block:
    """Tiles under a heading."""

    title: str
    tiles: Sequence[Tile]


def sheet(blocks: Sequence[Block], columns: int, tile: int = 88) -> Image.Image:
    """All blocks from top to bottom, `columns` tiles a row, each tile within `tile` × `tile` pixels."""
    font = _font()
    highs = [tile + GAP + (TEXT + 2) * max(_lines(one.label) for one in block.tiles) + GAP for block in blocks]
    widest = min(columns, max(len(block.tiles) for block in blocks))
    titles = max(font.getlength(block.title) for block in blocks)
    width = round(max(widest * (tile + GAP) - GAP, titles)) + 2 * MARGIN
    rows = [-(-len(block.tiles) // columns) for block in blocks]
    height = sum(n * high + 2 * TEXT for n, high in zip(rows, highs, strict=True)) + 2 * MARGIN
    canvas = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(canvas)
    top = MARGIN
    for block, n, high in zip(blocks, rows, highs, strict=True):
        draw.text((MARGIN, top), block.title, _INK, font)
        top += 2 * TEXT - GAP
        for i, one in enumerate(block.tiles):
            x, y = MARGIN + i % columns * (tile + GAP), top + i // columns * high
            shown = _within(one.picture, tile)
            x0, y0 = x + (tile - shown.width) // 2, y + (tile - shown.height) // 2
            draw.rectangle((x0 - 1, y0 - 1, x0 + shown.width, y0 + shown.height), outline=_EDGE)
            canvas.paste(shown, (x0, y0))
            draw.multiline_text((x + tile // 2, y + tile + 2), one.label, _INK, font, "ma", 1, "center")
        top += n * high + GAP
    return canvas


@cache
def _font() -> ImageFont.FreeTypeFont:
    """matplotlib's DejaVu Sans, which has ×, Σ and arrows."""
    from matplotlib import get_data_path

    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", TEXT)


def _lines(label: str) -> int:
    return label.count("\n") + 1 if label else 0


def _within(picture: Image.Image, tile: int) -> Image.Image:
    """The picture with its longer side `tile` long. Small pictures are enlarged unsmoothed, lines get a height."""
    scale = tile / max(picture.size)
    size = (max(tile // 8, round(picture.width * scale)), max(tile // 8, round(picture.height * scale)))
    smooth = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    return picture.convert("RGB").resize(size, smooth)


def coloured(values: NDArray[np.floating], low: float, high: float, cmap: str) -> Image.Image:
    """`values` [H, W], [L] or one value as a picture: `low` to `high` spans the whole colour map.

    Of a volume [D, H, W] its slices.
    """
    from matplotlib import colormaps

    grid = np.atleast_2d(np.asarray(values, dtype=np.float64))
    grid = grid if grid.ndim == 2 else sheet_of(grid[chosen(grid)])
    scaled = (grid - low) / ((high - low) or 1.0)
    return Image.fromarray(np.uint8(np.rint(255 * colormaps[cmap](scaled)[..., :3])))


def picture_of(pixels: NDArray[np.floating]) -> Image.Image:
    """Pixels [C, H, W] in 0..1 as a picture: colours for three channels, else their mean in grey.

    Of a signal [C, L] a row a channel, of a volume [C, D, H, W] its slices.
    """
    whole = np.rint(255 * np.clip(np.asarray(pixels, dtype=np.float64), 0, 1))
    if whole.ndim == 4:
        shown = chosen(whole.mean(0))
        whole = np.stack([sheet_of(channel[shown]) for channel in whole])
    if whole.ndim == 3:
        whole = whole.transpose(1, 2, 0) if len(whole) == 3 else whole.mean(0)
    return Image.fromarray(whole.astype(np.uint8))


def png(picture: Image.Image) -> bytes:
    """The picture as a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
