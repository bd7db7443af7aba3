"""Boxes relative to anchors: decoded as torchvision does, in whatever layout they come, or refused in one line."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from support.detectors import made
from torch import Tensor, nn

import heatcli
from heatcli.errors import ModelError, UsageError
from heatcli.graph.anchors import FCOS, RETINANET, SSD, Anchors
from heatcli.methods.detections import find
from heatcli.methods.question import outputs_of
from heatcli.model.model import Model

image_list = pytest.importorskip("torchvision.models.detection.image_list")
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning", "ignore::FutureWarning"
)
SIZE = (96, 120)
CLASSES = 5


class Raw(nn.Module):
    """Backbone and head of a detector of torchvision, without anchors and all that follows."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.net.head(list(self.net.backbone(x).values())).values())


def detector(kind: str) -> nn.Module:
    """A detector that works at the picture's own size, on its own values."""
    net = made(kind, CLASSES)
    given = net.transform
    given.min_size, given.max_size, given.image_mean, given.image_std = (96,), 160, [0, 0, 0], [1, 1, 1]
    given.size_divisible = 1
    if kind == SSD:
        given.fixed_size = SIZE[::-1]
    return net


def anchors_of(net: nn.Module, x: Tensor) -> np.ndarray:
    maps = list(net.backbone(x).values())
    found: np.ndarray = net.anchor_generator(image_list.ImageList(x, [SIZE]), maps)[0].numpy()
    return found


def saved(module: nn.Module, form: str, path: Path) -> Path:
    x = torch.rand(1, 3, *SIZE)
    path = path.with_suffix(f".{form}")
    if form == "onnx":
        torch.onnx.export(module, (x,), str(path), dynamo=False, opset_version=17)
    elif form == "pt2":
        torch.export.save(torch.export.export(module, (x,)), path)
    else:
        torch.jit.trace(module, x).save(str(path))
    return path


def described(path: Path, anchors: np.ndarray, offsets: str, more: str = "") -> None:
    """A sidecar that names the anchors."""
    np.save(path.parent / "anchors.npy", anchors)
    path.with_suffix(".toml").write_text(f'[output]\nanchors = "anchors.npy"\noffsets = "{offsets}"\n{more}')


def outputs(model: Model, x: Tensor) -> Tensor:
    return outputs_of(model, x)


@pytest.mark.parametrize("form", ["onnx", "pt2", "pt"])
@pytest.mark.parametrize("kind", [SSD, RETINANET, FCOS])
def test_raw_heads_are_as_torchvision_decodes_them(kind: str, form: str, tmp_path: Path) -> None:
    """The best box, its class and its probability; a coordinate, whose ledger is closed."""
    net, x = detector(kind), torch.rand(1, 3, *SIZE)
    path = saved(Raw(net).eval(), form, tmp_path / "net")
    described(path, anchors_of(net, x), kind, 'boxes = "corners"\n')
    model = heatcli.load(path, size=SIZE, confidence=0.05, overlap=0.5)
    graph = model.graph(x.shape)
    assert graph.boxes is not None
    assert (graph.boxes.background, graph.boxes.objectness) == (0 if kind == SSD else None, kind == FCOS)
    assert graph.verified is not None
    assert graph.verified.agrees
    with torch.no_grad():
        returned = net([x[0]])[0]
    (found,) = find(outputs(model, x), graph.boxes, model.thresholds)
    assert torch.allclose(found.corners[0], returned["boxes"][0], atol=1e-3)
    assert float(found.chances[0]) == pytest.approx(float(returned["scores"][0]), rel=1e-4)
    assert int(found.classes[0]) == int(returned["labels"][0])
    result = heatcli.explain(model, x, "lrp-eps", target="box:0.x2", baseline="none")
    assert float(result.ledger.relative_error) < 1e-4
    assert float(result.ledger.output.clamp(0, SIZE[1])) == pytest.approx(float(returned["boxes"][0, 2]), abs=1e-3)


