"""`heatcli concepts`: what channels were relevant for, which classes use them, and where their relevance comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MODELS, SAMPLES, Cli
from networks import load
from PIL import Image
from torch import Tensor, nn

import heatcli
from heatcli.errors import HeatcliError, UsageError
from heatcli.graph.layers import one_layer
from heatcli.inside.activations import asked
from heatcli.inside.concepts import ConceptsRequest, concepts
from heatcli.methods.concept import sources
from heatcli.methods.table import METHODS

DIGITS, PICTURES = MODELS / "digits.onnx", SAMPLES / "digits"


class Chain(nn.Module):
    """Two layers of 1×1 filters without biases, and two classes: class k is 1 or 2 times channel k of `upper`.

    upper = [a·1 + b·2, b·3 + c·4] of the colours a, b, c that `lower` passes on; ReLUs never close.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lower = nn.Conv2d(3, 3, 1, bias=False)
        self.upper = nn.Conv2d(3, 2, 1, bias=False)
        self.head = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.lower.weight.copy_(torch.eye(3).reshape(3, 3, 1, 1))
            self.upper.weight.copy_(torch.tensor([[1.0, 2.0, 0.0], [0.0, 3.0, 4.0]]).reshape(2, 3, 1, 1))
            self.head.weight.copy_(torch.tensor([[1.0, 0.0], [0.5, 1.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.upper(self.lower(x).relu()).relu().amax((2, 3)))


@pytest.fixture
def spots(tmp_path: Path) -> Path:
    """Four black pictures, each with a pixel of one colour at its own place."""
    folder = tmp_path / "spots"
    folder.mkdir()
    for i, colour in enumerate([(200, 0, 0), (0, 100, 0), (0, 0, 50), (0, 60, 60)]):
        pixels = np.zeros((8, 8, 3), np.uint8)
        pixels[i, 2 * i] = colour
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def survey(model: heatcli.Model, folder: Path, **given: Any) -> Any:
    failed: list[HeatcliError] = []
    request = ConceptsRequest(**{"layer": "upper", "method": METHODS["lrp-0"], "pictures": 2, "batch_size": 3, **given})
    found, blocks = concepts(model, sorted(folder.iterdir()), request, failed)
    return found, blocks, failed


def test_shares_classes_and_pictures_of_a_closed_form(tmp_path: Path, spots: Path) -> None:
    """Class 0 is channel 0 alone; class 1 takes both, so that each picture's shares are known."""
    model = load(Chain(), tmp_path, shape=(3, 8, 8))
    found, _, _ = survey(model, spots, target="1", below="lower")
    each = {one.channel: one for one in found.channels}
    # of each picture: 0.5·upper0 and upper1: red 100, 0; green 100, 300; blue 0, 200; green and blue 60, 420
    shares = {0: [1.0, 0.25, 0.0, 60 / 480], 1: [0.0, 0.75, 1.0, 420 / 480]}
    for channel, values in shares.items():
        assert each[channel].share == pytest.approx(sum(values) / 4, abs=1e-6)
        assert each[channel].classes == {"1": pytest.approx(sum(values) / 4, abs=1e-6)}
    assert [Path(part.image).name for part in each[0].relevant] == ["0.png", "1.png"]
    assert [part.strength for part in each[0].relevant] == pytest.approx([1.0, 0.25])
    assert [Path(part.image).name for part in each[1].relevant] == ["2.png", "3.png"]
    assert [Path(part.image).name for part in each[1].excited] == ["3.png", "1.png"]
    assert [part.strength for part in each[1].excited] == pytest.approx([420 / 255, 300 / 255])
    assert each[1].relevant[0].box == (4, 2, 5, 3), "the blue pixel"
    # channel 1 of its two pictures: blue 200 and 240, green 180
    assert {one.channel: one.share for one in each[1].sources} == pytest.approx({2: 440 / 620, 1: 180 / 620, 0: 0.0})
    assert found.classes == {"1": 4}


def test_the_most_used_come_first_and_by_class(tmp_path: Path, spots: Path) -> None:
    """Without a target each picture is of its own class: red of class 0, the others of class 1."""
    found, blocks, _ = survey(load(Chain(), tmp_path, shape=(3, 8, 8)), spots, top=1)
    assert found.classes == {"0": 1, "1": 3}
    assert [one.channel for one in found.channels] == [1, 0]
    assert found.channels[1].classes == {"0": pytest.approx(1.0), "1": pytest.approx((0.25 + 60 / 480) / 3)}
    assert len(blocks) == 2
    assert found.channels[1].relevant == [], "only the first is shown"


@pytest.mark.parametrize("method", ["lrp-0", "lrp-epsilon-plus", "deeplift-rescale"])
def test_shares_are_those_of_explain(method: str) -> None:
    """Beside `heatcli.explain(concept=…)` of each picture alone, on a trained network."""
    model = heatcli.load(DIGITS)
    paths = sorted(PICTURES.glob("*.png"))[:5]
    request = ConceptsRequest("last", METHODS[method], None, "black", pictures=3, batch_size=4)
    found, _ = concepts(model, paths, request, [])
    expected = []
    for path in paths:
        concept = heatcli.explain(model, path, method, baseline="black", concept="last").concept
        assert concept is not None
        expected.append(concept.relevance[0] / concept.relevance[0].abs().sum())
    shares = torch.stack(expected)
    for one in found.channels:
        assert one.share == pytest.approx(float(shares[:, one.channel].abs().mean()), abs=1e-6)
        best = shares[:, one.channel].sort(descending=True).values[: len(one.relevant)]
        assert [part.strength for part in one.relevant] == pytest.approx(best.tolist(), abs=1e-6)


def test_pictures_that_a_channel_does_not_speak_for_are_left_out(tmp_path: Path, spots: Path) -> None:
    """Red and blue have nothing for channel 1 and channel 0; a channel of nothing at all is told."""
    model = load(Chain(), tmp_path, shape=(3, 8, 8))
    found, _, _ = survey(model, spots, target="1", pictures=9)
    each = {one.channel: one for one in found.channels}
    assert [Path(part.image).name for part in each[0].relevant] == ["0.png", "1.png", "3.png"]
    assert [Path(part.image).name for part in each[1].excited] == ["3.png", "1.png", "2.png"]
    (spots / "black").mkdir()
    Image.new("RGB", (8, 8)).save(spots / "black" / "0.png")
    with pytest.raises(UsageError, match="none of these channels has relevance or is excited on any picture"):
        survey(model, spots / "black", target="1")


def test_the_sources_of_a_channel_add_up_to_it() -> None:
    """lrp-0 loses nothing but to biases, which a black baseline takes away."""
    model = heatcli.load(MODELS / "animals.pt")
    batch = model.preprocess([SAMPLES / "wolf-on-snow.png", SAMPLES / "cow-on-grass.png"])
    for channel in (36, 51):
        question, _ = asked(model, batch, METHODS["lrp-0"], "wolf", "black")
        upper, lower = (one_layer(question.graph, name, model.path) for name in ("stage3", "stage2"))
        given = sources(question, METHODS["lrp-0"], upper, (channel,), lower)
        whole = heatcli.explain(model, batch, "lrp-0", "wolf", baseline="black", concept=f"stage3:{channel}")
        torch.testing.assert_close(given.sum(1), whole.ledger.output, rtol=1e-4, atol=1e-5)


def test_the_command_and_names(cli: Cli, tmp_path: Path) -> None:
    """The record, the sheet; names in what is printed, in `--concept`, in the report and in the figure's heading."""
    (tmp_path / "names.toml").write_text('[stage3]\n36 = "snow"\n30 = "muzzle"\n')
    named = ("--concept-names", "names.toml")
    ran = cli("concepts", SAMPLES / "wolf-on-snow.png", SAMPLES / "wolf-on-grass.png", "--layer", "stage3",
              "--channel", "36", "--channel", "51", "--below", "stage2", "--examples", "2", *named)  # fmt: skip
    assert ran.status == 0, ran.err
    assert "channel 36 (snow): wolf +" in ran.out
    found = json.loads((tmp_path / "concepts" / "animals.relu_37.concepts.json").read_text())
    assert [one["channel"] for one in found["channels"][:2]] == [36, 51]
    assert found["channels"][0]["name"] == "snow"
    assert len(found["channels"]) == 96
    assert sum(one["share"] for one in found["channels"]) == pytest.approx(1)
    with Image.open(tmp_path / "concepts" / "animals.relu_37.concepts.png") as sheet:
        assert sheet.width > 200
    by_name, by_number = [
        json.loads(
            cli("explain", SAMPLES / "wolf-on-snow.png", "--concept", concept, "--json", "--out", out, *named).out
        )
        for out, concept in (("name", "stage3:snow"), ("number", "stage3:36"))
    ]
    assert by_name["ledger"] == by_number["ledger"]
    assert by_name["concept"]["channels"] == [36]
    names = {one["channel"]: one.get("name") for one in by_name["concept"]["strongest"]}
    assert names[36] == "snow"


def test_names_may_stand_in_the_sidecar(tmp_path: Path) -> None:
    """Every worker process of a run has them, too, for they belong to the model."""
    path = tmp_path / "d.onnx"
    path.write_bytes(DIGITS.read_bytes())
    sidecar = (MODELS / "digits.toml").read_text()
    (tmp_path / "d.toml").write_text(f'{sidecar}\n[concepts.last]\n2 = "loop"\n')
    model = heatcli.load(path)
    found = heatcli.explain(model, PICTURES / "8-a.png", concept="last:loop").concept
    assert found is not None
    assert found.chosen == (2,)
    assert found.names == {2: "loop"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"layer": "uper"}, "unknown layer of"),
        ({"channels": (2,)}, "has channels 0 to 1, not 2"),
        ({"method": METHODS["gradient"]}, "does not divide the score in one walk"),
        ({"layer": "lower", "below": "upper"}, "is not below"),
        ({"below": "upper"}, "is not below"),
    ],
)
def test_what_is_not_there(tmp_path: Path, spots: Path, given: dict[str, Any], said: str) -> None:
    model = load(Chain(), tmp_path, shape=(3, 8, 8))
    with pytest.raises(UsageError, match=said):
        survey(model, spots, **given)


def test_a_picture_that_cannot_be_read_costs_a_line(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    ran = cli("concepts", PICTURES / "8-a.png", "bad.png", "--model", DIGITS, "--top", "1")
    assert ran.status == 1
    assert "heatcli: bad.png: " in ran.err
    assert cli("concepts", "bad.png", "--model", DIGITS).status == 2
