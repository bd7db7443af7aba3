"""Which axis of an output holds classes, what its numbers are, and what is told of outputs; against the artifact."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import Cli
from networks import save
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

import heatcli
from heatcli.errors import ModelError, UsageError
from heatcli.graph import outputs
from heatcli.graph.kinds import is_choice
from heatcli.graph.outputs import batch_axis
from heatcli.model.model import Model

T, C = 15, 7  # time steps and classes of `Steps` on 32×32


class Steps(nn.Module):
    """A class a column, in one of the layouts that recognisers of text have."""

    def __init__(self, layout: str, softmax: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, C, 3, stride=2)
        self.order = {"nct": (0, 1, 2), "ntc": (0, 2, 1), "tnc": (2, 0, 1)}[layout]
        self.softmax = softmax
        self.axis = layout.index("c")

    def forward(self, x: Tensor) -> Tensor:
        scores = self.convolution(x).mean(2).permute(self.order)
        return scores.softmax(self.axis) if self.softmax else scores


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def picture(tmp_path: Path) -> str:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    return "noise.png"


def traced(module: nn.Module, path: Path, size: int = 32, **flags: object) -> Model:
    """`module` as an artifact, loaded."""
    torch.jit.trace(module.eval(), torch.zeros(1, 3, size, size)).save(str(path))
    return heatcli.load(path, size=(size, size), **flags)  # type: ignore[arg-type]


def ntc(returned: Tensor, layout: str) -> Tensor:
    """What an artifact returned as [N, T, C]."""
    return returned.permute({"nct": (0, 2, 1), "ntc": (0, 1, 2), "tnc": (1, 0, 2)}[layout])


@pytest.mark.parametrize("layout", ["nct", "ntc", "tnc"])
def test_the_softmax_says_which_axis(layout: str, tmp_path: Path) -> None:
    """The class is that of the artifact's own best row, its probability the mean of the artifact's own numbers."""
    module = Steps(layout, softmax=True).eval()
    model = traced(module, tmp_path / "steps.pt")
    batch = torch.rand(3, 3, 32, 32)
    own = ntc(module(batch), layout).detach()  # probabilities [N, T, C]
    reading = model.graph(batch.shape).reading
    assert reading is not None
    assert (reading.axis, reading.batch, reading.why) == (
        layout.index("c"), layout.index("n"), "its softmax runs over it",
    )  # fmt: skip
    result = heatcli.explain(model, batch, "lrp-0")
    wins = torch.nn.functional.one_hot(own.argmax(2), C)
    assert torch.equal(result.target.index, wins.sum(1).argmax(1))
    for i, index in enumerate(result.target.index):
        where = wins[i, :, index].bool()
        assert float(result.probabilities[i, index]) == pytest.approx(float(own[i, where, index].mean()), rel=1e-5)
    assert float(result.ledger.relative_error.max()) < 1e-6
    assert result.quantity == "logit"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the exporter that such files come from
@pytest.mark.parametrize("layout", ["ntc", "tnc"])
@pytest.mark.parametrize("opset", [11, 17])
def test_onnx_softmax_above_two_dimensions(layout: str, opset: int, tmp_path: Path) -> None:
    """Before opset 13 a softmax is flattened: views around it; ONNX Runtime says what is right."""
    path = tmp_path / "steps.onnx"
    batch = torch.rand(1, 3, 32, 32)
    torch.onnx.export(Steps(layout, softmax=True).eval(), batch, str(path), dynamo=False, opset_version=opset)
    session = onnxruntime.InferenceSession(path)
    own = ntc(torch.from_numpy(session.run(None, {session.get_inputs()[0].name: batch.numpy()})[0]), layout)
    result = heatcli.explain(heatcli.load(path), batch, "lrp-0", target="3@4")
    assert float(result.probabilities[0, 3]) == pytest.approx(float(own[0, 4, 3]), rel=1e-4)
    assert float(result.ledger.relative_error) < 1e-6


def test_a_position_and_the_best_path(tmp_path: Path, cli: Cli, picture: str) -> None:
    """`A@T` is one number of the artifact's; `path` the sum of the best of each position."""
    module = Steps("tnc", softmax=False).eval()
    model = traced(module, tmp_path / "steps.pt", class_axis=2)
    batch = torch.rand(2, 3, 32, 32)
    own = module(batch).detach().double()
    one = heatcli.explain(model, batch, "lrp-0", target="5@11")
    assert one.ledger.output.tolist() == pytest.approx(own[11, :, 5].tolist())
    both = heatcli.explain(model, batch, "lrp-0", target="5-2@11")
    assert both.ledger.output.tolist() == pytest.approx((own[11, :, 5] - own[11, :, 2]).tolist())
    path = heatcli.explain(model, batch, "integrated-gradients", target="path", baseline="zero", steps=4)
    assert path.ledger.output.tolist() == pytest.approx(own.amax(2).sum(0).tolist())
    for target, message in {"5@15": "positions 0 to 14", "7@3": "classes 0 to 6"}.items():
        with pytest.raises(UsageError, match=message):
            heatcli.explain(model, batch, target=target)
    common = ["explain", picture, "--model", "steps.pt", "--size", "32", "--preset", "none", "--class-axis", "2"]
    report = json.loads(cli(*common, "--target", "path", "--json").out)["target"]
    assert (report["label"], report["path"], report["probability"]) == ("path", True, None)
    with pytest.raises(UsageError, match="one position only"):
        heatcli.explain(heatcli.load(), torch.zeros(1, *heatcli.load().shape), target="path")


