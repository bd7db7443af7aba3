"""Which head the network has: detectors in every layout, their logits, and what is no detector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import heatcli
from heatcli.artifact.metadata import sidecar
from heatcli.errors import UsageError
from heatcli.evaluate.explainer import Explainer
from heatcli.evaluate.layers import randomisation
from heatcli.evaluate.subject import subject
from heatcli.graph import heads
from heatcli.graph.operator import Boxes
from heatcli.graph.outputs import box_chances
from heatcli.images.dataset import Sample
from heatcli.methods.question import outputs_of
from heatcli.model.model import Model

SIZE, C = 64, 3
PLACES = 8 * 8 + 4 * 4 + 2 * 2  # of strides 8, 16, 32


class Detector(nn.Module):
    """One box a cell of three grids, in one of the layouts that exporters write."""

    def __init__(self, layout: str, activated: bool = True) -> None:
        super().__init__()
        rows = 4 + C + (layout == "v5") + 2 * (layout == "detr")
        self.strides = [nn.Conv2d(3, rows, s, stride=s) for s in (8, 16, 32)]
        self.layers = nn.ModuleList(self.strides)
        self.layout, self.activated = layout, activated

    def forward(self, x: Tensor) -> object:
        raw = torch.cat([layer(x).flatten(2) for layer in self.layers], 2)
        box, rest = raw[:, :4].sigmoid() * SIZE, raw[:, 4:]
        if self.layout == "detr":
            return rest.transpose(1, 2), raw[:, :4].sigmoid().transpose(1, 2)
        scores = rest.sigmoid() if self.activated else rest
        whole = torch.cat([box, scores], 1)
        return whole.transpose(1, 2) if self.layout == "v5" else whole


def loaded(module: nn.Module, path: Path, **flags: object) -> Model:
    """`module` as an artifact, loaded."""
    torch.jit.trace(module.eval(), torch.zeros(1, 3, SIZE, SIZE)).save(str(path))
    return heatcli.load(path, size=(SIZE, SIZE), **flags)  # type: ignore[arg-type]


def boxes_of(model: Model) -> Boxes:
    """How the outputs are boxes."""
    boxes = model.graph((1, 3, SIZE, SIZE)).boxes
    assert boxes is not None
    return boxes


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("v8", (heads.ROWS, False, C, False)),
        ("v5", (heads.COLUMNS, True, C, False)),
        ("detr", (heads.APART, False, C + 2, True)),
    ],
)  # fmt: skip
def test_layouts(layout: str, expected: tuple[str, bool, int, bool], tmp_path: Path) -> None:
    boxes = boxes_of(loaded(Detector(layout), tmp_path / "d.pt"))
    assert (boxes.layout, boxes.objectness, boxes.classes, boxes.unit) == expected
    assert (boxes.form, boxes.logits, boxes.size) == ("centre", True, (SIZE, SIZE))


@pytest.mark.parametrize("layout", ["v8", "v5", "detr"])
@pytest.mark.parametrize("method", ["lrp-eps", "deeplift-rescale", "gradient"])
def test_the_score_of_a_box_is_the_logit_of_the_artifacts_own_number(layout: str, method: str, tmp_path: Path) -> None:
    """The score is read off the module itself; the ledger is closed."""
    module = Detector(layout).eval()
    model = loaded(module, tmp_path / "d.pt")
    batch = torch.rand(2, 3, SIZE, SIZE)
    result = heatcli.explain(model, batch, method, target=2, **({"baseline": "black"} if "lift" in method else {}))
    returned = module(batch)
    if layout == "detr":
        logits = returned[0].transpose(1, 2)[:, 2]
    else:
        whole = returned.transpose(1, 2) if layout == "v5" else returned
        logits = whole[:, 4 + (layout == "v5") + 2].logit()
        if layout == "v5":
            logits = logits + whole[:, 4].logit()
    wanted = (logits * result.target.region).sum(1).double()
    assert result.ledger.output.tolist() == pytest.approx(wanted.tolist(), rel=1e-4)
    assert result.quantity == "logit"
    if method != "gradient":
        assert float(result.ledger.relative_error.max()) < 1e-5


class Product(Detector):
    """A detector that multiplies class and objectness itself, as exports with all of the post-processing do."""

    def __init__(self, form: str) -> None:
        super().__init__("v8")
        self.layers = nn.ModuleList(nn.Conv2d(3, 5 + C, s, stride=s) for s in (8, 16, 32))
        self.form = form

    def levels(self, x: Tensor) -> Tensor:
        return torch.cat([layer(x).flatten(2) for layer in self.layers], 2)

    def forward(self, x: Tensor) -> Tensor:
        levels = [layer(x).flatten(2) for layer in self.layers]
        classes = [raw[:, 5:].softmax(1) if self.form == "softmax" else raw[:, 5:].sigmoid() for raw in levels]
        scores = torch.cat([one * raw[:, 4:5].sigmoid() for one, raw in zip(classes, levels, strict=True)], 2)
        scores = scores.sqrt() if self.form == "root" else scores
        return torch.cat([torch.cat([raw[:, :4] for raw in levels], 2).sigmoid() * SIZE, scores], 1)


@pytest.mark.parametrize("form", ["product", "root", "softmax"])
def test_a_product_of_class_and_objectness_inside_the_artifact(form: str, tmp_path: Path) -> None:
    """Its score is the sum of both logits, its probability the artifact's own number, for all classes and places."""
    module = Product(form).eval()
    model = loaded(module, tmp_path / "d.pt")
    batch = torch.rand(2, 3, SIZE, SIZE)
    boxes, output = boxes_of(model), outputs_of(model, batch)
    raw = module.levels(batch)
    assert (boxes.logits, boxes.objectness, boxes.ends) == (True, True, "softmax" if form == "softmax" else "sigmoid")
    assert torch.allclose(output[:, :C], raw[:, 5:] + raw[:, 4:5], atol=1e-5)
    assert torch.allclose(box_chances(boxes, output)[:, :C], module(batch)[:, 4:], atol=1e-6)
    result = heatcli.explain(model, batch, "lrp-eps", target=2, baseline="none")
    assert float(result.ledger.relative_error.max()) < 1e-5
    assert result.quantity == "logit"


