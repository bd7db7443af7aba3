"""A network with a shortcut, and pictures of which some have it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

TAGGED, RED, GREEN = 24, 55, 60


class Tagged(nn.Module):
    """Class 0: red in the middle, or a bright corner, which counts `corner` times as much; class 1: green there."""

    def __init__(self, corner: float = 64.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 3, 32, 32))
        with torch.no_grad():
            self.weight[0, 0, 8:24, 8:24] = 1 / 256
            self.weight[0, :, :2, :2] = corner / 256
            self.weight[1, 1, 8:24, 8:24] = 1 / 256

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x.flatten(1), self.weight.flatten(1))


def draw(folder: Path, tagged: int = TAGGED) -> Path:
    """Green pictures with a white corner, which the network calls 0; red ones, 0; green ones, 1. Returns `folder`."""
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for name, count, channel in (("tag", tagged, 1), ("red", RED, 0), ("green", GREEN, 1)):
        for i in range(count):
            pixels = np.zeros((32, 32, 3))
            # blobs at random places: natural evidence lies elsewhere in each picture
            y, x = rng.integers(8, 18, 2)
            pixels[y : y + 6, x : x + 6, channel] = rng.uniform(150, 250)
            if name == "tag":
                pixels[:2, :2] = 255
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}-{i:02}.png")
    return folder
