"""How concentrated heatmaps are: [N, H, W] → float64 [N]."""

from __future__ import annotations

import torch
from torch import Tensor


def sparseness(heatmaps: Tensor) -> Tensor:
    """The Gini index of |relevance| [N, H, W]: 0 if all pixels are equal, near 1 for one; float64 [N].

    Chalasani et al. 2020, sec. 3.
    """
    size = heatmaps.double().abs().flatten(1).sort(1).values
    total, count = size.sum(1), size.shape[1]
    weight = 2 * torch.arange(1, count + 1, dtype=torch.float64, device=size.device) - count - 1
    return (size * weight).sum(1) / (count * total.where(total > 0, 1))


def entropy(heatmaps: Tensor) -> Tensor:
    """The entropy of |relevance| / Σ|relevance| of maps [N, H, W] in nats, float64 [N].

    The complexity of Bhatt et al. 2020, eq. 1.
    """
    size = heatmaps.double().abs().flatten(1)
    total = size.sum(1, keepdim=True)
    share = size / total.where(total > 0, 1)
    found: Tensor = -torch.special.xlogy(share, share).sum(1)
    return found
