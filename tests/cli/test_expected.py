"""Predicted against expected: where the model is wrong, the difference of the two is explained, and told everywhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import MODELS, SAMPLES, Cli
from PIL import Image

SHORTCUT = MODELS / "animals-shortcut.pt"
NAMES = ("wolf-on-grass.png", "dog-on-snow.png", "cat-at-temple.png")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for name in NAMES:
        shutil.copy(SAMPLES / name, tmp_path / "photos" / name)
    return tmp_path / "photos"


def test_the_contrast_is_explained_where_the_model_is_wrong(cli: Cli, photos: Path, tmp_path: Path) -> None:
    """As `--target dog-wolf` for the wrong ones, as no target for the right ones, in one run; the labels stay apart."""
    ran = cli("explain", photos, "-m", SHORTCUT, "--expected", SAMPLES / "labels.csv", "--out", "o", "--json")
    assert ran.status == 0, ran.err
    reports = {Path(report["image"]["path"]).name: report for report in map(json.loads, ran.out.splitlines())}
    for name, target in zip(NAMES, ("dog-wolf", "wolf-dog", "cat"), strict=True):
        alone = json.loads(
            cli("explain", photos / name, "-m", SHORTCUT, "--target", target, "--out", "a", "--json").out
        )
        found = reports[name]
        assert found["target"]["label"] == target
        assert found["target"]["score"] == pytest.approx(alone["target"]["score"], rel=1e-5)
        assert found["ledger"]["pixels"] == pytest.approx(alone["ledger"]["pixels"], rel=1e-3, abs=1e-4)
        assert found["target"]["expected"] == name.partition("-")[0]
        assert found["target"]["predicted"] == target.partition("-")[0]
    assert cli("gallery", "o").status == 0
    page = (tmp_path / "o" / "report.html").read_text(encoding="utf-8")
    assert "1 of 3 as expected" in page
    assert "--expected" in page


def test_figure_and_talk_say_it(cli: Cli, photos: Path) -> None:
    ran = cli("explain", photos / NAMES[0], "-m", SHORTCUT, "--expected", "wolf")
    assert "dog-wolf (dog instead of wolf), output 4.96" in ran.out
    with Image.open("heatmaps/wolf-on-grass.lrp-eps.png") as figure:
        said = figure.text["Description"]
    assert "wolf-on-grass.png: dog instead of wolf, output difference 4.962" in said
    assert "Positive speaks for dog rather than wolf, which is expected; negative against." in said
    ran = cli("explain", photos / NAMES[2], "-m", SHORTCUT, "--expected", "cat")
    assert "cat as expected, output" in ran.out
    with Image.open("heatmaps/cat-at-temple.lrp-eps.png") as figure:
        assert "cat-at-temple.png: cat, as expected, output 2.875" in figure.text["Description"]


def test_what_cannot_be_expected(cli: Cli, photos: Path, tmp_path: Path) -> None:
    assert "unknown label 'wulf'; did you mean 'wolf'?" in cli("explain", photos, "--expected", "wulf").err
    assert "leave --target out" in cli("explain", photos, "--expected", "wolf", "--target", "dog").err
    (tmp_path / "l.csv").write_text("image,label\nwolf-on-grass.png,wolf\n")
    ran = cli("explain", photos, "-m", SHORTCUT, "--expected", "l.csv", "--out", "o")
    assert ran.status == 0
    assert "note: l.csv names no label for some pictures" in ran.err
