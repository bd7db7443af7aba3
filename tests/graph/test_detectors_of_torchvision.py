"""Detectors of torchvision with all that they do: resizing, anchors, suppression, boxes in the picture's own pixels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Cli
from PIL import Image
from support.detectors import OVERLAP, SIZE, made, two_stages
from torch import Tensor, nn

import heatcli
from heatcli.methods.detections import Found, find
from heatcli.methods.question import outputs_of
from heatcli.methods.targets import Target
from heatcli.model.model import Model

SLOW = pytest.mark.slow

detection = pytest.importorskip("torchvision.models.detection")
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning"
)


class One(nn.Module):
    """The boxes of one picture."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = self.net([x[0]])[0]
        return found["boxes"], found["scores"], found["labels"]


def saved(net: nn.Module, form: str, path: Path) -> Path:
    """The detector as an artifact: scripted, so that it takes a list of pictures, or traced."""
    x = torch.rand(1, 3, *SIZE)
    if form == "onnx":
        path = path.with_suffix(".onnx")
        torch.onnx.export(One(net).eval(), (x,), str(path), dynamo=False, opset_version=17)
    elif form == "traced":
        torch.jit.trace(One(net).eval(), x, check_trace=False).save(str(path))
    else:
        torch.jit.script(net).save(str(path))
    return path


def best(model: Model, x: Tensor) -> Found:
    boxes = model.graph(x.shape).boxes
    assert boxes is not None
    return find(outputs_of(model, x), boxes, model.thresholds)[0]


@pytest.mark.parametrize("form", ["scripted", "traced", "onnx"])
@pytest.mark.parametrize("kind", ["retinanet", "fcos", "ssd"])
def test_boxes_are_those_that_it_returns(kind: str, form: str, tmp_path: Path) -> None:
    """The best boxes, their classes and probabilities, of several pictures; scores and corners have closed ledgers."""
    net = made(kind)
    model = heatcli.load(saved(net, form, tmp_path / "net.pt"), size=SIZE, confidence=0.05, overlap=OVERLAP)
    pictures = torch.rand(2, 3, *SIZE)
    with torch.no_grad():
        returned = net([pictures[0]])[0]
    found = best(model, pictures[:1])
    first = [i for i, box in enumerate(returned["boxes"]) if not bool((returned["boxes"][:i] == box).all(1).any())][:5]
    assert torch.allclose(found.corners[:5], returned["boxes"][first], atol=1e-3)  # heatcli has one class a box
    assert torch.allclose(found.chances[:5], returned["scores"][first], atol=1e-5)
    assert torch.equal(found.classes[:5], returned["labels"][first])
    for target in ("box:0", "box:1.x2"):
        result = heatcli.explain(model, pictures, "lrp-eps", target=target, baseline="none")
        assert float(result.ledger.relative_error.max()) < 1e-4
    assert float(result.ledger.output[0]) == pytest.approx(float(returned["boxes"][first[1], 2]), abs=1e-3)


def test_a_box_of_two_classes(tmp_path: Path) -> None:
    """torchvision returns such a box twice; heatcli once, of its better class, and the other class where asked."""
    net = made("retinanet")
    net.topk_candidates = 2000
    model = heatcli.load(saved(net, "scripted", tmp_path / "net.pt"), size=SIZE, confidence=0.05, overlap=OVERLAP)
    x = torch.rand(1, 3, *SIZE)
    with torch.no_grad():
        returned = net([x[0]])[0]
    corners, scores, labels = (returned[name] for name in ("boxes", "scores", "labels"))
    pairs = [(i, j) for j in range(len(labels)) for i in range(j) if torch.equal(corners[i], corners[j])]
    assert pairs
    found = best(model, x)
    for first, second in pairs:
        number = int((found.corners - corners[first]).abs().amax(1).argmin())
        assert torch.allclose(found.corners[number], corners[first], atol=1e-3)
        assert int(found.classes[number]) == int(labels[first])
        result = heatcli.explain(model, x, "gradient", f"box:{number}.{int(labels[second])}")
        assert float(result.probabilities[0, labels[second]]) == pytest.approx(float(scores[second]), abs=1e-5)


