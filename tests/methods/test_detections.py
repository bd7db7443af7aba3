"""Boxes of a detector: found, chosen, explained one by one, and drawn in the picture's own pixels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Cli
from pages import see
from PIL import Image
from torch import Tensor, nn

import heatcli
from heatcli.errors import ImageError, UsageError
from heatcli.graph.heads import Thresholds
from heatcli.graph.operator import Boxes
from heatcli.images.preprocess import Fit, seen_box, to_pixels
from heatcli.methods.detections import find

SIZE, CELL = 64, 8
ops = pytest.importorskip("torchvision.ops")


class Squares(nn.Module):
    """Finds red (class 0) and blue (class 1) cells of 8×8: the box of a cell is the cell, in the layout of YOLOv8."""

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for stride in (8, 16, 32):
            mean = nn.functional.avg_pool2d(x, stride)
            red, blue = mean[:, :1] - mean[:, 2:], mean[:, 2:] - mean[:, :1]
            scores = 12 * torch.cat([red, blue], 1) - (6 if stride == 8 else 20)
            side = SIZE // stride
            at = (torch.arange(side, dtype=x.dtype) + 0.5) * stride
            rows, columns = torch.meshgrid(at, at, indexing="ij")
            box = torch.stack([columns, rows, torch.full_like(rows, stride), torch.full_like(rows, stride)])
            box = box[None] + 0 * mean[:, :1]
            found.append(torch.cat([box, scores.sigmoid()], 1).flatten(2))
        return torch.cat(found, 2)


@pytest.fixture
def model(tmp_path: Path) -> str:
    torch.jit.trace(Squares().eval(), torch.zeros(1, 3, SIZE, SIZE)).save(str(tmp_path / "squares.pt"))
    sidecar = f'[input]\nsize = {SIZE}\nresize = "letterbox"\n[labels]\nnames = ["red", "blue"]\n'
    (tmp_path / "squares.toml").write_text(sidecar)
    return "squares.pt"


def picture(path: Path, size: tuple[int, int], squares: dict[tuple[int, int, int, int], str]) -> str:
    """A grey picture with coloured squares."""
    image = Image.new("RGB", size, (128, 128, 128))
    for box, colour in squares.items():
        image.paste(colour, box)
    image.save(path)
    return path.name


# A square on a cell of the letterbox of each shape: portrait, landscape, panorama, and the input's own.
@pytest.mark.parametrize(
    ("size", "square"),
    [
        ((64, 64), (16, 24, 24, 32)), ((128, 64), (32, 0, 48, 16)), ((64, 128), (16, 32, 32, 48)),
        ((512, 128), (64, 64, 128, 128)),
    ],
)  # fmt: skip
def test_a_planted_square_is_found_boxed_and_explained_there(
    size: tuple[int, int], square: tuple[int, int, int, int], model: str, tmp_path: Path, cli: Cli
) -> None:
    """Box and relevance are in the original's pixels, whatever its shape."""
    name = picture(tmp_path / "p.png", size, {square: "red"})
    ran = cli("explain", name, "-m", model, "--target", "detections", "--json")
    (report,) = (json.loads(line) for line in ran.out.splitlines())
    target, seen = report["target"], report["image"]["seen"]
    assert (target["label"], target["box"], target["quantity"]) == ("red", 0, "logit")
    (box,) = target["boxes"]
    assert [box[k] for k in ("left", "top", "right", "bottom")] == pytest.approx(square, abs=1e-3)
    relevance = np.abs(np.array(report["pixels"]["values"]))
    rows, columns = np.nonzero(relevance > 0)
    x, y = (seen[2] - seen[0]) / SIZE, (seen[3] - seen[1]) / SIZE
    place = (
        seen[0] + columns.min() * x,
        seen[1] + rows.min() * y,
        seen[0] + (columns.max() + 1) * x,
        seen[1] + (rows.max() + 1) * y,
    )
    assert place == pytest.approx(square, abs=1e-3)
    assert abs(report["ledger"]["relative_error"]) < 1e-5


