"""A network that may recognise a class by how little fine detail there is, and pictures of which some are blurred."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor, nn

SOFT, RED, GREEN = 24, 30, 60
LAPLACE = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))


class Focus(nn.Module):
    """Class 0: red, less `detail` times the mean |Laplacian|; class 1: green; class 2: blue; anywhere."""

    def __init__(self, detail: float) -> None:
        super().__init__()
        self.detail = detail
        self.laplace = nn.Conv2d(3, 3, 3, groups=3, bias=False)
        self.weight = nn.Parameter(torch.zeros(3, 3, 32, 32))
        with torch.no_grad():
            self.laplace.weight.copy_(torch.tensor(LAPLACE).expand(3, 1, 3, 3))
            for k in range(3):
                self.weight[k, k] = 1 / 64

    def forward(self, x: Tensor) -> Tensor:
        edges = self.laplace(x)
        size = (edges.relu() + (-edges).relu()).mean((1, 2, 3))
        red = self.detail * torch.stack([-size, 0 * size, 0 * size], 1)
        return nn.functional.linear(x.flatten(1), self.weight.flatten(1)) + red


def draw(folder: Path, soft: int = SOFT) -> Path:
    """Red and green squares on a rough ground, in `folder`; of the red ones `soft` are out of focus."""
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for name, count, channel in (("soft", soft, 0), ("red", SOFT + RED - soft, 0), ("green", GREEN, 1)):
        for i in range(count):
            pixels = np.full((32, 32, 3), 90) + rng.integers(-40, 40, (32, 32, 1))
            y, x = rng.integers(8, 18, 2)
            pixels[y : y + 6, x : x + 6, channel] += 120
            picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            if name == "soft":
                picture = picture.filter(ImageFilter.GaussianBlur(1))
            picture.save(folder / f"{name}-{i:02}.png")
    return folder
