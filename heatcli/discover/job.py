"""Clusters of the maps in a folder of explanations, ranked by suspicion, with the reasons."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from heatcli.discover.background import Backgrounds, telling
from heatcli.discover.clusters import Grouping, apart, group, layout
from heatcli.discover.features import GRID, Advance, Array, Maps, pooled, read
from heatcli.discover.patterns import COMPARED, SEARCHED, pattern_of
from heatcli.discover.suspicion import LEAST_OTHERS, Own, own_places, usual
from heatcli.errors import UsageError, counted
from heatcli.report.schema import BaselinePart, MethodPart

LEAST = 20  # the least number of pictures of a class
MEDOIDS = 6  # pictures shown of a cluster
SMALLEST = 3  # the least number of pictures of a cluster
NAME: Literal["heatcli.clusters/1"] = "heatcli.clusters/1"

By = Literal["places", "pattern", "background"]
Say = Callable[[str], None]


WHY = {
    "places": "three quarters of its pictures have {:.1%} of their relevance {}, beyond what 98% of the pictures of "
    "other classes have there",
    "pattern": "three quarters of its pictures have {:.1%} of their fine detail in one pattern {}, beyond what 98% of "
    "the pictures of other classes have of it",
    "background": "the backgrounds alone give three quarters of its pictures {:.1%} of their score, beyond what 98% of "
    "the backgrounds of other classes give",
}


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster of maps of a class.

    `by`: what the cluster has of its own. `suspicion`, 0..1: for `places`, the share of relevance that three quarters
    of the cluster's pictures have in cells where 98 % of the pictures of other classes have less
    (`heatcli.discover.suspicion`); for a `pattern`, the same of the share of the fine detail that is one pattern
    (`heatcli.discover.patterns`); for a `background`, the share of the score that it gives alone
    (`heatcli.discover.background`). If it is above 0, `images` are all pictures of the class with relevance in these
    cells, or with the pattern. `share`: of the class's pictures. `place`: where these cells lie, in words.
    `separation`: the mean silhouette, -1..1. `constancy`: the similarity of the maps in place, 0..1: the mean
    Bhattacharyya coefficient of two of them. `stability`: of the clustering of the class under random parts of it
    (adjusted Rand index). `medoids`: the pictures nearest to the mean map. `mean_map`: the mean share of each cell in
    the positive relevance, GRID × GRID. `cells`: (row, column) of the cells of its own; none if the suspicion is 0.
    `accuracy`: the share of pictures with the expected label. `bias_share`: the mean share of the score that biases
    take. Both null if unknown.
    """

    name: str
    label: str
    by: By = "places"
    size: int
    share: float
    suspicion: float
    separation: float
    constancy: float
    stability: float
    place: str
    reasons: list[str]
    medoids: list[str]
    images: list[str]
    cells: list[tuple[int, int]]
    mean_map: list[list[float]]
    accuracy: float | None = None
    bias_share: float | None = None


class Dots(msgspec.Struct, frozen=True, kw_only=True):
    """A class as a scatter: for each picture a place in 0..1, and the name of its cluster; null if it is in none.

    A picture that is in several clusters has the most suspicious one.
    """

    images: list[str]
    x: list[float]
    y: list[float]
    clusters: list[str | None]


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """All clusters of a run, the most suspicious first.

    `skipped`: class with too few pictures → their number. `layout`: class → its scatter.
    """

    schema: Literal["heatcli.clusters/1"] = NAME
    run: str
    seed: int
    method: MethodPart
    baseline: BaselinePart
    clusters: list[Cluster]
    skipped: dict[str, int]
    layout: dict[str, Dots] = {}


@dataclass(frozen=True, eq=False)
class Shown:
    """A cluster, and the paths of its medoids for drawing."""

    cluster: Cluster
    medoids: list[Path]


def discover(
    run: Path, classes: tuple[str, ...] = (), seed: int = 0, say: Say = lambda _: None, advance: Advance = iter,
    masks: Path | None = None, asked: Backgrounds | None = None,
) -> tuple[Found, list[Shown]]:  # fmt: skip
    """Cluster each class of a finished run in the folder `run`.

    `classes`: labels of the classes to cluster; empty for all. `say`: called with notes. `advance`, `masks`: as
    `heatcli.discover.features.read` takes them. `asked`: what the model says of the backgrounds. Raises `UsageError`
    for an unknown class, for too few pictures, and if scikit-learn is not installed.
    """
    maps, how = read(run, say, advance, masks)
    if unknown := [name for name in classes if name not in {one.label for one in maps}]:
        known = ", ".join(one.label for one in maps)
        raise UsageError(f"{run}: no picture is explained as {unknown[0]}; explained classes: {known}")
    skipped = too_few(maps)
    for label, count in skipped.items():
        if not classes or label in classes:
            say(f"{label}: {counted(count, 'picture')}, fewer than {LEAST}; skipped")
    found = clustered(str(run), maps, classes, seed, asked)
    return Found(
        run=str(run), seed=seed, method=how.method, baseline=how.baseline,
        clusters=[shown.cluster for shown in found], skipped=skipped,
        layout={one.label: dots(one, found) for one in maps if any(s.cluster.label == one.label for s in found)},
    ), found  # fmt: skip


