"""Networks of torchvision by name: real files of random weights where torchvision looks for them."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SAMPLES, Cli
from PIL import Image

import heatcli
from heatcli.cli.completion import _models
from heatcli.run.work.cluster import Shipped
from heatcli.run.work.shipping import Recipe

models = pytest.importorskip("torchvision.models")

WOLF = SAMPLES / "wolf-on-snow.png"
WEIGHTS = models.SqueezeNet1_1_Weights.IMAGENET1K_V1
NAME = "torchvision:squeezenet1_1"


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of weights of a small network, in a cache of torch's own; no network answers."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    file = tmp_path / "home" / "hub" / "checkpoints" / WEIGHTS.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    torch.manual_seed(3)
    torch.save(models.squeezenet1_1(weights=None).state_dict(), file)
    return file


@pytest.mark.usefixtures("weights")
def test_transforms_and_labels_are_those_of_the_weights() -> None:
    """Pictures as torchvision's own transforms make them, outputs as of torchvision's own network; flags still win."""
    model = heatcli.load(NAME)
    with Image.open(WOLF) as opened:
        expected = WEIGHTS.transforms()(opened.convert("RGB"))[None]
    assert torch.allclose(model.preprocess(WOLF), expected, atol=0.02)
    assert list(model.labels) == WEIGHTS.meta["categories"]
    with torch.no_grad():
        output = models.squeezenet1_1(weights=WEIGHTS).eval()(model.preprocess(WOLF))
    found = heatcli.explain(model, WOLF)
    assert float(found.ledger.output) == pytest.approx(output.max().item(), rel=1e-4)
    assert found.verified is not None
    assert found.verified.agrees
    assert heatcli.load(NAME, resize="stretch", mean=(0.5, 0.5, 0.5)).input.mean == (0.5, 0.5, 0.5)


def test_a_run_records_name_and_hash(weights: Path, cli: Cli) -> None:
    """The report names network and weights and has the file's hash; a run goes on with the same weights only."""
    ran = cli("explain", WOLF.parent, "--glob", "wolf-on-*.png", "--model", NAME, "--method", "gradient", "--out", "o")
    assert ran.status == 0, ran.err
    assert "has other weights than torchvision publishes" in ran.err
    found = json.loads(Path("o/wolf-on-snow.gradient.json").read_text())["model"]
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert (found["path"], found["sha256"], found["format"]) == (f"{NAME}:IMAGENET1K_V1", sha256, "torchvision")
    assert sha256 in Path("o/run.json").read_text()
    again = cli("explain", WOLF.parent, "--glob", "wolf-on-*.png", "-m", NAME, "--method", "gradient", "--out", "o",
                "--resume")  # fmt: skip
    assert again.status == 0, again.err


@pytest.mark.usefixtures("weights")
def test_inspect_tells_where_the_preprocessing_is_from(cli: Cli) -> None:
    ran = cli("inspect", f"{NAME}:SqueezeNet1_1_Weights.IMAGENET1K_V1", "--json")
    found = json.loads(ran.out)
    assert found["path"] == f"{NAME}:IMAGENET1K_V1"
    assert found["input"]["told_by"] == f"the weights of {NAME}:IMAGENET1K_V1"
    assert found["output"]["classes"] == 1000


@pytest.mark.slow
@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize(
    "command",
    [
        ("check", NAME, WOLF, "--methods", "lrp-0", "--spec", "spec.toml"),
        ("compare", NAME, NAME, WOLF, "--method", "gradient"),
        ("bench", NAME, "--methods", "gradient", "--repeats", "1", "--batch-size", "1"),
        ("mean", WOLF.parent / "digits", "-o", "mean.npz", "--model", NAME),
        ("activations", WOLF, "--model", NAME),
        ("filters", NAME),
        ("export", NAME, "-o", "explained.onnx", "--method", "gradient"),
        ("evaluate", NAME, WOLF, "--methods", "gradient", "--metric", "deletion:steps=4"),
        ("prototype", NAME, "--target", "3", "--steps", "2"),
    ],
    ids=lambda command: command[0],
)
def test_every_command_takes_a_name(command: tuple[Any, ...], cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text("[ledger]\nmost = 1e-4\n")
    ran = cli(*command)
    assert ran.status == 0, ran.err


@pytest.mark.usefixtures("weights")
def test_a_name_takes_no_sidecar(cli: Cli, tmp_path: Path) -> None:
    ran = cli("inspect", NAME, "--write-sidecar")
    assert (ran.status, ran.out) == (2, "")
    assert "takes no sidecar" in ran.err
    assert not list(tmp_path.glob("*.toml"))


def test_workers_and_other_machines_have_the_same_model(weights: Path) -> None:
    """A worker process finds the file itself; another machine gets it sent."""
    model, x = heatcli.load(NAME), torch.rand(1, 3, 224, 224)
    expected = heatcli.explain(model, x, "gradient").relevance
    here = pickle.loads(pickle.dumps(Recipe.of(model))).model("cpu")
    assert torch.equal(heatcli.explain(here, x, "gradient").relevance, expected)
    sent = pickle.dumps(Shipped.of(model, "cpu"))
    weights.unlink()
    other = pickle.loads(sent).model()
    assert torch.equal(heatcli.explain(other, x, "gradient").relevance, expected)
    assert other.path == model.path


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize(
    ("name", "said", "status"),
    [
        ("torchvision:resnet19", r"unknown network of torchvision 'resnet19'; did you mean 'resnet18'\?", 2),
        ("torchvision:resnet50:IMAGENET1K_V3", r"unknown weights of resnet50 .*did you mean 'IMAGENET1K_V2'\?", 2),
        ("torchvision:fcn_resnet50", "is of torchvision's segmentation networks, and only its classifiers", 2),
        ("torchvision:vgg16:IMAGENET1K_FEATURES", "of the features alone, without classes", 2),
        ("torchvision:alexnet", r"AlexNet_Weights.IMAGENET1K_V1 .*\(no network: .*bring https://.* to .*alexnet", 3),
        ("resnet18", "no such model file; .*torchvision:NAME", 3),
    ],
)
def test_what_cannot_be_loaded_costs_one_line(name: str, said: str, status: int) -> None:
    with pytest.raises(heatcli.HeatcliError, match=said) as raised:
        heatcli.load(name)
    assert raised.value.status == status


class _Harmful:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("executed",)


def test_a_file_of_other_things_is_not_unpickled(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(_Harmful(), weights)
    with pytest.raises(heatcli.ModelError, match="holds no weights of squeezenet1_1: it is no file of tensors; remove"):
        heatcli.load(NAME)
    assert "executed" not in capsys.readouterr().out
    torch.save(models.squeezenet1_0(weights=None).state_dict(), weights)
    with pytest.raises(heatcli.ModelError, match=r"holds no weights of squeezenet1_1: Error\(s\) in loading"):
        heatcli.load(NAME)


def test_names_are_completed() -> None:
    context: object = None
    assert {"torchvision:resnet50", "torchvision:vit_b_16"} <= set(_models(context, "torchvision:res"))  # type: ignore[arg-type]
    assert "torchvision:" in _models(context, "")  # type: ignore[arg-type]
