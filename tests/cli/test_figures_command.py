"""`explain` and `show`: which figure, in which file, on which scale; the same from reports alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MODELS, SAMPLES, Cli
from folders import rows, whole
from PIL import Image

import heatcli
from heatcli.errors import UsageError

pytestmark = pytest.mark.usefixtures("default_figure")
WOLF, EIGHT = SAMPLES / "wolf-on-snow.png", SAMPLES / "digits" / "8-a.png"
DIGITS = ["--model", MODELS / "digits.onnx"]


def _report(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_one_image_is_a_panel_and_many_are_overlays(cli: Cli, tmp_path: Path) -> None:
    """Overlays of a folder have their pictures' pixels, small ones enlarged; the PNG itself says what it shows."""
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        shutil.copy(EIGHT, tmp_path / "in" / f"{name}.png")
    assert cli("explain", "in", *DIGITS, "--out", "many").status == 0
    assert cli("explain", "in/a.png", *DIGITS, "--out", "one").status == 0
    with Image.open(tmp_path / "many" / "a.lrp-eps.png") as many, Image.open(tmp_path / "one" / "a.lrp-eps.png") as one:
        assert many.size == (224, 224)
        pixels = np.asarray(many.convert("RGB")).reshape(28, 8, 28, 8, 3)
        assert (pixels == pixels[:, :1, :, :1]).all()  # without smoothing
        assert min(one.size) > 400
        for figure in (many, one):
            assert figure.text["Description"].startswith("a.png: 8, logit")  # type: ignore[attr-defined]
    kinds = [_report(tmp_path / folder / "a.lrp-eps.json")["figure"]["kind"] for folder in ("many", "one")]
    assert kinds == ["overlay", "panel"]
    whole(tmp_path / "many")


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".svg", ".pdf", ".png"])
def test_a_file_of_its_own(cli: Cli, tmp_path: Path, suffix: str) -> None:
    """By `-o` or by `--out` with such a name; the report lies beside it, and names it."""
    for option in ("-o", "--out"):
        ran = cli("explain", EIGHT, *DIGITS, option, f"maps/one{suffix}", "--arrays", "npy")
        assert ran.status == 0, ran.err
        assert f"wrote maps/one{suffix} and maps/one.lrp-eps.json" in ran.err
        assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == sorted(
            [f"one{suffix}", "one.lrp-eps.json", "one.lrp-eps.npy"]
        )
        report = _report(tmp_path / "maps" / "one.lrp-eps.json")
        assert report["files"] == {"overlay": f"one{suffix}", "arrays": "one.lrp-eps.npy"}
        relevance = np.load(tmp_path / "maps" / "one.lrp-eps.npy")
        assert relevance.dtype == np.float32
        assert relevance.shape == (1, 28, 28)
        assert relevance.sum() == pytest.approx(report["ledger"]["pixels"], rel=1e-4)
        shutil.rmtree(tmp_path / "maps")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "x.tiff"], "x.tiff: a figure cannot be a .tiff; use .png, .jpg, .jpeg, .webp, .svg, .pdf"),
        (["-o", "x.png", "--out", "y"], "-o FILE and --out DIR name two places; give one"),
        (["-o", "."], ".: is a folder; -o takes a file, --out a folder"),
        (["-o", "x.png", "--target", "top:2"], "x.png: is one figure, and these are several; --figure grid draws"),
        (["--figure", "pannel"], "unknown figure 'pannel'; did you mean 'panel'?"),
        (["--scale", "all"], "--scale all is not known; use image, run or a number"),
        (["--arrays", "mat"], "--arrays mat is not known; use npy, npz"),
        (["--method", "lrp-0", "--method", "lrp-0"], "a method is named twice; name each --method once"),
        (
            ["--method", "lrp-0", "--method", "gradient", "--param", "gamma=1"],
            "method lrp-0 takes no parameters, 'gamma' is one too",
        ),
        ([SAMPLES / "digits" / "3-a.png", "-o", "x.png"], "x.png: is one figure, and these are several"),
        ([SAMPLES / "digits" / "3-a.png", "--out", "x.png"], "--out x.png is named like one picture, and the run"),
        ([SAMPLES / "digits" / "3-a.png", "--figure", "grid"], "--figure grid is for one image"),
        (["--show", "--json"], "--show draws on stdout, where --json prints"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_any_work(
    cli: Cli, tmp_path: Path, arguments: list[str | Path], message: str
) -> None:
    ran = cli("explain", EIGHT, *DIGITS, *arguments)
    assert ran.status == 2
    assert message in ran.err
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_an_input_is_never_overwritten(cli: Cli, tmp_path: Path) -> None:
    shutil.copy(EIGHT, tmp_path / "own.png")
    ran = cli("explain", "own.png", *DIGITS, "-o", "own.png")
    assert (ran.status, ran.err) == (2, "heatcli: own.png is itself an input; give another --out folder\n")
    assert (tmp_path / "own.png").read_bytes() == EIGHT.read_bytes()


def test_several_methods_are_side_by_side(cli: Cli, tmp_path: Path) -> None:
    """A report each, and one grid; a method without a baseline says that it takes none."""
    ran = cli(
        "explain", EIGHT, *DIGITS, "--method", "lrp-eps", "--method", "gradient", "--baseline", "black", "--param",
        "epsilon=0.01",
    )  # fmt: skip
    assert ran.status == 0, ran.err
    assert "gradient compares with nothing, so it takes no --baseline" in ran.err
    assert "gradient does not divide the score: the map shows where, not how much" in ran.out
    assert "wrote heatmaps/8-a.grid.png" in ran.err
    names = sorted(p.name for p in (tmp_path / "heatmaps").iterdir())
    assert names == ["8-a.gradient.json", "8-a.grid.png", "8-a.lrp-eps.json"]
    first = _report(tmp_path / "heatmaps" / "8-a.lrp-eps.json")
    assert first["method"]["parameters"]["epsilon"] == 0.01
    assert first["files"] == {}
    ran = cli("explain", EIGHT, *DIGITS, "--target", "top:3", "--figure", "grid", "-o", "three.webp")
    assert ran.status == 0, ran.err
    with Image.open(tmp_path / "three.webp") as figure:
        assert figure.width > 4 * 200
    assert len(list(tmp_path.glob("8-a.lrp-eps.top*.json"))) == 3


def test_show_draws_the_same_from_the_files(cli: Cli, tmp_path: Path) -> None:
    """Pixel for pixel what explain drew, from JSON or arrays, without the model, wherever picture and report lie."""
    shutil.copy(WOLF, tmp_path / "wolf.png")
    for pixels in ("json", "npz"):
        out = tmp_path / pixels
        assert cli("explain", "wolf.png", "--pixels", pixels, "--out", out, "--resize", "crop:128").status == 0
        ran = cli("show", out / "wolf.lrp-eps.json")
        assert (ran.status, ran.out) == (0, "")
        with Image.open(out / "wolf.lrp-eps.png") as drawn, Image.open(out / "wolf.lrp-eps.panel.png") as again:
            assert np.abs(np.asarray(drawn).astype(int) - np.asarray(again).astype(int)).max() <= 1
    (tmp_path / "moved").mkdir()
    (tmp_path / "wolf.png").rename(tmp_path / "moved" / "wolf.png")
    report = out / "wolf.lrp-eps.json"
    ran = cli("show", report)
    assert ran.status == 1
    assert "its picture ../wolf.png is not there; --pictures names the folder that has it" in ran.err
    assert cli("show", report, "--pictures", "moved", "--figure", "contour", "-o", "lines.svg").status == 0
    assert b"<svg" in (tmp_path / "lines.svg").read_bytes()[:1000]
    shutil.copy(EIGHT, tmp_path / "moved" / "wolf.png")
    assert (
        "is not the picture that was explained; its hash is another" in cli("show", report, "--pictures", "moved").err
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: {**r, "schema": "heatcli.report/9"}, "is no heatcli.report/1 that this version reads"),
        (lambda r: {**r, "pixels": {**r["pixels"], "values": [[1.0, 2.0]]}}, "its pixels are no map of 28×28"),
        (lambda r: {**r, "pixels": {k: v for k, v in r["pixels"].items() if k != "values"}}, "holds no pixels"),
        (
            lambda r: {**r, "pixels": {k: v for k, v in r["pixels"].items() if k != "values"},
                       "files": {"pixels": "../../secret.npz"}},
            "names the file ../../secret.npz, which is not beside it",
        ),
        (lambda r: {**r, "image": {**r["image"], "path": "http://there/8-a.png"}}, "its picture is at http://there/8-a"),
    ],
    ids=["version", "shape", "no pixels", "elsewhere", "url"],
)  # fmt: skip
def test_show_believes_no_report(cli: Cli, tmp_path: Path, spoil: Any, message: str) -> None:
    """One line, status 1, and nothing is written."""
    shutil.copy(EIGHT, tmp_path / "8-a.png")
    cli("explain", "8-a.png", *DIGITS, "--figure", "none", "--out", "o")
    path = tmp_path / "o" / "8-a.lrp-eps.json"
    path.write_text(json.dumps(spoil(_report(path))), encoding="utf-8")
    ran = cli("show", path)
    assert ran.status == 1
    assert message in ran.err
    assert ran.err.count("\n") == 1
    assert [p.name for p in (tmp_path / "o").iterdir()] == ["8-a.lrp-eps.json"]


