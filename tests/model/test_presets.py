"""Preprocessing by name: what torchvision's own transforms give, pixel for pixel."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Cli
from PIL import Image
from torch import Tensor, nn

import heatcli
from heatcli.errors import UsageError
from heatcli.model.presets import PRESETS

models = pytest.importorskip("torchvision.models")


class Mean(nn.Module):
    """Takes pictures of any size."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    torch.jit.script(Mean()).save(str(tmp_path / "m.pt"))
    return tmp_path / "m.pt"


@pytest.mark.parametrize(
    "name",
    [
        "ResNet50_Weights.IMAGENET1K_V1",
        "ResNet50_Weights.IMAGENET1K_V2",
        "EfficientNet_B0_Weights.IMAGENET1K_V1",
        "EfficientNet_V2_S_Weights.IMAGENET1K_V1",
        "Inception_V3_Weights.IMAGENET1K_V1",
    ],
)
@pytest.mark.parametrize("size", [(500, 375), (300, 431), (200, 180)])
def test_torchvision_weights(artifact: Path, name: str, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    found = heatcli.load(artifact, preset=name).preprocess([image])[0]
    expected = models.get_weight(name).transforms()(image)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-6)


def test_names(artifact: Path) -> None:
    """Flags override the preset, the preset the sidecar."""
    assert heatcli.load(artifact, preset="mnist").shape == (1, 28, 28)
    assert heatcli.load(artifact, preset="imagenet", size=(64, 32)).shape == (3, 64, 32)
    artifact.with_suffix(".toml").write_text("[input]\nsize = 10\nmean = 0.5\n")
    assert heatcli.load(artifact).input.mean == 0.5
    assert heatcli.load(artifact, preset="none").input.mean == 0.0
    assert heatcli.load(artifact, preset="none").shape == (3, 10, 10)
    assert set(PRESETS) == {"imagenet", "mnist", "none"}
    with pytest.raises(UsageError, match="unknown preset 'imagnet'; did you mean 'imagenet'"):
        heatcli.load(artifact, preset="imagnet")
    with pytest.raises(UsageError, match="no classification weights of that name"):
        heatcli.load(artifact, preset="ResNet50_Weights.NOPE")


def test_drafted_sidecars_load(cli: Cli, artifact: Path) -> None:
    """`inspect --write-sidecar` drafts what it knows, and never overwrites."""
    ran = cli("inspect", artifact, "--preset", "imagenet", "--write-sidecar")
    assert ran.status == 0, ran.err
    drafted = heatcli.load(artifact).input
    assert drafted == heatcli.load(artifact, preset="imagenet").input
    ran = cli("inspect", artifact, "--write-sidecar")
    assert ran.status == 2
    assert "m.toml: is there already" in ran.err


class Heads(nn.Module):
    """Two heads and a count."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, int]:
        y = x.mean((2, 3))
        return y, -y[:, :2], x.shape[0]


def test_one_of_several_outputs(tmp_path: Path) -> None:
    torch.jit.script(Heads()).save(str(tmp_path / "m.pt"))
    batch = torch.rand(2, 3, 4, 4)
    for head, expected in enumerate((batch.mean((2, 3)), -batch.mean((2, 3))[:, :2])):
        result = heatcli.explain(heatcli.load(tmp_path / "m.pt", size=4, head=head), batch, "lrp-0")
        assert torch.allclose(result.outputs, expected)
    with pytest.raises(UsageError, match=r"has no output 2; it returns 0: \(2, 3\), 1: \(2, 2\)"):
        heatcli.explain(heatcli.load(tmp_path / "m.pt", size=4, head=2), batch)


@pytest.mark.parametrize(
    ("size", "preset", "resize"),
    [((299, 299), "imagenet", "crop:342"), ((96, 64), "imagenet", "stretch"), ((32, 32), "mnist", "stretch")],
)
def test_a_size_that_the_file_declares_stays(tmp_path: Path, size: tuple[int, int], preset: str, resize: str) -> None:
    """A preset for another size crops the same share of the picture; another size that is asked for is refused."""
    channels = 1 if preset == "mnist" else 3
    net = torch.nn.Sequential(torch.nn.Conv2d(channels, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    path = tmp_path / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (torch.zeros(1, channels, *size),), path, dynamo=False)
    found = heatcli.load(path, preset=preset).input
    assert (found.size, found.resize) == (size, resize)
    with pytest.raises(
        UsageError, match=f"takes pictures of {size[0]}×{size[1]} alone, and its size is said to be 5×5"
    ):
        heatcli.load(path, preset=preset, size=(5, 5))
