"""Clusters of the maps in a folder of explanations, ranked by suspicion, with the reasons."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from heatcli.discover.asking import Asked
from heatcli.discover.clusters import Grouping
from heatcli.discover.features import GRID, Advance, Maps, read
from heatcli.discover.groups import LANDMARKS, By, Group, features_of, groups_of, plane, within
from heatcli.discover.rows import Array, some
from heatcli.discover.suspicion import LEAST_OTHERS
from heatcli.errors import UsageError, counted, unknown_name
from heatcli.report.schema import BaselinePart, MethodPart

LEAST = 20  # the least number of pictures of a class
MEDOIDS = 6  # pictures shown of a cluster
NAMED = 5  # the most classes with too few pictures that are named one by one
NAME: Literal["heatcli.clusters/1"] = "heatcli.clusters/1"

Say = Callable[[str], None]


WHY = {
    "places": "three quarters of its pictures have {:.1%} of their relevance {}, beyond what 98% of the pictures of "
    "other classes have there",
    "pattern": "three quarters of its pictures have {:.1%} of their fine detail in one pattern {}, beyond what 98% of "
    "the pictures of other classes have of it",
    "background": "the backgrounds alone give three quarters of its pictures {:.1%} of their score, beyond what 98% of "
    "the backgrounds of other classes give",
    "treatment": "its pictures come {1} than 99% of the pictures of other classes; treated alike, three quarters of "
    "these gain {0:.1%} of a usual score for this class, beyond what they gain for the median class",
}


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster of maps of a class.

    `by`: what the cluster has of its own. `also`: other such things that mostly the same pictures have; there is a
    reason for each, and `suspicion` is the largest. `within`: the name of a larger group with most of its pictures.
    `suspicion`, 0..1: for `places`, the share of relevance that three quarters
    of the cluster's pictures have in cells where 98 % of the pictures of other classes have less
    (`heatcli.discover.suspicion`); for a `pattern`, the same of the share of the fine detail that is one pattern
    (`heatcli.discover.patterns`); for a `background`, the share of the score that it gives alone
    (`heatcli.discover.background`); for a treatment, such as `jpeg`, the share that it gives pictures of other classes
    (`heatcli.discover.treated`). If it is above 0, `images` are all pictures of the class with relevance in these
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
    also: list[By] = []
    within: str | None = None
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

    @property
    def kinds(self) -> tuple[By, ...]:
        """What its pictures have of their own."""
        return (self.by, *self.also)

    @property
    def why(self) -> list[str]:
        """The reasons that say what the cluster has of its own, one for each kind, the most suspicious first."""
        return self.reasons[: 1 + len(self.also)]


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

    `backgrounds`, `treatments`: whether the model was asked for the backgrounds, with masks, and treated pictures.
    `skipped`: class with too few pictures → their number. `layout`: class → its scatter.
    """

    schema: Literal["heatcli.clusters/1"] = NAME
    run: str
    seed: int
    method: MethodPart
    baseline: BaselinePart
    backgrounds: bool = False
    treatments: bool = False
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
    masks: Path | None = None, asked: Sequence[Asked] = (),
) -> tuple[Found, list[Shown]]:  # fmt: skip
    """Cluster each class of a finished run in the folder `run`.

    `classes`: labels of the classes to cluster; empty for all. `say`: called with notes. `advance`, `masks`: as
    `heatcli.discover.features.read` takes them. `asked`: what the model says of backgrounds and treated pictures.
    Raises `UsageError` for an unknown class, for too few pictures, and if scikit-learn is not installed.
    """
    maps, how = read(run, say, advance, masks)
    labels = [one.label for one in maps]
    if unknown := [name for name in classes if name not in labels]:
        raise unknown_name(f"class in {run}", unknown[0], labels, "; no picture is explained as it")
    skipped = too_few(maps)
    for text in told_of({label: count for label, count in skipped.items() if not classes or label in classes}):
        say(f"{text}; skipped")
    found = clustered(str(run), maps, classes, seed, asked)
    return Found(
        run=str(run), seed=seed, method=how.method, baseline=how.baseline,
        backgrounds=any(one.question == "background" for one in asked),
        treatments=any(one.question == "treatment" for one in asked),
        clusters=[shown.cluster for shown in found], skipped=skipped,
        layout={one.label: dots(one, found, seed) for one in maps if any(s.cluster.label == one.label for s in found)},
    ), found  # fmt: skip


def too_few(maps: Sequence[Maps]) -> dict[str, int]:
    """The classes with too few pictures for groups, and how many these are."""
    return {one.label: len(one.names) for one in maps if len(one.names) < LEAST}


