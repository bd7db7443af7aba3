"""What goes in: channels other than colour, channels last, several inputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import Cli
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import Tensor, nn

import heatcli
from heatcli.errors import ImageError, UsageError
from heatcli.images.read import read_picture


class Bands(nn.Module):
    """A classifier of five-channel pictures."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(5, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x)).mean((2, 3))


@pytest.fixture
def bands(tmp_path: Path) -> Path:
    path = tmp_path / "bands.pt"
    torch.jit.script(Bands()).save(str(path))
    (tmp_path / "bands.toml").write_text("[input]\nsize = [6, 8]\nchannels = 5\n")
    return path


def test_arrays_and_pages_are_pictures(cli: Cli, bands: Path, tmp_path: Path) -> None:
    """The same five bands as .npy (either layout), .npz and multi-page TIFF give the same report; a PNG is refused."""
    planes = np.random.default_rng(0).integers(0, 256, (5, 6, 8), dtype=np.uint8)
    np.save(tmp_path / "first.npy", planes)
    np.save(tmp_path / "last.npy", planes.transpose(1, 2, 0))
    np.savez(tmp_path / "zip.npz", planes)
    pages = [Image.fromarray(plane) for plane in planes]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    reports = {}
    for name in ("first.npy", "last.npy", "zip.npz", "pages.tif"):
        ran = cli("explain", name, "--model", bands, "--json")
        assert ran.status == 0, ran.err
        reports[name] = json.loads(ran.out)
    expected = Bands()(torch.from_numpy(planes).float()[None] / 255).max().item()
    for report in reports.values():
        assert report["target"]["score"] == pytest.approx(expected, rel=1e-5)
        assert (report["image"]["width"], report["image"]["height"]) == (8, 6)
        assert report["pixels"] == reports["first.npy"]["pixels"]
    Image.new("RGB", (8, 6)).save(tmp_path / "rgb.png")
    ran = cli("explain", "rgb.png", "--model", bands)
    assert ran.status == 1
    assert "rgb.png: is a picture, the model takes 5 channels; give a TIFF or .npy file" in ran.err


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 6, 8)), r"has the shape \(4, 6, 8\); the model takes 5 channels"),
        (np.full((5, 6, 8), np.nan), "not finite"),
        (np.array(["a"]), "is no array of numbers: holds <U1, not numbers"),
        (np.zeros((1, 2)), r"has the shape \(1, 1, 2\)"),
        (np.zeros((5, 0, 8)), "has the shape"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ImageError, match=message):
        read_picture(tmp_path / "a.npy", 5)


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ImageError, match="is no array of numbers"):
        read_picture(tmp_path / "a.npy", 1)


def _onnx(nodes: list[onnx.NodeProto], inputs: list[onnx.ValueInfoProto], path: Path, **weights: np.ndarray) -> Path:
    graph = helper.make_graph(
        nodes, "test", inputs, [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_channels_last(tmp_path: Path) -> None:
    """An ONNX model of [N, H, W, C] takes pictures like any other; relevance comes back as [N, C, H, W]."""
    weight = np.random.default_rng(0).normal(size=(7 * 5 * 3, 4))
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["scores"])]
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 7, 5, 3])
    model = heatcli.load(_onnx(nodes, [info], tmp_path / "last.onnx", w=weight))
    assert model.shape == (3, 7, 5)
    batch = torch.randn(2, 3, 7, 5)
    result = heatcli.explain(model, batch, "lrp-0", target=1)
    expected = batch.permute(0, 2, 3, 1) * torch.from_numpy(weight[:, 1]).float().reshape(7, 5, 3)
    assert torch.allclose(result.relevance, expected.permute(0, 3, 1, 2), atol=1e-6)


class Two(nn.Module):
    """Scores of a picture, scaled and shifted by a second input."""

    def forward(self, image: Tensor, context: Tensor) -> Tensor:
        return image.flatten(1)[:, :3] * context + context


def test_several_inputs(cli: Cli, tmp_path: Path) -> None:
    """The picture is the input whose value is not given; what the other adds is booked under its name."""
    torch.jit.script(Two()).save(str(tmp_path / "two.pt"))
    program = torch.export.export(Two(), (torch.zeros(1, 3, 2, 2), torch.zeros(1, 3)))
    with (tmp_path / "two.pt2").open("wb") as file:
        torch.export.save(program, file)
    context = torch.tensor([[1.0, 2.0, 3.0]])
    np.save(tmp_path / "context.npy", context.numpy())
    batch = torch.rand(1, 3, 2, 2) * 0.1
    for name in ("two.pt", "two.pt2"):
        result = heatcli.explain(heatcli.load(tmp_path / name, size=2, inputs={"context": context}), batch, "lrp-0")
        assert torch.allclose(result.outputs, Two()(batch, context), rtol=1e-6)
        assert result.biases["context"].tolist() == [[0.0, 0.0, 3.0]]
        with pytest.raises(UsageError, match=r"takes 2 inputs \(image, context\); give all but the one to explain"):
            heatcli.load(tmp_path / name, size=2)
        with pytest.raises(UsageError, match=r"unknown input of two.*did you mean 'context'"):
            heatcli.load(tmp_path / name, size=2, inputs={"contxt": context})
    with pytest.raises(UsageError, match=r"two.pt2: its input context is 1×3; the value given is 1×4"):
        heatcli.load(tmp_path / "two.pt2", size=2, inputs={"context": torch.ones(1, 4)})
    Image.new("RGB", (2, 2), "red").save(tmp_path / "red.png")
    command = ["explain", "red.png", "--model", "two.pt", "--size", "2"]
    ran = cli(*command, "--input", "context=context.npy")
    assert ran.status == 0, ran.err
    assert cli(*command).status == 2
    assert "cannot be read as an array" in cli(*command, "--input", "context=red.png").err
    assert "NAME=FILE.npy" in cli(*command, "--input", "context").err


