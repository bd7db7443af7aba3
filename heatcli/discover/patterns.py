"""A fixed pattern: fine detail that many maps of a class have at the same pixels, as a watermark, a logo or a grid has.

A natural thing lies a little elsewhere in each picture, so the fine detail of two natural maps has nothing in common,
also where both lie at the same place of a coarse grid. The matrix of the cosines of N such maps has its largest
eigenvalue near 2σ√N, where σ² is the mean square of a cosine (Füredi & Komlós 1981). A pattern in k maps adds about k
times the mean cosine of two of them (a spiked matrix).
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO

import numpy as np
from numpy.typing import NDArray

from heatcli.discover.suspicion import HIGHEST, MEMBERS, MOST, having

Array = NDArray[np.float32]

FINEST = 96  # the most cells of a side
NARROW, WIDE = 0.5, 2.0  # cells; detail is what a blur by the first keeps and one by the second takes away
STRONG = 3.0  # times 2σ√N; natural classes of the measured networks stay below 2.4
LEAST = 0.01  # the least suspicion; natural classes reach 0.5 %, and their eigenvalue grows with their size
SEARCHED, COMPARED = 1000, 2000  # the most pictures of the class that are searched, and of other classes
ROUNDS = 10


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
    """The fine detail of the maps of a run, in a temporary file, so that memory does not grow with their number.

    `shape`: of the detail of each; from the first map.
    """

    shape: tuple[int, int] = (0, 0)
    count: int = 0
    _file: IO[bytes] = field(default_factory=tempfile.TemporaryFile)

    def __post_init__(self) -> None:
        weakref.finalize(self, self._file.close)

    def add(self, pixels: NDArray[np.float64]) -> int:
        """Keep the detail of a map [H, W]; its number."""
        if not self.count:
            self.shape = (min(FINEST, pixels.shape[0]), min(FINEST, pixels.shape[1]))
        self._file.write(detail(pixels, self.shape).astype(np.float16).tobytes())
        self.count += 1
        return self.count - 1

    def rows(self, numbers: Sequence[int] | NDArray[np.int64]) -> Array:
        """The details of maps, float32 [N, S]."""
        self._file.flush()
        whole = np.memmap(self._file, np.float16, "r", shape=(self.count, self.shape[0] * self.shape[1]))
        found: Array = np.asarray(whole[np.asarray(numbers, np.int64)], np.float32)
        return found


@dataclass(frozen=True, eq=False)
class Pattern:
    """A pattern of a class.

    `strength`: the largest eigenvalue of the class, in units of 2σ√N. `suspicion`, 0..1: the share of the fine detail
    that three quarters of the members have in common with the other members, less what 98 % of the pictures of other
    classes have. `members`: bool [N]. `energy`: where the pattern lies, the square of each of its values, float32 [S].
    """

    strength: float
    suspicion: float
    members: NDArray[np.bool_]
    energy: Array


def pattern_of(own: Array, others: Array, least: int) -> Pattern | None:
    """The strongest pattern of the pictures of a class, if it is stronger than natural ones.

    `own`, `others`: unit vectors, float32 [N, S] and [M, S]. `least`: the least number of members.
    """
    own, others = weighed(own, others)
    n = min(len(own), SEARCHED)
    searched = own if n == len(own) else own[np.linspace(0, len(own) - 1, n).astype(int)]
    cosines = (searched @ searched.T).astype(np.float64)
    np.fill_diagonal(cosines, 0)
    value, vector = leading(cosines)
    usual = float(np.sqrt(np.mean(np.square(searched @ others.T, dtype=np.float64))))
    strength = value / (2 * usual * np.sqrt(n)) if usual > 0 else 0.0
    if strength < STRONG:
        return None
    weights: Array = (searched.T @ vector.clip(min=0)).astype(np.float32)
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
    return Pattern(strength, float(excess), members, np.square(common))


def weighed(own: Array, others: Array) -> tuple[Array, Array]:
    """Both as unit vectors, each value divided by how much it varies in other classes, as in a linear discriminant.

    Where natural things often lie, detail says little of a pattern. The median variance is added to each.
    """
    spread = np.mean(np.square(others), axis=0)
    spread += np.median(spread) or 1.0
    scaled = (own / spread, others / spread)
    one, other = (x / np.linalg.norm(x, axis=1, keepdims=True).clip(min=1e-12) for x in scaled)
    return one, other


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