@pytest.mark.parametrize("kind", ["retinanet", "ssd"])
def test_an_artifact_that_found_nothing_at_capture_has_the_same_boxes(kind: str, tmp_path: Path) -> None:
    net = made(kind)
    x = torch.rand(1, 3, *SIZE)
    returned = net([x[0]])[0]["boxes"].detach()
    net.score_thresh = 0.9999
    assert not len(net([x[0]])[0]["boxes"])
    model = heatcli.load(saved(net, "scripted", tmp_path / "net.pt"), size=SIZE, confidence=0.05, overlap=OVERLAP)
    assert torch.allclose(best(model, x).corners[:5], returned[:5], atol=1e-3)


@pytest.mark.parametrize("form", ["scripted", pytest.param("traced", marks=SLOW), pytest.param("onnx", marks=SLOW)])
def test_each_picture_has_the_regions_that_its_detector_chooses(form: str, tmp_path: Path) -> None:
    """Faster R-CNN: boxes, classes, probabilities and corners of three pictures by one model; the ledgers close."""
    net = two_stages()
    model = heatcli.load(saved(net, form, tmp_path / "net.pt"), size=SIZE, confidence=0.05, overlap=OVERLAP)
    pictures = torch.rand(3, 3, *SIZE)
    for x in pictures.split(1):
        result = heatcli.explain(model, x, "lrp-eps", target="box:0", baseline="none")
        found = best(model, x)
        with torch.no_grad():
            returned = net([x[0]])[0]
        assert torch.allclose(found.corners[0], returned["boxes"][0], atol=1e-3)
        assert torch.allclose(found.chances[0], returned["scores"][0], atol=1e-5)
        assert int(found.classes[0]) == int(returned["labels"][0])
        assert float(result.ledger.relative_error.max()) < 1e-4
        assert float(result.relevance.abs().sum()) > 0
        corner = heatcli.explain(model, x, "lrp-eps", target="box:0.x2", baseline="none")
        assert float(corner.ledger.output) == pytest.approx(float(returned["boxes"][0, 2]), abs=1e-3)
        assert float(corner.ledger.relative_error.max()) < 1e-4
        graph = model.graph(x.shape)
        assert graph.chosen_on is not None
        assert torch.equal(graph.chosen_on, x)
    together = heatcli.explain(model, pictures, "lrp-eps", target=0, baseline="none")
    assert float(together.ledger.relative_error.max()) < 1e-4


def test_the_gradient_of_a_score_in_regions_is_autograds(tmp_path: Path) -> None:
    """No gradient goes to regions: torchvision's own operator has none."""
    net = two_stages()
    model = heatcli.load(saved(net, "scripted", tmp_path / "net.pt"), size=SIZE, confidence=0.05, overlap=OVERLAP)
    x = torch.rand(1, 3, *SIZE)
    model.network.sample = x
    graph = model.graph(x.shape)
    assert {op.kind for op in graph.operators if op.title == "roi_align"} == {"affine"}
    result = heatcli.explain(model, x, "gradient", target="box:0")
    picture = x.clone().requires_grad_()
    image, _ = net.transform([picture[0]])
    features = net.backbone(image.tensors)
    with torch.no_grad():
        regions, _ = net.rpn(image, features)
    pooled = net.roi_heads.box_roi_pool(features, regions, image.image_sizes)
    logits, _ = net.roi_heads.box_predictor(net.roi_heads.box_head(pooled))
    off = (logits - float(result.ledger.output)).abs()
    assert float(off.min()) < 1e-5
    logits.flatten()[off.argmin()].backward()
    assert picture.grad is not None
    assert torch.allclose(result.relevance, picture.grad, atol=1e-4 * float(picture.grad.abs().max()))


