"""What the model says of the background of each picture, without its object: whether it recognises a class by that.

A background has no place and no pattern of its own. With masks of the objects the model can be asked: the score of a
class on the background alone should be no higher for pictures of the class than for those of other classes.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heatcli.discover.asking import SHARE, Question, Told, answers, with_pictures
from heatcli.discover.features import Maps
from heatcli.discover.rows import Array, Rows, some
from heatcli.discover.suspicion import HIGHEST, MEMBERS, MOST, OTHERS, having
from heatcli.errors import ImageError, UsageError, counted
from heatcli.images.dataset import mask_file, read_mask
from heatcli.images.mean import images_in
from heatcli.images.painted import laid_on, painted_over
from heatcli.model.model import Model
from heatcli.run.index.folder import Item

MOST_OTHER = 8  # backgrounds of a folder that each object is laid on


@dataclass(frozen=True, eq=False)
class Masked:
    """Some pictures with masks.

    `names`: each picture and its explained class. `index`: of that class. `batch`: the network's inputs, [n, C, H, W].
    `mask`: [n, H, W].
    """

    names: list[tuple[str, str]]
    index: list[int]
    batch: Tensor
    mask: Tensor


@dataclass(frozen=True, eq=False)
class Backgrounds:
    """Scores of N pictures, each less the mean over the classes.

    `rows`: (picture, explained class) → its number. `index`: the explained class, int64 [N]. `score`: of it on the
    picture, float32 [N]. `alone`: of each class on the background alone, float32 [classes] each. `other`: of the
    explained class on other backgrounds, the mean over these, float32 [N]; None without any.
    """

    rows: dict[tuple[str, str], int]
    index: NDArray[np.int64]
    score: Array
    alone: Rows
    other: Array | None

    question: Question = "background"
    _numbers: dict[str, NDArray[np.int64]] = field(default_factory=dict, repr=False)

    def of(self, maps: Maps) -> NDArray[np.int64]:
        """The numbers of a class's pictures, -1 for one without a mask: int64 [n]. Each class is looked up once."""
        if maps.label not in self._numbers:
            found = [self.rows.get((name, maps.label), -1) for name in maps.names]
            self._numbers[maps.label] = np.array(found, np.int64)
        return self._numbers[maps.label]

    def told(self, maps: Maps, others: Sequence[Maps]) -> Iterator[Told]:
        """The pictures of a class that the model recognises by the background alone, if they are not few."""
        if (found := telling(maps, others, self)) is not None:
            yield found


def telling(maps: Maps, others: Sequence[Maps], asked: Backgrounds) -> Told | None:
    """The pictures of a class that the model recognises by the background alone; None if there are few.

    They have a higher score of the class there than 99 % of the backgrounds of other classes. `suspicion`, 0..1: the
    score that three quarters of them have there, less what 98 % of those have at most, as a share of the score of the
    picture. `more` says by how much the score changes on other backgrounds, for members and all pictures of the class.
    """
    rows = asked.of(maps)
    elsewhere = np.concatenate([asked.of(other) for other in others])
    known, elsewhere = rows >= 0, elsewhere[elsewhere >= 0]
    if not known.any() or not len(elsewhere):
        return None
    goal = int(asked.index[rows[known][0]])
    other = asked.alone.column(some(elsewhere, OTHERS, np.random.default_rng(0)), goal)
    alone = np.full(len(rows), -np.inf, np.float32)
    alone[known] = asked.alone.column(rows[known], goal)
    members = known & having(alone, other, MEMBERS)
    if members.sum() < SHARE * known.sum():
        return None
    excess = float(np.quantile(alone[members], MOST) - np.quantile(other, HIGHEST))
    whole = float(np.median(asked.score[rows[members]]))
    if excess <= 0 or whole <= 0:
        return None
    more = _fall(asked, rows[members], rows[known])
    return Told("background", min(1.0, excess / whole), members, "on the background", more)