def told_of(skipped: Mapping[str, int]) -> Iterator[str]:
    """Classes with too few pictures in words: each with its number, or more than `NAMED` of them in one line."""
    if len(skipped) > NAMED:
        total = counted(sum(skipped.values()), "picture")
        yield f"{len(skipped):,} classes of {total} have fewer than {LEAST} each"
        return
    for label, count in skipped.items():
        yield f"{label}: {counted(count, 'picture')}, fewer than {LEAST}"


def dots(maps: Maps, found: Sequence[Shown], seed: int) -> Dots:
    """The scatter of a class. `found`: the clusters, the most suspicious first."""
    places = plane(maps, seed).round(4)
    cluster_of: dict[str, str] = {}
    for own in (shown.cluster for shown in found if shown.cluster.label == maps.label):
        for name in own.images:
            cluster_of.setdefault(name, own.name)
    return Dots(
        images=maps.names, x=places[:, 0].tolist(), y=places[:, 1].tolist(),
        clusters=[cluster_of.get(name) for name in maps.names],
    )  # fmt: skip


def clustered(
    source: str, maps: Sequence[Maps], classes: tuple[str, ...] = (), seed: int = 0, asked: Sequence[Asked] = ()
) -> list[Shown]:
    """The clusters of each class with enough pictures, the most suspicious first.

    `source`: where the maps come from, for errors. `asked`: what the model says of backgrounds and treated pictures.
    Raises `UsageError` for too few pictures, and if scikit-learn is not installed.
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


def clusters_of(maps: Maps, others: Sequence[Maps], seed: int = 0, asked: Sequence[Asked] = ()) -> Iterator[Shown]:
    """The groups of a class as records, beside the maps of other classes."""
    groups, grouping = groups_of(maps, others, seed, asked)
    for one in groups:
        yield _cluster(maps, one, groups, grouping, seed)


def _cluster(maps: Maps, own: Group, groups: Sequence[Group], grouping: Grouping, seed: int) -> Shown:
    """A group as a record. `groups`: all groups of the class. Of a large one, the mean map is that of a sample."""
    rows = np.flatnonzero(own.members)
    drawn = some(rows, LANDMARKS, np.random.default_rng(seed))
    places = maps.places(drawn)
    roots, mean = features_of(places), places.mean(0)
    constancy = float(np.sum(roots.mean(0) ** 2))
    order = drawn[np.argsort(((roots - roots.mean(0)) ** 2).sum(1), kind="stable")][:MEDOIDS]
    around, accuracy, bias_share = within(own, groups), _mean(maps.right[rows]), _mean(maps.bias_shares[rows])
    cluster = Cluster(
        name=f"{maps.label}/{own.name}", label=maps.label, by=own.by, also=[one.by for one in own.also],
        within=None if around is None else f"{maps.label}/{around.name}", size=len(rows), share=len(rows) / len(maps),
        suspicion=own.kinds[0].suspicion, separation=own.separation, constancy=constancy,
        stability=grouping.stability, place=_place(own),
        reasons=[
            *(_why(own, one) for one in own.kinds),
            f"its maps are alike in place by {constancy:.2f} of 1",
            f"it lies apart from the rest of its class by {own.separation:.2f} (silhouette)",
            *_beside("its pictures have the expected label in", accuracy, _mean(maps.right)),
            *_beside("biases take, of its scores,", bias_share, _mean(maps.bias_shares)),
            *_beside("of its relevance, outside the masks lie", _mean(maps.outside[rows]), _mean(maps.outside)),
        ],
        medoids=[maps.names[i] for i in order], images=[maps.names[i] for i in rows],
        cells=[(int(y), int(x)) for y, x in np.argwhere(own.excess > 0)] if own.suspicion else [],
        mean_map=[[round(float(x), 6) for x in line] for line in mean], accuracy=accuracy, bias_share=bias_share,
    )  # fmt: skip
    return Shown(cluster, [Path(path) for i in order if (path := maps.pictures[i]) is not None])


def _place(own: Group) -> str:
    return own.place or place_of(own.excess)


def _why(own: Group, kind: Group) -> str:
    """What a group has of its own; `kind`: the group itself, or one with mostly the same pictures."""
    if not kind.suspicion:
        return "its relevance lies at no places of its own"
    why = "; ".join([WHY.get(kind.by, WHY["treatment"]).format(kind.suspicion, _place(kind)), *kind.more])
    both, count, size = (int(each.sum()) for each in (own.members & kind.members, kind.members, own.members))
    others = f" and {counted(count - both, 'other')}" if count > both else ""
    return why if both == size and not others else f"{both} of its {counted(size, 'picture')}{others}: {why}"


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
