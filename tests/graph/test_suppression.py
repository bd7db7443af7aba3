"""Suppression inside artifacts: the walk starts before it, and what was left out is told."""

from __future__ import annotations

import json
from importlib.util import find_spec
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
from heatcli.errors import ModelError

ops = pytest.importorskip("torchvision.ops")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
SIZE = 64


class Raw(nn.Module):
    """A detector of red and blue cells: boxes [N, A, 4] as corners, and the probabilities [N, A, 2] of two classes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scale = nn.Parameter(torch.tensor(12.0))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        boxes, scores = [], []
        for stride in (8, 16, 32):
            mean = nn.functional.avg_pool2d(x, stride)
            both = torch.cat([mean[:, :1] - mean[:, 2:], mean[:, 2:] - mean[:, :1]], 1)
            scores.append((self.scale * both - (6 if stride == 8 else 20)).flatten(2))
            at = torch.arange(0, x.shape[3], stride, dtype=x.dtype)
            rows, columns = torch.meshgrid(at, at, indexing="ij")
            box = torch.stack([columns, rows, columns + stride, rows + stride])[None] + 0 * mean[:, :1]
            boxes.append(box.flatten(2))
        return torch.cat(boxes, 2).transpose(1, 2), torch.cat(scores, 2).sigmoid().transpose(1, 2)


class Suppressed(nn.Module):
    """The same, with torchvision's suppression behind, of one image."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = Raw()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        boxes, scores = self.raw(x)
        best, labels = scores[0].max(1)
        keep = torch.nonzero(best > 0.25)[:, 0]
        keep = keep[ops.nms(boxes[0][keep], best[keep], 0.45)]
        return boxes[0][keep], best[keep], labels[keep]


