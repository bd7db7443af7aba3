"""The groups of a class: clusters with places of their own, a pattern, what a model tells; each set of pictures once.

A large class is sampled, so that time and memory do not grow with its square: clusters are those of `LANDMARKS`
pictures, and each other picture is in the cluster of the nearest of these. A class of no more pictures has no sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from heatcli.discover.asking import Asked, Kind
from heatcli.discover.clusters import Grouping, apart, group, layout, nearest
from heatcli.discover.features import GRID, Maps, pooled
from heatcli.discover.patterns import COMPARED, SEARCHED, pattern_of
from heatcli.discover.rows import Array, some
from heatcli.discover.suspicion import OTHERS, own_places, relevance_in, usual

SMALLEST = 3  # the least number of pictures of a cluster
LANDMARKS = 2000  # the most pictures of a class that are clustered
NEAR = 5  # landmarks between which a picture lies in the plane
SAME = 0.5  # groups with this Jaccard index are one
WITHIN = 0.9  # of a group's pictures in a larger one: it is named

By = Literal["places", "pattern"] | Kind


@dataclass(frozen=True, eq=False)
class Group:
    """A group of the N pictures of a class.

    `name`: the number of a cluster, or what the group has of its own, `by`. `members`, bool [N]. `excess`, [GRID,
    GRID]: the cells in which it has more than other classes, zero where a model told. `separation`: the mean
    silhouette. `place`: where it is, in words, if that is no matter of cells. `more`: what is added to the reason.
    `also`: groups of another kind with mostly the same pictures.
    """

    name: str
    by: By
    suspicion: float
    members: NDArray[np.bool_]
    excess: Array
    separation: float
    place: str = ""
    more: tuple[str, ...] = ()
    also: tuple[Group, ...] = ()

    @property
    def kinds(self) -> list[Group]:
        """The group and those in `also`, the most suspicious first."""
        return sorted((self, *self.also), key=lambda one: -one.suspicion)

    def joined(self, other: Group) -> Group:
        """One group of two with mostly the same pictures; a pattern tells them apart most sharply."""
        if other.by == self.by:
            return max(self, other, key=lambda one: one.suspicion)
        members = other.members if other.by == "pattern" else self.members
        return replace(self, members=members, also=(*self.also, other))


@dataclass(frozen=True, eq=False)
class Landmarks:
    """The pictures of a class of N that are clustered. `rows`: int64 [L]. `features`: float32 [L, GRID²]."""

    maps: Maps
    rows: NDArray[np.int64]
    features: Array

    @classmethod
    def of(cls, maps: Maps, seed: int) -> Landmarks:
        """All pictures of a class, or a sample of `LANDMARKS`."""
        rows = some(np.arange(len(maps)), LANDMARKS, np.random.default_rng(seed))
        return cls(maps, rows, features_of(maps.places(rows)))

    def extended(self, values: NDArray[np.generic], count: int) -> NDArray[np.generic]:
        """The values of all pictures, [N, …], from those of the landmarks [L, …].

        Of another picture, the mean of its `count` nearest landmarks; with 1, the value of the nearest.
        """
        if len(self.rows) == len(self.maps):
            return values

        def of(places: Array) -> NDArray[np.generic]:
            near = nearest(self.features, features_of(places), count)
            return values[near[:, 0]] if count == 1 else values[near].mean(1)

        found = self.maps.each(of)
        found[self.rows] = values
        return found


def features_of(places: Array) -> Array:
    """The features of maps, float32 [N, GRID²]: roots, so that their distance is the Hellinger distance."""
    return np.sqrt(places).reshape(len(places), -1)


def plane(maps: Maps, seed: int) -> NDArray[np.float64]:
    """A place for each picture of a class, float64 [N, 2] in 0..1 (`heatcli.discover.clusters.layout`)."""
    landmarks = Landmarks.of(maps, seed)
    return np.asarray(landmarks.extended(layout(landmarks.features), NEAR), np.float64)


def groups_of(
    maps: Maps, others: Sequence[Maps], seed: int = 0, asked: Sequence[Asked] = ()
) -> tuple[list[Group], Grouping]:
    """The groups of a class, beside the maps of other classes, and the clustering that they come from.

    Two groups with a suspicion and mostly the same pictures are one.
    """
    landmarks = Landmarks.of(maps, seed)
    grouping = group(landmarks.features, seed)
    found = [*_by_places(landmarks, grouping, others, seed), *_by_pattern(landmarks, others, seed)]
    for told in chain.from_iterable(one.told(maps, others) for one in asked):
        nowhere, far = np.zeros((GRID, GRID), np.float32), apart(landmarks.features, told.members[landmarks.rows])
        found.append(Group(told.by, told.by, told.suspicion, told.members, nowhere, far, told.place, told.more))
    return merged(found), grouping


def merged(groups: Iterable[Group]) -> list[Group]:
    """The groups, with those joined that have a suspicion and a Jaccard index of at least `SAME`."""
    found = list[Group]()
    for one in groups:
        twin = next((i for i, other in enumerate(found) if one.suspicion and other.suspicion and alike(one, other)), -1)
        if twin < 0:
            found.append(one)
        else:
            found[twin] = found[twin].joined(one)
    return found


def alike(one: Group, other: Group) -> bool:
    """Whether two groups have mostly the same pictures: `SAME` of those in either are in both."""
    return int((one.members & other.members).sum()) >= SAME * int((one.members | other.members).sum())


def within(one: Group, groups: Iterable[Group]) -> Group | None:
    """The larger group with a suspicion that has `WITHIN` of the pictures of one with a suspicion; None without."""
    size = int(one.members.sum())
    for other in groups:
        if other is one or not (one.suspicion and other.suspicion) or int(other.members.sum()) <= size:
            continue
        if int((one.members & other.members).sum()) >= WITHIN * size:
            return other
    return None


def _by_places(landmarks: Landmarks, grouping: Grouping, others: Sequence[Maps], seed: int) -> Iterator[Group]:
    """The clusters of a class; those with places of their own have all pictures with relevance there."""
    maps, elsewhere = landmarks.maps, _places_of(others, seed)
    usually, places = usual(elsewhere), maps.places(landmarks.rows)
    labels = landmarks.extended(grouping.labels, 1)
    for k in range(int(grouping.labels.max()) + 1):
        chosen = grouping.labels == k
        if chosen.sum() < SMALLEST:
            continue

        def inside(cells: NDArray[np.bool_]) -> Array:
            return maps.each(partial(relevance_in, cells=cells))

        own = own_places(places[chosen], np.asarray(labels == k), elsewhere, usually, inside)
        separation = float(grouping.silhouette[chosen].mean())
        yield Group(str(k), "places", own.suspicion, own.members, own.excess, separation)


def _places_of(others: Sequence[Maps], seed: int) -> Array:
    """The maps of other classes, float32 [M, GRID, GRID]; a sample of `OTHERS` if there are more."""
    numbers = np.concatenate([one.numbers for one in others])
    return others[0].kept(some(numbers, OTHERS, np.random.default_rng(seed)))


def _by_pattern(landmarks: Landmarks, others: Sequence[Maps], seed: int) -> Iterator[Group]:
    """The pictures of a class that have a pattern of their own, and where it lies.

    It is looked for in `SEARCHED` maps of the class and `COMPARED` of others at most, so that memory does not grow.
    """
    maps = landmarks.maps
    if maps.details is None:
        return
    rng, rows = np.random.default_rng(seed), maps.details.rows
    searched = some(maps.numbers, SEARCHED, rng)
    compared = some(np.concatenate([one.numbers for one in others]), COMPARED, rng)
    found = pattern_of(rows(searched), rows(compared), SMALLEST)
    if found is None:
        return
    members = found.members
    if len(searched) < len(maps):
        starts = range(0, len(maps), SEARCHED)
        members = np.concatenate([found.held_by(rows(maps.numbers[at : at + SEARCHED])) for at in starts])
    energy = pooled(np.square(found.common, dtype=np.float64).reshape(maps.details.shape))
    excess = (energy - 1 / GRID**2).clip(min=0)
    yield Group(
        "pattern", "pattern", found.suspicion, members, excess, apart(landmarks.features, members[landmarks.rows])
    )
