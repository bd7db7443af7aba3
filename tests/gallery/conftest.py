"""Two runs over ten pictures, whose names are as odd as names of files can be."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import SAMPLES

from heatcli.cli import app

NAMES = {
    "wolf-on-snow": "<img src=x onerror=\"document.title='broken'\">.png",
    "wolf-on-grass": 'wolf\'s "quoted" & <b>bold<b>.png',
    "dog-on-snow": "dog 🐕 é.png",
    "dog-on-grass": "a#b?c%20d;=1.png",
    "cat-at-temple": "=1+1.png",
    "cow-on-grass": "cow.png",
    "pig-on-sand": "pig.png",
    "frog-on-water": "frog.png",
    "panda-on-grass": "panda.png",
    "mouse-on-sand": "<!--<script>.png",
}


@dataclass(frozen=True)
class Runs:
    """`folder` holds `pictures`, `labels.csv`, and the runs `a` (lrp-eps) and `b` (lrp-epsilon-plus, blurred)."""

    folder: Path
    names: tuple[str, ...]

    @property
    def a(self) -> Path:
        return self.folder / "a"


@pytest.fixture(scope="session")
def explained(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Made once; tests work on copies."""
    folder = tmp_path_factory.mktemp("gallery")
    (folder / "pictures").mkdir()
    lines = ["image,label"]
    for sample, name in NAMES.items():
        shutil.copy(SAMPLES / f"{sample}.png", folder / "pictures" / name)
        shutil.copy(SAMPLES / "masks" / f"{sample}.png", folder / "pictures" / f"{name[:-4]}.mask.png")
        label = "dog" if sample == "wolf-on-snow" else sample.split("-")[0]  # so that one is wrong
        lines.append(f'"{name.replace(chr(34), chr(34) * 2)}",{label}')
    (folder / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    listed = folder / "list.txt"
    listed.write_text("".join(f"pictures/{name}\n" for name in NAMES.values()), encoding="utf-8")
    _heatcli(folder, "explain", "list.txt", "--out", "a", "-q", "--method", "lrp-eps")
    _heatcli(folder, "explain", "list.txt", "--out", "b", "-q", "--method", "lrp-epsilon-plus", "--baseline", "blur")
    return Runs(folder, tuple(NAMES.values()))


@pytest.fixture
def runs(explained: Runs, tmp_path: Path) -> Runs:
    """The folder of two runs, the test's own."""
    shutil.copytree(explained.folder, tmp_path, dirs_exist_ok=True)
    return Runs(tmp_path, explained.names)


@pytest.fixture(scope="session")
def heatcli_in() -> Callable[..., None]:
    """Run heatcli in this process, in a folder; it must succeed."""
    return _heatcli


def _heatcli(folder: Path, *arguments: str | Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["heatcli", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            app.main()
        assert not end.value.code
