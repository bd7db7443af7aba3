"""Figures: every pixel where it should be, zero neutral, strength that follows the score, formats that open again."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from heatcli.errors import UsageError
from heatcli.figures.draw import KINDS, NONE, Style, common, draw
from heatcli.figures.view import View, percent, shown
from heatcli.images.drawing import SUFFIXES
from heatcli.images.overlay import HATCH, SHARE, Scale, overlay
from heatcli.images.preprocess import Box, Fit, seen_box
from heatcli.report.schema import (
    BaselinePart,
    FilesPart,
    ImagePart,
    LedgerPart,
    MethodPart,
    ModelPart,
    PixelsPart,
    Report,
    SecondsPart,
    TargetPart,
    VerifiedPart,
)

Size = tuple[int, int]
DRAWN = [kind for kind in KINDS if kind != NONE]


def view(
    relevance: np.ndarray,
    size: Size = (256, 256),
    box: Box | None = None,
    score: float = 1.0,
    divides: str = "whole",
    name: str = "picture.png",
    baseline: str = "none",
    agrees: bool = True,
) -> View:
    """A view of a map over a grey picture; what the pixels do not hold is a bias's."""
    pixels = PixelsPart(
        shape=relevance.shape,  # type: ignore[arg-type]
        total=float(relevance.sum()),
        positive=float(np.maximum(relevance, 0).sum()),
        negative=float(np.minimum(relevance, 0).sum()),
    )
    report = Report(
        schema="heatcli.report/1",
        version="0",
        image=ImagePart(path=f"photos/{name}", sha256="0", width=size[0], height=size[1], seen=box or (0, 0, *size)),
        model=ModelPart(
            path="m.pt", sha256="1", format="torchscript", input={}, passes=[],
            verified=VerifiedPart(against="TorchScript", error=0.0, agrees=agrees),
        ),
        method=MethodPart(name="lrp-eps", parameters={"epsilon": 1e-6}, divides=divides),  # type: ignore[arg-type]
        baseline=BaselinePart(name=baseline),
        target=TargetPart(index=3, label="wolf", score=score, probability=0.5, quantity="logit"),
        ledger=LedgerPart(output=score, output_baseline=0.0, pixels=pixels.total, biases=score - pixels.total,
                          absorbed=0.0, unexplained=0.0, relative_error=0.0),
        biases=[],
        pixels=pixels,
        files=FilesPart(),
        seconds=SecondsPart(load=0, forward=0, backward=0, write=0),
    )  # fmt: skip
    return View(Image.new("RGB", size, (120, 120, 120)), relevance, report)


def red_minus_blue(picture: np.ndarray) -> np.ndarray:
    return picture[..., 0].astype(int) - picture[..., 2].astype(int)


GEOMETRIES = {
    "as large as the input": ((96, 96), None),
    "portrait": ((180, 320), None),
    "landscape, cropped": ((640, 400), 96),
    "portrait, cropped after a larger resize": ((300, 500), 128),
    "smaller than the crop, so padded": ((200, 400), 60),
    "large": ((1500, 900), None),
    "tiny": ((28, 20), None),
}