def test_positions_are_compared_one_by_one(tmp_path: Path, cli: Cli, picture: str) -> None:
    """Of two artifacts that lay time steps out differently, the score is that of the same step."""
    module = Steps("tnc", softmax=True).eval()
    other = Steps("nct", softmax=True).eval()
    other.load_state_dict(module.state_dict())
    for name, one in (("a", module), ("b", other)):
        traced(one, tmp_path / f"{name}.pt")
    pixels = torch.from_numpy(np.asarray(Image.open(tmp_path / picture), dtype=np.float32)).permute(2, 0, 1)[None] / 255
    own = module.convolution(pixels).mean(2).detach()[0]  # [C, T]
    common = ["compare", "a.pt", "b.pt", picture, "--size", "32", "--preset", "none", "--method", "lrp-0", "--json"]
    for target, score in (("3@4", own[3, 4]), ("path", own.amax(0).sum())):
        pair = json.loads(cli(*common, "--target", target).out)["pairs"][0]
        assert (pair["score"]["a"], pair["score"]["b"]) == pytest.approx((float(score), float(score)), rel=1e-4)
        assert pair["heatmap_difference"] < 1e-5


class Head(nn.Module):
    """A detector's raw head: boxes and classes by anchors."""

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.nn.functional.conv2d(
            x, torch.ones(22, 3, 4, 4) * torch.arange(22.0)[:, None, None, None], stride=4
        )
        return rows.flatten(2)


def test_what_is_not_clear_is_asked_for(tmp_path: Path, cli: Cli, picture: str) -> None:
    """A raw head has rows that are no classes; nothing tells which axis, so the flag must; inspect shows both."""
    traced(Head(), tmp_path / "head.pt")
    common = ["--model", "head.pt", "--size", "32", "--preset", "none"]
    refused = cli("explain", picture, *common)
    wanted = (
        "heatcli: head.pt: returns [N, 22, 64], and nothing says which axis holds classes; "
        "give --class-axis 1 (22 classes), --class-axis 2 (64 classes)\n"
    )
    assert (refused.status, refused.err) == (2, wanted)
    shown = cli("inspect", "head.pt", "--size", "32")
    assert "output 0 [1, 22, 64], float32: returns [N, 22, 64], and nothing says" in shown.out
    ran = cli("explain", picture, *common, "--class-axis", "1", "--json")
    assert json.loads(ran.out)["target"]["index"] == 21
    wrong = cli("explain", picture, *common, "--class-axis", "3")
    assert (wrong.status, "no class axis 3; --class-axis takes 1 or 2" in wrong.err) == (2, True)
    (tmp_path / "head.toml").write_text('[input]\nsize = 32\n[output]\naxis = 1\nkind = "detections"\n')
    said = json.loads(cli("explain", picture, "--model", "head.pt", "--json").out)["target"]
    assert (said["index"], said["probability"]) == (21, None)


