"""Features of maps: the distribution of each picture's relevance on a coarse grid."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from heatcli.discover.patterns import Details, shares
from heatcli.discover.rows import AT_ONCE, Array, Rows
from heatcli.errors import ImageError, UsageError, counted
from heatcli.report.schema import BaselinePart, MethodPart
from heatcli.run.index.folder import Folder, Item
from heatcli.run.index.index import Row, bias_share

GRID = 16
Advance = Callable[[Iterable[Item | Row]], Iterator[Item | Row]]


@dataclass(slots=True)
class Known:
    """What `Maps` has of each picture."""

    name: str
    picture: str | None
    number: int
    right: float = math.nan
    bias_share: float = math.nan
    outside: float = math.nan


@dataclass(frozen=True, eq=False)
class Maps:
    """The maps of a class of N pictures.

    `pictures`: the paths of the pictures, None if not found. `numbers`: of its maps in `kept` and `details`, int64 [N].
    `kept`: the share of each cell in the positive relevance of every picture of the run, [GRID, GRID] each; the shares
    of a picture sum to 1. `details`: their fine detail; None if unknown. `right`: 1 if the model gives the expected
    label, else 0. `bias_shares`: what biases take of the score (`heatcli.run.index.index.bias_share`). `outside`: the
    share of the positive relevance outside the mask. All three float64 [N], not a number where unknown.
    """

    label: str
    names: list[str]
    pictures: list[str | None]
    numbers: NDArray[np.int64]
    right: NDArray[np.float64]
    bias_shares: NDArray[np.float64]
    outside: NDArray[np.float64]
    kept: Rows
    details: Details | None = None

    def __len__(self) -> int:
        return len(self.names)

    def places(self, rows: NDArray[np.int64]) -> Array:
        """The maps of some of the pictures, float32 [n, GRID, GRID]."""
        return self.kept(self.numbers[rows])

    def each(self, work: Callable[[Array], NDArray[Any]]) -> NDArray[Any]:
        """What `work` returns for the maps of all pictures, [N, …]; it gets at most `AT_ONCE` of them at a time."""
        parts = [work(self.kept(self.numbers[at : at + AT_ONCE])) for at in range(0, len(self), AT_ONCE)]
        return np.concatenate(parts)


@dataclass(eq=False)
class Columns:
    """The maps of a class as they are read: flat arrays, which take a tenth of the memory of objects."""

    names: list[str] = field(default_factory=list)
    pictures: list[str | None] = field(default_factory=list)
    numbers: array[int] = field(default_factory=lambda: array("q"))
    measures: array[float] = field(default_factory=lambda: array("d"))  # right, bias share, outside; for each picture

    def add(self, known: Known) -> None:
        """Add a picture."""
        self.names.append(known.name)
        self.pictures.append(known.name if known.picture == known.name else known.picture)  # one string, not two
        self.numbers.append(known.number)
        self.measures.extend((known.right, known.bias_share, known.outside))

    def maps(self, label: str, kept: Rows, details: Details | None) -> Maps:
        """The maps of the class."""
        right, bias_shares, outside = np.array(self.measures, np.float64).reshape(-1, 3).T.copy()
        numbers = np.array(self.numbers, np.int64)
        return Maps(label, self.names, self.pictures, numbers, right, bias_shares, outside, kept, details)


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
    the folder of masks, None for none. Memory holds one report at a time and the names of the pictures; temporary files
    hold up to 20 kB per picture. Raises `UsageError` if the folder holds several runs, maps of volumes or no reports
    with pixels, and for masks that fit no picture.
    """
    how: How | None = None
    found: dict[str, Columns] = {}
    runs: dict[tuple[str | None, str | None], str] = {}
    empty, kept, details = 0, Rows(np.float32), Details()
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
        if item.pixels.ndim > 2:
            raise UsageError(f"{path}: {item.row.image} is a volume, and groups are of maps of pictures and signals")
        how = how or How(method=item.report.method, baseline=item.report.baseline)
        label = item.row.called
        number = kept.add(pooled(item.pixels))
        details.add(item.pixels)
        found.setdefault(label, Columns()).add(_known(item, number, masks, say))
    if how is None:
        why = (
            f"its {empty:,} reports hold no pixels; explain again without --pixels none" if empty else "has no reports"
        )
        raise UsageError(f"{path}: {why}")
    if empty:
        say(f"{empty:,} reports without pixels are left out")
    if masks is not None:
        known = sum(not math.isnan(share) for each in found.values() for share in each.measures[2::3])
        if not known:
            raise UsageError(f"{masks}: has a mask for none of the pictures; a mask is named NAME.png as its picture")
        if missing := kept.count - known:
            say(f"{counted(missing, 'picture')} without a mask in {masks}")
    return [columns.maps(label, kept, details) for label, columns in sorted(found.items())], how


def _known(item: Item, number: int, masks: Path | None, say: Callable[[str], None]) -> Known:
    """What is known of an explanation. `number`: of its map."""
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
        row.image, None if picture is None else str(picture), number, right, math.nan if share is None else share,
        math.nan if inside is None else 1 - inside,
    )  # fmt: skip