class Levels(nn.Module):
    """Raw numbers of three anchors a cell, on two levels: whole, level by level, or as maps."""

    def __init__(self, form: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scores = nn.ModuleList([nn.Conv2d(3, 3 * CLASSES, s, s) for s in (8, 16)])
        self.boxes = nn.ModuleList([nn.Conv2d(3, 3 * 4, s, s) for s in (8, 16)])
        self.form = form

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = [[layer(x) for layer in layers] for layers in (self.scores, self.boxes)]
        if self.form == "maps":
            return *maps[0], *maps[1]
        rows = [
            [y.permute(0, 2, 3, 1).reshape(y.shape[0], -1, width) for y in some]
            for some, width in zip(maps, (CLASSES, 4), strict=True)
        ]
        if self.form == "levels":
            return *rows[1], *rows[0]
        return torch.cat(rows[0], 1), torch.cat(rows[1], 1)


def test_levels_and_maps_are_joined_in_order(tmp_path: Path) -> None:
    """The same output whichever way the numbers are returned."""
    x, height, width = torch.rand(2, 3, *SIZE), *SIZE
    anchors = []
    for stride in (8, 16):
        for row in range(height // stride):
            for column in range(width // stride):
                at = np.array([column, row, column, row]) * stride
                anchors += [at + np.array([0, 0, side, side]) for side in (stride, 2 * stride, 3 * stride)]
    found = []
    for form in ("whole", "levels", "maps"):
        path = saved(Levels(form), "pt", tmp_path / form)
        described(path, np.stack(anchors), RETINANET)
        found.append(outputs(heatcli.load(path, size=SIZE), x))
    assert found[0].shape == (2, CLASSES + 4, len(anchors))
    assert torch.equal(found[0], found[1])
    assert torch.allclose(found[0], found[2], atol=1e-6)


@pytest.mark.parametrize("in_unit", [False, True])
def test_decoding_is_the_papers(in_unit: bool) -> None:
    """One anchor at (10, 20, 30, 60) of an input of 200 × 100, in pixels or shares."""
    anchor = torch.tensor([[10.0, 20.0, 30.0, 60.0]])
    anchor = anchor / torch.tensor([100.0, 200.0, 100.0, 200.0]) if in_unit else anchor
    raw = torch.tensor([[[0.5], [-0.25], [math.log(2)], [math.log(0.5)]]])

    def decoded(offsets: str, raw: Tensor, corners: bool) -> list[float]:
        found: list[float] = Anchors(anchor, offsets).decoded(raw, (200, 100), corners)[0, :, 0].tolist()
        return found

    assert decoded(RETINANET, raw, False) == pytest.approx([20 + 0.5 * 20, 40 - 0.25 * 40, 40, 20])
    assert decoded(RETINANET, raw, True) == pytest.approx([10, 20, 50, 40])
    scaled = raw * torch.tensor([10.0, 10.0, 5.0, 5.0])[:, None]
    assert decoded(SSD, scaled, False) == pytest.approx([30, 30, 40, 20])
    distances = torch.tensor([[[0.5], [0.25], [1.0], [0.0]]])
    assert decoded(FCOS, distances, True) == pytest.approx([20 - 10, 40 - 10, 20 + 20, 40])
    assert decoded(FCOS, distances, False) == pytest.approx([25, 35, 30, 10])
    assert decoded(RETINANET, torch.full((1, 4, 1), 50.0), False)[2] == pytest.approx(20 * 1000 / 16)


@pytest.mark.parametrize("kind", [SSD, FCOS])
def test_without_anchors_one_line_says_what_to_do(kind: str, tmp_path: Path) -> None:
    """Numbers that are no boxes of the input are not taken for boxes; the scores alone can be explained."""
    path = saved(Raw(detector(kind)).eval(), "pt", tmp_path / "net")
    x = torch.rand(1, 3, *SIZE)
    with pytest.raises(UsageError, match=r"are relative to anchors, which it does not hold; anchors = .* --head K"):
        heatcli.explain(heatcli.load(path, size=SIZE), x, "lrp-eps")
    scores = 0 if kind == FCOS else 1
    assert heatcli.explain(heatcli.load(path, size=SIZE, head=scores, class_axis=2), x, "lrp-eps").relevance.any()


def test_anchors_that_do_not_fit_are_told(tmp_path: Path) -> None:
    path = saved(Levels("whole"), "pt", tmp_path / "net")
    x = torch.rand(1, 3, *SIZE)
    described(path, np.zeros((7, 4)), RETINANET)
    with pytest.raises(UsageError, match=r"which are no boxes and scores for the 7 anchors of its sidecar"):
        heatcli.load(path, size=SIZE).graph(x.shape)
    described(path, np.zeros((7, 5)), RETINANET)
    with pytest.raises(ModelError, match=r"anchors.npy: holds \[7, 5\] of float64; anchors are \[A, 4\]"):
        heatcli.load(path, size=SIZE)
    path.with_suffix(".toml").write_text('[output]\nanchors = "anchors.npy"\n')
    with pytest.raises(ModelError, match="has anchors or offsets alone; it takes both"):
        heatcli.load(path, size=SIZE)
    path.with_suffix(".toml").write_text('[output]\nanchors = "none.npy"\noffsets = "ssd"\n')
    with pytest.raises(ModelError, match=r"none.npy: .*"):
        heatcli.load(path, size=SIZE)
