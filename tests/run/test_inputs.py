"""What is explained: folders, trees, patterns, lists, shards; and where its outputs go."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Cli
from folders import fill, rows, whole
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from heatcli.methods.table import METHODS
from heatcli.run.work.inputs import Found, Names, stem_of
from heatcli.run.work.plan import plan_outputs
from heatcli.run.work.request import Request

TREE = ["a/x.png", "a/y.jpg", "b/x.png", "b/c/z.png", "top.png"]


def _stems(*inputs: str, **options: object) -> list[str]:
    request = Request(inputs, "out", METHODS["lrp-eps"], **options)  # type: ignore[arg-type]
    return [job.part.removesuffix(".lrp-eps") for job in plan_outputs(request)]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return fill(tmp_path / "in", TREE)


def test_folders_trees_patterns_and_lists(tree: Path) -> None:
    """Flat without --recursive, mirrored with it; a list keeps its order, a folder is by name."""
    assert _stems("in") == ["top"]
    assert _stems("in", recursive=True) == ["top", "a/x", "a/y", "b/x", "b/c/z"]
    assert _stems("in", recursive=True, glob="*.jpg") == ["a/y"]
    assert _stems("in", glob="b/**/*.png") == ["z", "x"]
    assert _stems("in/*/y.*") == ["y"]
    assert _stems("in/a/*", recursive=True) == ["in/a/x", "in/a/y"]
    (tree / "list.txt").write_text("in/top.png\nin/b/x.png\r\n\nin/a/y.jpg\n")
    assert _stems("in/list.txt") == ["top", "x", "y"]
    (tree / "zero.txt").write_bytes(b"in/top.png\0in/b/new\nline.png\0")
    assert _stems("in/zero.txt") == ["top", "new\nline"]


def test_a_list_on_stdin(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    for content in (b"in/a/x.png\nin/top.png\n", b"in/a/x.png\0in/top.png"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        assert _stems("-") == ["x", "top"]


def test_the_outputs_inside_the_inputs_are_no_inputs(cli: Cli, tree: Path, tiny: Path) -> None:
    for options in ([], ["--resume"], ["--glob", "*.png", "--resume"]):
        ran = cli("explain", tree, "-r", "--model", tiny, "--out", tree / "maps", *options)
        assert ran.status == 0, ran.err
    assert {row["image"] for row in rows(tree / "maps")} == {str(tree / name) for name in TREE}
    whole(tree / "maps")
    assert (tree / "maps" / "b" / "c" / "z.lrp-eps.png").is_file()


def test_inputs_of_one_stem_all_get_outputs(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    """Names keep as much of the picture's own as tells them apart; those that are alone stay short."""
    fill(tmp_path, ["m/same.png", "m/other.png", "n/same.png"])
    with Image.open(tmp_path / "m" / "same.png") as picture:
        picture.convert("RGB").save(tmp_path / "m" / "same.jpg")
    for command in (["m"], ["m", "--resume"]):
        ran = cli("explain", *command, "--model", tiny, "--out", "one")
        assert ran.status == 0, ran.err
        assert sorted(row["stem"] for row in rows(tmp_path / "one")) == [
            "other.lrp-eps", "same.jpg.lrp-eps", "same.png.lrp-eps",
        ]  # fmt: skip
        whole(tmp_path / "one")
    assert "3 images are done already, 0 are left" in ran.err
    assert cli("explain", "m/same.png", "n/same.png", "m/same.jpg", "--model", tiny, "--out", "two").status == 0
    assert sorted(path.name for path in (tmp_path / "two").rglob("*.json")) == [
        "same.jpg.lrp-eps.json", "same.png.lrp-eps.json", "same.png.lrp-eps.json",
    ]  # fmt: skip
    assert (tmp_path / "two" / "n" / "same.png.lrp-eps.png").is_file()