class EndToEnd(nn.Module):
    """The same, with the best K behind, as end-to-end exports have it: rows of a box, its score and its class."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = Raw()

    def forward(self, x: Tensor) -> Tensor:
        boxes, scores = self.raw(x)
        best, labels = scores.max(2)
        values, places = best.topk(10, 1)
        picked = boxes.gather(1, places[..., None].expand(-1, -1, 4))
        return torch.cat([picked, values[..., None], labels.gather(1, places)[..., None].float()], 2)


def red(path: Path) -> str:
    """A grey picture with a red cell."""
    picture = Image.new("RGB", (SIZE, SIZE), (128, 128, 128))
    picture.paste("red", (16, 24, 24, 32))
    picture.save(path)
    return path.name


def reported(cli: Cli, artifact: Path | str, tmp_path: Path, *more: str) -> dict[str, object]:
    arguments = ["--target", "detections", "--method", "lrp-0", "--size", str(SIZE), "--json", *more]
    ran = cli("explain", red(tmp_path / "red.png"), "-m", artifact, *arguments)
    assert ran.status == 0, ran.err
    (line,) = ran.out.splitlines()
    found: dict[str, object] = json.loads(line)
    return found


@pytest.mark.parametrize("form", ["traced", "scripted", "best K"])
def test_before_suppression_is_as_without(form: str, tmp_path: Path, cli: Cli) -> None:
    """The same box, score and map as of the detector without anything behind; a note says what was left out."""
    x = torch.rand(1, 3, SIZE, SIZE)
    torch.jit.trace(Raw(), x).save(str(tmp_path / "raw.pt"))
    net = EndToEnd() if form == "best K" else Suppressed()
    made = torch.jit.script(net.eval()) if form == "scripted" else torch.jit.trace(net, x, check_trace=False)
    made.save(str(tmp_path / "behind.pt"))
    raw, behind = (reported(cli, f"{name}.pt", tmp_path, "--out", name) for name in ("raw", "behind"))
    for part in ("target", "pixels", "ledger"):
        assert behind[part] == raw[part]
    assert behind["model"]["verified"]["agrees"]  # type: ignore[index]
    (box,) = behind["target"]["boxes"]  # type: ignore[index]
    assert list(box.values()) == pytest.approx([16, 24, 24, 32])
    told = json.loads(cli("inspect", "behind.pt", "--size", str(SIZE), "--json").out)
    assert told["output"]["before"] == (["max", "topk"] if form == "best K" else ["max", "nonzero", "nms"])
    assert told["output"]["kind"] == "detections"
    ran = cli("explain", "red.png", "-m", "behind.pt", "--size", str(SIZE), "--target", "box:0", "--no-cache")
    assert "chooses among its own scores at the end" in ran.err


def with_suppression(source: Path, path: Path, output: str, classes: int) -> Path:
    """An ONNX detector [N, 4 + C, A] with NonMaxSuppression and a Gather behind it, as exporters append them."""
    model = onnx.load(str(source))
    graph = model.graph
    for name, value in {
        "zero": [0], "four": [4], "end": [4 + classes], "axis": [1], "most": [50], "two": [2], "one": [1],
    }.items():  # fmt: skip
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), f"nms.{name}"))
    for name, share in {"overlap": 0.45, "least": 0.2}.items():
        graph.initializer.append(numpy_helper.from_array(np.array([share], np.float32), f"nms.{name}"))
    graph.node.extend([
        helper.make_node("Slice", [output, "nms.zero", "nms.four", "nms.axis"], ["nms.rows"], "nms.rows"),
        helper.make_node("Transpose", ["nms.rows"], ["nms.boxes"], "nms.boxes", perm=[0, 2, 1]),
        helper.make_node("Slice", [output, "nms.four", "nms.end", "nms.axis"], ["nms.scores"], "nms.scores"),
        helper.make_node(
            "NonMaxSuppression", ["nms.boxes", "nms.scores", "nms.most", "nms.overlap", "nms.least"], ["selected"],
            "nms", center_point_box=1,
        ),
        helper.make_node("Gather", ["selected", "nms.two"], ["nms.column"], "nms.column", axis=1),
        helper.make_node("Squeeze", ["nms.column", "nms.one"], ["nms.places"], "nms.places"),
        helper.make_node("Gather", ["nms.boxes", "nms.places"], ["picked"], "nms.picked", axis=1),
    ])  # fmt: skip
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("picked", TensorProto.FLOAT, ["n", "k", 4]))
    graph.output.append(helper.make_tensor_value_info("selected", TensorProto.INT64, ["k", 3]))
    onnx.save(model, path)
    return path


class Rows(nn.Module):
    """`Raw` as one tensor [N, 4 + C, A], boxes as centre and size."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = Raw()

    def forward(self, x: Tensor) -> Tensor:
        boxes, scores = self.raw(x)
        whole = torch.cat([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2], scores], 2)
        return whole.transpose(1, 2)


def test_suppression_of_onnx_is_left_out_and_onnx_runtime_confirms_what_goes_in(tmp_path: Path, cli: Cli) -> None:
    raw = tmp_path / "raw.onnx"
    x = torch.zeros(1, 3, SIZE, SIZE)
    torch.onnx.export(Rows(), (x,), str(raw), dynamo=False, opset_version=17, output_names=["rows"])
    behind = with_suppression(raw, tmp_path / "behind.onnx", "rows", 2)
    one, other = (reported(cli, path.name, tmp_path, "--out", path.stem) for path in (raw, behind))
    for part in ("target", "pixels", "ledger"):
        assert other[part] == one[part]
    verified = other["model"]["verified"]  # type: ignore[index]
    assert (verified["against"].startswith("onnxruntime"), verified["agrees"]) == (True, True)
    told = json.loads(cli("inspect", behind, "--json").out)
    assert told["output"]["before"] == ["non_max_suppression"]
    assert told["outputs"][0]["shape"] == [1, 6, 84]


@pytest.mark.parametrize("kind", ["argmax", "topk"])
def test_a_class_chosen_inside_is_explained_by_the_scores_before(kind: str) -> None:
    """A classifier that returns the number of the best class, or the best K with their numbers."""

    class Chosen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(48, 6))

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            scores = self.net(x)
            return (scores.argmax(1),) if kind == "argmax" else tuple(scores.topk(2, 1))

    net, x = Chosen(), torch.rand(2, 3, 4, 4)
    result = heatcli.explain(heatcli.load(net, x), x, "lrp-0")
    assert torch.allclose(result.outputs, net.net(x), atol=1e-6)
    assert torch.equal(result.target.index, net.net(x).argmax(1))
    assert float(result.ledger.relative_error.max()) < 1e-5


