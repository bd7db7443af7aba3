"""The command line: what it writes, what it says, and how it ends."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import MODELS, SAMPLES, Cli
from PIL import Image

WOLF = SAMPLES / "wolf-on-snow.png"
EIGHT = SAMPLES / "digits" / "8-a.png"


def test_help_needs_no_torch() -> None:
    """--help and --version answer from the standard library, typer and rich alone."""
    code = (
        "import sys; sys.argv = ['heatcli', 'explain', '--help']\n"
        "from heatcli.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: print([m for m in ('torch', 'numpy', 'PIL', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]"), done.stdout
    assert "--baseline" in done.stdout


@pytest.mark.usefixtures("default_figure")
def test_explain_as_a_process(process: Cli, tmp_path: Path) -> None:
    """The main job: overlay and report in heatmaps/, the result on stdout, the talk on stderr."""
    ran = process("explain", WOLF)
    assert ran.status == 0
    assert "wolf-on-snow.png: wolf, output" in ran.out
    assert "pixels +" in ran.out
    assert "relative error" in ran.out
    assert ran.err == "  wrote heatmaps/wolf-on-snow.lrp-eps.png and heatmaps/wolf-on-snow.lrp-eps.json\n"
    assert sorted(p.name for p in (tmp_path / "heatmaps").iterdir()) == [
        "wolf-on-snow.lrp-eps.json",
        "wolf-on-snow.lrp-eps.png",
    ]
    with Image.open(tmp_path / "heatmaps" / "wolf-on-snow.lrp-eps.png") as overlay, Image.open(WOLF) as picture:
        assert min(overlay.size) > max(picture.size)  # a panel, of three pictures and what they mean
        assert overlay.text["Description"].startswith(
            "wolf-on-snow.png: wolf, output 3.684, probability 0.867; lrp-eps"
        )
    assert "Warning" not in ran.err


def test_json_prints_one_report_a_line(cli: Cli, tmp_path: Path) -> None:
    ran = cli("explain", WOLF, SAMPLES / "dog-on-grass.png", "--json", "--out", "o", "--method", "gradient")
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert [line["target"]["label"] for line in lines] == ["wolf", "dog"]
    assert lines[0] == json.loads((tmp_path / "o" / "wolf-on-snow.gradient.json").read_text())


def test_the_model_is_loaded_once_for_all_methods(cli: Cli) -> None:
    """Every report has the time of that, without the time of the methods before its own."""
    ran = cli("explain", WOLF, "--json", "--out", "o", "--method", "gradient", "--method", "lrp-eps")
    first, second = (json.loads(line)["seconds"]["load"] for line in ran.out.splitlines())
    assert first == second


def test_folder_with_failures_goes_on_and_ends_with_1(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(WOLF, folder / "b.png")
    (folder / "a.png").write_bytes(b"")
    (folder / "c.jpg").write_bytes(WOLF.read_bytes()[:9000])
    (folder / "notes.txt").write_text("not an image, and not meant to be one")
    ran = cli("explain", folder, "--out", "o")
    assert ran.status == 1
    assert "a.png: the image file is empty" in ran.err
    assert "c.jpg: is damaged or truncated" in ran.err
    left = {p.name for p in (tmp_path / "o").iterdir()}
    assert left == {"b.lrp-eps.json", "b.lrp-eps.png", "index.jsonl", "run.json"}


def test_onnx_and_pixels_as_npz(cli: Cli, tmp_path: Path) -> None:
    ran = cli("explain", EIGHT, "--model", MODELS / "digits.onnx", "--pixels", "npz", "--baseline", "black", "--json")
    report = json.loads(ran.out)
    assert report["target"]["label"] == "8"
    assert report["target"]["quantity"] == "logit"
    assert "values" not in report["pixels"]
    relevance = np.load(tmp_path / "heatmaps" / report["pixels"]["file"])["relevance"]
    assert relevance.shape == (1, 28, 28)
    assert relevance.astype(np.float64).sum() == pytest.approx(report["ledger"]["pixels"], rel=1e-5)


def test_contrast_and_batches_agree_with_single_images(cli: Cli, tmp_path: Path) -> None:
    """A-B is the difference of two scores, and the batch size changes nothing.

    By an ε larger than the default, which divides by values as small as their rounding.
    """
    epsilon = ("--param", "epsilon=1e-3")
    pictures = sorted(SAMPLES.glob("*-on-snow.png"))
    assert cli("explain", *pictures, "--target", "wolf-dog", "--out", "one", "--batch-size", "1", *epsilon).status == 0
    assert cli("explain", *pictures, "--target", "0-1", "--out", "many", "--batch-size", "8", *epsilon).status == 0
    for picture in pictures:
        one, many = (
            json.loads((tmp_path / out / f"{picture.stem}.lrp-eps.json").read_text()) for out in ("one", "many")
        )
        assert one["target"]["label"] == "wolf-dog"
        assert one["ledger"]["pixels"] == pytest.approx(many["ledger"]["pixels"], rel=1e-3, abs=1e-4)
        assert one["ledger"]["output"] == pytest.approx(many["ledger"]["output"], rel=1e-4)


def test_mean_of_a_folder_serves_as_baseline(cli: Cli, tmp_path: Path) -> None:
    ran = cli("mean", SAMPLES, "-o", "m.npz")
    assert ran.status == 0
    count = len(list(SAMPLES.glob("*.png")))
    assert f"the mean of {count} images, 3×96×96" in ran.err
    with np.load(tmp_path / "m.npz") as file:
        assert file["mean"].shape == (3, 96, 96)
        assert file["count"] == count
    ran = cli("explain", WOLF, "--baseline", "mean:m.npz", "--method", "deeplift-rescale", "--json")
    report = json.loads(ran.out)
    assert report["baseline"] == {"name": "mean", "file": "m.npz"}
    assert report["ledger"]["biases"] == 0
    assert report["ledger"]["relative_error"] < 1e-5


def test_inspect_and_methods_print_json(cli: Cli) -> None:
    found = json.loads(cli("inspect", MODELS / "digits.onnx", "--json").out)
    assert found["format"] == "onnx"
    assert found["input"]["shape"] == [None, 1, 28, 28]
    assert found["output"]["final"] == "softmax"
    assert all(row["rule"] for row in found["operators"])
    assert [row["name"] for row in found["biases"]] == ["conv1.bias", "conv2.bias", "fc1.bias", "fc2.bias"]
    methods = {row["name"]: row for row in json.loads(cli("methods", "--json").out)}
    assert methods["lrp-eps"]["parameters"]["epsilon"] == 1e-6
    assert methods["gradient"]["baseline"] is None
    assert "elementwise" in methods["lrp-0"]["rules"]
    assert "convolution" in cli("inspect").out
    assert "Bach et al. 2015" in cli("methods").out


COLLIDING = (
    (["explain", "a/x.png", "b/x.png"], ["a/x.png.lrp-eps.json", "b/x.png.lrp-eps.json"]),
    (["explain", "a"], ["x.jpg.lrp-eps.json", "x.png.lrp-eps.json"]),
)


@pytest.mark.parametrize(("command", "written"), COLLIDING)
def test_inputs_of_one_stem_all_get_outputs(cli: Cli, tmp_path: Path, command: list[str], written: list[str]) -> None:
    for name in ("a/x.png", "b/x.png", "a/x.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        with Image.open(WOLF) as picture:
            picture.convert("RGB").save(path)
    assert cli(*command).status == 0
    out = tmp_path / "heatmaps"
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*x.*.json")) == written


def test_inputs_are_never_overwritten(cli: Cli, tmp_path: Path) -> None:
    shutil.copy(WOLF, tmp_path / "x.png")
    shutil.copy(WOLF, tmp_path / "x.lrp-eps.png")
    before = (tmp_path / "x.lrp-eps.png").read_bytes()
    ran = cli("explain", "x.png", "x.lrp-eps.png", "--out", ".")
    assert ran.status == 2
    assert "is itself an input" in ran.err
    assert (tmp_path / "x.lrp-eps.png").read_bytes() == before


def test_a_result_stands_before_what_stderr_says_next(tmp_path: Path) -> None:
    """Where both streams go into one file, whose stdout Python would hold back."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", "heatcli", "explain", str(WOLF), "--figure", "none"]
    with (tmp_path / "said").open("w") as said:
        subprocess.run(command, cwd=tmp_path, stdout=said, stderr=said, env=environment, check=True)
    lines = (tmp_path / "said").read_text(encoding="utf-8").splitlines()
    assert ["wolf, output" in lines[0], "ledger: " in lines[1], lines[2].startswith("  wrote ")] == [True] * 3


def test_no_garbage_is_looked_for_while_torch_is_imported(tmp_path: Path) -> None:
    """It took an eighth of the start; from the first image on it is looked for as ever, but not among imports."""
    script = f"""
import gc, sys
from heatcli.cli.app import main
usual, looked = gc.get_threshold(), []
gc.callbacks.append(lambda phase, _: looked.append(gc.get_freeze_count()))
sys.argv = ["heatcli", "explain", {str(WOLF)!r}, "--quiet"]
try:
    main()
finally:
    print(0 in looked, gc.get_freeze_count() > 100_000, gc.get_threshold() == usual)
"""
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "False True True"