class Dense(nn.Module):
    """Scores [N, H, W, 5] or [N, 5, H, W] of a picture's cells."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 5, 4, stride=4)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(x).permute(0, 2, 3, 1) if self.last else self.convolution(x)


@pytest.mark.parametrize("last", [True, False])
def test_the_plane_is_the_pictures(last: bool, tmp_path: Path) -> None:
    """[N, H, W, C] and [N, C, H, W] are told apart by the picture's sides."""
    module = Dense(last).eval()
    model = traced(module, tmp_path / "dense.pt")
    batch = torch.rand(2, 3, 32, 32)
    own = module(batch).detach()
    own = own if last else own.permute(0, 2, 3, 1)
    result = heatcli.explain(model, batch, "lrp-0", target=2, region=torch.ones(32, 32, dtype=torch.bool))
    assert result.outputs.shape == (2, 5)
    assert result.ledger.output.tolist() == pytest.approx(own[..., 2].double().sum((1, 2)).tolist(), rel=1e-5)


def test_labels_say_which_axis(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join("abcdefg"))
    model = traced(Steps("ntc", softmax=False), tmp_path / "steps.pt", labels=names)
    reading = model.graph((1, 3, 32, 32)).reading
    assert reading is not None
    assert (reading.axis, reading.why, list(model.notes)) == (2, "as long as there are labels (7)", [])


def test_the_batch_is_told_from_classes_of_the_same_number(tmp_path: Path) -> None:
    """Fifteen images of fifteen time steps: a batch of one shows which is which."""
    assert batch_axis((15, 15, 7), 15, one=(15, 1, 7)) == 1
    assert batch_axis((15, 15, 7), 15) == 0
    assert batch_axis((15, 7), 1) is None
    module = Steps("tnc", softmax=True).eval()
    model = traced(module, tmp_path / "steps.pt")
    batch = torch.rand(T, 3, 32, 32)
    result = heatcli.explain(model, batch, "gradient", target="0@3")
    logits = module.convolution(batch).mean(2)[:, 0, 3].detach().double()
    assert result.ledger.output.tolist() == pytest.approx(logits.tolist(), rel=1e-5)


def test_a_class_that_wins_nowhere(tmp_path: Path, cli: Cli, picture: str) -> None:
    """It is explained where its score is highest, and that is said; the map is not empty."""
    module = Dense(last=False)
    with torch.no_grad():
        module.convolution.bias[3] = -100.0
    model = traced(module, tmp_path / "dense.pt", preset="none")
    batch = torch.rand(2, 3, 32, 32)
    own = module(batch).detach().double()
    result = heatcli.explain(model, batch, "lrp-0", target=3)
    assert result.ledger.output.tolist() == pytest.approx(own[:, 3].flatten(1).amax(1).tolist())
    assert float(result.relevance.abs().sum()) > 0
    assert result.notes == ("class 3 wins nowhere, so it is explained where its score is highest",)
    ran = cli("explain", picture, "--model", "dense.pt", "--size", "32", "--preset", "none", "--target", "3", "--json")
    assert ran.err.count("heatcli: note: class 3 wins nowhere, so it is explained where its score is highest\n") == 1
    assert json.loads(ran.out)["target"]["nowhere"] is True
    top = cli("explain", picture, "--model", "dense.pt", "--size", "32", "--preset", "none", "--json")
    assert ("wins nowhere" in top.err, "nowhere" in json.loads(top.out)["target"]) == (False, False)


class Binary(nn.Module):
    """P(defect), its logit, or both in a map."""

    def __init__(self, sigmoid: bool, dense: bool = False) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 1, 4, stride=4)
        self.sigmoid, self.dense = sigmoid, dense

    def forward(self, x: Tensor) -> Tensor:
        y = self.convolution(x)
        y = y if self.dense else y.mean((2, 3))
        return y.sigmoid() if self.sigmoid else y


@pytest.mark.parametrize("output", ["logit", "probability"])
@pytest.mark.parametrize("sigmoid", [True, False])
def test_one_number_with_two_labels(sigmoid: bool, output: str, tmp_path: Path, cli: Cli, picture: str) -> None:
    """The labels are of the negative and the positive; the negative is minus the logit, or one less the probability."""
    (tmp_path / "labels.txt").write_text("ok\ndefect\n")
    traced(Binary(sigmoid), tmp_path / "binary.pt")
    pixels = np.asarray(Image.open(tmp_path / picture), dtype=np.float32).transpose(2, 0, 1)[None] / 255
    own = float(torch.jit.load(str(tmp_path / "binary.pt"))(torch.from_numpy(pixels)).detach())
    chance = own if sigmoid else 1 / (1 + np.exp(-own))
    logit = np.log(chance / (1 - chance))
    common = ["explain", picture, "--model", "binary.pt", "--size", "32", "--preset", "none", "--labels", "labels.txt"]
    common += ["--output", output, "--json", "--target"]
    kept = output == "probability" and sigmoid
    for target, label, sign in [("defect", "defect", 1), ("ok", "ok", -1), ("top", "defect" if logit > 0 else "ok", 0)]:
        report = json.loads(cli(*common, target).out)
        sign = sign or (1 if logit > 0 else -1)
        expected = chance if sign > 0 else 1 - chance
        assert report["target"]["label"] == label
        assert report["target"]["probability"] == pytest.approx(expected, rel=1e-5)
        assert report["target"]["score"] == pytest.approx(expected if kept else sign * logit, rel=1e-4)
        assert report["ledger"]["relative_error"] < 1e-5