def _fall(asked: Backgrounds, members: NDArray[np.int64], known: NDArray[np.int64]) -> tuple[str, ...]:
    """By how much the score changes on other backgrounds, in words; nothing without any."""
    if asked.other is None:
        return ()
    change = asked.other - asked.score
    own, whole = float(change[members].mean()), float(change[known].mean())
    return (f"on other backgrounds their score changes by {own:+.2f}, by {whole:+.2f} in all of the class",)


def backgrounds(
    model: Model, run: Path, items: Iterable[Item], masks: Path, counter: Path | None, say: Callable[[str], None]
) -> Backgrounds:
    """Ask the model for the backgrounds of all pictures of a run that have a mask.

    `counter`: a folder of other backgrounds that objects are laid on. `say`: called with notes. Raises `UsageError`
    for another model than that of the run, for one without classes, and if no picture has a mask.
    """
    behind = None if counter is None else _given(model, counter, say)
    found = asked_of(model, _masked(model, run, items, masks), behind)
    if found is None:
        raise UsageError(f"{masks}: no picture of {run} can be read together with a mask")
    return found


def asked_of(model: Model, parts: Iterable[Masked], behind: Tensor | None = None) -> Backgrounds | None:
    """Ask the model for the backgrounds of pictures with masks; None if there are none.

    `behind`: backgrounds that the objects are laid on, [B, C, H, W]. Raises `UsageError` for a model without classes.
    """
    rows: dict[tuple[str, str], int] = {}
    alone, index, scores, laid = Rows(np.float32), array("q"), array("f"), array("f")

    def of(pictures: Tensor) -> Tensor:
        found = answers(model, pictures.to(model.device, model.pictures.dtype))
        return (found - found.mean(1, keepdim=True)).float()

    for part in parts:
        goal = torch.tensor(part.index)[:, None]
        for number, name in enumerate(part.names, len(index)):
            rows.setdefault(name, number)
        index.extend(part.index)
        scores.extend(of(part.batch).gather(1, goal)[:, 0].tolist())
        for one in of(painted_over(part.batch, part.mask)).numpy():
            alone.add(one)
        if behind is not None:
            each = [of(laid_on(one, part.batch, part.mask)).gather(1, goal)[:, 0] for one in behind]
            laid.extend(torch.stack(each).mean(0).tolist())
    if not rows:
        return None
    other = np.array(laid, np.float32) if laid else None
    return Backgrounds(rows, np.array(index, np.int64), np.array(scores, np.float32), alone, other)


def _masked(model: Model, run: Path, items: Iterable[Item], masks: Path) -> Iterator[Masked]:
    """The pictures of explanations that have a mask."""
    for items_, pictures in with_pictures(model, run, items):
        kept = []
        for item, picture in zip(items_, pictures, strict=True):
            file, fit = mask_file(Path(picture.path), masks), item.fit
            if file is None or fit is None:
                continue
            try:
                kept.append((item, picture, torch.from_numpy(read_mask(file, picture.size, fit))))
            except ImageError:
                continue  # told when its relevance was read
        if kept:
            batch = model.preprocess([picture for _, picture, _ in kept])
            names = [(item.row.image, item.row.called) for item, _, _ in kept]
            index = [item.row.index or 0 for item, _, _ in kept]
            yield Masked(names, index, batch, torch.stack([mask for _, _, mask in kept]))


def _given(model: Model, folder: Path, say: Callable[[str], None]) -> Tensor:
    """The backgrounds of a folder as the network's input [B, C, H, W]. Raises `UsageError`."""
    paths = list(images_in([folder], False, model.pictures.suffixes))
    if not paths:
        raise UsageError(f"{folder}: no images in this folder of backgrounds")
    if len(paths) > MOST_OTHER:
        say(f"{folder}: {counted(len(paths), 'background')}; {MOST_OTHER} of them are used")
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, MOST_OTHER).astype(int)]
    try:
        return model.preprocess([model.pictures.reader.picture(path) for path in paths])
    except ImageError as error:
        raise UsageError(f"--counter: {error}") from error
