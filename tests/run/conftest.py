"""A tiny network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scripted network of two layers for pictures of 8×8."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=True), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    torch.jit.script(net.eval()).save(folder / "tiny.pt")
    (folder / "tiny.toml").write_text("[input]\nsize = [8, 8]\nchannels = 3\nmean = [0.5]\nstd = [0.25]\n")
    return folder / "tiny.pt"