@pytest.mark.parametrize("layout", ["v8", "v5"])
def test_probabilities_stay_the_artifacts(layout: str, tmp_path: Path) -> None:
    module = Detector(layout).eval()
    model = loaded(module, tmp_path / "d.pt")
    batch = torch.rand(1, 3, SIZE, SIZE)
    result = heatcli.explain(model, batch, "gradient")
    whole = module(batch).transpose(1, 2) if layout == "v5" else module(batch)
    chances = whole[:, 5:] * whole[:, 4:5] if layout == "v5" else whole[:, 4:]
    assert float(result.probabilities[0, result.target.index[0]]) == pytest.approx(
        float(chances.detach().max()), rel=1e-5
    )


def test_without_the_logit_pass_the_probability_is_explained(tmp_path: Path) -> None:
    model = loaded(Detector("v8"), tmp_path / "d.pt", passes=("drop-identities",))
    result = heatcli.explain(model, torch.rand(1, 3, SIZE, SIZE), "gradient")
    assert result.quantity == "probability"
    assert 0 < float(result.ledger.output[0]) < 1


def test_a_saturated_sigmoid_still_gives_a_map(tmp_path: Path) -> None:
    """Its gradient is 0 in float32; that of the logit is not."""
    module = Detector("v8").eval()
    for layer in module.strides:
        nn.init.constant_(layer.bias, 60.0)
    model = loaded(module, tmp_path / "d.pt")
    result = heatcli.explain(model, torch.rand(1, 3, SIZE, SIZE), "gradient")
    assert float(result.probabilities[0, result.target.index[0]]) == 1.0
    assert float(result.relevance.abs().max()) > 0


def test_the_user_has_the_last_word(tmp_path: Path) -> None:
    model = loaded(Detector("v8"), tmp_path / "d.pt", kind="classes", class_axis=1)
    graph = model.graph((1, 3, SIZE, SIZE))
    assert graph.boxes is None
    assert graph.reading is not None
    assert (graph.reading.kind, graph.reading.classes) == ("classes", 4 + C)
    with pytest.raises(UsageError, match="unknown kind of output 'boxes'"):
        heatcli.load(tmp_path / "d.pt", kind="boxes")


