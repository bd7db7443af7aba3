"""Pictures go in at their own size where nothing says another."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import Cli
from PIL import Image
from torch import Tensor, nn

import heatcli
from heatcli.errors import ModelError, UsageError
from heatcli.images.preprocess import Fit, seen_box, to_pixels

SQUARE = (slice(4, 10), slice(22, 28))  # rows and columns of the planted square


class Red(nn.Module):
    """Two classes of a picture of any size: how red it is, and how blue."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x[:, [0, 2]] - 0.5).mean((2, 3))


def picture(path: Path, size: tuple[int, int]) -> Path:
    """A black picture of `size` (width, height) with a red square."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[SQUARE] = (255, 0, 0)
    Image.fromarray(pixels).save(path)
    return path


def artifact(folder: Path, form: str, height: int | str = "H") -> Path:
    path = folder / f"red.{form}"
    if form == "pt":
        torch.jit.script(Red()).save(str(path))
        return path
    axes = {0: "N", 2: "H", 3: "W"} if height == "H" else {0: "N", 3: "W"}
    given = torch.zeros(1, 3, 16 if height == "H" else int(height), 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter announces its own deprecation; it is not under test
        torch.onnx.export(Red(), (given,), path, input_names=["x"], dynamic_axes={"x": axes}, dynamo=False)
    return path


@pytest.mark.parametrize("form", ["pt", "onnx"])
def test_the_map_lies_on_the_planted_square(tmp_path: Path, cli: Cli, form: str) -> None:
    """A folder of two sizes: each map has its picture's, and all relevance is inside the square."""
    (tmp_path / "in").mkdir()
    sizes = {"a": (40, 32), "b": (64, 48)}
    for name, size in sizes.items():
        picture(tmp_path / "in" / f"{name}.png", size)
    ran = cli("explain", tmp_path / "in", "--model", artifact(tmp_path, form), "--out", "out", "--arrays", "npy",
              "--baseline", "black")  # fmt: skip
    assert ran.status == 0, ran.err
    assert ran.err.count("nothing says the size of its input; tried with the input's own shape 1×3×32×40") == 1
    for name, (width, height) in sizes.items():
        found = np.load(next(Path("out").glob(f"{name}*.npy"))).reshape(-1, height, width).sum(0)
        inside = found[SQUARE].sum()
        assert inside == pytest.approx(36 * 0.5 / (width * height), rel=1e-3)  # the score: closed form
        assert found.sum() == pytest.approx(inside, rel=1e-5)


def test_a_size_that_is_given_wins(tmp_path: Path, cli: Cli) -> None:
    cli("explain", picture(tmp_path / "a.png", (40, 32)), "--model", artifact(tmp_path, "pt"), "--size", "8x12", "-o",
        "a.png.out.png")  # fmt: skip
    report = json.loads(Path("a.png.out.lrp-eps.json").read_text())
    assert np.array(report["pixels"]["values"]).shape == (8, 12) if "values" in report["pixels"] else True
    assert report["model"]["input"]["size"] == [8, 12]


def test_a_fixed_height_keeps_the_picture_s_shape(tmp_path: Path) -> None:
    """As recognisers of lines of text have it: N×3×48×any."""
    model = heatcli.load(artifact(tmp_path, "onnx", 48))
    found = heatcli.explain(model, picture(tmp_path / "line.png", (100, 32)))
    assert tuple(found.relevance.shape) == (1, 3, 48, 150)


@pytest.mark.parametrize(
    ("height", "width", "sides"), [(None, None, (30, 50)), (60, None, (60, 100)), (None, 5, (3, 5))]
)
def test_the_part_that_is_seen_is_the_whole(height: int | None, width: int | None, sides: tuple[int, int]) -> None:
    fit = Fit(3, height, width)
    assert to_pixels(Image.new("RGB", (50, 30), "red"), fit).shape == (3, *sides)
    assert seen_box((50, 30), fit) == (0, 0, 50, 30)


def test_a_network_of_one_size_names_the_flag(tmp_path: Path, cli: Cli) -> None:
    """The size that was tried, why it does not run, and what to give; `inspect` has something to show all the same."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 64, 2))
    torch.jit.script(net).save("fixed.pt")
    given = picture(tmp_path / "a.png", (40, 32))
    ran = cli("explain", given, "--model", "fixed.pt")
    assert ran.status == 3
    assert "cannot be run on an input of shape (1, 3, 32, 40)" in ran.err
    assert "this one was tried; give --size, such as --size 32x64" in ran.err
    assert "this one was tried; give --size" in cli("inspect", "fixed.pt").out
    assert cli("explain", given, "--model", "fixed.pt", "--size", "8").status == 0


def test_what_needs_one_size_asks_for_it(tmp_path: Path) -> None:
    """An artifact that is written has one size, and a crop is of one."""
    from heatcli.export.job import ExportRequest, export
    from heatcli.methods.table import method

    model = heatcli.load(artifact(tmp_path, "pt"))
    with pytest.raises(UsageError, match="nothing says the size of its input; give --size"):
        export(model, ExportRequest(path=tmp_path / "e.onnx", method=method("lrp-eps")))
    with pytest.raises(UsageError, match=r"says its input size; give --size"):
        heatcli.explain(heatcli.load(artifact(tmp_path, "pt"), resize="crop:20"), picture(tmp_path / "a.png", (40, 32)))


def test_inspect_says_that_a_size_was_tried(tmp_path: Path, cli: Cli) -> None:
    path = artifact(tmp_path, "onnx")
    onnx.checker.check_model(path)
    assert "N×3×224×224 (tried: nothing says the size)" in cli("inspect", path).out.replace("\n", "")
    assert json.loads(cli("inspect", path, "--json").out)["input"]["sized"] is False
    with pytest.raises(ModelError):
        heatcli.load(artifact(tmp_path, "pt"), channels=1).graph((1, 1, 8, 8))