@pytest.mark.parametrize(
    ("classes", "more"),
    [(2, ""), (5, "masks"), pytest.param(2, "keypoints", marks=SLOW), pytest.param(5, "keypoints", marks=SLOW)],
)
def test_what_else_is_returned_of_each_box_does_not_count(classes: int, more: str, tmp_path: Path) -> None:
    """The layers of masks and keypoints follow the suppression; boxes are explained as without them."""
    net = two_stages(classes, more)
    model = heatcli.load(saved(net, "scripted", tmp_path / "net.pt"), size=SIZE, confidence=0.05, overlap=OVERLAP)
    x = torch.rand(1, 3, *SIZE)
    with torch.no_grad():
        returned = net([x[0]])[0]
    result = heatcli.explain(model, x, target="box:0")
    found = best(model, x)
    assert torch.allclose(found.corners[0], returned["boxes"][0], atol=1e-3)
    assert torch.allclose(found.chances[0], returned["scores"][0], atol=1e-5)
    assert int(found.classes[0]) == int(returned["labels"][0])
    assert float(result.ledger.relative_error.max()) < 1e-4


@pytest.mark.parametrize("classes", [2, 5])
def test_no_object_is_no_class_also_where_nothing_was_found_at_capture(classes: int, tmp_path: Path) -> None:
    net = two_stages(classes)
    net.roi_heads.score_thresh = 0.9999
    model = heatcli.load(saved(net, "scripted", tmp_path / "net.pt"), size=SIZE, confidence=0.05, overlap=OVERLAP)
    x = torch.rand(1, 3, *SIZE)
    assert not len(net([x[0]])[0]["boxes"])
    heatcli.explain(model, x, "gradient", target="box:0")
    boxes = model.graph(x.shape).boxes
    assert boxes is not None
    assert boxes.background == 0


def test_a_detector_of_one_picture_without_a_batch(tmp_path: Path) -> None:
    """As torchvision's manual exports them to ONNX: from a list of one picture [3, H, W]."""
    net, x = two_stages(), torch.rand(1, 3, *SIZE)
    path = tmp_path / "net.onnx"
    torch.onnx.export(net, ([x[0]],), str(path), dynamo=False, opset_version=17)
    model = heatcli.load(path, confidence=0.05, overlap=OVERLAP)
    assert model.shape == (3, *SIZE)
    result = heatcli.explain(model, x, target="box:0")
    with torch.no_grad():
        returned = net([x[0]])[0]
    assert torch.allclose(best(model, x).corners[0], returned["boxes"][0], atol=1e-3)
    assert float(result.ledger.relative_error.max()) < 1e-4
    assert result.verified is not None
    assert result.verified.agrees