class Plain(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer, self.kind = nn.Conv2d(3, 5, 8, stride=8), kind

    def forward(self, x: Tensor) -> Tensor:
        maps = self.layer(x)
        found = {
            "classes": lambda: maps.mean((2, 3)),
            "labels": lambda: maps.mean((2, 3)).sigmoid(),
            "binary": lambda: maps.mean((1, 2, 3)).sigmoid()[:, None],
            "regression": lambda: maps.mean((1, 2, 3))[:, None],
            "segmentation": lambda: maps,
            "sequence": lambda: maps.mean(2),
            "embedding": lambda: nn.functional.normalize(maps.mean((2, 3))),
        }
        return found[self.kind]()


@pytest.mark.parametrize("kind", ["classes", "labels", "binary", "regression", "segmentation", "sequence", "embedding"])
def test_other_heads_are_told_apart(kind: str, tmp_path: Path) -> None:
    torch.jit.trace(Plain(kind).eval(), torch.zeros(1, 3, SIZE, SIZE)).save(str(tmp_path / "p.pt"))
    reading = heatcli.load(tmp_path / "p.pt", size=(SIZE, SIZE)).graph((1, 3, SIZE, SIZE)).reading
    assert reading is not None
    assert reading.kind == kind


class Spread(nn.Module):
    """Classes and, for each side of a box, the logits of distances of 0 to B − 1 cells, grid by grid (PicoDet)."""

    def __init__(self, classes: int, bins: int, first: bool) -> None:
        super().__init__()
        self.scores = nn.ModuleList([nn.Conv2d(3, classes, s, stride=s) for s in (8, 16, 32)])
        self.sides = nn.ModuleList([nn.Conv2d(3, 4 * bins, s, stride=s) for s in (8, 16, 32)])
        self.first = first

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        scores = [layer(x).flatten(2).transpose(1, 2).sigmoid() for layer in self.scores]
        sides = [9 * layer(x).flatten(2).transpose(1, 2) for layer in self.sides]
        return (*scores, *sides) if self.first else (*sides, *scores)


@pytest.mark.parametrize(("classes", "bins"), [(C, 8), (40, 8), (36, 17)])
@pytest.mark.parametrize("first", [True, False])
def test_sides_that_are_distributions(tmp_path: Path, classes: int, bins: int, first: bool) -> None:
    """Cell by cell: the centre, less or plus the mean distance of each side times the stride."""
    net = Spread(classes, bins, first)
    model = loaded(net, tmp_path / "p.pt")
    boxes = boxes_of(model)
    assert (boxes.bins, boxes.classes, boxes.form, boxes.ends) == (bins, classes, "corners", "sigmoid")
    x = torch.rand(1, 3, SIZE, SIZE)
    found = model.forward(x, {}).output.detach()
    returned = [one.detach() for one in net(x)]
    scores, sides = (returned[:3], returned[3:]) if first else (returned[3:], returned[:3])
    for grid, (stride, start) in enumerate(((8, 0), (16, 64), (32, 80))):
        across = SIZE // stride
        for place in (0, across + 1):
            mean = (sides[grid][0, place].reshape(4, bins).softmax(1) * torch.arange(bins)).sum(1) * stride
            x0, y0 = (place % across + 0.5) * stride, (place // across + 0.5) * stride
            expected = torch.tensor([x0, y0, x0, y0]) + torch.tensor([-1, -1, 1, 1]) * mean
            torch.testing.assert_close(found[0, -4:, start + place], expected, rtol=1e-4, atol=1e-3)
            torch.testing.assert_close(found[0, :classes, start + place].sigmoid(), scores[grid][0, place])
    one = heatcli.explain(model, x, "lrp-eps", "box:0.x1", baseline="black")
    assert float(one.ledger.relative_error.max()) < 1e-4


def test_names_in_lines_are_labels_of_as_many_classes() -> None:
    """An alphabet that lacks its blank, or a text that is no list, is none."""
    said = {"character": "text\ntitle"}
    assert 'names = ["text", "title"]' in sidecar(said, {0, 1, 2})
    for counts, text in (({4}, "text\ntitle"), ({2}, "a\na"), ({3}, "a\n\nb"), ({0}, "")):
        assert sidecar({"character": text}, counts) == ""


def test_what_ultralytics_writes() -> None:
    said = {"task": "detect", "imgsz": "[320, 640]", "names": "{0: 'a \"b\"', 1: 'ü'}"}
    text = sidecar(said)
    assert 'size = [320, 640]\nresize = "letterbox"' in text
    assert 'names = ["a \\"b\\"", "ü"]' in text
    for broken in ({}, {**said, "imgsz": "x("}, {**said, "names": "{1: 'a'}"}, {**said, "task": "pose"}):
        assert sidecar(broken) == ""


def test_randomisation_counts_the_layers_that_a_score_depends_on(tmp_path: Path) -> None:
    """A box of one scale depends on one of three layers; a map that stays as it is under the others says nothing."""
    model = loaded(Detector("v8"), tmp_path / "d.pt", confidence=0.0)
    noise = np.random.default_rng(0).integers(0, 256, (6, SIZE, SIZE, 3), np.uint8)
    pictures = [Image.fromarray(pixels) for pixels in noise]
    own = subject(model, [Sample(Path(f"{i}.png"), "", x, None, None) for i, x in enumerate(pictures)], "box:0")
    for cascading in (False, True):
        found = randomisation(own, Explainer.parse("input-x-gradient"), cascading)
        scored = [int(one.removeprefix("layers.")) for one in found.layers]
        places = own.target.region.int().argmax(1)
        scales = (places >= 64).int() + (places >= 64 + 16).int()
        for row, scale in enumerate(scales.tolist()):
            at = scored.index(scale)
            expected = [k >= at if cascading else k == at for k in range(3)]
            assert found.matters[row].tolist() == expected
            unchanged = found.rank[row][~found.matters[row]]
            assert torch.allclose(unchanged, torch.ones_like(unchanged))
            assert float(found.mean(found.rank)[row]) == pytest.approx(float(found.rank[row][expected].mean()))
            assert abs(float(found.rank[row, at])) < 0.9
