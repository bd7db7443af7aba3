"""Features of maps: the distribution of each picture's relevance on a coarse grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from heatcli.errors import UsageError
from heatcli.report.schema import BaselinePart, MethodPart
from heatcli.run.index.folder import Folder, Item
from heatcli.run.index.index import Row, bias_share

GRID = 16
Array = NDArray[np.float32]
Advance = Callable[[Iterable[Item | Row]], Iterator[Item | Row]]


@dataclass(frozen=True, eq=False)
class Maps:
    """The maps of a class.

    `pictures`: the paths of the pictures, None if not found. `places`: the share of each cell in the positive relevance
    of a picture, float32 [N, GRID, GRID]; the shares of a picture sum to 1. `right`: 1 if the model gives the expected
    label, else 0. `bias_shares`: what biases take of the score (`heatcli.run.index.index.bias_share`). Both float64
    [N], not a number where unknown.
    """

    label: str
    names: list[str]
    pictures: list[Path | None]
    places: Array
    right: NDArray[np.float64]
    bias_shares: NDArray[np.float64]

    @classmethod
    def of(cls, label: str, known: Sequence[Known]) -> Maps:
        """The maps of pictures of a class."""
        return cls(
            label, [one.name for one in known], [one.picture for one in known], np.stack([one.places for one in known]),
            np.array([one.right for one in known]), np.array([one.bias_share for one in known]),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Known:
    """What `Maps` has of each picture."""

    name: str
    picture: Path | None
    places: Array
    right: float = math.nan
    bias_share: float = math.nan


class How(msgspec.Struct, frozen=True, kw_only=True):
    """How maps were made, as in a report."""

    method: MethodPart
    baseline: BaselinePart


def pooled(pixels: NDArray[np.float64], grid: int = GRID) -> Array:
    """The positive relevance of [H, W], pooled by area onto a grid and divided by its sum: float32 [grid, grid].

    All zero if there is no positive relevance.
    """
    positive = pixels.clip(min=0)
    down, across = (_shares(side, grid) for side in positive.shape)
    total = float(positive.sum())
    shares: Array = (down @ positive @ across.T / total if total > 0 else np.zeros((grid, grid))).astype(np.float32)
    return shares


def _shares(side: int, grid: int) -> NDArray[np.float64]:
    """The part of each of `side` pixels that lies in each of `grid` cells, float64 [grid, side]."""
    edges = np.linspace(0, side, grid + 1)
    pixel = np.arange(side)
    overlap: NDArray[np.float64] = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return overlap.clip(min=0)


def read(path: Path, say: Callable[[str], None], advance: Advance = iter) -> tuple[list[Maps], How]:
    """The maps of a folder of explanations, by explained class in the order of names, and how they were made.

    `say`: called with notes on damage. `advance`: what the explanations pass through, such as a progress bar. Memory
    holds one report at a time and 1 kB per picture. Raises `UsageError` if the folder holds several runs, or no reports
    with pixels.
    """
    how: How | None = None
    found: dict[str, list[Known]] = {}
    runs: dict[tuple[str | None, str | None], str] = {}
    empty = 0
    for item in advance(Folder.open(path).items(say)):
        if not isinstance(item, Item) or item.report is None:
            continue
        runs.setdefault((item.row.run, item.row.method), item.row.image)
        if len(runs) > 1:
            a, b = runs.values()
            raise UsageError(f"{path}: holds runs of different methods, models or parameters ({a} and {b}); explain "
                             "into one folder a run")  # fmt: skip
        if item.pixels is None:
            empty += 1
            continue
        how = how or How(method=item.report.method, baseline=item.report.baseline)
        label = item.row.label or str(item.row.index)
        found.setdefault(label, []).append(_known(item, item.pixels))
    if how is None:
        why = (
            f"its {empty:,} reports hold no pixels; explain again without --pixels none" if empty else "has no reports"
        )
        raise UsageError(f"{path}: {why}")
    if empty:
        say(f"{empty:,} reports without pixels are left out")
    return [Maps.of(label, known) for label, known in sorted(found.items())], how


def _known(item: Item, pixels: NDArray[np.float64]) -> Known:
    """What is known of an explanation. `pixels`: its map [H, W]."""
    row = item.row
    share = None if row.ledger is None else bias_share(row.ledger.pixels, row.biases)
    right = math.nan if row.expected is None else float((row.predicted or row.label) == row.expected)
    return Known(row.image, item.picture(), pooled(pixels), right, math.nan if share is None else share)
