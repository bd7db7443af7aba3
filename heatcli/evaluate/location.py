"""Where the relevance lies, compared with a mask [N, H, W] in 0..1: the share of each pixel inside."""

from __future__ import annotations

from torch import Tensor


def inside_share(heatmaps: Tensor, mask: Tensor) -> Tensor:
    """The share of the positive relevance inside the mask, float64 [N] in 0..1; 0 without positive relevance.

    This is the relevance mass accuracy of Arras et al. 2022, eq. 5.
    """
    positive = heatmaps.double().clamp(min=0).flatten(1)
    total = positive.sum(1)
    return (positive * mask.flatten(1)).sum(1) / total.where(total > 0, 1)


def pointing(heatmaps: Tensor, mask: Tensor) -> Tensor:
    """1 if the most relevant pixel of a heatmap lies inside the mask, else 0: float64 [N] (Zhang et al. 2018)."""
    at = heatmaps.flatten(1).argmax(1, keepdim=True)
    return (mask.flatten(1).gather(1, at)[:, 0] >= 0.5).double()
