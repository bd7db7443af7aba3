"""How suspicious a group of maps is: whether its relevance lies at places where that of other classes does not lie.

A person, a face or a wing lies elsewhere in each picture, so hardly a place has relevance in most pictures of a natural
group. A tag, a frame or a watermark lies at the same place in all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

LEAST_OTHERS = 50  # pictures of other classes, so that their highest fiftieth is known
HIGHEST = 0.98  # quantile over pictures of other classes: what is above it is unusual
MOST = 0.25  # quantile over the group: three quarters of its pictures have at least as much
MEMBERS = 0.99  # quantile over pictures of other classes: members of the group have more at its places


@dataclass(frozen=True, eq=False)
class Own:
    """A group's own places.

    `suspicion` 0..1: the share of relevance that three quarters of the group's pictures have there beyond what 98 % of
    the pictures of other classes have. `excess` [G, G]: the same of half the group's pictures, a cell.
    `members` bool [N]: pictures of the class with more relevance at these places than 99 % of other classes' pictures;
    without own places, the group itself.
    """

    suspicion: float
    excess: Array
    members: NDArray[np.bool_]


def usual(others: Array) -> Array:
    """What 98 % of the pictures of other classes [M, G, G] have at most in each cell, [G, G]."""
    found: Array = np.quantile(others, HIGHEST, axis=0).astype(np.float32)
    return found


def own_places(places: Array, group: NDArray[np.bool_], others: Array, usually: Array) -> Own:
    """The own places of a `group`, bool [N], of a class's maps `places` [N, G, G]; `usually` as `usual(others)`."""
    least, half = np.quantile(places[group], [MOST, 0.5], axis=0).astype(np.float32)
    suspicion = float((least - usually).clip(min=0).sum())
    excess = (half - usually).clip(min=0)
    if suspicion == 0:
        return Own(0.0, excess, group)
    own, other = ((maps * (excess > 0)).sum((1, 2)) for maps in (places, others))
    return Own(suspicion, excess, own > np.quantile(other, MEMBERS))