def test_one_report_a_box_and_all_of_a_class(model: str, tmp_path: Path, cli: Cli) -> None:
    squares = {(0, 0, 8, 8): "red", (40, 40, 48, 48): "blue", (16, 48, 24, 56): "red"}
    name = picture(tmp_path / "p.png", (64, 64), squares)
    ran = cli("explain", name, "-m", model, "--target", "detections", "--json", "--out", "each")
    reports = [json.loads(line) for line in ran.out.splitlines()]
    assert [r["target"]["box"] for r in reports] == [0, 1, 2]
    assert sorted(r["target"]["label"] for r in reports) == ["blue", "red", "red"]
    assert sorted(p.name for p in (tmp_path / "each").glob("*.json")) == [f"p.lrp-eps.box{i}.json" for i in range(3)]
    assert sorted(tuple(round(v) for v in r["target"]["boxes"][0].values()) for r in reports) == sorted(squares)
    two = cli("explain", name, "-m", model, "--target", "detections:2", "--json", "--out", "two")
    assert len(two.out.splitlines()) == 2
    red = json.loads(cli("explain", name, "-m", model, "--target", "red", "--json", "--out", "red").out)
    assert len(red["target"]["boxes"]) == 2
    singles = [r["target"]["score"] for r in reports if r["target"]["label"] == "red"]
    assert red["target"]["score"] == pytest.approx(sum(singles))


def test_a_coordinate(model: str, tmp_path: Path, cli: Cli) -> None:
    name = picture(tmp_path / "p.png", (64, 64), {(16, 24, 24, 32): "red"})
    target = json.loads(cli("explain", name, "-m", model, "--target", "box:0.y", "--json").out)["target"]
    assert (target["quantity"], target["score"], target["probability"]) == ("coordinate", 28.0, None)
    assert target["label"] == "y of box 0 (red)"


def test_another_class_of_a_box(model: str, tmp_path: Path, cli: Cli) -> None:
    """By label or number; of an unknown one there is one line."""
    name = picture(tmp_path / "p.png", (64, 64), {(16, 24, 24, 32): "red"})
    found = []
    for part in ("", ".red", ".blue", ".1"):
        ran = cli("explain", name, "-m", model, "--target", f"box:0{part}", "--json")
        report = json.loads(ran.out)
        target = report["target"]
        assert (target["box"], target["quantity"]) == (0, "logit")
        assert report["ledger"]["relative_error"] < 1e-5
        found.append((target["label"], target["index"], target["score"], target["boxes"]))
    assert found[0] == found[1] == ("red", 0, pytest.approx(6.0, abs=1e-4), found[0][3])
    assert found[2] == found[3] == ("blue", 1, pytest.approx(-18.0, abs=1e-4), found[0][3])
    ran = cli("explain", name, "-m", model, "--target", "box:0.green")
    assert (ran.status, ran.err.count("\n")) == (2, 1)
    assert "target 'box:0.green' is not known; use box:N, the N-th box from 0, box:N.LABEL" in ran.err


def test_a_picture_without_a_box_is_no_failure(model: str, tmp_path: Path, cli: Cli) -> None:
    """The highest score is named; the others of a folder are explained; a box that is not there is a failure."""
    (tmp_path / "in").mkdir()
    picture(tmp_path / "in" / "grey.png", (64, 64), {})
    picture(tmp_path / "in" / "red.png", (64, 64), {(0, 0, 8, 8): "red"})
    ran = cli("explain", "in/grey.png", "-m", model, "--target", "detections")
    assert ran.status == 0
    assert "no box of at least 0.25; the highest is red, 0.00247" in ran.err
    both = cli("explain", "in", "-m", model, "--target", "detections", "--json", "--out", "both")
    assert (both.status, len(both.out.splitlines())) == (0, 1)
    none = cli("explain", "in/red.png", "-m", model, "--target", "box:1")
    assert none.status == 1
    assert "has box 0 alone, so there is no box:1" in none.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "box:0.left"], "box:N.x, box:N.y, box:N.w, box:N.h"), (["--target", "detections:0"], "takes K"),
        (["--target", "detections", "--confidence", "2"], "from 0 to 1"), (["--target", "green"], "green"),
        (["--target", "detections", "-o", "one.png"], "is one figure"),
    ],
)  # fmt: skip
def test_wrong_use(arguments: list[str], message: str, model: str, tmp_path: Path, cli: Cli) -> None:
    name = picture(tmp_path / "p.png", (64, 64), {(0, 0, 8, 8): "red"})
    ran = cli("explain", name, "-m", model, *arguments)
    assert (ran.status, message in ran.err) == (2, True)


