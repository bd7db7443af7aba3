"""Where the relevance lies, against a mask [N, H, W] in 0..1 (the share of each pixel inside)."""

from __future__ import annotations

from torch import Tensor


def inside_share(heatmaps: Tensor, mask: Tensor) -> Tensor:
    """Share of the positive relevance of [N, H, W] that lies inside, 0..1, [N]; 0 where nothing is positive.

    As relevance mass accuracy (Arras et al. 2022, eq. 5).
    """
    positive = heatmaps.double().clamp(min=0).flatten(1)
    total = positive.sum(1)
    return (positive * mask.flatten(1)).sum(1) / total.where(total > 0, 1)


def pointing(heatmaps: Tensor, mask: Tensor) -> Tensor:
    """1 where the most relevant pixel of [N, H, W] lies inside, else 0 (Zhang et al. 2018): [N]."""
    at = heatmaps.flatten(1).argmax(1, keepdim=True)
    return (mask.flatten(1).gather(1, at)[:, 0] >= 0.5).double()
