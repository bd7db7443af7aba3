"""Inputs and outputs behind URLs, through a real fsspec file system in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli
from folders import fill

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Any]:
    """A store with seven pictures, one damaged, in a tree."""
    system = fsspec.filesystem("memory")
    names = ["a/x.png", "b/x.png", "b/c/z.png", "top.png", "two.png", "three.png"]
    fill(tmp_path / "in", names)
    for name in names:
        system.pipe_file(f"/in/{name}", (tmp_path / "in" / name).read_bytes())
    system.pipe_file("/in/bad.png", b"no picture")
    yield system
    system.rm("/", recursive=True)


def _rows(store: Any, path: str = "/out/index.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in store.cat_file(path).splitlines()]


def test_urls_in_and_out(cli: Cli, tiny: Path, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree from one URL to another, with a journal sent in parts, continued, refused, and as Parquet."""
    from heatcli.run.index import remote

    monkeypatch.setattr(remote, "EVERY", 0.0)
    command = ["explain", "memory://in", "-r", "--model", tiny, "--out", "memory://out"]
    ran = cli(*command, "--index", "parquet")
    assert ran.status == 1
    assert ran.err.startswith("heatcli: memory://in/bad.png: is not an image that Pillow can read as any of PNG, ")
    found = {row["image"]: row for row in _rows(store)}
    assert len(found) == 7
    row = found["memory://in/b/c/z.png"]
    assert {f["name"]: store.size(f"/out/{f['name']}") for f in row["files"].values()} == {
        f["name"]: f["bytes"] for f in row["files"].values()
    }
    assert row["files"]["report"]["name"] == "b/c/z.lrp-eps.json"
    assert store.cat_file("/out/index.parquet")[:4] == b"PAR1"
    assert store.glob("/out/index.part-*.jsonl")

    store.rm("/out/a/x.lrp-eps.png")
    store.pipe_file("/in/bad.png", store.cat_file("/in/top.png"))
    ran = cli(*command, "--resume")
    assert ran.status == 0, ran.err
    assert "5 images are done already, 2 are left" in ran.err
    assert sorted(row["image"] for row in _rows(store)) == sorted(found)
    assert not any(row["error"] for row in _rows(store))
    assert (
        "memory://out: holds a run with other parameters (opacity" in cli(*command, "--opacity", "0.5", "--resume").err
    )
    assert cli(*command, "--opacity", "0.5").status == 0
    assert len(store.glob("/out/run.*.json")) == 1
    assert len(_rows(store)) == 7


def test_what_was_sent_before_a_kill_is_not_done_again(cli: Cli, tiny: Path, store: Any) -> None:
    command = ["explain", "memory://in", "--model", tiny, "--out", "memory://out", "--json"]
    assert cli(*command).status == 1
    done = _rows(store)[:2]
    store.rm("/out/index.jsonl")
    for part in store.glob("/out/index.part-*"):
        store.rm(part)
    store.pipe_file("/out/index.part-000-000000.jsonl", "".join(json.dumps(row) + "\n" for row in done).encode())
    ran = cli(*command, "--resume")
    assert "2 images are done already" in ran.err or "1 images are done already" in ran.err  # a failure is tried again
    assert len(_rows(store)) == 4


def test_patterns_and_named_images(cli: Cli, tiny: Path, store: Any) -> None:
    assert cli("explain", "memory://in/t*.png", "--model", tiny, "--out", "memory://one").status == 0
    assert {row["stem"] for row in _rows(store, "/one/index.jsonl")} == {"top.lrp-eps", "two.lrp-eps", "three.lrp-eps"}
    assert cli("explain", "memory://in/top.png", "--model", tiny, "--out", "memory://two").status == 0
    assert sorted(store.ls("/two", detail=False)) == ["/two/top.lrp-eps.json", "/two/top.lrp-eps.png"]
    assert "memory://in/none.png: no such image file" in cli("explain", "memory://in/none.png", "--model", tiny).err
    assert "nosuch://x: cannot be opened" in cli("explain", "nosuch://x", "--model", tiny).err
