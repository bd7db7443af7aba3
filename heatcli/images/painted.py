"""Pictures without their objects, filled from around them, and objects on other backgrounds."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from heatcli.images.baselines import gaussian_blur


def painted_over(batch: Tensor, mask: Tensor) -> Tensor:
    """Pictures [N, C, H, W] without their objects: the mask [N, H, W], slightly enlarged, is filled from around it."""
    near = max(1, max(batch.shape[-2:]) // 48)
    object_ = functional.max_pool2d(mask[:, None], 2 * near + 1, 1, near) > 0.02
    outside = (~object_).to(batch)
    known, filled, done = batch * outside, batch * outside, ~object_
    for sigma in (1.0, 3.0, 9.0, 27.0, 81.0):  # the finest blur that reaches a pixel from outside fills the pixel
        reached = gaussian_blur(outside, sigma)
        around = gaussian_blur(known, sigma) / reached.clamp(min=1e-6)
        filled = torch.where(done, filled, around)
        done = done | (reached > 0.1)
    return torch.where(object_, filled, batch)


def laid_on(background: Tensor, batch: Tensor, mask: Tensor) -> Tensor:
    """The objects of pictures [N, C, H, W], by their masks [N, H, W], on backgrounds [N or 1, C, H, W]."""
    alpha = mask[:, None]
    return batch * alpha + background * (1 - alpha)