@pytest.mark.parametrize("kind", ["overlay", "panel", "heatmap", "parts"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_planted_square_lies_where_the_network_saw_it(kind: str, name: str) -> None:
    """Its middle is red in every map of every figure, the far side is neutral, what was never seen is hatched."""
    size, shorter = GEOMETRIES[name]
    box = seen_box(size, Fit(3, 96, 96, shorter))
    relevance = np.zeros((96, 96))
    relevance[40:56, 60:76] = 0.01
    drawing = draw([view(relevance, size, box)], Style(kind))
    picture = np.asarray(drawing.image)
    width, height = size
    side = max(224, *size) if kind == "overlay" else 400
    times = side / max(size) if max(size) > side else max(1, round(side / max(size)))
    places = _places(drawing.drawn)[{"overlay": 0, "heatmap": 0, "parts": 1, "panel": 1}[kind] :]
    places = places[: 2 if kind == "panel" else 1]
    wide, high = round(width * times), round(height * times)
    x = (box[0] + (box[2] - box[0]) * 68 / 96) * times
    y = (box[1] + (box[3] - box[1]) * 48 / 96) * times
    far = (box[0] + (box[2] - box[0]) * 20 / 96) * times
    for left, top in places:
        at = red_minus_blue(picture)
        assert at[round(top + y), round(left + x)] > 150
        assert at[round(top + y), round(left + max(far, 2))] == 0
        red = np.argwhere(at[top : top + high, left : left + wide] > 150)
        assert red.mean(0) == pytest.approx([y, x], abs=0.02 * max(size) * times + 1)
    assert ("Hatched" in drawing.text) == (shorter is not None)
    assert ("padding" in drawing.text) == (name.endswith("padded"))


def _places(drawn: Any) -> list[tuple[int, int]]:
    """The upper left of each picture in a figure."""
    if isinstance(drawn, Image.Image):
        return [(0, 0)]
    wide, high = drawn.canvas.get_width_height()
    found = [axes.get_position() for axes in drawn.axes if axes.images]
    return [(round(box.x0 * wide), round((1 - box.y1) * high)) for box in found]


def test_small_pictures_are_enlarged_without_smoothing() -> None:
    """A digit of 28 pixels has 28 blocks a side, each of one colour."""
    relevance = np.zeros((28, 28))
    relevance[3, 4] = 1.0
    picture = np.asarray(draw([view(relevance, (28, 28))], Style("overlay", size=280)).image)
    assert picture.shape == (280, 280, 3)
    blocks = picture.reshape(28, 10, 28, 10, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()
    assert red_minus_blue(blocks[:, 0, :, 0])[3, 4] > 150
    assert np.count_nonzero(red_minus_blue(blocks[:, 0, :, 0])) == 1


@pytest.mark.parametrize("cmap", ["bwr", "RdBu_r", "PuOr"])
def test_zero_is_neutral(cmap: str) -> None:
    """Nothing is coloured where relevance is 0, in a heatmap it is the middle of the colour map."""
    nothing = view(np.zeros((8, 8)), (64, 64))
    laid = np.asarray(draw([nothing], Style("overlay", cmap=cmap)).image)
    assert (laid.max(2) == laid.min(2)).all()
    heat = np.asarray(draw([nothing], Style("heatmap", cmap=cmap, size=64)).image)
    assert heat[120, 48].min() >= 240


def test_strength_follows_the_share_of_the_score() -> None:
    """A map of less than 1 % of the score is paler by the root of what it lacks; one of nothing is blank."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(32, 32))
    noise /= np.abs(noise).sum()  # |relevance| is 1 in all

    def strength(score: float) -> float:
        picture = np.asarray(draw([view(noise, (32, 32), score=score)], Style("overlay")).image)
        return float(np.abs(red_minus_blue(picture)).max())

    whole = strength(1.0)
    assert whole > 200
    assert strength(1 / SHARE) == pytest.approx(whole, abs=2)
    assert strength(4 / SHARE) == pytest.approx(whole / 2, abs=3)
    assert strength(100 / SHARE) == pytest.approx(whole / 10, abs=3)
    assert strength(1e8) <= 2
    faint = draw([view(noise, score=1e4)], Style("panel"))
    assert "it is pale, because |relevance| is only 0.01 % of the score in all" in faint.text
    assert draw([view(noise, score=1e4, divides="no")], Style("overlay")).scales[0].by == "percentile"


def test_what_a_figure_says() -> None:
    """Label, score, probability, method, baseline, how much the pixels hold, and what to do where biases took most."""
    relevance = np.array([[0.3, -0.1], [0.0, 0.0]])
    said = draw([view(relevance, score=2.0)], Style("panel")).text
    assert said == (
        "picture.png: wolf, logit 2, probability 0.5; lrp-eps (epsilon=1e-06), no baseline. The pixels hold 0.3 for "
        "and 0.1 against, together 0.2 of 2 (10 %). The network's biases took 90 % of the score, and no picture "
        "shows them; --baseline blur compares with a blurred picture instead. Strongest colour: ±0.291 a pixel "
        "(percentile 98.5 of |relevance|)."
    )
    assert "biases took" not in draw([view(relevance, score=2.0, baseline="blur")], Style("panel")).text
    assert shown(view(relevance, divides="no")) == (
        "lrp-eps does not divide the score: the map shows where, not how much."
    )
    assert "UNVERIFIED" in draw([view(relevance, agrees=False)], Style("panel")).text
    stamped = draw([view(relevance, (64, 64), agrees=False)], Style("overlay")).image
    assert stamped.height > 64


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.5, "50 %"),
        (-1.1392, "−114 %"),
        (7.5e-7, "0.000075 %"),
        (1e-12, "less than 0.000001 %"),
        (0, "0 %"),
        (-0.0, "0 %"),
    ],
)
def test_percents_have_no_powers_of_ten(share: float, text: str) -> None:
    assert percent(share) == text


@pytest.mark.parametrize("kind", DRAWN)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_formats_open_again(kind: str, suffix: str, tmp_path: Path) -> None:
    """Pictures have the figure's size and colours; SVG and PDF are what they say. Nothing else is left behind."""
    relevance = np.zeros((8, 8))
    relevance[2:4, 2:4] = 0.1
    drawing = draw([view(relevance, (64, 48), name="a$b_{<&>.png")], Style(kind, size=64))
    path = drawing.save(tmp_path / f"figure{suffix}")
    content = path.read_bytes()
    if suffix == ".svg":
        assert b"<svg" in content[:1000]
    elif suffix == ".pdf":
        assert content.startswith(b"%PDF")
    else:
        with Image.open(io.BytesIO(content)) as read:
            assert read.size == drawing.image.size
            gap = np.abs(np.asarray(read.convert("RGB")).astype(int) - np.asarray(drawing.image)).mean()
            assert gap == 0 if suffix == ".png" else gap < 6
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert drawing.content(suffix) == content


def test_unknown_suffixes_and_values_are_refused(tmp_path: Path) -> None:
    drawing = draw([view(np.zeros((2, 2)))], Style("overlay"))
    with pytest.raises(UsageError, match=r"a figure cannot be a \.tiff; use \.png, \.jpg"):
        drawing.save(tmp_path / "x.tiff")
    assert not list(tmp_path.iterdir())
    for wrong, message in (
        ({"kind": "panle"}, "unknown figure 'panle'; did you mean 'panel'"),
        ({"clip": 20.0}, "--clip 20 is not allowed; it is a number from 50 to 100"),
        ({"scale": -1.0}, "--scale -1 is not allowed"),
        ({"backdrop": "gray"}, "unknown backdrop 'gray'; did you mean 'grey'"),
        ({"size": 3}, "--figure-size 3 is not allowed"),
    ):
        with pytest.raises(UsageError, match=message):
            Style(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a panel shows one map, and these are 2; --figure grid shows several"):
        draw([view(np.zeros((2, 2)))] * 2, Style("panel"))


def test_names_that_the_font_lacks_do_not_warn() -> None:
    """Nor are they mathematics."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw([view(np.ones((2, 2)), name="$x^{2}$ 狼 🐺 \udcff.png")], Style("panel"))


def test_a_grid_has_one_scale_for_what_divides_the_score() -> None:
    """A map ten times as strong is as strong as ten times the colour; one without a unit has its own."""
    one = np.zeros((8, 8))
    one[2:4, 2:4] = 0.1
    views = [view(one, (64, 64)), view(10 * one, (64, 64)), view(100 * one, (64, 64), divides="no")]
    together = draw(views, Style("grid", scale="run")).scales
    assert [scale.cut for scale in together[:2]] == [pytest.approx(1.0)] * 2
    assert together[2].cut == pytest.approx(10.0)
    apart = draw(views, Style("grid", scale="image")).scales
    assert [scale.cut for scale in apart] == pytest.approx([0.1, 1, 10])
    given = draw(views, Style("grid", scale=0.5)).scales
    assert [scale.cut for scale in given[:2]] == [0.5, 0.5]


def test_one_scale_holds_nine_of_ten() -> None:
    scales = [Scale(float(i), float(i)) for i in range(1, 11)]
    assert common(scales).cut in (9.0, 10.0)
    assert common(scales[:3]).cut == 3.0


def test_only_what_was_never_seen_is_hatched() -> None:
    """Every `HATCH`-th diagonal outside the box is dark; inside nothing changes."""
    plain = Image.new("L", (80, 60), 200)
    box = (20.0, 0.0, 60.0, 60.0)
    laid = np.asarray(overlay(plain, np.zeros((4, 4)), box, "bwr", 0.9))
    bare = np.asarray(overlay(plain, np.zeros((4, 4)), box, "bwr", 0.9, hatch=False))
    changed = (laid != bare).any(2)
    assert not changed[:, 20:60].any()
    assert changed[:, :20].mean() == pytest.approx(1 / HATCH, abs=0.02)
    assert changed[:, 60:].mean() == pytest.approx(1 / HATCH, abs=0.02)


def test_a_contour_surrounds_the_strongest() -> None:
    """Red around what speaks for, blue around what speaks against, and the picture keeps its colours elsewhere."""
    relevance = np.zeros((64, 64))
    relevance[10:20, 10:20], relevance[40:50, 40:50] = 1.0, -1.0
    drawing = draw([view(relevance, (400, 400), score=0.0)], Style("contour", top=5))
    at = red_minus_blue(np.asarray(drawing.image))
    left, top = _places(drawing.drawn)[0]
    part = at[top : top + 400, left : left + 400]
    assert part.max() > 200
    assert part.min() < -200
    for sign, corner in ((1, 62), (-1, 250)):
        ys, xs = np.nonzero(sign * part > 150)
        assert np.mean([ys.mean(), xs.mean()]) == pytest.approx(corner + 31, abs=8)
    assert part[180, 180] == 0


def test_older_reports_can_be_drawn() -> None:
    """Without `divides` and `seen`, which version 0.1 did not write."""
    new = view(np.ones((4, 4)), (32, 32), score=16.0)
    replaced = msgspec.structs.replace
    old = replaced(
        new.report, image=replaced(new.report.image, seen=msgspec.UNSET),
        method=replaced(new.report.method, divides=msgspec.UNSET),
    )  # fmt: skip
    drawn = draw([View(new.picture, new.relevance, old)], Style("panel"))
    assert "together" not in drawn.text
    assert "The pixels hold 16 of 16 (100 %)." in drawn.text
