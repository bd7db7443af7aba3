"""What the model says of treated pictures: whether a class is recognised by a treatment, such as a poor JPEG.

A class hangs on a treatment if two things hold. Pictures of *other* classes get its score once they are treated; and
some of its own pictures have the treatment's mark already, more than those of other classes. Either alone is common: a
network takes many things with noise for tigers, and tigers have stripes.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heatcli.artifact.layout import PICTURES
from heatcli.discover.asking import BATCH, SHARE, Question, Told, classes_of, explanations, with_pictures
from heatcli.discover.features import Maps
from heatcli.discover.job import LEAST as SMALLEST
from heatcli.discover.rows import Array
from heatcli.discover.suspicion import LEAST_OTHERS, MEMBERS, MOST, having
from heatcli.discover.treatments import Treatment, View, treatments_for
from heatcli.model.model import Model

ASKED = 256  # the most pictures that are treated
COMPARED = 1000  # the most pictures of other classes whose marks are measured
LEAST = 0.05  # the least suspicion; with marks natural classes reach 0.04, without, by noise, 0.4

Key = tuple[str, str]  # the name of a picture, and its explained class
Numbers = NDArray[np.int64]
Look = Callable[[Numbers], Iterator[tuple[Key, View]]]  # numbers of explanations → those whose pictures can be read
Advance = Callable[[Iterable[tuple[Key, View]]], Iterator[tuple[Key, View]]]


@dataclass(frozen=True, eq=False)
class Sign:
    """A class that other classes' pictures get the score of once they are treated.

    `rise`: what three quarters of them gain at least, beyond what they gain of the median class, as a share of the
    usual score of an explained class. `called`: by how much the share of these grows that the model calls so. `own`:
    (picture, class) → trace of the treatment. `others`: the traces of pictures of other classes, float32 [M].
    """

    treatment: Treatment
    rise: float
    called: float
    own: Mapping[Key, float]
    others: Array


@dataclass(frozen=True, eq=False)
class Treated:
    """The signs of each class."""

    signs: Mapping[str, Sequence[Sign]]
    question: Question = "treatment"

    def told(self, maps: Maps, others: Sequence[Maps]) -> Iterator[Told]:  # noqa: ARG002  (measured with the signs)
        """The pictures of a class with more of a treatment's mark than 99 % of those of other classes, if not few."""
        for sign in self.signs.get(maps.label, ()):
            trace = np.array([sign.own.get((name, maps.label), np.nan) for name in maps.names], np.float32)
            members = having(trace, sign.others, MEMBERS)
            if members.sum() < SHARE * np.isfinite(trace).sum():
                continue
            name, done, mark = sign.treatment.name, sign.treatment.done, sign.treatment.mark
            more = (f"{sign.called:.0%} more of them are called so when {done}",)
            yield Told(name, min(1.0, sign.rise), members, f"with {mark}", more)


@dataclass(frozen=True, eq=False)
class Answers:
    """The model's answers for M pictures and T treatments.

    `goal`: the explained class of each picture, int64 [M]. `score`: of it, less the mean over all classes, float32 [M].
    `top`, `tops`: the class that the model says of each picture, and treated, int64 [M] and [T, M]. `change`: by how
    much the scores of K classes change, float32 [T, M, K].
    """

    goal: Numbers
    score: Array
    top: Numbers
    tops: Numbers
    change: Array

    def rises(self, classes: Sequence[int]) -> Array:
        """What three quarters of the pictures of other classes gain of each of K classes at least, float32 [T, K].

        Less what they gain of the median class, for a treatment that leaves less to see makes all scores more alike. As
        a share of the usual score of an explained class. Not a number for a class without others.
        """
        gain = np.full((len(self.tops), len(classes)), np.nan, np.float32)
        for at, index in enumerate(classes):
            if (others := self.goal != index).any():
                gain[:, at] = np.quantile(self.change[:, others, at], MOST, axis=1)
        usual = np.full_like(gain, np.nan)
        for at in range(len(classes) if len(classes) > 1 else 0):
            usual[:, at] = np.median(np.delete(gain, at, 1), 1)
        found: Array = (gain - usual) / np.float32(max(1e-12, float(np.median(self.score))))
        return found

    def called(self, treatment: int, index: int) -> float:
        """By how much the share of pictures of other classes that the model calls a class grows."""
        others = self.goal != index
        grown = (self.tops[treatment] == index).astype(int) - (self.top == index)
        return float(grown[others].mean())


