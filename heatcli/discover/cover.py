"""What the model says when a cluster's places are covered: whether its answers hang on what lies there.

Other places of the same shape are covered as a control, for any covering costs some answers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heatcli.discover.asking import answers, with_pictures
from heatcli.discover.features import GRID
from heatcli.discover.job import Cluster
from heatcli.errors import UsageError
from heatcli.images.baselines import fitted, read
from heatcli.model.model import Model
from heatcli.run.index.folder import Item

CONTROLS = 5  # other places that are covered, of each picture
FILL = "blur"


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """Means over pictures.

    `kept`: the share whose answer stays when the places are covered; `kept_elsewhere`: when other places of the same
    shape are. `change`, `change_elsewhere`: of the score of that answer. `right`, `right_covered`: the share of
    pictures with the expected answer, before and after, if the run knows what is expected.
    """

    pictures: int
    kept: float
    kept_elsewhere: float
    change: float
    change_elsewhere: float
    right: float | None = None
    right_covered: float | None = None


class Covered(msgspec.Struct, frozen=True, kw_only=True):
    """The effect of covering the cells of a cluster, on its own pictures and on those of each class.

    `cells`: (row, column) on the grid. `area`: the share of the input that is covered. `fill`: what is put there.
    """

    schema: str = "heatcli.mask-out/1"
    cluster: str
    fill: str
    cells: list[tuple[int, int]]
    area: float
    members: Effect
    classes: dict[str, Effect]


@dataclass(eq=False)
class _Rows:
    """Of each picture of a class: whether it is the cluster's, and the numbers that `Effect` has means of."""

    members: list[bool] = field(default_factory=list)
    values: list[list[float]] = field(default_factory=list)  # kept, kept elsewhere, change, change elsewhere, right, …

    def effect(self, only: bool = False) -> Effect:
        """The means, over the cluster's pictures with `only`."""
        rows = np.array([row for row, member in zip(self.values, self.members, strict=True) if member or not only])
        kept, elsewhere, change, change_elsewhere, right, covered = rows.mean(0).tolist()
        known = not np.isnan(right)
        return Effect(
            pictures=len(rows), kept=kept, kept_elsewhere=elsewhere, change=change, change_elsewhere=change_elsewhere,
            right=right if known else None, right_covered=covered if known else None,
        )  # fmt: skip


def cover(model: Model, run: Path, cluster: Cluster, items: Iterable[Item], fill: str = FILL, seed: int = 0) -> Covered:
    """Cover a cluster's cells in every picture of a run, and ask the model again.

    `items`: the explanations of the run. `fill`: a baseline (`heatcli.images.baselines`), by default a blurred picture.
    Raises `UsageError` for a cluster without places of its own, for another model than that of the run, for models
    without classes, and if no picture of the cluster can be read.
    """
    if not cluster.cells:
        raise UsageError(f"{cluster.name}: has no places of its own, so there is nothing to cover")
    names, rng, found = set(cluster.images), np.random.default_rng(seed), dict[str, _Rows]()
    for known, pictures in with_pictures(model, run, items):
        batch = model.preprocess(pictures).to(model.device, model.pictures.dtype)
        filled = fitted(read(fill, model.pictures, batch), batch).batch
        if filled is None:
            raise UsageError(f"--fill {fill} is no picture; use blur, mean, black, zero or an image")
        each = _effects(model, batch, filled, cluster, rng)
        for item, values in zip(known, each, strict=True):
            rows = found.setdefault(item.row.called, _Rows())
            rows.members.append(item.row.image in names)
            rows.values.append([*values[:4], *_right(model, item, values)])
    own = found.get(cluster.label)
    if own is None or not any(own.members):
        raise UsageError(f"{cluster.name}: none of its pictures can be read, so nothing can be covered")
    return Covered(
        cluster=cluster.name, fill=fill, cells=cluster.cells, area=len(cluster.cells) / GRID**2,
        members=own.effect(only=True), classes={label: rows.effect() for label, rows in sorted(found.items())},
    )  # fmt: skip


def _effects(
    model: Model, batch: Tensor, filled: Tensor, cluster: Cluster, rng: np.random.Generator
) -> list[list[float]]:
    """Of each picture: kept, kept elsewhere, the changes of the score, and the answers before and after."""
    cells = np.zeros((GRID, GRID), bool)
    cells[tuple(np.array(cluster.cells).T)] = True
    before = answers(model, batch)
    top = before.argmax(1)
    after = answers(model, _laid(batch, filled, cells))
    others = [answers(model, _laid(batch, filled, _moved(cells, rng))) for _ in range(CONTROLS)]

    def change(scores: Tensor) -> Tensor:
        return (scores - before).gather(1, top[:, None])[:, 0]

    columns = [
        (after.argmax(1) == top).double(), torch.stack([(o.argmax(1) == top).double() for o in others]).mean(0),
        change(after), torch.stack([change(o) for o in others]).mean(0), top.double(), after.argmax(1).double(),
    ]  # fmt: skip
    return torch.stack([column.double() for column in columns], 1).tolist()


def _laid(batch: Tensor, filled: Tensor, cells: NDArray[np.bool_]) -> Tensor:
    """The batch [N, C, H, W] with the cells [GRID, GRID] filled."""
    rows, columns = (torch.arange(side) * GRID // side for side in batch.shape[2:])
    mask = torch.from_numpy(cells)[rows][:, columns].to(batch.device)
    return torch.where(mask, filled, batch)


def _moved(cells: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """The cells moved to another place, around the edges; of ten places the one that has least in common with them."""
    shifts = rng.integers(0, GRID, (10, 2))
    return min((np.roll(cells, shift, (0, 1)) for shift in shifts), key=lambda moved: int((moved & cells).sum()))


def _right(model: Model, item: Item, values: list[float]) -> tuple[float, float]:
    """Whether the answer is the expected one, before and after; not a number if nothing is expected."""
    if item.row.expected is None:
        return float("nan"), float("nan")
    first, second = (float(model.label(int(answer)) == item.row.expected) for answer in values[4:6])
    return first, second
