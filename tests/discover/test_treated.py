"""Classes that a model recognises by a treatment of the whole picture: what it says of treated pictures, and marks."""

from __future__ import annotations

import io
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import SAMPLES, Cli
from focus import SOFT, Focus, draw
from hypothesis import given
from hypothesis import strategies as st
from networks import load
from PIL import Image

from heatcli.discover.treated import Answers, evenly
from heatcli.discover.treatments import QUALITY, TREATMENTS, Treatment, View, stored_as_jpeg, treatments_for
from heatcli.images.preprocess import Fit
from heatcli.images.read import Reader

pytest.importorskip("sklearn")

PICTURES = sorted(SAMPLES.glob("*.png"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("soft"))


def _discovered(cli: Cli, folder: Path, at: Path, detail: float, *options: str) -> list[dict]:
    """The groups with a suspicion, of a network to which detail counts so much."""
    at.mkdir(exist_ok=True)
    model = load(Focus(detail), at, shape=(3, 32, 32))
    how = ("--size", "32", "--method", "lrp-0", "--maps", at / "maps", "--json")
    ran = cli("discover", model.path, folder, *how, *options)
    assert ran.status == 0, ran.err
    return [one for one in json.loads(ran.out)["clusters"] if one["suspicion"]]


def test_a_class_that_is_recognised_by_blur_is_found_with_its_blurred_pictures(
    folder: Path, tmp_path: Path, cli: Cli
) -> None:
    first, *rest = _discovered(cli, folder, tmp_path, 0.5)
    assert (first["name"], first["by"], rest) == ("0/blur", "blur", [])
    assert {Path(name).stem.partition("-")[0] for name in first["images"]} == {"soft"}
    assert first["size"] == SOFT
    assert first["place"] == "with less fine detail"
    assert first["reasons"][0].startswith("its pictures come with less fine detail than 99% of the pictures of other")
    assert not first["cells"], "blur has no places"
    how = ("--model", tmp_path / "scripted.pt", "--size", "32")
    assert "no places of its own" in cli("discover", tmp_path / "maps", "--mask-out", "0/blur", *how).err


def test_a_model_that_does_not_look_at_detail_has_no_such_group(folder: Path, tmp_path: Path, cli: Cli) -> None:
    assert _discovered(cli, folder, tmp_path, 0.0) == []


def test_a_class_without_blurred_pictures_has_no_such_group(tmp_path: Path, cli: Cli) -> None:
    """Blur makes this network say 0 for anything, as noise makes many networks say one class; that alone is common."""
    sharp = draw(tmp_path / "sharp", soft=0)
    assert _discovered(cli, sharp, tmp_path, 0.5) == []


def test_pictures_are_treated_unless_this_is_switched_off(folder: Path, tmp_path: Path, cli: Cli) -> None:
    assert _discovered(cli, folder, tmp_path, 0.5, "--no-treat") == []
    assert json.loads((tmp_path / "maps" / "discover" / "clusters.json").read_text())["treatments"] is False


@pytest.mark.parametrize("treatment", TREATMENTS, ids=lambda one: one.name)
def test_a_treated_picture_has_more_of_the_mark(treatment: Treatment) -> None:
    for path in PICTURES:
        picture = Reader(3).picture(path)
        fit = Fit(3, *picture.size[::-1])
        view = View(picture.pixels, fit)
        treated = View(treatment.of(view), fit)
        assert treatment.trace(treated) > treatment.trace(view), path


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_every_treatment_keeps_the_shape_and_gives_the_same_at_each_call(channels: int) -> None:
    pixels = np.random.default_rng(0).random((channels, 40, 56), np.float32)
    view = View(pixels, Fit(channels, 40, 56))
    kept = treatments_for(channels)
    assert len(kept) == {1: 3, 3: 4, 5: 1}[channels]
    for one in kept:
        made = one.of(view)
        assert (made.shape, made.dtype) == (pixels.shape, np.float32), one
        assert np.array_equal(made, one.of(view)), one
        assert np.isfinite(one.trace(view)), one


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_jpeg_is_what_a_file_that_pillow_writes_is_read_as(mode: str, tmp_path: Path) -> None:
    """At the picture's own size, before it is fitted."""
    fit = Fit(3, 48, 64)
    with Image.open(PICTURES[0]) as opened:
        picture = opened.resize((130, 90)).convert(mode)
    picture.convert("RGB").save(tmp_path / "stored.jpg", quality=QUALITY)
    read = View(Reader(3).picture(tmp_path / "stored.jpg").pixels, fit)
    assert np.array_equal(stored_as_jpeg(View(picture, fit)), read.fitted)


def test_blocks_are_seen_wherever_they_begin() -> None:
    trace = next(one.trace for one in TREATMENTS if one.name == "jpeg")
    stream = io.BytesIO()
    with Image.open(PICTURES[0]) as opened:
        plain = opened.convert("RGB")
    plain.save(stream, "JPEG", quality=QUALITY)
    stored = Image.open(stream)
    fit = Fit(3, *plain.size[::-1])
    natural = max(trace(View(Reader(3).picture(path).pixels, fit)) for path in PICTURES)
    for changed in (stored, stored.crop((3, 5, *stored.size)), stored.transpose(Image.Transpose.ROTATE_90)):
        assert trace(View(changed, fit)) > natural
    assert trace(View(plain.resize((9, 9)), fit)) == 0, "less than two blocks"


def _answers(goal: list[int], score: float, change: np.ndarray) -> Answers:
    goals = np.array(goal)
    top = np.broadcast_to(goals, change.shape[:2])
    return Answers(goals, np.full(len(goal), score, np.float32), goals, top, change.astype(np.float32))


@given(st.floats(-5, 5), st.floats(-3, 3), st.floats(0.5, 4))
def test_what_a_class_gains_beyond_the_others_is_a_share_of_the_usual_score(
    own: float, alike: float, score: float
) -> None:
    """What all classes gain alike cancels; what one gains is beyond the median of the four others."""
    goal = [0, 1, 2, 3, 4] * 8
    change = np.full((1, 40, 5), alike)
    change[0, :, 0] += own
    rises = _answers(goal, score, change).rises(range(5))[0]
    assert rises == pytest.approx([own / score, 0, 0, 0, 0], abs=1e-4)


def test_what_few_pictures_gain_is_no_rise() -> None:
    change = np.zeros((1, 24, 3))
    change[0, 8:16, 0] = 5  # half of the others
    assert _answers([0] * 8 + [1] * 8 + [2] * 8, 1, change).rises([0, 1, 2]).tolist() == [[0, 0, 0]]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 40))
def test_evenly_takes_as_many_of_each_class_as_there_are(sizes: list[int], most: int) -> None:
    ends = np.cumsum([0, *sizes])
    groups = [np.arange(a, b) for a, b in pairwise(ends)]
    chosen = evenly(groups, most, np.random.default_rng(0))
    assert np.array_equal(chosen, np.unique(chosen))
    assert len(chosen) == min(most, sum(sizes))
    counts = [int(np.isin(own, chosen).sum()) for own in groups]
    full = max(counts)
    assert all(count >= min(size, full - 1) for count, size in zip(counts, sizes, strict=True))