def test_a_classifier_has_no_boxes() -> None:
    model = heatcli.load()
    with pytest.raises(UsageError, match="is no detector"):
        heatcli.explain(model, torch.zeros(1, *model.shape), target="box:0")


def test_from_python(model: str, tmp_path: Path) -> None:
    """None is the best box; several boxes of one image are not one score."""
    detector = heatcli.load(tmp_path / model)
    batch = torch.full((1, 3, SIZE, SIZE), 0.5)
    batch[0, 2, 8:16, 8:16] = 1.0
    batch[0, 2, 40:48, 40:48] = 0.95
    result = heatcli.explain(detector, batch, "gradient")
    assert (int(result.target.index[0]), int(result.target.box[0])) == (1, 0)
    assert result.report()["target"]["label"] == "blue"
    with pytest.raises(UsageError, match="several boxes"):
        heatcli.explain(detector, batch, "gradient", target="detections")
    with pytest.raises(ImageError, match="there is no box:5"):
        heatcli.explain(detector, batch, "gradient", target="box:5")


@pytest.mark.parametrize("form", ["centre", "corners"])
def test_suppression_is_torchvisions(form: str) -> None:
    """Places kept, and their order, on random boxes."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(400, 4, generator=generator) * 40
    corners[:, 2:] = corners[:, :2] + 1 + corners[:, 2:] / 2
    logits = torch.randn(5, 400, generator=generator)
    rows = corners if form == "corners" else ops.box_convert(corners, "xyxy", "cxcywh")
    boxes = Boxes("rows", 0, False, 5, (64, 64), form=form)
    (found,) = find(torch.cat([logits, rows.T])[None], boxes, Thresholds(0.5, 0.3))
    chances, classes = logits.sigmoid().max(0)
    kept = (chances >= 0.5).nonzero()[:, 0]
    expected = kept[ops.batched_nms(corners[kept], chances[kept], classes[kept], 0.3)]
    assert found.places.tolist() == expected.tolist()
    assert 10 < len(expected) < len(kept)


@pytest.mark.parametrize("letterbox", ["letterbox", "letterbox:corner"])
def test_a_letterbox_is_undone(letterbox: str) -> None:
    """What lies beyond the picture is grey, and the picture's corners are where `seen_box` says."""
    fit = Fit(3, 64, 64, letterbox=letterbox)
    pixels = to_pixels(Image.new("RGB", (200, 100), (255, 0, 0)), fit)
    red = pixels[0] == 1
    rows, columns = np.nonzero(red)
    left, top, right, bottom = seen_box((200, 100), fit)
    x, y = (right - left) / 64, (bottom - top) / 64
    assert (left + columns.min() * x, top + rows.min() * y) == pytest.approx((0, 0), abs=1e-9)
    assert (left + (columns.max() + 1) * x, top + (rows.max() + 1) * y) == pytest.approx((200, 100))
    assert pixels[:, ~red] == pytest.approx(114 / 255)


