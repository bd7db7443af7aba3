"""The similarity of two heatmaps: rank correlation, correlation, SSIM. Each takes two [N, H, W] and returns [N].

Maps of signals and volumes have another number of axes, [N, positions …].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def ranks(values: Tensor) -> Tensor:
    """The ranks along the last dimension of [N, P], float64 from 0. Equal values get their mean rank."""
    order = values.argsort(dim=1, stable=True)
    ordered = values.gather(1, order)
    fresh = (ordered[:, 1:] != ordered[:, :-1]).long()
    group = functional.pad(fresh, (1, 0)).cumsum(1)
    position = torch.arange(values.shape[1], dtype=torch.float64, device=values.device).expand_as(order)
    nothing = torch.zeros_like(position)
    count = nothing.scatter_add(1, group, torch.ones_like(position))
    mean = nothing.scatter_add(1, group, position) / count.clamp(min=1)
    return nothing.scatter(1, order, mean.gather(1, group))


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation, float64 [N]; 0 if a map is constant."""
    a, b = (x.flatten(1).double() for x in (a, b))
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    size = a.norm(dim=1) * b.norm(dim=1)
    return torch.where(size == 0, 0.0, (a * b).sum(1) / torch.where(size == 0, 1.0, size))


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rank correlation, float64 [N]; 0 if a map is constant."""
    return correlation(ranks(a.flatten(1)), ranks(b.flatten(1)))


def ssim(a: Tensor, b: Tensor, sigma: float = 1.5) -> Tensor:
    """The structural similarity (Wang et al. 2004, eq. 13) of maps that are divided by their largest |value|: [N].

    The range of values is 2. The window is Gaussian, 11×11 (11 along each axis), only at positions where it lies inside
    the map.
    """
    a, b = (_scaled(x)[:, None] for x in (a, b))
    reach = min(5, (min(a.shape[2:]) - 1) // 2)
    offset = torch.arange(-reach, reach + 1, dtype=torch.float64, device=a.device)
    line = torch.exp(-((offset / sigma) ** 2) / 2)
    line = line / line.sum()

    def mean(x: Tensor) -> Tensor:
        """The weighted mean in the window at each position inside the map."""
        for axis in reversed(range(2, x.dim())):
            x = along(x, line, axis)
        return x

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b, both = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2, mean(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    value = (2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return value.flatten(1).mean(1)


def along(x: Tensor, line: Tensor, axis: int, pad: str = "") -> Tensor:
    """Maps [N, 1, positions …] correlated with the odd number of weights `line` [K] along one axis.

    Only where the line lies inside; or everywhere, with the edges filled as `pad` says (`torch.nn.functional.pad`).
    """
    rows = x.movedim(axis, -1)
    flat = rows.reshape(-1, 1, rows.shape[-1])
    if pad:
        flat = functional.pad(flat, (len(line) // 2,) * 2, mode=pad)
    return functional.conv1d(flat, line[None, None]).reshape(*rows.shape[:-1], -1).movedim(-1, axis)


def _scaled(heatmap: Tensor) -> Tensor:
    size = heatmap.double().abs().flatten(1).amax(1).reshape(-1, *(1,) * (heatmap.dim() - 1))
    return heatmap.double() / torch.where(size == 0, 1, size)
