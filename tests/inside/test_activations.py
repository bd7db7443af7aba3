"""Feature maps: the values of the artifact's own layers, and relevance that sums to the score at every cut."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MODELS, SAMPLES, Cli
from networks import images, load, network
from PIL import Image
from torch import Tensor, nn

import heatcli
from heatcli.errors import UsageError
from heatcli.graph.layers import find_layers
from heatcli.inside.activations import activations
from heatcli.methods.table import METHODS

WOLF = SAMPLES / "wolf-on-snow.png"


class Chain(nn.Module):
    """A network without biases: relevance at any layer sums to the score."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.ReLU(), nn.Conv2d(6, 4, 3, bias=False))
        self.fc = nn.Linear(4, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.features(x)).mean((2, 3)))


@pytest.mark.parametrize("form", ["scripted", "onnx-old", "pt2"])
def test_values_and_names_are_the_artifacts_own(form: str, tmp_path: Path) -> None:
    """Whatever the format, `features.0.weight` names the first convolution, and its map is what it computes."""
    net = network("plain")
    batch = images(3)
    (maps,), _ = activations(load(net, tmp_path, form), batch, ["features.0.weight"])
    with torch.no_grad():
        assert torch.allclose(maps.values, net.features[0](batch), atol=1e-5)
    assert "features.0.weight" in maps.layer.names


@pytest.mark.parametrize("method", ["lrp-0", "input-x-gradient"])
def test_relevance_sums_to_the_score_at_every_layer(method: str, tmp_path: Path) -> None:
    model = load(Chain(), tmp_path)
    batch = images(4)
    found, goal = activations(model, batch, ["*"], METHODS[method], target=2)
    assert len(found) >= 6
    assert goal.index.tolist() == [2] * 4
    score = Chain()(batch)[:, 2]
    for maps in found:
        assert torch.allclose(maps.strengths("relevance").sum(1), score, rtol=1e-4, atol=1e-6), maps.layer.name


def test_relevance_of_the_first_layer_agrees_with_the_books(tmp_path: Path) -> None:
    """What arrives at the first convolution is what its bias and the pixels get from there."""
    model = load(network("plain"), tmp_path)
    batch = images(2)
    (maps,), _ = activations(model, batch, ["features.0"], METHODS["lrp-0"], target=1)
    result = heatcli.explain(model, batch, "lrp-0", target=1)
    expected = result.relevance.sum((1, 2, 3)) + result.biases["features.0.bias"].sum(1)
    assert torch.allclose(maps.strengths("relevance").sum(1), expected, atol=1e-5)


def test_a_baseline_and_a_fixed_batch_size(tmp_path: Path) -> None:
    """Relevance is of the difference; an artifact that takes one image at a time gives the same."""
    net, batch = network("residual"), images(3)
    model = load(net, tmp_path)
    (maps,), _ = activations(model, batch, ["fc*"], METHODS["deeplift-rescale"], target=0, baseline="zero")
    with torch.no_grad():
        expected = net(batch)[:, 0] - net(torch.zeros_like(batch))[:, 0]
    assert torch.allclose(maps.strengths("relevance").sum(1), expected, atol=1e-5)
    model.network.batch_size = 1
    (single,), goal = activations(model, batch, ["fc*"], METHODS["deeplift-rescale"], target=0, baseline="zero")
    assert single.values.shape == maps.values.shape == (3, 5)
    assert torch.allclose(single.relevance, maps.relevance, atol=1e-5)
    assert goal.index.shape == (3,)


def test_names_globs_and_their_errors(tmp_path: Path) -> None:
    model = load(network("plain"), tmp_path)
    graph = model.graph((1, 3, 16, 16))

    def named(*wanted: str) -> list[str]:
        return [layer.name for layer in find_layers(graph, wanted, model.path)]

    convolutions = [op.name for op in graph.operators if op.title == "convolution"]
    assert named("features.*") == named("convolution*") == convolutions
    assert named("features.3.bias", "features.0") == convolutions
    assert named(convolutions[1]) == convolutions[1:]
    with pytest.raises(UsageError, match=r"unknown layer of scripted.pt 'features.9'; did you mean 'features.3'"):
        named("features.9")