def treated(
    model: Model, run: Path, say: Callable[[str], None], advance: Advance = iter, seed: int = 0
) -> Treated | None:
    """Ask the model about treated pictures of a run; None if that cannot be asked, which is told by `say`.

    `advance`: what the pictures that are treated pass through. Raises `UsageError` for another model than that of the
    run.
    """
    index: dict[str, int] = {}
    numbers: dict[str, array[int]] = {}
    for number, item in enumerate(explanations(run)):
        label = item.row.called
        index.setdefault(label, item.row.index or 0)
        numbers.setdefault(label, array("q")).append(number)

    def look(chosen: Numbers) -> Iterator[tuple[Key, View]]:
        wanted = set(chosen.tolist())
        items = (item for number, item in enumerate(explanations(run)) if number in wanted)
        for known, pictures in with_pictures(model, run, items):
            for item, picture in zip(known, pictures, strict=True):
                key = item.row.image, item.row.called
                yield key, View(picture.pixels, model.pictures.picture_fit)

    classes = {label: np.array(own, np.int64) for label, own in numbers.items()}
    return treated_of(model, classes, index, look, say, advance, seed)


def treated_of(
    model: Model, classes: Mapping[str, Numbers], index: Mapping[str, int], look: Look,
    say: Callable[[str], None], advance: Advance = iter, seed: int = 0,
) -> Treated | None:  # fmt: skip
    """The same for any pictures. `classes`: label → the numbers of its pictures. `index`: label → the class."""
    if model.pictures.layout != PICTURES:
        return None
    rng, kinds, labels = np.random.default_rng(seed), treatments_for(model.shape[0]), list(classes)
    goals = [index[label] for label in labels]
    answers = _answers(model, kinds, index, goals, advance(look(evenly(list(classes.values()), ASKED, rng))))
    if answers is None:
        say(f"{model.path}: is not asked about treated pictures: it gives no scores of classes, or none can be read")
        return None
    rises = np.nan_to_num(answers.rises(goals))
    rises[:, [len(own) < SMALLEST for own in classes.values()]] = 0
    found = np.argwhere(rises >= LEAST).tolist()
    if not found:
        return Treated({})
    used = [kinds[at] for at in sorted({at for at, _ in found})]
    others = _traces(used, look(evenly(list(classes.values()), COMPARED, rng)))
    own = _traces(used, look(np.sort(np.concatenate([classes[labels[k]] for k in sorted({k for _, k in found})]))))
    signs: dict[str, list[Sign]] = {}
    for at, k in found:
        name, label = kinds[at].name, labels[k]
        beside = np.array([value for (_, other), value in others[name].items() if other != label], np.float32)
        if len(beside) >= LEAST_OTHERS:
            called = answers.called(at, goals[k])
            signs.setdefault(label, []).append(Sign(kinds[at], float(rises[at, k]), called, own[name], beside))
    return Treated(signs)


def evenly(groups: Sequence[Numbers], most: int, rng: np.random.Generator) -> Numbers:
    """At most `most` of the numbers in groups, as many of each as there are, in order: int64."""
    turns = np.concatenate([np.arange(len(own)) + rng.random() for own in groups])
    mixed = np.concatenate([rng.permutation(own) for own in groups])
    return np.sort(mixed[np.argsort(turns, kind="stable")[:most]])


def _answers(
    model: Model, kinds: Sequence[Treatment], index: Mapping[str, int], classes: Sequence[int],
    views: Iterator[tuple[Key, View]],
) -> Answers | None:  # fmt: skip
    """Ask the model about pictures as they are, and treated; None if it gives no scores of classes, or for none."""
    goal, parts = list[int](), list[list[Array]]()
    while chunk := list(islice(views, BATCH)):
        of = [view.fitted for _, view in chunk], *([kind.of(view) for _, view in chunk] for kind in kinds)
        scores = [classes_of(model, model.pictures.stack(each)) for each in of]
        if any(each is None for each in scores):
            return None
        goal += [index[label] for (_, label), _ in chunk]
        parts.append([(each - each.mean(1, keepdim=True)).float().numpy() for each in scores if each is not None])
    if not goal:
        return None
    plain, *treated_ = (np.concatenate(each) for each in zip(*parts, strict=True))
    goals, rows = np.array(goal, np.int64), np.arange(len(goal))
    return Answers(
        goals, plain[rows, goals], plain.argmax(1), np.stack([each.argmax(1) for each in treated_]),
        np.stack([(each - plain)[:, classes] for each in treated_]),
    )  # fmt: skip


def _traces(kinds: Sequence[Treatment], views: Iterable[tuple[Key, View]]) -> dict[str, dict[Key, float]]:
    """Treatment → (picture, class) → its trace."""
    found: dict[str, dict[Key, float]] = {kind.name: {} for kind in kinds}
    for key, view in views:
        for kind in kinds:
            found[kind.name][key] = kind.trace(view)
    return found