def test_a_label_too_many_and_labels_twice(tmp_path: Path, cli: Cli, picture: str) -> None:
    """Labels that do not fit are told; one that names two classes, or none, is refused as a target."""
    traced(Dense(last=False), tmp_path / "dense.pt")
    common = ["explain", picture, "--model", "dense.pt", "--size", "32", "--preset", "none", "--labels"]
    (tmp_path / "six.txt").write_text("crane\ndog\ncrane\ncat\ncow\npig\n")
    ran = cli(*common, "six.txt")
    assert "heatcli: note: dense.pt has 5 classes, and there are 6 labels; check --labels\n" in ran.err
    assert "note: classes 0 and 2 have the same label 'crane'; --target takes their indices\n" in ran.err
    twice = cli(*common, "six.txt", "--target", "crane")
    assert (twice.status, "'crane' is the label of classes 0 and 2; give the index" in twice.err) == (2, True)
    none = cli(*common, "six.txt", "--target", "pig")
    assert (none.status, "target 'pig' is label 5, and the model has classes 0 to 4" in none.err) == (2, True)


class Parts(nn.Module):
    """The second of two probabilities, which the other logit decides as well."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)).softmax(1)[:, 1:]


def test_a_part_of_a_softmax_is_no_logit(tmp_path: Path) -> None:
    model = traced(Parts(), tmp_path / "parts.pt", size=4)
    batch = torch.rand(2, 3, 4, 4)
    result = heatcli.explain(model, batch, "gradient")
    own = Parts()(batch)
    assert result.quantity == "probability"
    assert result.ledger.output.tolist() == pytest.approx(own.gather(1, result.target.index[:, None])[:, 0].tolist())


class Several(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"boxes": x.mean((2, 3))[:, :2], "classes": x.mean((2, 3)).softmax(1)}


FIRST = torch.tensor([0])
MASK = torch.tensor([False, True, False, False, True, False])
TAILS = {
    "nothing": lambda p: p,
    "in another order": lambda p: p[:, [3, 1, 0, 5, 4, 2]],
    "turned round": lambda p: p.flip(1),
    "shifted": lambda p: p.roll(2, 1),
    "through more axes": lambda p: p.reshape(-1, 2, 3).transpose(1, 2).reshape(-1, 6),
    "some set to 0": lambda p: p.masked_fill(MASK, 0.0),
    "some set to 1": lambda p: torch.where(MASK, torch.ones_like(p), p),
    "some written": lambda p: p.index_fill(1, FIRST, 0.0),
    "some multiplied by 0": lambda p: p * (~MASK).float(),
    "a class more": lambda p: functional.pad(p, (1, 0)),
    "a class more, joined": lambda p: torch.cat([torch.zeros_like(p[:, :1]), p], 1),
    "twice": lambda p: torch.cat([p, p.flip(1)], 1),
    "repeated": lambda p: p.repeat(1, 2),
    "a part": lambda p: p[:, 1:4],
    "the lower triangle": lambda p: p.reshape(-1, 2, 3).tril().reshape(-1, 6),
    "the upper triangle": lambda p: p.reshape(-1, 3, 2).triu().reshape(-1, 6),
    "reflected": lambda p: functional.pad(p[:, None], (1, 1), mode="reflect")[:, 0],
    "windows": lambda p: functional.unfold(p.reshape(-1, 1, 2, 3), (1, 2), padding=(0, 1)).flatten(1),
}
ACTIVATIONS = {"softmax": nn.Softmax(1), "log_softmax": nn.LogSoftmax(1), "sigmoid": nn.Sigmoid()}


class _Tailed(nn.Module):
    """Logits far below 0, an activation, and what comes after it."""

    def __init__(self, activation: str, tail: str) -> None:
        super().__init__()
        self.head, self.activation, self.tail = nn.Linear(12, 6), ACTIVATIONS[activation], TAILS[tail]

    def forward(self, x: Tensor) -> Tensor:
        tailed: Tensor = self.tail(self.activation(self.head(x.flatten(1)) - 5))
        return tailed


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("tail", list(TAILS))
def test_what_comes_after_an_activation_is_kept(activation: str, tail: str, tmp_path: Path) -> None:
    """The reported output is the artifact's, or logits whose probabilities, or log-probabilities, are the artifact's.

    So no 0 that is written among probabilities becomes a 0 among negative logits, the highest score.
    """
    torch.manual_seed(0)
    net, x = _Tailed(activation, tail).eval(), torch.rand(2, 3, 2, 2)
    torch.jit.trace(net, x).save(str(tmp_path / "m.pt"))
    found = heatcli.explain(heatcli.load(tmp_path / "m.pt", size=(2, 2)), x, "gradient")
    expected = net(x)
    chances = found.probabilities.log() if activation == "log_softmax" else found.probabilities
    if not torch.allclose(found.outputs, expected, atol=1e-6):
        torch.testing.assert_close(chances, expected, atol=1e-6, rtol=1e-5)
    best = expected.gather(1, found.target.index[:, None])[:, 0]
    torch.testing.assert_close(best, expected.amax(1))


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_what_is_explained_is_compared_to_the_very_end(
    activation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a mask among probabilities were taken for a layout, the comparison with the runtime would refuse it."""
    net = _Tailed(activation, "some set to 0").eval()
    torch.jit.trace(net, torch.rand(2, 3, 2, 2)).save(str(tmp_path / "m.pt"))
    monkeypatch.setattr(outputs, "is_choice", lambda op: is_choice(op) or op.title == "masked_fill")
    with pytest.raises(ModelError, match="is another function"):
        heatcli.explain(heatcli.load(tmp_path / "m.pt", size=(2, 2)), torch.rand(2, 3, 2, 2), "gradient")


