"""The data of a page: a list per quantity with a value per explanation, thumbnails and biases."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from heatcli.errors import HeatcliError, printable
from heatcli.evaluate.similarity import rank_correlation
from heatcli.gallery.thumbnails import Thumbnail, is_of_picture, map_of, thumbnail
from heatcli.images.expected import Expected
from heatcli.report.schema import LedgerPart
from heatcli.run.index.folder import Item
from heatcli.run.index.index import bias_share

GRID = 24  # cells in a row of the mean map
MOST_UP = 2  # the most `..` in a link
LEDGER = ("output", "output_baseline", "pixels", "biases", "absorbed", "unexplained")


@dataclass
class Entry:
    """The data of an explanation.

    `values`: quantity → value. `biases`: the totals per bias, of each run. `mass`: the distribution of |relevance|,
    float64 [GRID, GRID] with sum 1. `remarks`: kind → what is missing.
    """

    values: dict[str, Any]
    biases: list[dict[str, float]]
    thumbnail: Thumbnail
    mass: NDArray[np.float64] | None = None
    remarks: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Look:
    """Makes entries of explanations.

    `page`: the page's folder, to which links are relative. `predicts`: whether the explained class is the predicted
    one; None if the run does not say. `edge`: the longer side of a thumbnail in pixels. `masks`: a folder of masks.
    """

    page: Path
    expected: Expected
    predicts: bool | None
    edge: int
    masks: Path | None = None

    def entry(self, item: Item, other: Item | None, sides: int) -> Entry:
        """The entry of an explanation. `other`: that of the same picture in the second run, if `sides` is 2."""
        path = item.picture()
        picture = item.read_picture()
        image = None if picture is None else picture.shown()
        maps = [map_of(item, image)] + ([None if other is None else map_of(other, image)] if sides == 2 else [])
        values = self._values(item, path)
        remarks = {}
        if picture is None and is_of_picture(item):
            remarks["picture"] = item.row.image
        if maps[0] is None:
            remarks["map"] = item.row.stem
        elif values["map"] is None and "overlay" in item.row.files:
            remarks["link"] = item.row.stem
        if picture is not None and path is not None:
            values["mask"], remark = self._mask(item, path)
            remarks |= remark
        if sides == 2:
            values |= self._against(item, other)
        pictures = [image, *maps]
        drawn = thumbnail(pictures, self.edge)
        there = sum(1 << part for part, one in enumerate(pictures) if one is not None)
        values |= {"w": drawn.width, "h": drawn.height, "there": there}
        biases = [item.row.biases] + ([{} if other is None else other.row.biases] if sides == 2 else [])
        return Entry(values, biases, drawn, _mass(item.pixels), remarks)

    def _values(self, item: Item, path: Path | None) -> dict[str, Any]:
        """The quantities of an explanation, by name."""
        row = item.row
        label = row.called
        predicted = self._predicted(item)
        expected = self.expected.of(row.image, path) or row.expected
        right = None if predicted is None or expected is None else expected in (predicted, str(item.first.index))
        return {
            "name": printable(row.image) + _part(item),
            "rank": row.rank,
            "method": row.method,
            "label": label,
            "predicted": predicted,
            "expected": expected,
            "right": right,
            "score": _short(row.score),
            "probability": _short(row.probability),
            "map": self._link(item.path("overlay")),
            "report": self._link(item.path("report")),
            "picture": self._link(path),
            "mask": None,
            **_books(row.ledger, row.biases, ""),
        }

    def _predicted(self, item: Item) -> str | None:
        """The predicted class; None if it is not known."""
        if item.row.predicted is not None:
            return item.row.predicted
        if self.predicts is False:
            return None
        if self.predicts is None and (item.row.probability or 0) <= 0.5:
            return None
        return item.first.label or str(item.first.index)

    def _link(self, path: Path | None) -> str | None:
        """A link to a file, relative to the page; None if the path would reveal folders of this machine."""
        if path is None:
            return None
        start, end = self.page.absolute(), path.absolute()
        try:
            common = Path(os.path.commonpath([start, end]))
        except ValueError:  # another drive
            return None
        parts = Path(os.path.relpath(end, start)).parts
        if parts.count("..") > MOST_UP or common == Path(common.anchor):
            return None
        return "./" + quote("/".join(parts), errors="surrogateescape")

    def _mask(self, item: Item, path: Path) -> tuple[float | None, dict[str, str]]:
        """The share of the positive relevance inside the picture's mask, None without a mask; and remarks."""
        try:
            return _short(item.inside(self.masks, path)), {}
        except HeatcliError as error:
            return None, {"mask": str(error)}

    def _against(self, item: Item, other: Item | None) -> dict[str, Any]:
        """The numbers of the other run, and the difference and correlation of the two."""
        names = ("labelB", "scoreB", "probabilityB", "mapB", "reportB", "difference", "correlation")
        if other is None:
            return dict.fromkeys(names) | _books(None, {}, "B")
        row, a, b = other.row, item.pixels, other.pixels
        alike = None
        if a is not None and b is not None:
            if a.shape != b.shape:
                small = Image.fromarray(b.astype(np.float32)).resize(a.shape[::-1], Image.Resampling.BILINEAR)
                b = np.asarray(small, np.float64)
            alike = float(rank_correlation(*(torch.from_numpy(np.ascontiguousarray(x))[None] for x in (a, b))))
        apart = None if row.score is None or item.row.score is None else row.score - item.row.score
        found = (
            row.called, _short(row.score), _short(row.probability),
            self._link(other.path("overlay")), self._link(other.path("report")), _short(apart), _short(alike),
        )  # fmt: skip
        return dict(zip(names, found, strict=True)) | _books(row.ledger, row.biases, "B")