def too_few(maps: Sequence[Maps]) -> dict[str, int]:
    """The classes with too few pictures for groups, and how many these are."""
    return {one.label: len(one.names) for one in maps if len(one.names) < LEAST}


def dots(maps: Maps, found: Sequence[Shown]) -> Dots:
    """The scatter of a class. `found`: the clusters, the most suspicious first."""
    places = layout(_features(maps)).round(4)
    cluster_of: dict[str, str] = {}
    for own in (shown.cluster for shown in found if shown.cluster.label == maps.label):
        for name in own.images:
            cluster_of.setdefault(name, own.name)
    return Dots(
        images=maps.names, x=places[:, 0].tolist(), y=places[:, 1].tolist(),
        clusters=[cluster_of.get(name) for name in maps.names],
    )  # fmt: skip


def _features(maps: Maps) -> Array:
    """The features of maps, float32 [N, GRID²]: roots, so that their distance is the Hellinger distance."""
    return np.sqrt(maps.places).reshape(len(maps.names), -1)


def clustered(
    source: str, maps: Sequence[Maps], classes: tuple[str, ...] = (), seed: int = 0, asked: Backgrounds | None = None
) -> list[Shown]:
    """The clusters of each class with enough pictures, the most suspicious first.

    `source`: where the maps come from, for errors. `asked`: what the model says of the backgrounds. Raises `UsageError`
    for too few pictures, and if scikit-learn is not installed.
    """
    found = list[Shown]()
    for one in maps:
        if (classes and one.label not in classes) or len(one.names) < LEAST:
            continue
        others = [other for other in maps if other is not one]
        count = sum(len(other.names) for other in others)
        if count < LEAST_OTHERS:
            raise UsageError(
                f"{source}: has {count} pictures of other classes than {one.label}; at least {LEAST_OTHERS} are needed "
                "to say what is unusual, so explain more of them"
            )
        found += clusters_of(one, others, seed, asked)
    if not found:
        raise UsageError(f"{source}: no class has {LEAST} pictures, so there is nothing to cluster; give more pictures")
    return sorted(found, key=lambda shown: (-shown.cluster.suspicion, -shown.cluster.separation))


def clusters_of(
    maps: Maps, others: Sequence[Maps], seed: int = 0, asked: Backgrounds | None = None
) -> Iterator[Shown]:  # fmt: skip
    """The clusters of the maps of a class, beside the maps of other classes; then its pattern, and its background.

    A cluster with places of its own that has half of its pictures in common with those of the pattern is one with it:
    its pictures are those with the pattern, which tells them apart more sharply.
    """
    features = _features(maps)
    grouping, places = group(features, seed), np.concatenate([one.places for one in others])
    usually, pattern, again = usual(places), _pattern(maps, others, seed), False
    for k in range(int(grouping.labels.max()) + 1):
        chosen = grouping.labels == k
        if chosen.sum() < SMALLEST:
            continue
        own = own_places(maps.places, chosen, places, usually)
        if own.suspicion and pattern is not None and alike(own.members, pattern.members):
            own, again = replace(own, members=pattern.members), True
        separation = float(grouping.silhouette[chosen].mean())
        yield _cluster(maps, features, own, f"{maps.label}/{k}", separation, grouping)
    if pattern is not None and not again:
        separation = apart(features, pattern.members)
        yield _cluster(maps, features, pattern, f"{maps.label}/pattern", separation, grouping, "pattern")
    if asked is not None and (told := telling(maps, others, asked)) is not None:
        own = Own(told.suspicion, np.zeros((GRID, GRID), np.float32), told.members)
        separation = apart(features, told.members)
        yield _cluster(
            maps, features, own, f"{maps.label}/background", separation, grouping, "background", told.reasons()
        )


