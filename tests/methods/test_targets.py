"""Which score is explained: indices, labels, contrasts, the K best, dense outputs and regions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SAMPLES, Cli
from PIL import Image
from torch import Tensor, nn

import heatcli
from heatcli.errors import UsageError
from heatcli.methods.targets import choose, parse

LABELS = ("wolf", "dog", "polar-bear", "7")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("wolf", (0, None)),
        ("Dog", (1, None)),
        ("2", (2, None)),
        ("polar-bear", (2, None)),
        ("wolf-dog", (0, 1)),
        ("polar-bear-wolf", (2, 0)),
        ("wolf-polar-bear", (0, 2)),
        ("0-1", (0, 1)),
        ("7", (3, None)),  # a label beats an index
    ],
)
def test_names(target: str, expected: tuple[int, int | None]) -> None:
    assert parse(target, 4, LABELS) == expected


@pytest.mark.parametrize("target", ["wulf", "4", "wolf-cat", "-1", ""])
def test_unknown_names(target: str) -> None:
    with pytest.raises(UsageError):
        parse(target, 4, LABELS)


def test_one_index_an_image() -> None:
    output = torch.tensor([[1.0, 5.0], [2.0, 0.0]])[..., None]
    assert choose(None, output, ()).index.tolist() == [1, 0]
    chosen = choose([0, 1], output, ())
    assert (chosen.seed(output) * output).sum((1, 2)).tolist() == [1.0, 0.0]
    with pytest.raises(UsageError, match="classes 0 to 1"):
        choose([0, 2], output, ())


def test_the_k_best(cli: Cli) -> None:
    """top:3 writes three overlays and reports an image, best first, each with a ledger of its own."""
    pictures = [SAMPLES / "wolf-on-snow.png", SAMPLES / "cow-on-grass.png"]
    ran = cli("explain", *pictures, "--target", "top:3", "--json", "--pixels", "none")
    reports = [json.loads(line) for line in ran.out.splitlines()]
    assert len(reports) == 6
    for stem in ("wolf-on-snow", "cow-on-grass"):
        own = [r for r in reports if stem in r["image"]["path"]]
        assert [r["files"]["overlay"] for r in own] == [f"{stem}.lrp-eps.top{k}.png" for k in (1, 2, 3)]
        assert sorted((r["target"]["score"] for r in own), reverse=True) == [r["target"]["score"] for r in own]
        assert len({r["target"]["label"] for r in own}) == 3
        best = own[0]["target"]["score"]
        for ledger in (r["ledger"] for r in own):
            booked = ledger["pixels"] + ledger["biases"] + ledger["absorbed"]
            assert booked == pytest.approx(ledger["output"] - ledger["output_baseline"], abs=1e-5 * best)
    assert cli("explain", pictures[0], "--target", "top:99").status == 2


class Segment(nn.Module):
    """Scores [N, 3, h, w] at half the input's resolution: red, green, blue."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, 2) * torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1)


@pytest.fixture
def segment(tmp_path: Path) -> Path:
    torch.jit.script(Segment()).save(str(tmp_path / "segment.pt"))
    (tmp_path / "segment.toml").write_text('[input]\nsize = 8\n[labels]\nnames = ["red", "green", "blue"]\n')
    return tmp_path / "segment.pt"


def test_dense_outputs(segment: Path) -> None:
    """A class's scores are summed where it wins; a region says otherwise; contrasts use the first class's region."""
    model = heatcli.load(segment)
    batch = torch.zeros(1, 3, 8, 8)
    batch[:, 0, :, :4], batch[:, 2, :, 4:] = 1.0, 0.5
    result = heatcli.explain(model, batch, "lrp-0", target="red")
    assert float(result.ledger.output) == 8.0  # eight of sixteen positions, one each
    assert float(result.relevance[:, :, :, 4:].abs().sum()) == 0
    assert float(result.ledger.relative_error) < 1e-6
    top = heatcli.explain(model, batch, "lrp-0")
    assert top.target.index.tolist() == [0]
    region = torch.zeros(8, 8, dtype=torch.bool)
    region[:, 2:] = True
    wide = heatcli.explain(model, batch, "lrp-0", target="blue-red", region=region)
    assert float(wide.ledger.output) == pytest.approx(8 * 1.5 - 4)
    assert float(wide.relevance[..., :2].abs().sum()) == 0
    assert wide.probabilities.shape == (1, 3)
    with pytest.raises(UsageError, match="the region has the shape"):
        heatcli.explain(model, batch, "lrp-0", region=region[:4])
    flat = heatcli.load()
    with pytest.raises(UsageError, match="no positions"):
        heatcli.explain(flat, torch.zeros(1, *flat.shape), region=torch.ones(96, 96, dtype=torch.bool))


def test_regions_on_the_command_line(cli: Cli, segment: Path, tmp_path: Path) -> None:
    """A box in the picture's pixels and the same as a mask file agree."""
    picture = np.zeros((16, 32, 3), dtype=np.uint8)
    picture[:, :, 0] = 255
    Image.fromarray(picture).save(tmp_path / "red.png")
    mask = np.zeros((16, 32), dtype=np.uint8)
    mask[8:, :16] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    command = ["explain", "red.png", "--model", segment, "--method", "lrp-0", "--json"]
    box, masked = (json.loads(cli(*command, "--region", r).out) for r in ("0,8,16,16", "mask.png"))
    assert box["ledger"]["output"] == masked["ledger"]["output"] == 4.0
    assert box["pixels"] == masked["pixels"]
    assert json.loads(cli(*command).out)["ledger"]["output"] == 16.0
    for region, status, message in (
        ("5,5,2,9", 2, "is empty"),
        ("90,90,99,99", 1, "red.png: --region 90,90,99,99 reaches beyond the picture, which is 32×16"),
        ("0,0,33,16", 1, "reaches beyond the picture"),
        ("nope.png", 2, "neither LEFT,TOP,RIGHT,BOTTOM nor a mask"),
    ):
        ran = cli(*command, "--region", region)
        assert ran.status == status
        assert message in ran.err


class Regression(nn.Module):
    """One number a picture."""

    def __init__(self, flat: bool) -> None:
        super().__init__()
        self.flat = flat

    def forward(self, x: Tensor) -> Tensor:
        y = x.mean((1, 2, 3))
        return y if self.flat else y[:, None]


@pytest.mark.parametrize("flat", [True, False])
def test_regressions_have_no_probability(cli: Cli, tmp_path: Path, flat: bool) -> None:
    torch.jit.script(Regression(flat)).save(str(tmp_path / "r.pt"))
    Image.new("RGB", (4, 4), "white").save(tmp_path / "white.png")
    report = json.loads(cli("explain", "white.png", "--model", "r.pt", "--size", "4", "--json").out)
    assert report["target"]["score"] == pytest.approx(1.0)
    assert report["target"]["probability"] is None