def on_regions_of(net: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    """The logits [regions, classes] of any picture at the regions of `x`, by the parts of the module itself."""
    with torch.no_grad():
        image, _ = net.transform([x[0]])
        regions, _ = net.rpn(image, net.backbone(image.tensors))

    def logits(other: Tensor) -> Tensor:
        with torch.no_grad():
            given, _ = net.transform([other[0]])
            pooled = net.roi_heads.box_roi_pool(net.backbone(given.tensors), regions, given.image_sizes)
            found: Tensor = net.roi_heads.box_predictor(net.roi_heads.box_head(pooled))[0]
            return found

    return logits


def test_a_baseline_and_changed_pictures_are_scored_at_the_same_regions(tmp_path: Path) -> None:
    """The score of the baseline, and each value of occlusion, against the module's own parts at these regions."""
    net = two_stages()
    model = heatcli.load(saved(net, "scripted", tmp_path / "net.pt"), size=SIZE, confidence=0.05, overlap=OVERLAP)
    x, black = torch.rand(1, 3, *SIZE), torch.zeros(1, 3, *SIZE)
    logits = on_regions_of(net, x)
    for method in ("lrp-eps", "deeplift-rescale"):
        result = heatcli.explain(model, x, method, target="box:0", baseline="black")
        row, index = divmod(int((logits(x) - float(result.ledger.output)).abs().argmin()), 5)
        assert float(logits(x)[row, index]) == pytest.approx(float(result.ledger.output), abs=1e-4)
        expected = float(logits(black)[row, index])
        assert float(result.ledger.output_baseline) == pytest.approx(expected, abs=1e-4)
        assert float(result.ledger.relative_error.max()) < 1e-4
        assert not any("no rule" in note for note in result.notes)
    found = heatcli.explain(model, x, "occlusion", target="box:0", baseline="black", window=16, stride=16)
    changed = x.clone()
    changed[:, :, :16, :16] = 0
    fall = float(logits(x)[row, index] - logits(changed)[row, index])
    assert float(found.relevance[0, :, 4, 4].sum()) == pytest.approx(fall / 256, rel=1e-3, abs=1e-6)


@SLOW
def test_regions_are_held_in_every_command(tmp_path: Path, cli: Cli) -> None:
    """Folders, methods that compare or change the picture, checks, and the comparison of two forms."""
    saved(two_stages(), "scripted", tmp_path / "net.pt")
    saved(two_stages(), "onnx", tmp_path / "net.pt")
    for name in ("a", "b"):
        noise = np.random.default_rng(ord(name)).integers(0, 256, (*SIZE, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{name}.png")
    given = ["-m", "net.pt", "--size", "64x80", "--confidence", "0.05"]
    for asked in ([], ["--baseline", "black"], ["--method", "deeplift-reveal-cancel", "--baseline", "blur"]):
        ran = cli("explain", "a.png", "b.png", *given, "--target", "detections:2", *asked, "--json", "--overwrite")
        assert ran.status == 0, ran.err
        reports = [json.loads(line) for line in ran.out.splitlines()]
        assert [report["target"]["box"] for report in reports] == [0, 1, 0, 1]
        boxes = [report["target"]["boxes"][0] for report in reports]
        assert boxes[0] != boxes[2]
        assert all(abs(report["ledger"]["relative_error"]) < 1e-4 for report in reports)
    for method in ("rise", "integrated-gradients", "score-cam"):
        ran = cli("explain", "a.png", "b.png", *given, "--target", "box:0", "--method", method, "--overwrite")
        assert ran.status == 0, ran.err
    ran = cli("check", "net.pt", "a.png", "b.png", *given[2:], "--json")
    assert ran.status in (0, 1), ran.err  # random weights need not pass
    assert {"ledger", "randomisation", "stability", "faithfulness"} <= {
        json.loads(line)["check"] for line in ran.out.splitlines() if json.loads(line)["status"] in ("passed", "failed")
    }
    ran = cli("compare", "net.pt", "net.onnx", "a.png", "b.png", *given[2:], "--target", "detections:2", "--json")
    assert ran.status == 0, ran.err
    ran = cli("export", "net.pt", *given[2:4], "--method", "lrp-eps", "-o", "explained.onnx")
    assert ran.status != 0
    assert "chooses by the picture where to look again" in ran.err
    assert not (tmp_path / "explained.onnx").exists()


def test_from_the_command_line(tmp_path: Path, cli: Cli) -> None:
    """A scripted detector takes a list of pictures; heatcli gives it one of as many as there are."""
    saved(made("retinanet"), "scripted", tmp_path / "net.pt")
    for name in ("a", "b"):
        noise = np.random.default_rng(ord(name)).integers(0, 256, (*SIZE, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{name}.png")
    ran = cli("explain", "a.png", "b.png", "-m", "net.pt", "--size", "64x80", "--target", "detections:2", "--json")
    assert ran.status == 0, ran.err
    reports = [json.loads(line) for line in ran.out.splitlines()]
    assert [report["target"]["box"] for report in reports] == [0, 1, 0, 1]
    assert all(report["model"]["verified"]["agrees"] for report in reports)


def parts(net: nn.Module, kind: str, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """The maps of each level that scores are made of, and the explained scores [N, A, C], of the module itself."""
    towers: list[Tensor] = []
    if kind == "retinanet":  # class and box have towers of their own
        net.head.classification_head.conv.register_forward_hook(lambda *call: towers.append(call[2]))
    maps = list(net.backbone(net.transform(list(x))[0].tensors).values())
    found = net.head(maps)
    scores = found["cls_logits"] + (found["bbox_ctrness"] if kind == "fcos" else 0)
    return towers or maps, scores


@pytest.mark.parametrize("kind", ["retinanet", "fcos", "ssd"])
def test_a_cam_is_of_the_scale_of_the_box(kind: str, tmp_path: Path) -> None:
    """Grad-CAM of the last map that the score of a box depends on, also in a batch whose boxes are of two scales.

    Of a RetinaNet that is the end of the class tower; of an FCOS, whose score has a part of each tower, what both read.
    """
    net = made(kind)
    model = heatcli.load(saved(net, "scripted", tmp_path / "net.pt"), size=SIZE)
    x, classes = torch.rand(2, 3, *SIZE), torch.tensor([1, 2])
    maps, scores = parts(net, kind, x)
    count = scores.shape[1]
    places = torch.tensor([count // 3, count - count // 12])
    assert model.graph(x[:1].shape).boxes.logits  # type: ignore[union-attr]
    gradients = [
        torch.autograd.grad(scores[i, places[i], classes[i]], maps, retain_graph=True, materialize_grads=True)
        for i in range(2)
    ]
    levels = [max(k for k, g in enumerate(gradients[i]) if bool(g[i].any())) for i in range(2)]  # 1 is made of 0
    assert sorted(levels) == [0, 1]
    expected = []
    for i, level in enumerate(levels):
        a, g = maps[level][i], gradients[i][level][i]
        cam = (g.mean((1, 2), keepdim=True) * a).sum(0).relu()
        expected.append(nn.functional.interpolate(cam[None, None], SIZE, mode="bilinear", align_corners=False)[0, 0])
    region = nn.functional.one_hot(places, count).bool()
    found = heatcli.explain(model, x, "grad-cam", Target(index=classes, minus=None, region=region))
    assert torch.allclose(found.relevance.sum(1), torch.stack(expected).detach(), atol=1e-6)
    assert bool(found.relevance.flatten(1).any(1).all())
    for name in ("layer-cam", "score-cam"):
        given = {"baseline": "black"} if name == "score-cam" else {}
        both = [
            heatcli.explain(model, x[rows], name, Target(index=classes[rows], minus=None, region=region[rows]), **given)
            for rows in ([0, 1], [0], [1])
        ]
        assert torch.allclose(both[0].relevance, torch.cat([one.relevance for one in both[1:]]), atol=1e-6), name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "fcos_resnet50_fpn"])
def test_as_they_ship(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=5, min_size=128, max_size=128)
    for key, parameter in net.eval().named_parameters():
        if key.endswith("cls_logits.weight"):
            parameter.data.mul_(30)
    x = torch.rand(1, 3, 100, 120)
    model = heatcli.load(saved(net, "scripted", tmp_path / "net.pt"), size=(100, 120), confidence=0, overlap=0.5)
    found, returned = best(model, x), net([x[0]])[0]
    assert torch.allclose(found.corners[0], returned["boxes"][0], atol=1e-2)
    assert float(found.chances[0]) == pytest.approx(float(returned["scores"][0].detach()), rel=1e-5)


class Switching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            factor = torch.full([1], 2.0)
        return x.mean((2, 3)) * factor


def test_a_script_that_switches_gradients_off_is_explained(tmp_path: Path) -> None:
    """torchvision's RetinaNet does; the switch is as before in the end."""
    torch.jit.script(Switching()).save(str(tmp_path / "net.pt"))
    x = torch.rand(1, 3, 8, 8)
    result = heatcli.explain(heatcli.load(tmp_path / "net.pt", size=8), x, "gradient", target=1)
    assert torch.is_grad_enabled()
    assert torch.allclose(result.relevance[0].sum((1, 2)), torch.tensor([0.0, 2.0, 0.0]), atol=1e-5)
