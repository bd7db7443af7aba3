"""Layers by the artifact's own names, in every format: modules, blocks, nodes of ONNX graphs."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from conftest import SAMPLES, Cli
from torch import Tensor, nn

from heatcli.evaluate.compare import _paired
from heatcli.graph.layers import module_of


class Block(nn.Module):
    """A residual block, whose batch norm an exporter folds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        nn.init.normal_(self.norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.norm(self.conv(x)))


class Net(nn.Module):
    """Two stages of blocks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 3, stride=2)
        self.stage1 = nn.Sequential(Block(), Block())
        self.stage2 = nn.Sequential(Block(), Block())
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.stage2(self.stage1(self.stem(x))).mean((2, 3)))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, net, x = tmp_path_factory.mktemp("layers"), Net().eval(), torch.rand(1, 3, 32, 32)
    found = {kind: folder / f"net.{kind}" for kind in ("pt", "pt2", "onnx")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(net).save(str(found["pt"]))
        torch.export.save(torch.export.export(net, (x,)), str(found["pt2"]))
        torch.onnx.export(net, (x,), str(found["onnx"]), dynamo=False)
    return found


def test_a_layer_has_one_name_in_every_format(cli: Cli, files: dict[str, Path]) -> None:
    """The same --layer gives the same map of TorchScript, torch.export and ONNX, though ONNX has lost its modules."""
    for layer in ("stage1", "stage1.0", "stage2.1.conv", "stem"):
        totals = []
        for file in files.values():
            ran = cli("explain", SAMPLES / "wolf-on-snow.png", "-m", file, "--size", "32", "--preset", "none",
                      "--method", "layer-cam", "--layer", layer, "--figure", "none", "--json")  # fmt: skip
            assert ran.status == 0, ran.err
            totals.append(json.loads(ran.out)["pixels"]["positive"])
        assert totals == pytest.approx([totals[0]] * 3, rel=1e-4), layer


def test_layers_are_listed_and_suggested(cli: Cli, files: dict[str, Path]) -> None:
    for file in files.values():
        ran = cli("inspect", file, "--size", "32", "--layers", "--json")
        listed = json.loads(ran.out)
        assert {"stem", "stage1.0.conv", "stage2.1.conv", "fc"} <= {row["module"] for row in listed}
        assert next(row for row in listed if row["module"] == "stem")["maps"]
        lines = cli("inspect", file, "--size", "32", "--layers").out.splitlines()
        assert any(line.split("\t")[1:] == ["stage1.0.conv", "4×15×15", "map"] for line in lines)
        for command in (["explain", "--method", "grad-cam"], ["activations"]):
            ran = cli(*command, SAMPLES / "wolf-on-snow.png", "-m", file, "--size", "32", "--layer", "stagge2")
            assert ran.status == 2
            assert "did you mean 'stage2'? Known: " in ran.err
            assert "`heatcli inspect --layers` lists all" in ran.err
    assert any(row["node"] == "/stage1/stage1.0/Add" for row in listed)


@pytest.mark.parametrize(
    ("node", "module"),
    [
        ("/layer4/layer4.1/conv2/Conv", "layer4.1.conv2"),
        ("/layer2/layer2.0/downsample/downsample.0/Conv", "layer2.0.downsample.0"),
        ("/Flatten", ""),
        ("node_conv2d_5", ""),
        ("", ""),
    ],
)
def test_the_module_in_a_nodes_name(node: str, module: str) -> None:
    assert module_of(node) == module


def test_biases_of_two_formats_are_compared_by_place(
    cli: Cli, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX calls a folded batch norm's bias `onnx::Conv_31`; beside TorchScript it is one row, whole at 80."""
    monkeypatch.setenv("COLUMNS", "80")
    common = [SAMPLES / "wolf-on-snow.png", "--size", "32", "--preset", "none", "--baseline", "none"]
    ran = cli("compare", files["pt"], files["onnx"], *common, "--json")
    assert ran.status == 0, ran.err
    biases = json.loads(ran.out)["biases"]
    assert len(biases) == 6
    for name, both in biases.items():
        assert not name.startswith("onnx::")
        assert both["b"] == pytest.approx(both["a"], rel=1e-3, abs=1e-6), name
    shown = cli("compare", files["pt"], files["onnx"], *common).out
    assert "…" not in shown
    assert "–" not in shown
    assert "wolf-on-snow.png: " in shown
    assert max(map(len, shown.splitlines()[2:])) <= 80


def test_biases_that_cannot_be_paired_keep_their_names() -> None:
    one = torch.ones(1)
    a, b = {"x": one, "y": one, "fc": one}, {"p": one, "fc": one}
    assert list(_paired(a, b)) == ["p", "fc"]
    assert list(_paired(a, {"p": one, "q": one, "fc": one})) == ["x", "y", "fc"]
    assert list(_paired({"fc": one, "x": one}, {"x": one, "fc": one})) == ["x", "fc"]
