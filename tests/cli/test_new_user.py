"""What a new user met (a row each): messages that lead the right way, options that every command takes."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from conftest import MODELS, SAMPLES, Cli
from torch import nn

from heatcli.methods.table import ELSEWHERE, METHODS

WOLF = SAMPLES / "wolf-on-snow.png"
EIGHT = SAMPLES / "digits" / "8-a.png"
LEADING = [
    (["--method", "lrp-epsilon"], "did you mean 'lrp-eps'?"),
    (["--method", "saliency"], "did you mean 'gradient'?"),
    (["--method", "ig"], "did you mean 'integrated-gradients'?"),
    (["--method", "grad-cam++"], "did you mean 'grad-cam-plus-plus'?"),
    (["--method", "Grad-CAM"], "did you mean 'grad-cam'?"),
    (["--target", "top3"], "did you mean 'top:3'?"),
    (["--device", "gpu"], "device 'gpu' is not known; use auto, cpu, cuda, cuda:1 or mps"),
    (["--layer", "conv1"], "--layer is for methods that look at one layer (grad-cam, "),
    (["--method", "lrp-gamma", "--param", "gamma=abc"], "gamma='abc' is not a number"),
    (["--no-pass", "centre-logits"], "--no-pass centre-logits: this pass is not on"),
    (["--no-pass", "foo"], "unknown graph pass 'foo'"),
    (["--biases", "few"], "--biases few is not known; use all, totals, none"),
    (
        ["--output", "why.png"],
        "unknown output 'why.png'; known: centred-logit, logit, probability; -o FILE names the f",
    ),
    (["--cmap", "jet"], "unknown diverging colour map 'jet'; known: BrBG, "),
    (["--model", "resnet50"], "resnet50: no such model file; give the file of an artifact"),
]


@pytest.mark.parametrize(("options", "message"), LEADING, ids=[" ".join(options) for options, _ in LEADING])
def test_messages_lead_the_right_way(cli: Cli, options: list[str], message: str) -> None:
    ran = cli("explain", WOLF, *options)
    assert ran.status in (2, 3)
    assert message in ran.err
    assert ran.err.count("\n") == 1


def test_names_of_elsewhere_are_of_methods_here() -> None:
    assert set(ELSEWHERE.values()) <= set(METHODS)
    assert not set(ELSEWHERE) & set(METHODS)


def test_an_image_is_no_list(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_bytes(WOLF.read_bytes())
    assert "l.txt: is an image, not a list of images" in cli("explain", "l.txt").err


def test_a_model_is_no_image(cli: Cli) -> None:
    ran = cli("activations", EIGHT, MODELS / "digits.onnx", "--layer", "last")
    assert ran.status == 1
    assert "digits.onnx: is a model, not an image; give it with --model" in ran.err
    ran = cli("check", "--model", MODELS / "digits.onnx", EIGHT)
    assert (ran.status, ran.err) == (
        2, "heatcli: No such option: --model; this command takes the model as its first argument\n"
    )  # fmt: skip


def test_a_picture_that_cannot_be_checked_is_named_once(cli: Cli) -> None:
    ran = cli("check", MODELS / "animals.pt", "none.png")
    assert ran.status == 1
    assert ran.out.splitlines()[0] == "FAILED image: none.png: cannot be read: no such image file"


def test_methods_are_listed_by_name_and_pattern(cli: Cli) -> None:
    ran = cli("methods", "grad-cam", "lrp-alpha?-*", "--json")
    assert [row["name"] for row in json.loads(ran.out)] == [
        "lrp-alpha1-beta0", "lrp-alpha2-beta1", "lrp-alpha3-beta2", "grad-cam",
    ]  # fmt: skip
    assert "unknown method 'gradcam'; did you mean 'grad-cam'?" in cli("methods", "gradcam").err
    assert "which one to start with: heatcli help choosing" in cli("methods").err


def test_one_number_has_no_second_class(cli: Cli) -> None:
    torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(12, 1), nn.Sigmoid()).eval()).save("one.pt")
    one = (
        "explain",
        WOLF,
        "--model",
        "one.pt",
        "--size",
        "2x2",
        "--preset",
        "none",
        "--figure",
        "none",
        "--target",
        "1",
    )
    told = "target '1' is out of range: the model has one number, 0; --labels with two names makes it two classes"
    assert told in cli(*one).err
    Path("two.txt").write_text("ok\ndefect\n")
    assert cli(*one, "--labels", "two.txt").status == 0


class Unbatched(nn.Module):
    """A network of one picture [C, H, W]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((1, 2))


class Keyed(nn.Module):
    """A network that takes a dictionary."""

    def forward(self, images: dict[str, torch.Tensor]) -> torch.Tensor:
        return images["left"].mean((2, 3))