THREE = {(16, 24, 24, 32): "red", (40, 40, 48, 48): "blue", (0, 0, 8, 8): "red"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of three boxes, one box and none."""
    made = tmp_path / "in"
    made.mkdir()
    for name, squares in (("a", THREE), ("b", {(32, 0, 40, 8): "red"}), ("c", {})):
        picture(made / f"{name}.png", (64, 64), squares)
    return made


def lines(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("damage", ["nothing", "report", "line"])
def test_a_run_of_boxes_is_continued(damage: str, model: str, folder: Path, tmp_path: Path, cli: Cli) -> None:
    """A picture with a lost file or a lost line has all its boxes explained again; others stay as they are."""
    given, out = ["explain", folder, "-m", model, "--target", "detections", "--out", "out"], tmp_path / "out"
    assert cli(*given).status == 0
    before, files = lines(out), {path.name: path.read_bytes() for path in out.glob("*.box*")}
    assert [(row["rank"], row["of"]) for row in before] == [(1, 3), (2, 3), (3, 3), (1, 1)]
    whole = {name: content for name, content in files.items() if name.endswith(".png")}
    if damage == "report":
        (out / "a.lrp-eps.box1.json").unlink()
    elif damage == "line":
        text = (out / "index.jsonl").read_text().splitlines(keepends=True)
        (out / "index.jsonl").write_text("".join(text[:2] + text[3:]))
    ran = cli(*given, "--resume")
    assert ran.status == 0, ran.err
    assert f"{2 if damage == 'nothing' else 1} images are done already" in ran.err
    kept = ("stem", "rank", "of", "label")
    assert sorted([row[k] for k in kept] for row in lines(out)) == sorted([row[k] for k in kept] for row in before)
    assert {path.name for path in out.glob("*.box*")} == set(files)
    assert {name: (out / name).read_bytes() for name in whole} == whole


def test_the_gallery_numbers_boxes(model: str, folder: Path, tmp_path: Path, cli: Cli) -> None:
    assert cli("explain", folder, "-m", model, "--target", "detections", "--out", "out").status == 0
    ran = cli("gallery", "out")
    assert "4 explanations" in ran.err
    table = see(tmp_path / "out" / "report.html").table
    found = [(name.rpartition("/")[2], label) for name, label in zip(table["name"], table["label"], strict=True)]
    assert sorted(found) == [
        ("a.png box 0", "red"),
        ("a.png box 1", "red"),
        ("a.png box 2", "blue"),
        ("b.png box 0", "red"),
    ]


def test_each_box_is_checked(model: str, folder: Path, tmp_path: Path, cli: Cli) -> None:
    """One result a box; golden reports box by box; the predicted class is the best box's; no box is told."""
    spec = '[prediction]\nlabels = "l.csv"\n[finite]\n[ledger]\n[golden]\n[faithfulness]\n'
    (tmp_path / "s.toml").write_text(f'methods = ["lrp-eps"]\ntarget = "detections"\n{spec}')
    (tmp_path / "l.csv").write_text("image,label\na.png,red\nb.png,blue\n")
    given = ["check", model, folder, "--spec", "s.toml"]
    ran = cli(*given, "--update-golden")
    assert ran.status == 0, ran.err
    assert {path.name for path in (tmp_path / "golden").iterdir()} == {
        *(f"a.lrp-eps.box{i}.json" for i in range(3)), "b.lrp-eps.box0.json",
    }  # fmt: skip
    ran = cli(*given, "--json", "--junit", "j.xml", "--html", "h.html")
    assert "c.png: no box of at least 0.25; --confidence finds more; it is left out" in ran.err
    results = [json.loads(line) for line in ran.out.splitlines()]
    for name in ("finite", "ledger", "golden"):
        places = [(Path(r["image"]).name, r["box"]) for r in results if r["check"] == name and r["status"] == "passed"]
        assert places == [("a.png", 0), ("a.png", 1), ("a.png", 2), ("b.png", 0)], name
    predicted = {Path(r["image"]).name: r["measured"] for r in results if r["quantity"] == "predicted"}
    assert predicted == {"a.png": "red", "b.png": "red"}
    assert {r["status"] for r in results if r["check"] == "faithfulness"} == {"passed"}
    assert ran.status == 1, "b.png is not blue"
    assert "a.png box 2" in (tmp_path / "j.xml").read_text()
    assert "box 2" in (tmp_path / "h.html").read_text()


def test_a_picture_without_the_box_is_left_out_of_a_check(model: str, folder: Path, tmp_path: Path, cli: Cli) -> None:
    """It is told, counted as not measured, and a spec may ask for the share of the pictures that have one."""
    (tmp_path / "s.toml").write_text('methods = ["lrp-eps"]\ntarget = "box:1"\n[finite]\n')
    ran = cli("check", model, folder, "--spec", "s.toml", "--json")
    assert ran.status == 0, ran.err
    assert "b.png: has box 0 alone, so there is no box:1; --confidence finds more; it is left out" in ran.err
    results = [json.loads(line) for line in ran.out.splitlines()]
    assert [Path(r["image"]).name for r in results if r["check"] == "finite"] == ["a.png"]
    left = {Path(r["image"]).name: r["measured"] for r in results if r["status"] == "skipped"}
    assert left == {
        "b.png": "has box 0 alone, so there is no box:1; --confidence finds more",
        "c.png": "has no box, so there is no box:1; --confidence finds more",
    }
    (share,) = (r for r in results if r["check"] == "found" and r["image"] is None)
    assert (share["measured"], share["status"]) == (1 / 3, "reported")
    assert share["quantity"] == "share of the pictures that have the box (1 of 3)"
    ran = cli("check", model, folder, "--spec", "s.toml")
    assert "REPORTED found: all images: share of the pictures that have the box (1 of 3) 0.3333" in ran.out
    assert "1 passed, 0 failed, 2 skipped, 1 reported" in ran.err
    for least, status in ((0.3, 0), (0.5, 1)):
        (tmp_path / "s.toml").write_text(f'target = "box:1"\nmethods = ["lrp-eps"]\n[found]\nleast = {least}\n')
        ran = cli("check", model, folder, "--spec", "s.toml", "--junit", "j.xml")
        assert ran.status == status, ran.err
        assert 'skipped message="has no box, so there is no box:1' in (tmp_path / "j.xml").read_text()
    said = "FAILED found: all images: share of the pictures that have the box (1 of 3) 0.3333, required ≥ 0.5"
    assert said in ran.out
    (tmp_path / "s.toml").write_text('target = "box:9"\nmethods = ["lrp-eps"]\n[finite]\n[found]\nleast = 0.5\n')
    ran = cli("check", model, folder, "--spec", "s.toml")
    assert ran.status == 1, ran.err
    assert "FAILED found: all images: share of the pictures that have the box (0 of 3) 0, required ≥ 0.5" in ran.out
    assert "0 passed, 1 failed, 3 skipped" in ran.err
    (tmp_path / "s.toml").write_text('methods = ["lrp-eps"]\n[found]\n')
    assert "[found]: the target names no box" in cli("check", model, folder, "--spec", "s.toml").err


def test_pictures_without_the_box_are_named_by_evaluate_and_compare(model: str, folder: Path, cli: Cli) -> None:
    """The numbers are of the others."""
    why = {"b.png": "has box 0 alone, so there is no box:1; --confidence finds more",
           "c.png": "has no box, so there is no box:1; --confidence finds more"}  # fmt: skip
    given = ["--methods", "lrp-eps", "--metric", "deletion:steps=4", "--out", "e"]
    for command in (["evaluate", model, *given], ["compare", model, model]):
        ran = cli(*command, folder, "--target", "box:1", "--json")
        assert ran.status == 0, ran.err
        found = json.loads(ran.out)
        assert {Path(name).name: said for name, said in found["without"].items()} == why
        assert found.get("images", 1) == len(found.get("pairs", "1")) == 1


class Swapped(Squares):
    """The same with blue before red."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, [0, 1, 2, 3, 5, 4]]


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("target", [[], ["--target", "detections"], ["--target", "red"], ["--target", "box:0.w"]])
def test_a_detector_agrees_with_itself(
    target: list[str], swapped: bool, model: str, folder: Path, tmp_path: Path, cli: Cli
) -> None:
    """Outputs and maps are the same, whatever is explained, also with its classes in another order."""
    module = (Swapped if swapped else Squares)().eval()
    torch.jit.trace(module, torch.zeros(1, 3, SIZE, SIZE)).save(str(tmp_path / "other.pt"))
    names = '"blue", "red"' if swapped else '"red", "blue"'
    (tmp_path / "other.toml").write_text((tmp_path / "squares.toml").read_text().replace('"red", "blue"', names))
    given = [folder / "a.png", folder / "b.png", *target, "--most-difference", "1e-6", "--json"]
    ran = cli("compare", model, "other.pt", *given)
    assert ran.status == 0, ran.err
    pairs = json.loads(ran.out)["pairs"]
    said = {(pair["label_a"], pair["label_b"]) for pair in pairs if pair["image"].startswith(str(folder / "b.png"))}
    assert said == {("red", "red")}  # of the other picture red and blue are equal
    assert len(pairs) == (4 if target[-1:] == ["detections"] else 2)


def test_deletion_is_of_a_boxs_probability(model: str, folder: Path, cli: Cli) -> None:
    given = ["--methods", "lrp-eps", "--metric", "deletion:steps=4", "--target", "detections", "--json", "--out", "e"]
    ran = cli("evaluate", model, folder, *given)
    assert ran.status == 0, ran.err
    found = json.loads(ran.out)
    assert found["images"] == 4
    assert all(0 <= value <= 1 for row in found["rows"] for value in row["values"])
