"""Concept relevance beside zennit-crp's, whose code is the paper's (Achtibat et al. 2023)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import PEERS
from networks import CLASSES, images, load, randomised
from torch import nn

import heatcli
from heatcli.methods.concept import restricted
from heatcli.methods.table import METHODS

pytest.importorskip("crp")
from crp.attribution import CondAttribution
from zennit.composites import EpsilonPlusFlat

pytestmark = PEERS
TARGET = 1


@pytest.mark.parametrize("layer", ["0", "2", "5"])
def test_maps_and_shares_of_channels(tmp_path: Path, layer: str) -> None:
    torch.manual_seed(0)
    network = randomised(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2),
            nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, CLASSES),
        ),
        1,
    )  # fmt: skip
    batch = images(2)
    model = load(network, tmp_path)
    attribution = CondAttribution(network, device=torch.device("cpu"))
    method = METHODS["lrp-epsilon-plus-flat"]
    for channel in (0, 3, 6):
        data = batch.clone().requires_grad_()
        conditions = [{layer: [channel], "y": [TARGET]}]
        theirs = [
            attribution(data[i : i + 1], conditions, EpsilonPlusFlat(), record_layer=[layer]) for i in range(len(batch))
        ]
        ours = heatcli.explain(model, batch, restricted(method, f"{layer}:{channel}"), target=TARGET)
        for i, other in enumerate(theirs):
            scale = float(other.heatmap.abs().max())
            assert scale > 0
            assert float((ours.relevance[i].sum(0) - other.heatmap[0]).abs().max()) < 1e-4 * scale