def alike(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> bool:
    """Whether two groups have half of their pictures in common."""
    return 2 * int((a & b).sum()) >= int((a | b).sum())


def _pattern(maps: Maps, others: Sequence[Maps], seed: int) -> Own | None:
    """The pictures of a class that have a pattern of their own, and where it lies; None if there is none.

    It is looked for in `SEARCHED` maps of the class and `COMPARED` of others at most, so that memory does not grow.
    """
    if maps.details is None:
        return None
    rng, rows = np.random.default_rng(seed), maps.details.rows

    def some(numbers: NDArray[np.int64], most: int) -> NDArray[np.int64]:
        return numbers if len(numbers) <= most else np.sort(rng.choice(numbers, most, replace=False))

    searched = some(maps.numbers, SEARCHED)
    compared = some(np.concatenate([one.numbers for one in others]), COMPARED)
    found = pattern_of(rows(searched), rows(compared), SMALLEST)
    if found is None:
        return None
    members = found.members
    if len(searched) < len(maps.numbers):
        starts = range(0, len(maps.numbers), SEARCHED)
        members = np.concatenate([found.held_by(rows(maps.numbers[at : at + SEARCHED])) for at in starts])
    energy = pooled(np.square(found.common, dtype=np.float64).reshape(maps.details.shape))
    return Own(found.suspicion, (energy - 1 / GRID**2).clip(min=0), members)


def _cluster(
    maps: Maps, features: Array, own: Own, name: str, separation: float, grouping: Grouping, by: By = "places",
    more: Sequence[str] = (),
) -> Shown:  # fmt: skip
    """A cluster as a record. `own`: its members, its suspicion, and the cells in which it has more than other classes.

    `more`: what is added to the first reason.
    """
    rows = np.flatnonzero(own.members)
    mean, roots = maps.places[rows].mean(0), features[rows]
    constancy = float(np.sum(roots.mean(0) ** 2))
    order = rows[np.argsort(((roots - roots.mean(0)) ** 2).sum(1), kind="stable")][:MEDOIDS]
    place = "on the background" if by == "background" else place_of(own.excess)
    accuracy, bias_share = _mean(maps.right[rows]), _mean(maps.bias_shares[rows])
    cluster = Cluster(
        name=name, label=maps.label, by=by, size=len(rows), share=len(rows) / len(maps.names),
        suspicion=own.suspicion, separation=separation, constancy=constancy, stability=grouping.stability, place=place,
        reasons=[
            "; ".join([WHY[by].format(own.suspicion, place), *more])
            if own.suspicion
            else "its relevance lies at no places of its own",
            f"its maps are alike in place by {constancy:.2f} of 1",
            f"it lies apart from the rest of its class by {separation:.2f} (silhouette)",
            *_beside("its pictures have the expected label in", accuracy, _mean(maps.right)),
            *_beside("biases take, of its scores,", bias_share, _mean(maps.bias_shares)),
            *_beside("of its relevance, outside the masks lie", _mean(maps.outside[rows]), _mean(maps.outside)),
        ],
        medoids=[maps.names[i] for i in order], images=[maps.names[i] for i in rows],
        cells=[(int(y), int(x)) for y, x in np.argwhere(own.excess > 0)] if own.suspicion else [],
        mean_map=[[round(float(x), 6) for x in line] for line in mean], accuracy=accuracy, bias_share=bias_share,
    )  # fmt: skip
    return Shown(cluster, [path for i in order if (path := maps.pictures[i]) is not None])


def _mean(values: NDArray[np.float64]) -> float | None:
    """The mean of the known values; None if there is none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _beside(what: str, own: float | None, of_class: float | None) -> Iterator[str]:
    """A reason with a share of the group and of its class, if both are known."""
    if own is not None and of_class is not None:
        yield f"{what} {own:.0%}, {of_class:.0%} in its class"


def place_of(mass: Array) -> str:
    """Where most of a mass [GRID, GRID] lies, in words: a corner, the border, or inside."""
    quarter, total = GRID // 4, float(mass.sum())
    if total == 0:
        return "nowhere"
    near, far = slice(0, quarter), slice(GRID - quarter, GRID)
    corners = {
        "in the upper left corner": mass[near, near], "in the upper right corner": mass[near, far],
        "in the lower left corner": mass[far, near], "in the lower right corner": mass[far, far],
    }  # fmt: skip
    name, part = max(corners.items(), key=lambda corner: float(corner[1].sum()))
    if float(part.sum()) > 0.5 * total:
        return name
    edge = GRID // 8
    inner = float(mass[edge : GRID - edge, edge : GRID - edge].sum())
    return "at the border" if inner < 0.5 * total else "inside the picture"