def test_an_empty_folder_among_inputs_costs_a_line(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    fill(tmp_path, ["in/a.png"])
    (tmp_path / "empty").mkdir()
    ran = cli("explain", "empty", "in", "none/*.png", "--model", tiny, "--out", "out")
    assert ran.status == 0, ran.err
    assert "note: empty: no images in this folder" in ran.err
    assert "note: none/*.png: no file matches this pattern" in ran.err
    assert [row["image"] for row in rows(tmp_path / "out")] == ["in/a.png"]
    assert cli("explain", "empty", "--model", tiny, "--out", "out2").status == 2


REFUSED = [
    (["in", "-r", "--shard", "5/4"], "--shard 5/4 is not a part; give K/N"),
    (["in", "--glob", "*.gif"], "in: nothing that matches *.gif in this folder"),
    (["in/*.gif"], "in/*.gif: no file matches this pattern"),
    (["missing.txt"], "missing.txt: no such list of images"),
    (["empty.txt"], "empty.txt: lists no images"),
    (["in/a/x.png", "in/a/x.png"], "in/a/x.png is given twice; once is enough"),
    (["in", "--out", "in"], "in: is both the input and --out"),
    (["in", "--index", "csv"], "--index csv is not known; use jsonl, parquet"),
    (["in", "--workers", "0"], "--workers 0 is not allowed"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[m[:30] for _, m in REFUSED])
def test_what_makes_no_sense_is_refused_before_work(
    cli: Cli, tree: Path, tiny: Path, arguments: list[str], message: str
) -> None:
    (tree.parent / "empty.txt").write_text("\n\n")
    out = [] if "--out" in arguments else ["--out", "out"]
    ran = cli("explain", *arguments, "--model", tiny, *out)
    assert ran.status == 2
    assert message in ran.err
    assert ran.err.count("\n") == 1, ran.err
    assert not (tree.parent / "out").exists()


@given(st.lists(st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)))))
def test_names_are_kept_exactly(names: list[str]) -> None:
    kept = Names()
    for name in names:
        kept.append(name)
    assert [kept[i] for i in range(len(kept))] == names


part = st.text("abcd0123./", min_size=1, max_size=12)


@given(st.lists(part, unique=True, max_size=40), st.integers(1, 7), st.randoms(), st.booleans())
def test_shards_are_parts_by_name(names: list[str], n: int, random: object, mirror: bool) -> None:
    """Every image is in exactly one shard, whatever the order; images whose outputs collide are in the same one."""

    def shard(k: int, order: list[str]) -> set[str]:
        found = Found(mirror, (k, n))
        found.add(order)
        return {found.path(i) for i in range(len(found))}

    shards = [shard(k, names) for k in range(1, n + 1)]
    assert sorted(name for own in shards for name in own) == sorted(names)
    shuffled = list(names)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert [shard(k, shuffled) for k in range(1, n + 1)] == shards
    of = {name: k for k, own in enumerate(shards) for name in own}
    first: dict[str, int] = {}
    assert all(first.setdefault(stem_of(name, mirror), of[name]) == of[name] for name in names)


def test_a_shard_is_the_same_in_every_process() -> None:
    """Python's own hash of a string changes from process to process; this must not."""
    code = "from heatcli.run.index.index import number_of; print(number_of('a/ä'))"
    ran = {subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(2)}
    assert ran == {b"4418992117436183781\n"}


def test_json_in_input_order_with_failures_between(cli: Cli, tmp_path: Path, tiny: Path) -> None:
    fill(tmp_path / "in", [f"{i:02}.png" for i in range(20)])
    (tmp_path / "in" / "07.png").write_bytes(b"")
    ran = cli("explain", "in", "--model", tiny, "--json", "--batch-size", "3", "--target", "top:2", "--quiet")
    assert ran.status == 1
    assert ran.err == "heatcli: in/07.png: the image file is empty\n"
    found = [json.loads(line)["image"]["path"] for line in ran.out.splitlines()]
    assert sorted(found) == sorted(2 * [f"../in/{i:02}.png" for i in range(20) if i != 7])
    assert [row["image"] for row in rows(tmp_path / "heatmaps") if row["rank"] != 2] == [
        f"in/{i:02}.png" for i in range(20)
    ]