def test_all_outputs_are_listed(tmp_path: Path, cli: Cli, picture: str) -> None:
    """inspect shows every output and which is explained; explain says so where nobody chose."""
    torch.jit.script(Several()).save(str(tmp_path / "several.pt"))
    shown = cli("inspect", "several.pt", "--size", "8", "--head", "1")
    assert "output 0 boxes [1, 2], float32; --head explains it\n" in shown.out
    assert (
        "output 1 classes [1, 3], float32: 3 classes on axis 1 (its softmax runs over it), ends in softmax "
        "(logits are explained), explained\n"
    ) in shown.out
    found = json.loads(cli("inspect", "several.pt", "--size", "8", "--json").out)
    assert [(o["name"], o["shape"], o["explained"]) for o in found["outputs"]] == [
        ("boxes", [1, 2], True), ("classes", [1, 3], False),
    ]  # fmt: skip
    common = ["explain", picture, "--model", "several.pt", "--size", "8", "--preset", "none"]
    told = "several.pt returns 2 outputs (0 [1, 2], 1 [1, 3]); the first is explained, --head says which"
    assert told in cli(*common).err
    assert "returns 2 outputs" not in cli(*common, "--head", "0").err


class Embedding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(x.mean(2).flatten(1))


def test_an_embedding_has_no_probability(tmp_path: Path, cli: Cli, picture: str) -> None:
    """A vector of unit length is told by its last operators, in each format."""
    torch.jit.script(Embedding().eval()).save(str(tmp_path / "embed.pt"))
    torch.onnx.export(
        Embedding().eval(), (torch.rand(1, 3, 8, 8),), str(tmp_path / "embed.onnx"), dynamo=True, verbose=False
    )
    for name in ("embed.pt", "embed.onnx"):
        common = ["--model", name, "--size", "8", "--preset", "none"]
        ran = cli("explain", picture, *common, "--json")
        assert json.loads(ran.out)["target"]["probability"] is None
        assert "noise.png: number " in ran.err
        assert "embedding, 24 classes on axis 1" in cli("inspect", name, "--size", "8").out


class Training(nn.Module):
    def __init__(self, drop: float = 0.0) -> None:
        super().__init__()
        self.convolution, self.norm, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.norm(self.convolution(x))).mean((2, 3))