class Clinic(nn.Module):
    """A score of a picture and of a table, each through layers of its own, then together."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.dense, self.last = nn.Conv2d(3, 4, 3), nn.Linear(3, 4), nn.Linear(8, 2)

    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        both = torch.cat([self.conv(image).relu().mean((2, 3)), self.dense(table).relu()], 1)
        return self.last(both)


@pytest.mark.parametrize("method", ["lrp-0", "lrp-epsilon-plus", "lrp-gamma", "lrp-w2", "deeplift-rescale"])
def test_a_table_beside_the_picture_gets_relevance_by_name(method: str, cli: Cli, tmp_path: Path) -> None:
    """Where the sidecar names it; the ledger closes; by lrp-0 each value has its product with the gradient."""
    net = Clinic()
    torch.jit.trace(net, (torch.zeros(1, 3, 8, 8), torch.zeros(1, 3))).save(str(tmp_path / "clinic.pt"))
    sidecar = '[input]\nsize = 8\n[inputs.table]\nnames = ["age", "weight", "dose"]\n'
    (tmp_path / "clinic.toml").write_text(sidecar)
    table = torch.tensor([[0.5, -1.0, 2.0]])
    np.save(tmp_path / "table.npy", table.numpy())
    Image.new("RGB", (8, 8), (200, 40, 90)).save(tmp_path / "skin.png")
    ran = cli(
        "explain", "skin.png", "-m", "clinic.pt", "--input", "table=table.npy", "--target", "1", "--method", method,
        "--baseline", "none", "--json",
    )  # fmt: skip
    report = json.loads(ran.out)
    assert report["ledger"]["relative_error"] < 1e-5
    (part,) = report["inputs"]
    assert [(v["name"], v["value"]) for v in part["values"]] == [("age", 0.5), ("weight", -1.0), ("dose", 2.0)]
    booked = next(b for b in report["biases"] if b["name"] == "table")
    assert booked["values"] == pytest.approx([v["relevance"] for v in part["values"]])
    assert any(v["relevance"] for v in part["values"])
    if method == "lrp-0":
        x = torch.full((1, 3, 8, 8), 0.0) + torch.tensor([200, 40, 90]).reshape(3, 1, 1) / 255
        leaf = table.clone().requires_grad_()
        net(x, leaf)[0, 1].backward()
        assert [v["relevance"] for v in part["values"]] == pytest.approx((leaf.grad * table)[0].tolist(), rel=1e-4)


def test_a_sidecar_that_names_an_input_that_is_not_there(cli: Cli, tmp_path: Path) -> None:
    torch.jit.trace(Clinic(), (torch.zeros(1, 3, 8, 8), torch.zeros(1, 3))).save(str(tmp_path / "clinic.pt"))
    (tmp_path / "clinic.toml").write_text("[inputs.tabel]\n")
    np.save(tmp_path / "table.npy", np.zeros((1, 3), np.float32))
    Image.new("RGB", (8, 8)).save(tmp_path / "skin.png")
    ran = cli("explain", "skin.png", "-m", "clinic.pt", "--input", "table=table.npy", "--size", "8")
    assert (ran.status, "did you mean 'table'" in ran.err) == (2, True)


class Alone(nn.Module):
    """A network of one picture [3, H, W] without an axis of the batch. `dense`: a score at each place."""

    def __init__(self, dense: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.dense = nn.Conv2d(3, 4, 3, padding=1), dense

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.relu(self.conv(x[None]))[0]
        return maps if self.dense else maps.mean((1, 2))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("form", ["onnx", "pt2"])
@pytest.mark.parametrize("dense", [False, True])
def test_a_picture_without_an_axis_of_the_batch(dense: bool, form: str, tmp_path: Path) -> None:
    net, x = Alone(dense).eval(), torch.rand(2, 3, 32, 40)
    path = tmp_path / f"net.{form}"
    if form == "onnx":
        torch.onnx.export(net, (x[0],), str(path), dynamo=False)
    else:
        torch.export.save(torch.export.export(net, (x[0],)), str(path))
    model = heatcli.load(path)
    assert model.shape == (3, 32, 40)
    result = heatcli.explain(model, x, "lrp-eps", target=1, baseline="blur")
    for i, picture in enumerate(x):
        scores = net(picture).detach()
        score = scores[1] if not dense else scores[1][scores.argmax(0) == 1].sum()
        assert float(result.ledger.output[i]) == pytest.approx(float(score), rel=1e-4)
    assert float(result.ledger.relative_error.max()) < 1e-4
    assert result.verified is not None
    assert result.verified.agrees