def _part(item: Item) -> str:
    """The name of a sequence in its file, or the number of a detector's box; empty for a whole picture."""
    if item.report is None:
        return ""
    sequence, box = item.report.image.sequence, item.report.target.box
    if sequence is not msgspec.UNSET:
        return f" {sequence.name}"
    return "" if box is msgspec.UNSET else f" box {box}"


def shown(names: Iterable[str]) -> list[str]:
    """The names of pictures in a page: absolute paths lose the folder that they have in common."""
    found = list(names)
    if not any(map(os.path.isabs, found)):
        return found
    try:
        common = os.path.commonpath([os.path.dirname(name) for name in found])  # noqa: PTH120
    except ValueError:  # some are relative, or on another drive
        return [Path(name).name if os.path.isabs(name) else name for name in found]  # noqa: PTH117
    return [os.path.relpath(name, common) for name in found]


def _books(ledger: LedgerPart | None, biases: dict[str, float], side: str) -> dict[str, Any]:
    """The numbers of a ledger by quantity, each name with the suffix `side`."""
    if ledger is None:
        return dict.fromkeys(name + side for name in (*LEDGER, "remainder", "share"))
    found = {name + side: _short(getattr(ledger, name)) for name in LEDGER}
    share = bias_share(ledger.pixels, biases)
    return found | {"remainder" + side: _short(ledger.relative_error), "share" + side: _short(share)}


def _short(value: float | None) -> float | None:
    """A number with seven digits, the precision of float32; None if it is not finite."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.7g}")


def _mass(pixels: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
    """The distribution of |relevance| on a grid, with sum 1; None for maps that have none."""
    if pixels is None or pixels.ndim != 2 or min(pixels.shape) < 2:
        return None
    sizes = np.abs(pixels)
    total = sizes.sum()
    if not (math.isfinite(total) and total):
        return None
    cells = Image.fromarray((sizes / total).astype(np.float32)).resize((GRID, GRID), Image.Resampling.BOX)
    mass: NDArray[np.float64] = np.asarray(cells, np.float64)
    whole = mass.sum()
    return mass / whole if whole else None
