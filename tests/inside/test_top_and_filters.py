"""Pictures that excite a channel, the crops they do it with, and kernels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MODELS, Cli
from networks import load, network
from PIL import Image
from torch import Tensor, nn

from heatcli.errors import HeatcliError
from heatcli.inside.filters import draw, filters
from heatcli.inside.top import top_images


class Spot(nn.Module):
    """Channel 0 answers to brightness in a 3×3 window, behind a strided second convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.near = nn.Conv2d(3, 1, 3, padding=1, bias=False)
        self.far = nn.Conv2d(1, 2, 2, stride=2, bias=False)
        with torch.no_grad():
            self.near.weight.fill_(1)
            self.far.weight.fill_(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.far(self.near(x)).mean((2, 3))


@pytest.fixture
def spots(tmp_path: Path) -> Path:
    """Forty black pictures, each with one grey dot; the brighter, the higher its number."""
    folder = tmp_path / "spots"
    folder.mkdir()
    for i in range(40):
        pixels = np.zeros((16, 16, 3), np.uint8)
        pixels[2 + i % 12, 13 - i % 12] = 40 + 5 * i
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return folder


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_brightest_spots_win_and_the_crop_is_around_them(spots: Path, tmp_path: Path, batch_size: int) -> None:
    """The window of one value of `far` is 4×4 pixels: exact, and it holds the dot."""
    model = load(Spot(), tmp_path)
    failed: list[HeatcliError] = []
    _, hits = top_images(model, sorted(spots.iterdir()), "far.weight", 0, 5, failed, batch_size)
    assert [hit.path.stem for hit in hits] == ["39", "38", "37", "36", "35"]
    assert not failed
    for hit in hits:
        i = int(hit.path.stem)
        y, x = 2 + i % 12, 13 - i % 12
        left, top, right, bottom = hit.box
        assert left <= x < right
        assert top <= y < bottom
        assert max(right - left, bottom - top) <= 4
        assert hit.strength == pytest.approx((40 + 5 * i) / 255 * 12, rel=1e-5)


def test_the_crop_is_in_the_pictures_own_pixels(tmp_path: Path) -> None:
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[40:44, 96:104] = 255  # one pixel of the network's 16×16 at (10, 12)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    _, (hit,) = top_images(load(Spot(), tmp_path), [tmp_path / "wide.png"], "near", 0, 3, [])
    left, top, right, bottom = hit.box
    assert (right - left, bottom - top) == (3 * 8, 3 * 4)
    assert left <= 96 < 104 <= right
    assert top <= 40 < 44 <= bottom


def test_top_images_as_a_command(cli: Cli, spots: Path) -> None:
    (spots / "broken.png").write_bytes(b"not a picture")
    ran = cli("activations", spots, "--layer", "conv1", "--channel", "3", "--top-images", "4",
              "--model", MODELS / "digits.onnx", "--json")  # fmt: skip
    assert ran.status == 1
    assert "broken.png: is not an image" in ran.err
    hits = [json.loads(line) for line in ran.out.splitlines()]
    assert len(hits) == 4
    assert [h["activation"] for h in hits] == sorted((h["activation"] for h in hits), reverse=True)


def test_filters_are_the_artifacts_weights(cli: Cli, tmp_path: Path) -> None:
    ran = cli("filters", MODELS / "digits.onnx")
    assert ran.status == 0, ran.err
    with np.load(tmp_path / "filters" / "digits.filters.npz") as arrays:
        assert {name: a.shape for name, a in arrays.items()} == {
            "conv1.weight": (32, 1, 4, 4),
            "conv2.weight": (64, 32, 4, 4),
        }
    with Image.open(tmp_path / "filters" / "digits.filters.png") as sheet:
        assert sheet.height > 200


def test_transposed_and_grouped_kernels(tmp_path: Path) -> None:
    net = network("strided")
    found = {k.layer.parameters[0]: k for k in filters(load(net, tmp_path), [])}
    assert np.array_equal(found["up.weight"].weight, net.up.weight.detach().transpose(0, 1).numpy())
    assert found["grouped.weight"].weight.shape == (6, 1, 3, 3)
    norms = net.dilated.weight.detach().flatten(1).norm(dim=1)
    assert found["dilated.weight"].order == norms.argsort(descending=True).tolist()
    assert len(draw(found["dilated.weight"], 4).tiles) == 4
