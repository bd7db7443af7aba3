"""A fixed pattern: fine detail that many maps of a class have at the same pixels, as a watermark, a logo or a grid has.

A natural thing lies a little elsewhere in each picture, so the fine detail of two natural maps has nothing in common,
also where both lie at the same place of a coarse grid. The matrix of the cosines of N such maps has its largest
eigenvalue near 2σ√N, where σ² is the mean square of a cosine (Füredi & Komlós 1981). A pattern in k maps adds about k
times the mean cosine of two of them (a spiked matrix).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from heatcli.discover.rows import Array, Rows
from heatcli.discover.suspicion import HIGHEST, MEMBERS, MOST, having

FINEST = 96  # the most cells of a side
NARROW, WIDE = 0.5, 2.0  # cells; detail is what a blur by the first keeps and one by the second takes away
STRONG = 3.0  # times 2σ√N; natural classes of the measured networks stay below 2.4
LEAST = 0.01  # the least suspicion; natural classes reach 0.5 %, and their eigenvalue grows with their size
DEVIATIONS = 4.0  # standard deviations above the number of members that comes by chance
SEARCHED, COMPARED = 1000, 2000  # the most pictures that are searched, of the class and of other classes
ROUNDS = 10


@cache
def shares(side: int, grid: int) -> NDArray[np.float64]:
    """The part of each of `side` pixels that lies in each of `grid` cells, float64 [grid, side]."""
    edges = np.linspace(0, side, grid + 1)
    pixel = np.arange(side)
    overlap: NDArray[np.float64] = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return overlap.clip(min=0)


def detail(pixels: NDArray[np.float64], shape: tuple[int, int]) -> Array:
    """The fine detail of the positive relevance of [H, W], pooled by area to `shape`: a unit vector, float32 [S].

    All zero if there is none.
    """
    from scipy.ndimage import gaussian_filter

    down, across = (shares(side, grid) for side, grid in zip(pixels.shape, shape, strict=True))
    positive = down @ pixels.clip(min=0) @ across.T
    fine = (gaussian_filter(positive, NARROW) - gaussian_filter(positive, WIDE)).ravel()
    length = float(np.linalg.norm(fine))
    unit: Array = (fine / length if length > 0 else 0 * fine).astype(np.float32)
    return unit


@dataclass(eq=False)
class Details:
    """The fine detail of the maps of a run, in a temporary file. `shape`: of each; from the first map."""

    shape: tuple[int, int] = (0, 0)
    rows: Rows = field(default_factory=lambda: Rows(np.float16))

    def add(self, pixels: NDArray[np.float64]) -> int:
        """Keep the detail of a map [H, W]; its number."""
        if not self.rows.count:
            self.shape = (min(FINEST, pixels.shape[0]), min(FINEST, pixels.shape[1]))
        return self.rows.add(detail(pixels, self.shape))


@dataclass(frozen=True, eq=False)
class Pattern:
    """A pattern of a class.

    `strength`: the largest eigenvalue of the class, in units of 2σ√N. `suspicion`, 0..1: the share of the fine detail
    that three quarters of the members have in common with the other members, less what 98 % of the pictures of other
    classes have. `members`: bool [N]. `common`: the pattern, a unit vector, of details divided by `spread`; both
    float32 [S]. `above`: members have a larger cosine with it.
    """

    strength: float
    suspicion: float
    members: NDArray[np.bool_]
    common: Array
    spread: Array
    above: float

    def held_by(self, details: Array) -> NDArray[np.bool_]:
        """Which other pictures of the class have the pattern, by their fine detail [N, S]: bool [N]."""
        held: NDArray[np.bool_] = weighed(details, self.spread) @ self.common > self.above
        return held


def pattern_of(own: Array, others: Array, least: int) -> Pattern | None:
    """The strongest pattern of the pictures of a class, if it is stronger than natural ones.

    `own`, `others`: unit vectors, float32 [N, S] and [M, S]. `least`: the least number of members, if chance does not
    ask for more.
    """
    spread = spread_of(others)
    own, others, n = weighed(own, spread), weighed(others, spread), len(own)
    cosines = (own @ own.T).astype(np.float64)
    np.fill_diagonal(cosines, 0)
    value, vector = leading(cosines)
    usual = float(np.sqrt(np.mean(np.square(own @ others.T, dtype=np.float64))))
    strength = value / (2 * usual * np.sqrt(n)) if usual > 0 else 0.0
    if strength < STRONG:
        return None
    weights: Array = (own.T @ vector.clip(min=0)).astype(np.float32)
    chance = (1 - MEMBERS) * n  # so many have more than others by chance; many more is no chance
    least = max(least, math.ceil(chance + DEVIATIONS * math.sqrt(chance)))
    members = having(own @ weights, others @ weights, MEMBERS)
    for _ in range(ROUNDS):
        if members.sum() < least:
            return None
        common, alike, other = projected(own, members, others)
        again = having(alike, other, MEMBERS)
        if np.array_equal(again, members):
            break
        members = again
    common, alike, other = projected(own, members, others)
    excess = signed_square(np.quantile(alike[members], MOST)) - signed_square(np.quantile(other, HIGHEST))
    if members.sum() < least or excess < LEAST:
        return None
    highest = float(alike[~members].max(initial=np.quantile(other, MEMBERS)))
    return Pattern(strength, float(excess), members, common, spread, (highest + float(alike[members].min())) / 2)


def spread_of(others: Array) -> Array:
    """How much each value varies in other classes [M, S], and the median of that: float32 [S].

    Where natural things often lie, detail says little of a pattern.
    """
    spread: Array = np.mean(np.square(others), axis=0)
    return spread + (np.median(spread) or np.float32(1))


def weighed(details: Array, spread: Array) -> Array:
    """Details [N, S] divided by how much each value varies, as in a linear discriminant, as unit vectors."""
    found: Array = details / spread
    found /= np.linalg.norm(found, axis=1, keepdims=True).clip(min=1e-12)
    return found


def leading(matrix: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """The largest eigenvalue of a symmetric matrix [N, N] and its vector [N], whose sum is not negative."""
    from scipy.linalg import eigh

    values, vectors = eigh(matrix, subset_by_index=(len(matrix) - 1, len(matrix) - 1))
    vector = vectors[:, 0]
    return float(values[0]), vector if vector.sum() >= 0 else -vector


def projected(own: Array, members: NDArray[np.bool_], others: Array) -> tuple[Array, Array, Array]:
    """The mean of the members as a unit vector [S], and the cosine with it of each picture of the class and of others.

    A member is compared with the mean of the other members.
    """
    total, count = own[members].sum(0), int(members.sum())
    apart = total - own * members[:, None] if count > 1 else np.broadcast_to(total, own.shape)
    lengths = np.linalg.norm(apart, axis=1)
    alike: Array = (own * apart).sum(1) / np.where(lengths > 0, lengths, 1)
    common: Array = total / (np.linalg.norm(total) or 1.0)
    return common, alike, others @ common


def signed_square(value: np.floating) -> float:
    """x·|x|: the share of a unit vector along another, below 0 if it points away from it."""
    return float(value * abs(value))
