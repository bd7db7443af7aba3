"""Folders of small pictures, and what a run leaves in its own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def fill(folder: Path, names: list[str]) -> Path:
    """A different small picture of every name, folders made as needed."""
    rng = np.random.default_rng(0)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / name)
    return folder


def link(folder: Path, count: int) -> Path:
    """So many names for one picture."""
    fill(folder, ["0.png"])
    for i in range(1, count):
        os.link(folder / "0.png", folder / f"{i}.png")
    return folder


def rows(folder: Path) -> list[dict[str, Any]]:
    """The lines of a folder's index; every one must be whole."""
    lines = (folder / "index.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    assert all(line.endswith("}\n") for line in lines)
    return [json.loads(line) for line in lines]


def whole(folder: Path) -> None:
    """Every file that an index names is there with its bytes, and nothing but these lies in the folder."""
    named = {folder / f["name"]: f["bytes"] for row in rows(folder) for f in row["files"].values()}
    assert {path: path.stat().st_size for path in named} == named
    there = {p for p in folder.rglob("*") if p.is_file()}
    assert there == set(named) | {folder / "index.jsonl", *folder.glob("run*.json")}
