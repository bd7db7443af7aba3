"""`heatcli prototype`: what it writes, and what it says of priors that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MODELS, SAMPLES, Cli
from PIL import Image

from heatcli.prototype import rbm
from heatcli.prototype.job import as_shown

DIGITS = MODELS / "digits.onnx"


def test_a_class_as_a_process(process: Cli, tmp_path: Path) -> None:
    ran = process("prototype", DIGITS, "--target", "3", "--steps", "12", "--animate", "--json", "--start",
                  SAMPLES / "digits" / "8-a.png")  # fmt: skip
    assert ran.status == 0, ran.err
    record = json.loads(ran.out)
    assert record["schema"] == "heatcli.prototype/1"
    assert record["target"] == {"index": 3, "label": "3"}
    assert record["prior"] == {"name": "l2", "weight": 0.1}
    assert record["search"]["objective"] == "score"
    assert {name: len(rows) for name, rows in record["trace"].items()} == dict.fromkeys(
        ("score", "log_probability", "prior", "norm"), 13
    )
    assert record["trace"]["score"][-1] == record["final"]["score"] > record["trace"]["score"][0]
    folder = tmp_path / "prototypes"
    assert json.loads((folder / "digits.3.l2.json").read_text()) == record
    with np.load(folder / record["files"]["array"]) as arrays:
        assert arrays["input"].shape == (1, 28, 28)
        low, high = record["shown"]["low"], record["shown"]["high"]
        assert (low, high) == (min(0, arrays["pixels"].min()), max(1, arrays["pixels"].max()))
        with Image.open(folder / record["files"]["picture"]) as picture:
            back = np.asarray(picture) / 255 * (high - low) + low
        assert np.abs(back - arrays["pixels"][0]).max() <= (high - low) / 500
    with Image.open(folder / record["files"]["animation"]) as gif:
        assert gif.n_frames == 13
    assert (folder / record["files"]["trace"]).stat().st_size > 3000


def test_a_faint_picture_gets_contrast() -> None:
    """Values within a quarter of 0..1 are spread; others keep black and white; an even picture stays even."""
    x = torch.tensor([[[0.4, 0.5], [0.45, 0.6]]])
    for pixels, low, high in (
        (x, 0.4, 0.6), (x + 0.7, 1.1, 1.3), (4 * x - 1.2, 0, 1.2), (2 * x - 1, -0.2, 1), (0 * x + 0.5, 0, 1),
    ):  # fmt: skip
        shown, black, white = as_shown(pixels)
        assert (black, white) == pytest.approx((low, high), abs=1e-6)
        assert np.asarray(shown) == pytest.approx(255 * (pixels[0].numpy() - low) / (high - low), abs=1.01)


def test_all_classes_on_a_sheet(cli: Cli, tmp_path: Path) -> None:
    """The decoder that comes along: every digit is found, and surely."""
    ran = cli("prototype", DIGITS, "--target", "all", "--prior", f"decoder:{MODELS / 'digits-decoder.onnx'}",
              "--steps", "40", "--rate", "0.2", "--json")  # fmt: skip
    assert ran.status == 0, ran.err
    records = [json.loads(line) for line in ran.out.splitlines()]
    assert [r["target"]["label"] for r in records] == [str(i) for i in range(10)]
    assert min(r["final"]["log_probability"] for r in records) > -0.7
    assert all(r["shown"] == {"low": 0, "high": 1} for r in records)
    with Image.open(tmp_path / "prototypes" / "digits.all.decoder.png") as sheet:
        assert sheet.width > 900


@pytest.fixture
def experts(tmp_path: Path) -> None:
    for name, shape, whole in (("small", (1, 14, 14), True), ("large", (1, 40, 40), False), ("rgb", (3, 28, 28), True)):
        v = shape[0] * shape[1] * shape[2]
        rbm.write(
            tmp_path / f"{name}.npz", rbm.Expert(shape, whole, 1.0, torch.zeros(v, 2), torch.zeros(v), torch.zeros(2))
        )


@pytest.mark.usefixtures("experts")
def test_errors_are_one_line(cli: Cli) -> None:
    decoder = f"decoder:{MODELS / 'digits-decoder.onnx'}"
    for arguments, status, text in (
        (["--target", "11"], 2, "target '11' is out of range: the model has classes 0 to 9"),
        (["--target", "1-7"], 2, "is a difference; a prototype is of one class, or of all"),
        (["--target", "1", "--prior", "l1"], 2, "unknown prior 'l1'; did you mean 'l2'"),
        (["--target", "1", "--prior", "rbm"], 2, "prior 'rbm' is not one of l2, rbm:FILE, decoder:ARTIFACT"),
        (["--target", "1", "--prior", "rbm:none.npz"], 2, "none.npz: no such expert"),
        (["--target", "1", "--prior", "rbm:small.npz"], 2, "judges pictures of 1×14×14, digits.onnx takes 1×28×28"),
        (["--target", "1", "--prior", "rbm:large.npz"], 2, "judges patches of 1×40×40, digits.onnx takes 1×28×28"),
        (["--target", "1", "--prior", "rbm:rgb.npz"], 2, "judges pictures of 3×28×28"),
        (["--target", "1", "--prior", "decoder:none.onnx"], 3, "none.onnx: no such model file"),
        (["--target", "1", "--prior", decoder, "--code", "7"], 3, "cannot be run on an input of shape (1, 7)"),
        (["--target", "1", "--prior", decoder, "--blur", "1"], 2, "--blur changes the picture; prior decoder searches"),
        (["--target", "1", "--prior", decoder, "--start", "mean"], 2, "--start mean is a picture"),
        (["--target", "1", "--steps", "0"], 2, "--steps 0 is not allowed"),
        (["--target", "1", "--rate", "0"], 2, "--rate 0 is not allowed"),
        (["--target", "1", "--weight", "-1"], 2, "--weight -1 is not allowed"),
        (["--target", "1", "--scales", "9"], 2, "--scales 9 is too many for pictures of 28×28"),
        (["--target", "1", "--objective", "logit"], 2, "--objective logit is not known; use score, log-probability"),
    ):
        ran = cli("prototype", DIGITS, *arguments)
        assert (ran.status, ran.err.count("\n")) == (status, 1), (arguments, ran.err)
        assert text in ran.err
    animals = cli("prototype", MODELS / "animals.pt", "--target", "wolf", "--prior", decoder)
    assert animals.status == 2
    assert "decodes to 1×28×28, animals.pt takes 3×96×96" in animals.err
