"""Every flag of `explain` with `--resume`: either the result is that of a run with the flag, or the run is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Cli
from folders import fill
from torch import Tensor, nn
from typer.main import get_command

from heatcli.cli.app import app

# --- networks, one for each sort of flag ----------------------------------------------------------------------------


class Maps(nn.Module):
    """Two heads of three classes for each position."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.one(x), self.two(x)


class Cells(nn.Module):
    """A box for each cell of three grids, in the layout of a YOLO; the boxes overlap."""

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for stride in (8, 16, 32):
            mean = nn.functional.avg_pool2d(x, stride)
            box = torch.full_like(mean, 32.0)[:, :1].expand(-1, 4, -1, -1)
            found.append(torch.cat([box, (mean * 4 - 2)[:, :2].sigmoid()], 1).flatten(2))
        return torch.cat(found, 2)


class Beside(nn.Module):
    """A picture and a number beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.last = nn.Linear(5, 3)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.last(torch.cat([self.net(x), t], 1))


def signal() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3))


CLASSES, DENSE, BOXES, BESIDE, SIGNAL = "classes", "dense", "boxes", "beside", "signal"
SIDECAR = "[input]\nsize = {size}\nchannels = 3\nmean = [0.5]\nstd = [0.25]\n"


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """A folder with the networks, the pictures and other files that flags name."""
    folder = tmp_path_factory.mktemp("given")
    torch.manual_seed(0)
    for name, net, side in (("maps", Maps(), 8), ("cells", Cells(), 64), ("beside", Beside(), 8)):
        torch.jit.script(net.eval()).save(folder / f"{name}.pt")
        (folder / f"{name}.toml").write_text(SIDECAR.format(size=side))
    torch.jit.script(signal().eval()).save(folder / "signal.pt")
    for suffix in ("pt", "toml"):
        shutil.copy(tiny.with_suffix(f".{suffix}"), folder)
    fill(folder / "in", ["a.png", "b.png", "below/c.png"])
    fill(folder, ["other.png"])
    (folder / "signals").mkdir()
    rng = np.random.default_rng(0)
    for name in "ab":
        np.save(folder / "signals" / f"{name}.npy", rng.normal(size=(2, 24)).astype(np.float32))
    np.save(folder / "t.npy", np.ones((1, 1), np.float32))
    np.save(folder / "u.npy", np.zeros((1, 1), np.float32))
    (folder / "labels.txt").write_text("one\ntwo\nthree\n")
    (folder / "rules.toml").write_text('[rules]\nelementwise = "pass"\n')
    (folder / "names.toml").write_text('["0"]\n1 = "edges"\n')
    return folder


BASES: dict[str, list[str]] = {
    CLASSES: ["in", "--model", "tiny.pt"],
    DENSE: ["in", "--model", "maps.pt"],
    BOXES: ["in", "--model", "cells.pt", "--target", "detections"],
    BESIDE: ["in", "--model", "beside.pt", "--input", "t=t.npy", "--baseline", "none"],
    SIGNAL: ["signals", "--model", "signal.pt", "--size", "24", "--axes", "NCL", "--channels", "2"],
}

# --- the flags: a value of each, another than that of the base ------------------------------------------------------

# Flags that change how a run is done, and no file of it.
NO_FILE: dict[str, list[str]] = {
    "json": ["--json"], "quiet": ["--quiet"], "verbose": ["--verbose"], "debug": ["--debug"], "index": ["--index",
    "jsonl"], "batch_size": ["--batch-size", "1"], "workers": ["--workers", "1"], "device": ["--device", "cpu"],
    "engine": ["--engine", "local"], "unverified": ["--unverified"], "sandbox": ["--no-sandbox"], "max_seconds":
    ["--max-seconds", "100"], "max_memory": ["--max-memory", "9G"], "no_cache": ["--no-cache"],
    "max_pixels": ["--max-pixels", "100000"],
}  # fmt: skip

# Flags that change files.
FLAGS: dict[str, tuple[str, list[str]]] = {
    "method": (CLASSES, ["--method", "gradient"]), "bands": (CLASSES, ["--bands", "1"]),
    "model": (CLASSES, ["--model", "beside.pt", "--input", "t=t.npy"]), "param": (CLASSES, ["--param", "epsilon=0.1"]),
    "concept": (CLASSES, ["--concept", "0"]), "baseline": (CLASSES, ["--baseline", "other.png"]),
    "target": (CLASSES, ["--target", "1"]), "expected": (CLASSES, ["--expected", "2"]),
    "pair": (CLASSES, ["--pair", "other.png"]), "output_kind": (CLASSES, ["--kind", "labels"]),
    "confidence": (BOXES, ["--confidence", "0.6"]), "overlap": (BOXES, ["--overlap", "0.9"]),
    "pixels": (CLASSES, ["--pixels", "npz"]),
    "biases": (CLASSES, ["--biases", "totals"]), "arrays": (CLASSES, ["--arrays", "npy"]),
    "figure": (CLASSES, ["--figure", "heatmap"]), "scale": (CLASSES, ["--scale", "2"]),
    "figure_size": (CLASSES, ["--figure-size", "300"]), "clip": (CLASSES, ["--clip", "50"]),
    "top": (CLASSES, ["--figure", "contour", "--top", "30"]), "cmap": (CLASSES, ["--cmap", "coolwarm"]),
    "opacity": (CLASSES, ["--opacity", "0.2"]), "backdrop": (CLASSES, ["--backdrop", "colour"]),
    "size": (CLASSES, ["--size", "12"]), "axes": (CLASSES, ["--axes", "NCHW"]),
    "sample_rate": (SIGNAL, ["--sample-rate", "100"]), "channels": (CLASSES, ["--channels", "3"]),
    "mean": (CLASSES, ["--mean", "0.4"]), "std": (CLASSES, ["--std", "0.5"]), "resize": (CLASSES, ["--resize", "crop"]),
    "channels_order": (CLASSES, ["--channels-order", "bgr"]), "range": (CLASSES, ["--range", "0..100"]),
    "labels": (CLASSES, ["--labels", "labels.txt"]), "preset": (CLASSES, ["--preset", "imagenet", "--size", "8"]),
    "rule": (CLASSES, ["--rule", "elementwise=pass"]), "composite": (CLASSES, ["--composite", "rules.toml"]),
    "smooth": (CLASSES, ["--smooth", "2:0.1"]), "region": (DENSE, ["--region", "0,0,4,4"]),
    "output": (CLASSES, ["--output", "centred-logit"]), "with_passes": (CLASSES, ["--pass", "centre-logits"]),
    "without_passes": (CLASSES, ["--no-pass", "fold-batch-norm"]), "head": (DENSE, ["--head", "1"]),
    "class_axis": (DENSE, ["--class-axis", "2"]), "inputs": (BESIDE, ["--input", "t=u.npy"]),
    "amp": (CLASSES, ["--amp"]), "show": (CLASSES, ["--show"]),
}  # fmt: skip
WHICH = {"glob": ["--glob", "b*"], "shard": ["--shard", "1/2"], "recursive": ["--recursive"]}  # of the pictures
# Those that need another flag, beside what the base has: it is given to both runs.
WITH: dict[str, list[str]] = {
    "layer": ["--method", "grad-cam"], "similarity": ["--pair", "other.png"], "concept_names": ["--concept", "0"]
}  # fmt: skip
NEEDY = {
    "layer": (CLASSES, ["--layer", "0"]), "similarity": (CLASSES, ["--similarity", "dot"]),
    "concept_names": (CLASSES, ["--concept-names", "names.toml"]),
}  # fmt: skip
# Where a run writes, what it reads and which run it is; machine code is tried in `tests/engine/test_compiled.py`.
OF_THE_RUN = {"images", "out", "output_file", "resume", "overwrite", "compiled"}


def with_flag(run: list[str], flag: list[str]) -> list[str]:
    """The run with the flag, instead of the same flag in it."""
    same = [i for i, word in enumerate(run) if word == flag[0]]
    return [word for i, word in enumerate(run) if not any(i - at in (0, 1) for at in same)] + flag


def files(out: Path) -> dict[str, Any]:
    """What a run has written, without its times and the name of its folder."""
    found: dict[str, Any] = {}
    for path in sorted(out.iterdir()):
        if path.suffix == ".json" and not re.match(r"run\b", path.name):
            report = json.loads(path.read_text())
            found[path.name] = {name: part for name, part in report.items() if name != "seconds"}
        elif path.suffix in (".png", ".npy", ".npz"):
            found[path.name] = path.read_bytes()
    return found


def test_every_flag_is_here() -> None:
    """A new flag gets its entry."""
    (explain,) = [command for name, command in get_command(app).commands.items() if name == "explain"]  # type: ignore[attr-defined]
    assert {parameter.name for parameter in explain.params} == {*NO_FILE, *FLAGS, *WHICH, *NEEDY, *OF_THE_RUN}


@pytest.fixture
def bases(given: Path, tmp_path: Path) -> Iterator[Path]:
    for path in given.iterdir():
        (tmp_path / path.name).symlink_to(path)
    return tmp_path


@pytest.mark.parametrize("name", [*FLAGS, *NEEDY])
def test_a_flag_that_changes_files(name: str, bases: Path, cli: Cli) -> None:
    kind, flag = {**FLAGS, **NEEDY}[name]
    run = ["explain", *BASES[kind], *WITH.get(name, [])]
    assert cli(*run, "--out", "base").status == 0
    changed = with_flag(run, flag)
    ran = cli(*changed, "--out", "fresh")
    assert ran.status == 0, ran.err
    shutil.copytree(bases / "base", bases / "resumed")
    before = files(bases / "resumed")
    ran = cli(*changed, "--out", "resumed", "--resume")
    if ran.status:
        assert ran.status == 2
        assert "resumed: holds a run with other parameters (" in ran.err
        assert ran.err.count("\n") == 1
        assert files(bases / "resumed") == before
    else:
        wanted = files(bases / "fresh")
        assert {stem: part for stem, part in files(bases / "resumed").items() if stem in wanted} == wanted


@pytest.mark.parametrize("name", WHICH)
def test_a_flag_that_says_which_pictures(name: str, bases: Path, cli: Cli) -> None:
    """A resumed run has those of the flag, too, or is refused."""
    run = ["explain", *BASES[CLASSES]]
    assert cli(*run, *WHICH[name], "--out", "fresh").status == 0
    assert cli(*run, "--out", "resumed").status == 0
    ran = cli(*run, *WHICH[name], "--out", "resumed", "--resume")
    assert ran.status == 2 or set(files(bases / "fresh")) <= set(files(bases / "resumed"))
    assert ran.status == 0 or "resumed: holds a run with other parameters (" in ran.err


@pytest.mark.parametrize("name", NO_FILE)
def test_a_flag_that_changes_no_file_is_resumed(name: str, bases: Path, cli: Cli) -> None:
    run = ["explain", *BASES[CLASSES], "--out", "out"]
    assert cli(*run).status == 0
    before = files(bases / "out")
    ran = cli(*run, *NO_FILE[name], "--resume")
    assert ran.status == 0, ran.err
    assert files(bases / "out") == before


@pytest.mark.usefixtures("bases")
def test_what_is_told_of_a_threshold(cli: Cli) -> None:
    run = ["explain", *BASES[BOXES]]
    assert cli(*run, "--out", "other", "--confidence", "0.6").status == 0
    assert "(output confidence 0.6, not by default)" in cli(*run, "--out", "other", "--resume").err
    run += ["--out", "out"]
    assert cli(*run).status == 0
    assert cli(*run, "--confidence", "0.25", "--resume").status == 0, "what it is by default"
    said = "output confidence by default, not 0.6; output overlap by default, not 0.9"
    ran = cli(*run, "--confidence", "0.6", "--overlap", "0.9", "--resume")
    assert ran.err == f"heatcli: out: holds a run with other parameters ({said}); give another folder\n"


@pytest.mark.parametrize(
    ("flags", "written"),
    [
        (["--baseline", "mean:m.npz"], "m.npz"),
        (["--method", "expected-gradients", "--baseline", "many"], "many/b.png"),
        (["--concept", "0", "--concept-names", "c.toml"], "c.toml"),
        (["--labels", "l.txt"], "l.txt"),
        (["--composite", "r.toml"], "r.toml"),
    ],
)
def test_the_content_of_a_file_counts(flags: list[str], written: str, bases: Path, cli: Cli) -> None:
    """A file or folder that a flag names may change under its name."""
    first = {"c.toml": '["0"]\n1 = "edges"\n', "l.txt": "a\nb\nc\n", "r.toml": '[rules]\nelementwise = "pass"\n'}
    second = {"c.toml": '["0"]\n1 = "spots"\n', "l.txt": "c\nb\na\n", "r.toml": '[rules]\nelementwise = "slope"\n'}
    for name, text in first.items():
        (bases / name).write_text(text)
    np.savez(bases / "m.npz", mean=np.full((3, 8, 8), 0.5, np.float32))
    fill(bases / "many", ["a.png"])
    run = ["explain", *BASES[CLASSES], "--out", "out", *flags]
    ran = cli(*run)
    assert ran.status == 0, ran.err
    assert cli(*run, "--resume").status == 0
    if written in second:
        (bases / written).write_text(second[written])
    elif written == "m.npz":
        np.savez(bases / "m.npz", mean=np.full((3, 8, 8), 0.25, np.float32))
    else:
        fill(bases, [written])
    ran = cli(*run, "--resume")
    assert ran.status == 2, ran.err
    assert "out: holds a run with other parameters (" in ran.err