def test_ranking(tmp_path: Path) -> None:
    (maps,), _ = activations(load(Chain(), tmp_path), images(1), ["features.2"])
    strengths = maps.strengths("activation")[0]
    assert maps.ranked(0, "activation") == strengths.argsort(descending=True).tolist()
    relevance = maps.strengths("relevance")[0].abs()
    assert maps.ranked(0, "relevance") == relevance.argsort(descending=True).tolist()


def test_the_command_writes_a_sheet_and_arrays(cli: Cli, tmp_path: Path) -> None:
    ran = cli("activations", WOLF, "--layer", "stage4.*", "--layer", "fc", "--by", "relevance", "--json")
    assert ran.status == 0, ran.err
    record = json.loads(ran.out)
    assert record["target"] == {"index": 0, "label": "wolf"}
    with np.load(tmp_path / "activations" / record["files"]["arrays"]) as arrays:
        for layer in record["layers"]:
            values, relevance = arrays[layer["layer"]], arrays[layer["layer"] + ".relevance"]
            assert list(values.shape) == list(relevance.shape) == layer["shape"]
            first = layer["channels"][0]
            assert values.reshape(len(values), -1).max() == pytest.approx(first["activation"])
            rows = relevance.reshape(len(relevance), -1).sum(1)
            assert rows[first["channel"]] == pytest.approx(first["relevance"], abs=1e-5)
    assert record["layers"][-1]["parameters"] == ["fc.weight", "fc.bias"]
    with Image.open(tmp_path / "activations" / record["files"]["sheet"]) as sheet:
        assert sheet.width > 600


def test_errors_are_one_line(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for command, status, text in (
        (["activations", WOLF, "--layer", "stem2"], 2, "unknown layer of animals.pt 'stem2'"),
        (["activations", WOLF, "--by", "size"], 2, "--by size is not known; use activation, relevance"),
        (["activations", WOLF, "--top", "0"], 2, "--top 0 is not allowed"),
        (["activations", WOLF, "--target", "cta"], 2, "unknown label 'cta'; did you mean 'cat'"),
        (["activations", "no.png"], 1, "no.png: no such image file"),
        (["activations", "empty"], 2, "empty: no images in this folder"),
        (["activations", SAMPLES, "--top-images", "3"], 2, "--top-images N goes with one --layer NAME"),
        (["activations", SAMPLES, "--top-images", "3", "--layer", "stem", "--channel", "32"], 2, "0 to 31, not 32"),
        (["activations", SAMPLES, "--top-images", "3", "--layer", "stage*", "--channel", "1"], 2, "give one: "),
        (["filters", "--layer", "fc"], 2, "no convolution with constant kernels is named so"),
        (["filters", MODELS / "digits.onnx", "--top", "0"], 2, "--top 0 is not allowed"),
    ):
        ran = cli(*command)
        assert (ran.status, ran.err.count("\n")) == (status, 1), ran.err
        assert text in ran.err


def test_pictures_with_one_stem_both_get_sheets(cli: Cli, tmp_path: Path) -> None:
    with Image.open(WOLF) as picture:
        for name in ("same.png", "same.bmp", "other.png"):
            picture.convert("RGB").save(name)
    ran = cli("activations", "same.png", "same.bmp", "other.png", "--layer", "stem", "--out", "out")
    assert ran.status == 0, ran.err
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == [
        "other.activation.png", "same.bmp.activation.png", "same.png.activation.png",
    ]  # fmt: skip
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "same.png").write_bytes((tmp_path / "same.png").read_bytes())
    ran = cli("activations", "same.png", "sub/same.png", "--layer", "stem", "--out", "out")
    assert ran.status == 2
    assert "same.png and sub/same.png would both write same.png.activation.png; use one --out folder each" in ran.err