def test_a_run_on_one_scale(cli: Cli, tmp_path: Path) -> None:
    """Every figure and report has it, the index knows the files as they are, and --resume finds all done."""
    (tmp_path / "in").mkdir()
    for digit in ("3-a", "8-a", "4-a"):
        shutil.copy(SAMPLES / "digits" / f"{digit}.png", tmp_path / "in")
    command = ["explain", "in", *DIGITS, "--scale", "run", "--baseline", "black"]
    ran = cli(*command)
    assert ran.status == 0, ran.err
    out = tmp_path / "heatmaps"
    whole(out)
    figures = [_report(path)["figure"] for path in sorted(out.glob("*.lrp-eps.json"))]
    assert {figure["by"] for figure in figures} == {"run"}
    assert len({figure["cut"] for figure in figures}) == 1
    assert {row["cut"] for row in rows(out)} == {figures[0]["cut"]}
    again = cli(*command, "--resume")
    assert "3 images are done already, 0 are left" in again.err
    whole(out)
    shown = cli("show", "heatmaps", "--scale", "run", "--out", "shown")
    assert shown.status == 0
    for path in (tmp_path / "shown").iterdir():
        with Image.open(path) as one, Image.open(out / path.name.replace(".overlay", "")) as other:
            assert np.array_equal(np.asarray(one), np.asarray(other))
    assert len(list((tmp_path / "shown").iterdir())) == 3


