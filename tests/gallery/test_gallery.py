"""The page of a run: what it holds, that names are text, that bad input is one line."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MODELS, SAMPLES, Cli
from PIL import Image

from heatcli.gallery import pack
from heatcli.run.index.folder import Folder

TILES = {"a": 2, "b": 3}


@dataclass(frozen=True)
class Seen:
    """A page's own data, read as its script reads it."""

    text: str
    meta: dict[str, Any]
    table: dict[str, list[Any]]
    pictures: list[bytes]
    biases: list[list[list[float]]]


def opened(text: str) -> bytes:
    return gzip.decompress(base64.b64decode(text))


def see(page: Path) -> Seen:
    """Take a page apart."""
    text = page.read_text(encoding="utf-8")
    parts = dict(re.findall(r'<script type="(?:text/plain|application/json)" id="([\w-]+)">(.*?)</script>', text, re.S))
    meta, table = json.loads(parts["meta"]), json.loads(opened(parts["table"]))
    sides = meta["sides"]
    pictures: list[bytes] = []
    biases: list[list[list[float]]] = []
    for k in range(-(-len(table["name"]) // meta["rows"])):
        data = opened(parts[f"block-{k}"])
        count = min(meta["rows"], len(table["name"]) - k * meta["rows"])
        lengths = np.frombuffer(data, "<u4", count * (1 + sides)).reshape(count, 1 + sides)
        at = lengths.nbytes
        columns: list[list[bytes]] = []
        for part in range(1 + sides):
            columns.append([])
            for length in lengths[:, part]:
                columns[part].append(data[at : at + length])
                at += length
        assert at == len(data)
        pictures += columns[0]
        for row in range(count):
            scale = table["scale"][len(biases)] / pack.FULL
            biases.append([[x * scale for (x,) in struct.iter_unpack("<h", columns[1 + s][row])] for s in range(sides)])
    return Seen(text, meta, table, pictures, biases)


def test_the_page_holds_what_the_reports_say(cli: Cli, runs: Any) -> None:
    ran = cli("gallery", "a", "--expected", "labels.csv")
    assert ran.status == 0, ran.err
    assert ran.out == ""
    assert "wrote a/report.html: 10 explanations" in ran.err
    page = see(runs.a / "report.html")
    assert sorted(page.table["name"]) == sorted(f"pictures/{name}" for name in runs.names)
    for i, name in enumerate(page.table["name"]):
        report = json.loads((runs.a / f"{Path(name).stem}.lrp-eps.json").read_bytes())
        ledger, totals = report["ledger"], {bias["name"]: bias["total"] for bias in report["biases"]}
        for quantity in ("output", "pixels", "biases", "absorbed", "unexplained"):
            assert page.table[quantity][i] == pytest.approx(ledger[quantity], rel=1e-6)
        assert page.table["remainder"][i] == pytest.approx(ledger["relative_error"], rel=1e-6)
        booked = sum(map(abs, totals.values()))
        assert page.table["share"][i] == pytest.approx(booked / (booked + abs(ledger["pixels"])), rel=1e-6)
        assert dict(zip(page.meta["names"], page.biases[i][0], strict=True)) == pytest.approx(
            totals, abs=page.table["scale"][i] / pack.FULL
        )
        picture = Image.open(io.BytesIO(page.pictures[i]))
        assert picture.format == "WEBP"
        assert picture.size == (2 * page.table["w"][i], page.table["h"][i])


def test_small_pictures_are_the_picture_and_its_map(cli: Cli, runs: Any) -> None:
    cli("gallery", "a")
    page = see(runs.a / "report.html")
    i = page.table["name"].index("pictures/cow.png")
    both = Image.open(io.BytesIO(page.pictures[i])).convert("RGB")
    size = both.height
    for left, file in ((0, runs.folder / "pictures" / "cow.png"), (size, runs.a / "cow.lrp-eps.png")):
        part = np.asarray(both.crop((left, 0, left + size, size)), float)
        whole = np.asarray(Image.open(file).convert("RGB").resize((size, size)), float)
        other = np.asarray(both.crop((size - left, 0, 2 * size - left, size)), float)
        assert np.abs(part - whole).mean() < 8
        assert np.abs(other - whole).mean() > 16


def test_a_map_that_is_drawn_anew_is_as_strong_as_its_figure(cli: Cli, runs: Any) -> None:
    """A map of little of the score is pale in its figure, and no stronger on the page when the figure is gone."""
    cli("explain", "pictures/cow.png", "--method", "lrp-epsilon-plus", "--baseline", "none", "--figure", "overlay",
        "--scale", "5", "--out", "pale", "--index", "jsonl", "-q")  # fmt: skip
    figure = runs.folder / "pale" / "cow.lrp-epsilon-plus.png"
    found = []
    for _ in range(2):
        cli("gallery", "pale")
        page = see(runs.folder / "pale" / "report.html")
        found.append(np.asarray(Image.open(io.BytesIO(page.pictures[0])).convert("RGB"), float))
        figure.unlink(missing_ok=True)
    assert np.abs(found[0] - found[1]).mean() < 1
    report = json.loads((runs.folder / "pale" / "cow.lrp-epsilon-plus.json").read_text())
    assert report["figure"]["by"] == "given"
    drawn = found[1][:, found[1].shape[1] // 2 :]
    assert np.ptp(drawn, axis=-1).mean() < 2, "nearly grey"


def test_expected_labels_say_what_is_wrong(cli: Cli, runs: Any) -> None:
    cli("gallery", "a", "--expected", "labels.csv")
    page = see(runs.a / "report.html")
    wrong = [name for name, right in zip(page.table["name"], page.table["right"], strict=True) if right is False]
    assert [Path(name).stem for name in wrong] == [Path(runs.names[0]).stem]
    assert page.table["right"].count(True) == 9
    assert "9 of 10 as expected" in page.text
    assert "Most often wrong: dog as wolf." in page.text
    cli("gallery", "a", "--expected", "wolf")
    assert see(runs.a / "report.html").table["right"].count(True) == 2
    cli("gallery", "a")
    assert set(see(runs.a / "report.html").table["right"]) == {None}


def test_a_chosen_class_is_no_prediction(cli: Cli, runs: Any) -> None:
    cli("explain", "pictures/cow.png", "pictures/pig.png", "--target", "wolf", "--out", "c", "--index", "jsonl", "-q")
    cli("gallery", "c", "--expected", "wolf")
    page = see(runs.folder / "c" / "report.html")
    assert (page.table["label"], page.table["predicted"], page.table["right"]) == (["wolf"] * 2, [None] * 2, [None] * 2)
    assert "Every map explains wolf." in page.text


def test_ranks_have_the_prediction_of_the_first(cli: Cli, runs: Any) -> None:
    cli("explain", "pictures/cow.png", "--target", "top:2", "--out", "c", "--index", "jsonl", "-q")
    cli("gallery", "c", "--expected", "cow")
    page = see(runs.folder / "c" / "report.html")
    assert page.table["rank"] == [1, 2]
    assert page.table["label"][0] == "cow" != page.table["label"][1]
    assert (page.table["predicted"], page.table["right"]) == (["cow"] * 2, [True] * 2)


def test_mask_mass_is_that_of_the_check(cli: Cli, runs: Any) -> None:
    cli("gallery", "a")
    page = see(runs.a / "report.html")
    i = page.table["name"].index("pictures/cow.png")
    report = json.loads((runs.a / "cow.lrp-eps.json").read_bytes())
    values = np.array(report["pixels"]["values"]).clip(min=0)
    mask = np.asarray(Image.open(runs.folder / "pictures" / "cow.mask.png").resize((96, 96)).convert("L"), float) / 255
    assert page.table["mask"][i] == pytest.approx((values * mask).sum() / values.sum(), rel=5e-3)
    assert "in the median of 10 pictures" in page.text


def test_two_runs_side_by_side(cli: Cli, runs: Any) -> None:
    ran = cli("gallery", "a", "--against", "b", "-o", "both.html")
    assert ran.status == 0, ran.err
    page = see(runs.folder / "both.html")
    assert page.meta["titles"] == ["lrp-eps", "lrp-epsilon-plus, baseline blur"]
    i = page.table["name"].index("pictures/cow.png")
    other = json.loads((runs.folder / "b" / "cow.lrp-epsilon-plus.json").read_bytes())
    assert page.table["pixelsB"][i] == pytest.approx(other["ledger"]["pixels"], rel=1e-6)
    assert page.table["difference"][i] == pytest.approx(other["target"]["score"] - page.table["score"][i], abs=1e-5)
    assert -1 <= page.table["correlation"][i] < 0.9
    assert Image.open(io.BytesIO(page.pictures[i])).width == 3 * page.table["w"][i]
    cli("gallery", "a", "--against", "a", "-o", "same.html")
    same = see(runs.folder / "same.html")
    assert same.table["correlation"] == pytest.approx([1.0] * 10)
    assert same.table["difference"] == [0.0] * 10


def test_names_are_text(cli: Cli, runs: Any) -> None:
    """No name ends an element or begins one; links lead to the files."""
    cli("gallery", "a")
    page = see(runs.a / "report.html")
    for name in runs.names:
        if "<" in name:
            assert name not in page.text
    assert page.text.count("<script") == page.text.count("</script>") == 4
    for part in ("map", "report", "picture"):
        for link in page.table[part]:
            assert re.fullmatch(r"\./[\w./%~-]+", link)


def test_links_go_to_the_files(cli: Cli, runs: Any) -> None:
    from urllib.parse import unquote

    cli("gallery", "a", "-o", "pages/deep/p.html")
    page = see(runs.folder / "pages" / "deep" / "p.html")
    for link in (*page.table["map"], *page.table["report"]):
        assert (runs.folder / "pages" / "deep" / unquote(link)).is_file()
    ran = cli("gallery", "a", "-o", "pages/very/deep/p.html")
    assert "10 maps lie too far from the page to be linked" in ran.err
    page = see(runs.folder / "pages" / "very" / "deep" / "p.html")
    assert set(page.table["map"]) == set(page.table["picture"]) == {None}  # the path would tell of the machine
    cli("gallery", "a")
    for link in see(runs.a / "report.html").table["picture"]:
        assert (runs.a / unquote(link)).is_file()
    assert str(runs.folder) not in (runs.a / "report.html").read_text()


def test_the_first_screen_answers(cli: Cli, runs: Any) -> None:
    (runs.a / "checks.xml").write_text(
        """
        <testsuites name="heatcli check"><testsuite name="all">
        <testcase classname="heatcli.ledger" name="cow.png relative error">
          <system-out>relative error 1e-07, required ≤ 0.0001</system-out></testcase>
        <testcase classname="heatcli.bias-share" name="cow.png share"><system-out>share 0.9</system-out></testcase>
        <testcase classname="heatcli.inside-mask" name="cow.png share"><failure message="m">m</failure></testcase>
        </testsuite></testsuites>"""
    )
    cli("gallery", "a")
    text = (runs.a / "report.html").read_text()
    assert "closed in 10 of 10" in text
    assert "1 passed, 1 failed" in text
    assert "Failed: inside-mask (1×)." in text
    assert "--baseline blur" in text  # most of the score goes to biases
    assert "heatcli explain pictures --model animals.pt --method lrp-eps --out a" in re.sub("</?span>", "", text)
    assert "Each map explains the class with the highest score." in text


def test_results_of_a_check_as_lines(cli: Cli, runs: Any) -> None:
    lines = (
        b'{"check":"ledger","quantity":"relative error","status":"passed","image":null,"method":null,"measured":1e-7,'
        b'"required":""}\n{"check":"stability","quantity":"change","status":"failed","image":null,"method":null,'
        b'"measured":0.9,"required":""}\n'
    )
    (runs.a / "found.jsonl").write_bytes(lines)
    (runs.a / "torn.jsonl").write_bytes(lines[:90])
    (runs.a / "other.xml").write_text("<testsuites name='pytest'><testcase/></testsuites>")
    (runs.a / "bad.xml").write_text("<testsuites")
    cli("gallery", "a")
    assert "1 passed, 1 failed" in (runs.a / "report.html").read_text()


def test_a_damaged_index_costs_its_lines(cli: Cli, runs: Any) -> None:
    lines = (runs.a / "index.jsonl").read_bytes().splitlines(keepends=True)
    (runs.a / "index.jsonl").write_bytes(b"".join([*lines[:3], lines[3][:90] + b"\n", *lines[4:], lines[0][:50]]))
    ran = cli("gallery", "a")
    assert ran.status == 0
    assert "index.jsonl: line 4 is damaged and left out" in ran.err
    assert len(see(runs.a / "report.html").table["name"]) == 9


def test_a_damaged_report_leaves_what_the_index_says(cli: Cli, runs: Any) -> None:
    report = runs.a / "cow.lrp-eps.json"
    report.write_bytes(report.read_bytes()[:1000])
    assert cli("gallery", "a").status == 0
    page = see(runs.a / "report.html")
    i = page.table["name"].index("pictures/cow.png")
    assert page.table["score"][i] is not None
    assert page.table["mask"][i] is None


def test_a_run_of_another_version_is_one_line(cli: Cli, runs: Any) -> None:
    index = runs.a / "index.jsonl"
    index.write_bytes(index.read_bytes().replace(b"heatcli.index/1", b"heatcli.index/9"))
    ran = cli("gallery", "a")
    assert ran.status == 2
    assert "is of another version of heatcli" in ran.err
    assert ran.err.count("\n") == 1


def test_a_method_that_divides_nothing_has_no_ledger(cli: Cli, runs: Any) -> None:
    cli("explain", "pictures/cow.png", "--method", "gradient", "--out", "c", "--index", "jsonl", "-q")
    cli("gallery", "c")
    text = (runs.folder / "c" / "report.html").read_text()
    assert "does not divide the score" in text
    assert "closed in" not in text
    assert "Worst remainders" not in text


def test_reports_without_an_index(cli: Cli, runs: Any) -> None:
    cli("explain", "pictures/cow.png", "--out", "one", "-q")
    (runs.folder / "one" / "other.json").write_text("{}")
    (runs.folder / "one" / "torn.json").write_text('{"schema":')
    ran = cli("gallery", "one")
    assert ran.status == 0
    assert "torn.json: is no report that can be read; it is left out" in ran.err
    assert see(runs.folder / "one" / "report.html").table["label"] == ["cow"]


def test_pictures_are_found_from_every_folder(
    cli: Cli, runs: Any, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """From another folder, and after the move of run and pictures together; not another picture of the same name."""
    moved = tmp_path_factory.mktemp("moved") / "all"
    runs.folder.rename(moved)
    (moved / "elsewhere" / "pictures").mkdir(parents=True)
    shutil.copy(SAMPLES / "cat-at-temple.png", moved / "elsewhere" / "pictures" / "cow.png")
    monkeypatch.chdir(moved / "elsewhere")
    ran = cli("gallery", moved / "a")
    assert "pictures are not where" not in ran.err
    assert see(moved / "a" / "report.html").table["there"] == [0b11] * 10
    found = {item.row.image: item.picture() for item in Folder.open(moved / "a").items()}
    for name, path in found.items():
        assert path.samefile(moved / name)


def test_pictures_that_are_gone_or_others(cli: Cli, runs: Any) -> None:
    """A picture with another content is not shown; the map is, and a damaged one is drawn anew or left blank."""
    shutil.copy(SAMPLES / "cat-at-temple.png", runs.folder / "pictures" / "cow.png")
    (runs.folder / "pictures" / "pig.png").unlink()
    (runs.a / "frog.lrp-eps.png").write_bytes(b"junk")
    ran = cli("gallery", "a")
    assert ran.status == 0
    assert "2 pictures are not where their reports say, or are others now" in ran.err
    page = see(runs.a / "report.html")
    cow = np.asarray(Image.open(io.BytesIO(page.pictures[page.table["name"].index("pictures/cow.png")])).convert("RGB"))
    assert page.table["there"][page.table["name"].index("pictures/cow.png")] == 0b10
    assert page.table["there"].count(0b11) == 8
    assert cow[:, cow.shape[1] // 2 + 8 :].std() > 10
    assert all(page.pictures)


def test_names_that_would_tell_of_the_machine(cli: Cli, runs: Any) -> None:
    cli("explain", runs.folder / "pictures", "--out", "c", "-q")
    cli("gallery", "c")
    page = see(runs.folder / "c" / "report.html")
    assert "cow.png" in page.table["name"]
    assert str(runs.folder) not in page.text


@pytest.mark.usefixtures("default_figure")
def test_sequences_have_their_logo(cli: Cli, runs: Any) -> None:
    fasta = SAMPLES / "sequences" / "motifs.fa"
    cli("explain", fasta, "--model", MODELS / "motifs.onnx", "--target", "GATA", "--out", "c", "-q")
    ran = cli("gallery", "c")
    assert ran.status == 0
    assert "pictures are not where" not in ran.err
    page = see(runs.folder / "c" / "report.html")
    assert sorted(page.table["name"])[0] == "motifs.fa 0-GATA"
    assert set(page.table["there"]) == {0b10}


def test_failed_pictures_are_listed(cli: Cli, runs: Any) -> None:
    (runs.folder / "bad.png").write_text("no picture <b>")
    cli("explain", "bad.png", "pictures/cow.png", "--out", "c", "--index", "jsonl", "-q")
    ran = cli("gallery", "c")
    assert ran.status == 0
    text = (runs.folder / "c" / "report.html").read_text()
    assert "1 pictures were not explained" in text
    assert "bad.png: is not an image" in text


def test_large_pages_leave_small_pictures_beside(cli: Cli, runs: Any) -> None:
    ran = cli("gallery", "a", "--max-mb", "0.01")
    assert ran.status == 0
    assert "the small pictures are in a/report-files" in ran.err
    page = see(runs.a / "report.html")
    assert page.meta["beside"] == "report-files"
    assert not any(page.pictures)
    (runs.a / "report-files" / "12.webp").write_bytes(b"an earlier page's")
    (runs.a / "report-files" / "own.txt").write_text("kept")
    cli("gallery", "a", "--max-mb", "0.01")
    assert sorted(p.name for p in (runs.a / "report-files").iterdir()) == [*(f"{i}.webp" for i in range(10)), "own.txt"]
    assert (runs.a / "report-files" / "9.webp").read_bytes().startswith(b"RIFF")
    assert page.biases[3][0]


def test_the_same_twice(cli: Cli, runs: Any) -> None:
    cli("gallery", "a", "-o", "one.html")
    cli("gallery", "a", "-o", "two.html")
    assert (runs.folder / "one.html").read_bytes() == (runs.folder / "two.html").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere",), "nowhere: is not a folder that heatcli explain wrote"),
        (("pictures",), "pictures: holds no explanation"),
        (("s3://bucket/run",), "s3:/bucket/run: explanations are read from files on this machine"),
        (("a", "--expected", "nowhere.csv"), "nowhere.csv: the expected labels cannot be read: No such file"),
        (("a", "--expected", "other.csv"), "other.csv: names none of the pictures in a"),
        (("a", "--against", "nowhere"), "nowhere: is not a folder"),
        (("a", "--against", "empty"), "empty: explains none of the pictures in a"),
        (("a", "--masks", "nowhere"), "nowhere: is not a folder of masks"),
        (("a", "--max-mb", "0"), "--max-mb 0 is not allowed"),
        (("a", "-o", "page.pdf"), "page.pdf: a gallery is a page; give -o a name that ends in .html"),
        (("a", "-o", "labels.csv/page.html"), "labels.csv"),
    ],
)
def test_bad_input_is_one_line(cli: Cli, runs: Any, arguments: tuple[str, ...], said: str) -> None:
    (runs.folder / "other.csv").write_text("image,label\nx.png,y\n")
    (runs.folder / "empty").mkdir()
    ran = cli("gallery", *arguments)
    assert ran.status == 2
    assert said in ran.err
    assert ran.err.count("\n") == 1
    assert not list(runs.a.glob("*.html"))
    assert not list(runs.a.glob(".*tmp"))