def test_training_mode_is_told(tmp_path: Path) -> None:
    """Scripted: explained as after eval(); exported: what is active in the graph is named."""
    torch.jit.script(Training()).save(str(tmp_path / "scripted.pt"))
    assert any(
        "scripted.pt was saved in training mode" in note for note in heatcli.load(tmp_path / "scripted.pt").notes
    )
    torch.jit.script(Training().eval()).save(str(tmp_path / "eval.pt"))
    assert list(heatcli.load(tmp_path / "eval.pt").notes) == []
    program = torch.export.export(Training(), (torch.zeros(2, 3, 8, 8),))
    torch.export.save(program, tmp_path / "trained.pt2")
    model = heatcli.load(tmp_path / "trained.pt2")
    model.graph((2, 3, 8, 8))
    assert [note for note in model.notes if "batch norm norm standardises by the batch at hand" in note]
    torch.export.save(torch.export.export(Training(0.5), (torch.zeros(2, 3, 8, 8),)), tmp_path / "random.pt2")
    with pytest.raises(ModelError, match=r"random.pt2: draws random numbers \(aten.bernoulli"):
        heatcli.load(tmp_path / "random.pt2").graph((2, 3, 8, 8))
    program = torch.export.export(Training().eval(), (torch.zeros(2, 3, 8, 8),))
    torch.export.save(program, tmp_path / "eval.pt2")
    model = heatcli.load(tmp_path / "eval.pt2")
    model.graph((2, 3, 8, 8))
    assert list(model.notes) == []


EVENTS = ("dog", "cat", "horn", "rain", "speech")


class Events(nn.Module):
    """Several sounds at each of 16 frames of a signal [N, 2, 64]: a sigmoid each. `last`: the events are last."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.pool, self.last = nn.Conv1d(2, len(EVENTS), 5, padding=2), nn.AvgPool1d(4), last
        with torch.no_grad():
            self.conv.bias.sub_(0.3)

    def scores(self, x: Tensor) -> Tensor:
        return self.pool(self.conv(x))

    def forward(self, x: Tensor) -> Tensor:
        found = torch.sigmoid(3 * self.scores(x))
        return found.transpose(1, 2) if self.last else found


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("form", ["scripted", "traced", "onnx-old", "onnx-new", "pt2"])
def test_several_labels_at_each_position_have_their_names(form: str, last: bool, tmp_path: Path, cli: Cli) -> None:
    """A label's scores are summed where it is there, whatever other labels are; positions have names, too."""
    module = Events(last).eval()
    path = save(module, tmp_path, form, (2, 64))
    x = torch.randn(1, 2, 64, generator=torch.Generator().manual_seed(3))
    np.save("x.npy", x[0].numpy())
    Path("labels.txt").write_text("\n".join(EVENTS))
    logits = (3 * module.scores(x))[0].detach()
    there = logits > 0
    assert ((there.sum(0) > 1).any(), (there.sum(0) == 0).any()) == (True, True), "together, and none"
    given = ["x.npy", "-m", path, "--labels", "labels.txt", "--method", "lrp-0", "--figure", "none", "--json"]
    for i, name in enumerate(EVENTS):
        for target, region in ((name, there[i]), (f"{name}@7", torch.arange(16) == 7)):
            ran = cli("explain", *given, "--target", target)
            assert ran.status == 0, ran.err
            found = json.loads(ran.out)["target"]
            assert (found["index"], found["label"], found["quantity"]) == (i, name, "logit")
            assert found["score"] == pytest.approx(float(logits[i][region].sum()), rel=1e-3, abs=1e-4)
            assert found["probability"] == pytest.approx(float(logits[i][region].sigmoid().mean()), rel=1e-3)
    shown = cli("inspect", path, "--labels", "labels.txt", "--size", "64")
    assert "several labels at each position, 5 classes on axis " + ("2" if last else "1") in shown.out, shown.out


def test_a_label_that_is_nowhere(tmp_path: Path, cli: Cli) -> None:
    """Its highest position is explained, and a note says so; a probability is present above a half."""
    module = Events(False).eval()
    with torch.no_grad():
        module.conv.bias[0] = -30
    path = save(module, tmp_path, "onnx-old", (2, 64))
    np.save("x.npy", np.random.default_rng(0).normal(size=(2, 64)))
    Path("labels.txt").write_text("\n".join(EVENTS))
    for more in ([], ["--output", "probability"]):
        ran = cli("explain", "x.npy", "-m", path, "--labels", "labels.txt", "--target", "dog", "--json", *more)
        assert ran.status == 0, ran.err
        assert "dog is present nowhere, so it is explained where its score is highest" in ran.err
        assert json.loads(ran.out)["target"]["nowhere"]