def test_biases_that_take_most_are_told_with_the_next_command(cli: Cli) -> None:
    plain, compared = cli("explain", WOLF, "--method", "lrp-eps").err, cli("explain", WOLF).err
    assert "biases took" in plain
    assert "--baseline blur compares with a blurred picture instead" in plain
    assert "biases took" not in compared


def test_show_in_a_terminal_that_is_none_says_so(cli: Cli) -> None:
    ran = cli("explain", EIGHT, *DIGITS, "--show", "-q")
    assert (ran.status, ran.out.count("\n")) == (0, 2)  # the result
    assert ran.err == "heatcli: --show draws in a terminal, and stdout is not a terminal\n"


def test_half_blocks_are_the_picture() -> None:
    """Two pixels a character, in their own colours."""
    from heatcli.cli.drawing import half_blocks

    picture = Image.new("RGB", (4, 4), (255, 0, 0))
    picture.paste((0, 0, 255), (0, 1, 4, 2))
    text = half_blocks(picture, 4)
    assert text.plain == "▀▀▀▀\n▀▀▀▀\n"
    assert str(text.spans[0].style) == "rgb(255,0,0) on rgb(0,0,255)"


def test_in_python_results_show_themselves(tmp_path: Path) -> None:
    """A line as repr, figures on the original's pixels, files by their suffix, pictures in a notebook."""
    model = heatcli.load(MODELS / "digits.onnx")
    with Image.open(EIGHT) as opened:
        picture = opened.convert("L")
    result = heatcli.explain(model, model.preprocess([picture, picture]), "lrp-eps", baseline="black")
    assert repr(result).startswith("<Explanation by lrp-eps, baseline black: 8, logit ")
    assert len(repr(result)) < 200
    assert result._repr_png_().startswith(b"\x89PNG")
    assert result._repr_html_().count("<img ") == 2
    large = picture.resize((56, 84))
    assert result.overlay(picture=large).size == (168, 252)
    assert result.overlay(1).size == (224, 224)
    assert result.figure("parts").image.width > 800
    for name in ("a.png", "a.svg", "a.json", "a.npz", "a.npy"):
        assert result.save(tmp_path / name) == tmp_path / name
    assert _report(tmp_path / "a.json") == result.report()
    assert np.load(tmp_path / "a.npy").shape == (1, 28, 28)
    with pytest.raises(UsageError, match=r"a\.mat: is none of \.png, .*\.json, \.npy, \.npz; give one of them"):
        result.save(tmp_path / "a.mat")
    with pytest.raises(UsageError, match="there is no image 2: the explanation has 2"):
        result.figure(i=2)