class Listed(nn.Module):
    """A classifier that takes a list of pictures, as torchvision's detectors do."""

    def forward(self, images: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([image.mean((1, 2)) for image in images])


def test_inputs_that_are_no_batch_are_refused(cli: Cli) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Unbatched(), (torch.rand(3, 32, 32),), "alone.onnx", dynamo=False)
        torch.jit.script(Keyed()).save("dict.pt")
        torch.jit.script(Listed()).save("list.pt")
    ran = cli("explain", WOLF, "--model", "alone.onnx", "--axes", "NCL")
    assert ran.status == 1
    assert "is no signal, which the model takes" in ran.err
    assert cli("explain", WOLF, "--model", "alone.onnx").status == 0
    ran = cli("explain", WOLF, "--model", "dict.pt", "--size", "32")
    assert ran.status == 3
    assert "dict.pt: its input images is a Dict[str, Tensor]; heatcli gives one tensor [N, C, H, W], so" in ran.err
    assert cli("explain", WOLF, "--model", "list.pt", "--size", "32").status == 0


def test_a_spec_is_corrected(cli: Cli, tmp_path: Path) -> None:
    for text, told in (
        ("[ledgr]\n", "unknown check or key 'ledgr'; did you mean 'ledger'?"),
        ('metods = ["lrp-eps"]\n[ledger]\n', "unknown check or key 'metods'; did you mean 'methods'?"),
        ("[stability]\nshft = 1\n", "unknown key of [stability] 'shft'; did you mean 'shift'?"),
    ):
        (tmp_path / "s.toml").write_text(text)
        assert told in cli("check", MODELS / "animals.pt", WOLF, "--spec", "s.toml").err


def test_a_signal_is_no_picture(cli: Cli, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv1d(12, 4, 5), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (torch.rand(1, 12, 100),), str(tmp_path / "ecg.onnx"), dynamo=False)
    ran = cli("explain", WOLF, "--model", "ecg.onnx")
    assert ran.status == 1
    assert "wolf-on-snow.png: is no signal, which the model takes; give a file of .csv, .npy, .npz, .wav" in ran.err


@pytest.mark.parametrize("biases", ["all", "totals", "none"])
def test_reports_are_as_small_as_asked(cli: Cli, biases: str) -> None:
    report = json.loads(cli("explain", WOLF, "--biases", biases, "--pixels", "none", "--json").out)
    found = report["biases"]
    assert {"all": found and "values" in found[0], "totals": found and "values" not in found[0], "none": not found}[
        biases
    ]
    if found:
        assert sum(bias["total"] for bias in found) == pytest.approx(report["ledger"]["biases"], rel=1e-5)
    sizes = {"all": 60_000, "totals": 9000, "none": 2500}
    assert len(json.dumps(report)) < sizes[biases]


def test_nothing_checked_is_no_green_gate(cli: Cli, tmp_path: Path) -> None:
    """All skipped: status 1, said; JUnit counts what was asserted, and keeps what was reported as output."""
    (tmp_path / "s.toml").write_text('methods = ["gradient"]\n[ledger]\n')
    ran = cli("check", MODELS / "animals.pt", WOLF, "--spec", "s.toml", "--junit", "j.xml", "-v")
    assert ran.status == 1, ran.out + ran.err
    assert "nothing was checked" in ran.err
    assert "not checked: " in ran.out
    (tmp_path / "r.toml").write_text('methods = ["lrp-eps@blur"]\n[stability]\nshift = 0.01\n')
    ran = cli("check", MODELS / "animals.pt", WOLF, "--spec", "r.toml", "--junit", "j.xml", "--json")
    statuses = [json.loads(line)["status"] for line in ran.out.splitlines()]
    suites = ElementTree.parse(tmp_path / "j.xml").getroot()
    asserted = [status for status in statuses if status != "reported"]
    assert suites.get("tests") == str(len(asserted))
    assert len(suites.findall(".//testcase")) == len(asserted)


def test_preprocessing_is_said_in_every_command(cli: Cli, tmp_path: Path) -> None:
    """--preset, --mean, --labels and --input are options of each command that loads a model."""
    for command in ("explain", "inspect", "check", "compare", "evaluate", "bench", "mean", "activations", "filters",
                    "prototype"):  # fmt: skip
        shown = cli(command, "--help").out
        for option in ("--preset", "--mean", "--labels", "--input", "--size"):
            assert option in shown, (command, option)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "8.png").write_bytes(EIGHT.read_bytes())
    ran = cli("mean", "in", "-o", "m.npz", "--model", MODELS / "digits.onnx", "--preset", "mnist")
    assert ran.status == 0, ran.err


class Two(nn.Module):
    """A network of a picture and of numbers beside it."""

    def forward(self, x: torch.Tensor, meta: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) + meta


def test_inspect_says_what_is_missing(cli: Cli) -> None:
    """Several inputs, an unknown size, no picture: status 0, the inputs that there are, and the option to give."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AvgPool2d(10), nn.Flatten(), nn.Linear(4, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(net).save("size.pt")
        torch.jit.script(Two()).save("two.pt")
        torch.jit.script(nn.Conv1d(1, 4, 5)).save("leads.pt")
    for file, told in (
        ("size.pt", "nothing says the size of its input, so this one was tried; give --size"),
        (
            "two.pt",
            "missing: takes 2 inputs (x, meta); give all but the one to explain, each with --input NAME=FILE.npy",
        ),
        ("leads.pt", "missing: nothing says how large a signal it takes; give --channels and --size"),
    ):
        ran = cli("inspect", file)
        assert ran.status == 0, ran.err
        assert told in ran.out
        found = json.loads(cli("inspect", file, "--json").out)
        assert found["missing"]
        assert len(found["inputs"]) == (2 if file == "two.pt" else 1)
