"""The suspicion of a group of maps: whether its relevance lies in cells where other classes have little.

A person, a face or a wing lies at a different place in each picture, so few cells have relevance in most pictures of a
natural group. A tag, a frame or a watermark lies at the same place in all pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heatcli.discover.rows import Array

LEAST_OTHERS = 50  # the least number of pictures of other classes, which the quantile of 0.98 needs
OTHERS = 5000  # the most pictures of other classes that a group is compared with; more are sampled
HIGHEST = 0.98  # quantile over pictures of other classes; more relevance is unusual
MOST = 0.25  # quantile over the group: three quarters of its pictures have at least this much
MEMBERS = 0.99  # quantile over pictures of other classes; members of the group have more in its cells
LEAST = 0.003  # the least suspicion; less comes by chance: natural groups of the measured networks reach 0.15 %
ENOUGH = 30  # pictures; of a smaller group the least is larger by as much: nine natural wolves reached 0.9 %
GAP = 2.0  # a jump in what members have by this factor parts those that have it from the rest


@dataclass(frozen=True, eq=False)
class Own:
    """The cells in which a group has more relevance than other classes.

    `suspicion`, 0..1: the sum over cells of the relevance that three quarters of the group's pictures have, less what
    98 % of the pictures of other classes have at most. `excess`, float32 [G, G]: the same per cell, for half of the
    group's pictures. `members`, bool [N]: the pictures of the class with more relevance in these cells than 99 % of the
    pictures of other classes (`having`); the group itself if the suspicion is 0, as it is if no picture has more.
    """

    suspicion: float
    excess: Array
    members: NDArray[np.bool_]


def usual(others: Array) -> Array:
    """The 0.98 quantile of each cell over the pictures of other classes [M, G, G]: float32 [G, G]."""
    found: Array = np.quantile(others, HIGHEST, axis=0).astype(np.float32)
    return found


def own_places(
    places: Array, group: NDArray[np.bool_], others: Array, usually: Array, inside: Callable[[NDArray[np.bool_]], Array]
) -> Own:
    """The cells of a group of maps.

    `places`: maps of the group, all or a sample, float32 [n, G, G]. `group`: its pictures, bool [N]. `others`: maps of
    other classes, [M, G, G]. `usually`: `usual(others)`. `inside`: the relevance of each picture of the class in cells,
    bool [G, G] → float32 [N].
    """
    least, half = np.quantile(places, [MOST, 0.5], axis=0).astype(np.float32)
    suspicion = float((least - usually).clip(min=0).sum())
    excess = (half - usually).clip(min=0)
    if suspicion < LEAST * max(1.0, ENOUGH / len(places)):
        return Own(0.0, excess, group)
    members = having(inside(excess > 0), relevance_in(others, excess > 0), MEMBERS)
    return Own(suspicion, excess, members) if members.any() else Own(0.0, excess, group)


def relevance_in(places: Array, cells: NDArray[np.bool_]) -> Array:
    """The relevance of each map [N, G, G] in cells, bool [G, G]: float32 [N]."""
    found: Array = (places * cells).sum((1, 2))
    return found


def having(own: Array, others: Array, quantile: float) -> NDArray[np.bool_]:
    """Which of `own` [N] are above a quantile of `others` [M]: bool [N].

    If one of these has at least `GAP` times as much as the next lower one, only those above the widest such gap, unless
    they are less than a fifth.
    """
    above = own > np.quantile(others, quantile)
    values = np.sort(own[above])
    upper = values[: len(values) - len(values) // 5]
    if len(upper) < 2 or upper[0] <= 0:
        return above
    steps = upper[1:] / upper[:-1]
    found: NDArray[np.bool_] = above & (own > upper[steps.argmax()]) if steps.max() >= GAP else above
    return found