def test_a_choice_within_the_network_is_none_at_its_end() -> None:
    """Layers with weights follow it, or the places are not returned: the output itself is explained."""

    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            best, places = x.flatten(1).topk(3, 1)
            return self.dense(best + 0.1 * places), best

    x = torch.rand(1, 3, 4, 4)
    model = heatcli.load(Inner(), x)
    assert model.graph(x.shape).before == ()
    assert tuple(heatcli.explain(model, x, "lrp-0").outputs.shape) == (1, 2)


def test_suppression_of_what_is_no_boxes_is_told() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(1)[0]
            boxes = flat[:16].reshape(4, 4)
            return boxes[ops.nms(boxes, flat[16:20], 0.5)]

    x = torch.rand(1, 3, 8, 8)
    with pytest.raises(ModelError, match=r"ends in nms, and what goes in \(.*\) is no boxes and scores"):
        heatcli.explain(heatcli.load(Odd(), x), x, "lrp-0")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", ["traced", "scripted", "onnx"])
def test_torchvisions_ssdlite(form: str, tmp_path: Path) -> None:
    """Random weights, five classes of which the first is none; its own 3,234 anchors and their scores are explained."""
    detection = pytest.importorskip("torchvision.models.detection")
    torch.manual_seed(0)
    net = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5).eval()
    for part in net.modules():  # as it is, the scores of all boxes would be equal
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out")

    class Traced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            found = self.net([x[0]])[0]
            return found["boxes"], found["scores"], found["labels"]

    class Scripted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.jit.script(net)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            found = self.net([x[0]])[1][0]
            return found["boxes"], found["scores"], found["labels"]

    x = torch.rand(1, 3, 320, 320)
    path = tmp_path / ("ssd.onnx" if form == "onnx" else "ssd.pt")
    if form == "onnx":
        torch.onnx.export(Traced().eval(), (x,), str(path), dynamo=False, opset_version=17)
    elif form == "traced":
        torch.jit.trace(Traced().eval(), x, check_trace=False).save(str(path))
    else:
        torch.jit.script(Scripted().eval()).save(str(path))
    model = heatcli.load(path, size=320, confidence=0.0)
    boxes = model.graph(x.shape).boxes
    assert boxes is not None
    assert (boxes.classes, boxes.background, boxes.form, boxes.logits) == (5, 0, "corners", True)
    result = heatcli.explain(model, x, "lrp-eps", target="box:0", baseline="none")
    best = net([x[0]])[0]["scores"].max().detach()
    at = result.target.index
    assert int(at) > 0
    assert float(result.probabilities[0, at]) == pytest.approx(float(best), rel=1e-4)
    assert float(result.ledger.relative_error) < 1e-3


@pytest.mark.peers
def test_a_packages_detector_with_suppression_behind(tmp_path: Path, cli: Cli) -> None:
    """YOLOv8n of `nudenet`: the same report with NonMaxSuppression behind as without."""
    spec = find_spec("nudenet")
    data = pytest.importorskip("skimage.data")
    if spec is None or spec.origin is None:
        pytest.skip("install .[peers]")
    source = Path(spec.origin).parent / "320n.onnx"
    behind = with_suppression(source, tmp_path / "behind.onnx", "output0", 18)
    Image.fromarray(data.astronaut()[:300]).save(tmp_path / "a.png")
    reports = []
    for path in (source, behind):
        ran = cli("explain", "a.png", "-m", path, "--target", "box:0", "--method", "lrp-epsilon-plus", "--json")
        reports.append(json.loads(ran.out))
    for part in ("target", "pixels", "ledger"):
        assert reports[1][part] == reports[0][part]
    assert reports[1]["model"]["verified"]["agrees"]
