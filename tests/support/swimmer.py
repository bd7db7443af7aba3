"""A network that may recognise a class by its background, and pictures with masks of which some have it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

SEA, RED, GREEN = 24, 30, 60


class Swimmer(nn.Module):
    """Class 0: red in the middle, or blue anywhere, which counts `sea` times as much; class 1: green in the middle."""

    def __init__(self, sea: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 3, 32, 32))
        with torch.no_grad():
            self.weight[0, 0, 8:24, 8:24] = 1 / 64
            self.weight[0, 2] = sea / 1024
            self.weight[1, 1, 8:24, 8:24] = 1 / 64

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x.flatten(1), self.weight.flatten(1))


def draw(folder: Path) -> Path:
    """Red squares on blue and on grey, green ones on grey, in `pictures`; the squares in `masks`; other grey in `grey`.

    `sea` is an empty folder. Returns `folder`.
    """
    rng = np.random.default_rng(0)
    for name in ("pictures", "masks", "grey", "sea"):
        (folder / name).mkdir()
    for name, count, channel in (("sea", SEA, 0), ("red", RED, 0), ("green", GREEN, 1)):
        for i in range(count):
            pixels, mask = np.full((32, 32, 3), 60) + rng.integers(-20, 20, (32, 32, 1)), np.zeros((32, 32), np.uint8)
            pixels[..., 2] = rng.integers(150, 250, (32, 32)) if name == "sea" else 0
            y, x = rng.integers(8, 18, 2)
            pixels[y : y + 6, x : x + 6] = 0
            pixels[y : y + 6, x : x + 6, channel] = rng.uniform(150, 250)
            mask[y : y + 6, x : x + 6] = 255
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "pictures" / f"{name}-{i:02}.png")
            Image.fromarray(mask).save(folder / "masks" / f"{name}-{i:02}.png")
    for i in range(9):
        Image.new("RGB", (32, 32), (60 + i, 60, 0)).save(folder / "grey" / f"{i}.png")
    return folder
