"""Features of maps: the distribution of each picture's relevance on a coarse grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from heatcli.discover.patterns import Details, shares
from heatcli.errors import ImageError, UsageError, counted
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
    of a picture, float32 [N, GRID, GRID]; the shares of a picture sum to 1. `details`: the fine detail of all maps of
    the run, and `numbers`, int64 [N], those of this class; None if unknown. `outside`: the share of the positive
    relevance outside the mask. `right`: 1 if the model gives the expected label, else 0. `bias_shares`: what biases
    take of the score (`heatcli.run.index.index.bias_share`). All three float64 [N], not a number where unknown.
    """

    label: str
    names: list[str]
    pictures: list[Path | None]
    places: Array
    right: NDArray[np.float64]
    bias_shares: NDArray[np.float64]
    outside: NDArray[np.float64]
    numbers: NDArray[np.int64]
    details: Details | None = None

    @classmethod
    def of(cls, label: str, known: Sequence[Known], details: Details | None = None) -> Maps:
        """The maps of pictures of a class."""
        right, bias_shares, outside = (
            np.array([getattr(one, name) for one in known], np.float64) for name in ("right", "bias_share", "outside")
        )
        return cls(
            label, [one.name for one in known], [one.picture for one in known], np.stack([one.places for one in known]),
            right, bias_shares, outside, np.array([one.number for one in known], np.int64), details,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Known:
    """What `Maps` has of each picture."""

    name: str
    picture: Path | None
    places: Array
    right: float = math.nan
    bias_share: float = math.nan
    outside: float = math.nan
    number: int = -1


class How(msgspec.Struct, frozen=True, kw_only=True):
    """How maps were made, as in a report."""

    method: MethodPart
    baseline: BaselinePart


def pooled(pixels: NDArray[np.float64], grid: int = GRID) -> Array:
    """The positive relevance of [H, W], pooled by area onto a grid and divided by its sum: float32 [grid, grid].

    All zero if there is no positive relevance.
    """
    positive = pixels.clip(min=0)
    down, across = (shares(side, grid) for side in positive.shape)
    total = float(positive.sum())
    found: Array = (down @ positive @ across.T / total if total > 0 else np.zeros((grid, grid))).astype(np.float32)
    return found


def read(
    path: Path, say: Callable[[str], None], advance: Advance = iter, masks: Path | None = None
) -> tuple[list[Maps], How]:
    """The maps of a folder of explanations, by explained class in the order of names, and how they were made.

    `say`: called with notes on damage. `advance`: what the explanations pass through, such as a progress bar. `masks`:
    the folder of masks, None for none. Memory holds one report at a time and 1 kB per picture; a temporary file holds
    20 kB per picture. Raises `UsageError` if the folder holds several runs, or no reports with pixels, and for masks
    that fit no picture.
    """
    how: How | None = None
    found: dict[str, list[Known]] = {}
    runs: dict[tuple[str | None, str | None], str] = {}
    empty, details = 0, Details()
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
        found.setdefault(label, []).append(_known(item, item.pixels, details, masks, say))
    if how is None:
        why = (
            f"its {empty:,} reports hold no pixels; explain again without --pixels none" if empty else "has no reports"
        )
        raise UsageError(f"{path}: {why}")
    if empty:
        say(f"{empty:,} reports without pixels are left out")
    if masks is not None:
        known = sum(not math.isnan(one.outside) for each in found.values() for one in each)
        if not known:
            raise UsageError(f"{masks}: has a mask for none of the pictures; a mask is named NAME.png as its picture")
        if missing := details.count - known:
            say(f"{counted(missing, 'picture')} without a mask in {masks}")
    return [Maps.of(label, known, details) for label, known in sorted(found.items())], how


def _known(
    item: Item, pixels: NDArray[np.float64], details: Details, masks: Path | None, say: Callable[[str], None]
) -> Known:
    """What is known of an explanation. `pixels`: its map [H, W]."""
    row, picture = item.row, item.picture()
    share = None if row.ledger is None else bias_share(row.ledger.pixels, row.biases)
    right = math.nan if row.expected is None else float((row.predicted or row.label) == row.expected)
    inside = None
    if masks is not None:
        try:
            inside = item.inside(masks, picture)
        except ImageError as error:
            say(str(error))
    return Known(
        row.image, picture, pooled(pixels), right, math.nan if share is None else share,
        math.nan if inside is None else 1 - inside, details.add(pixels),
    )  # fmt: skip
