"""Runs interrupted, continued, repeated, side by side and joined: nothing lost, doubled or half-written."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path

import pytest
from conftest import Cli
from folders import fill, link, rows, whole

import heatcli
from heatcli.methods.table import method
from heatcli.run import Request, Run
from heatcli.run.index.index import Row
from heatcli.run.index.runindex import RunIndex
from heatcli.run.work import runner
from heatcli.run.work.plan import plan_outputs
from heatcli.run.work.request import Outcome
from heatcli.run.work.worker import StoppedError, Worker

COUNT = 240


def _start(folder: Path, *arguments: str | Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "heatcli", "explain", *map(str, arguments)], cwd=folder,
        stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def _lines(folder: Path) -> int:
    index = folder / "index.jsonl"
    return index.read_bytes().count(b"\n") if index.exists() else 0


def _until(process: subprocess.Popen[bytes], folder: Path, lines: int) -> None:
    while _lines(folder) < lines:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_is_continued(tmp_path: Path, tiny: Path, cli: Cli, number: int) -> None:
    link(tmp_path / "in", COUNT)
    out = tmp_path / "out"
    command = ["in", "--model", tiny, "--out", "out", "--pixels", "npz"]
    process = _start(tmp_path, *command, "--batch-size", "4")
    _until(process, out, 20)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    done = _lines(out)
    assert done < COUNT
    if number != signal.SIGKILL:
        assert f"of {COUNT} images; the same with --resume goes on" in said.decode()
        whole(out)  # what was begun is finished, and in the index
    written = {p: p.stat().st_mtime_ns for row in rows(out)[:done] for p in [out / row["files"]["report"]["name"]]}

    ran = cli("explain", *command, "--resume")
    assert ran.status == 0, ran.err
    assert f"{done} images are done already, {COUNT - done} are left" in ran.err
    assert {p: p.stat().st_mtime_ns for p in written} == written
    assert sorted(row["image"] for row in rows(out)) == sorted(f"in/{i}.png" for i in range(COUNT))
    whole(out)

    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.*")}
    ran = cli("explain", *command, "--resume")
    assert ran.status == 0
    assert "0 images in" in ran.err
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.*") if p.name != "index.jsonl"} == {
        p: t for p, t in before.items() if p.name != "index.jsonl"
    }


@pytest.mark.parametrize("at", ["before", "within", "after"])
def test_an_interrupt_while_a_line_is_written(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Wherever it falls, each image whose files are there has its lines, once."""
    link(tmp_path / "in", 60)
    enter, append = RunIndex.enter, RunIndex.append
    entered, appended = itertools.count(1), itertools.count(1)

    def entering(index: RunIndex, outcomes: Iterable[Outcome]) -> None:
        enter(index, outcomes)
        if at == "after" and next(entered) == 5:
            signal.raise_signal(signal.SIGINT)

    def appending(index: RunIndex, lines: Iterable[Row]) -> None:
        if at == "within" and next(appended) == 5:
            signal.raise_signal(signal.SIGINT)
        append(index, lines)

    monkeypatch.setattr(RunIndex, "enter", entering)
    monkeypatch.setattr(RunIndex, "append", appending)
    if at == "before":

        def disturbed() -> AbstractContextManager[None]:
            if next(entered) == 5:
                raise KeyboardInterrupt
            return undisturbed()

        undisturbed = runner._undisturbed
        monkeypatch.setattr(runner, "_undisturbed", disturbed)
    request = Request((tmp_path / "in",), tmp_path / "out", method("lrp-eps"), target="top:2", batch_size=4)
    with pytest.raises(KeyboardInterrupt), closing(Run(heatcli.load(tiny), request).outcomes()) as outcomes:
        deque(outcomes, maxlen=0)
    found = [(row["image"], row["rank"]) for row in rows(tmp_path / "out")]
    assert 4 <= len(found) < 120
    assert len(set(found)) == len(found)
    whole(tmp_path / "out")


@pytest.mark.parametrize("written", range(1, 7))
def test_an_image_is_written_whole(tmp_path: Path, tiny: Path, written: int) -> None:
    """Stopped after any of its classes, it gets those that are left; the next image gets none."""
    fill(tmp_path / "in", ["0.png", "1.png", "2.png"])
    out = tmp_path / "out"
    request = Request((tmp_path / "in",), out, method("lrp-eps"), target="top:2")
    jobs, outcomes = list(plan_outputs(request)), list[Outcome]()
    out.mkdir()
    worker = Worker(heatcli.load(tiny), request, 0.0, lambda: len(list(out.glob("*.json"))) >= written)
    with suppress(StoppedError):
        outcomes.extend(worker.explain(jobs))
    assert [outcome.last for outcome in outcomes] == [False, True] * ((written + 1) // 2)
    assert len(list(out.glob("*.json"))) == len(outcomes)


def test_what_a_power_cut_leaves(tmp_path: Path, tiny: Path, cli: Cli) -> None:
    """Torn, zeroed and unfinished lines, files cut short or gone, failures: those are done again, nothing else is."""
    fill(tmp_path / "in", [f"{i}.png" for i in range(8)])
    (tmp_path / "in" / "4.png").write_bytes(b"")
    command = ["explain", "in", "--model", tiny, "--out", "out", "--target", "top:2"]
    assert cli(*command).status == 1
    out = tmp_path / "out"
    index = out / "index.jsonl"
    assert [row["rank"] for row in rows(out)] == [1, 2, 1, 2, 1, 2, 1, 2, None, 1, 2, 1, 2, 1, 2]
    lines = index.read_bytes().splitlines(keepends=True)
    lines[3] = b"\0" * len(lines[3]) + b"\n"  # 1.png, its second class
    index.write_bytes(b"".join(lines)[:-30])  # 7.png, its second class
    (out / "2.lrp-eps.top1.png").write_bytes(b"")
    (out / "3.lrp-eps.top2.json").unlink()
    fill(tmp_path / "in", ["4.png"])
    ran = cli(*command, "--resume")
    assert ran.status == 0, ran.err
    assert "3 images are done already, 5 are left" in ran.err
    assert sorted((row["image"], row["rank"]) for row in rows(out)) == [
        (f"in/{i}.png", rank) for i in range(8) for rank in (1, 2)
    ]
    whole(out)


def test_a_folder_holds_several_runs(tmp_path: Path, tiny: Path, cli: Cli) -> None:
    """Another method, colour map or label file simply works; lines say which run they are of, records how it was."""
    fill(tmp_path / "in", ["a.png", "b.png"])
    (tmp_path / "labels.txt").write_text("one\ntwo\nthree\n")
    out, run = tmp_path / "out", ["explain", "in", "--model", tiny, "--out", "out"]
    assert cli(*run).status == 0
    first = (out / "run.json").read_bytes()
    ran = cli(*run, "--method", "grad-cam", "--method", "gradient")
    assert ran.status == 0, ran.err
    assert sorted(row["stem"] for row in rows(out)) == [
        f"{name}.{method}" for name in "ab" for method in ("grad-cam", "gradient", "lrp-eps")
    ]
    marks = {row["method"]: row.get("run") for row in rows(out)}
    assert marks["lrp-eps"] is None
    for name in ("grad-cam", "gradient"):
        assert json.loads((out / f"run.{marks[name]}.json").read_text())["parameters"]["method"] == name
    assert (out / "run.json").read_bytes() == first
    whole(out)
    for options in (["--cmap", "coolwarm"], ["--labels", "labels.txt"]):
        ran = cli(*run, *options)
        assert ran.status == 0, ran.err
        assert len(rows(out)) == 6
        whole(out)
    assert "0 are left" in cli(*run, "--labels", "labels.txt", "--resume").err
    assert "0 are left" in cli(*run, "--method", "gradient", "--resume").err
    assert cli("gallery", out).status == 0
    assert cli(*run, "--method", "grad-cam", "--overwrite").status == 0
    assert {row["method"] for row in rows(out)} == {"grad-cam"}
    assert [path.name for path in out.glob("run*.json")] == ["run.json"]
    assert "--resume keeps what is there, --overwrite does not" in cli(*run, "--resume", "--overwrite").err


def test_one_scale_is_of_one_run(tmp_path: Path, tiny: Path, cli: Cli) -> None:
    fill(tmp_path / "in", ["a.png", "b.png"])
    run = ["explain", "in", "--model", tiny, "--out", "out"]
    assert cli(*run).status == 0
    before = (tmp_path / "out" / "a.lrp-eps.png").read_bytes()
    ran = cli(*run, "--method", "gradient", "--scale", "run")
    assert ran.status == 0, ran.err
    assert (tmp_path / "out" / "a.lrp-eps.png").read_bytes() == before
    assert len({row["cut"] for row in rows(tmp_path / "out") if row["method"] == "gradient"}) == 1
    whole(tmp_path / "out")


def test_other_parameters_of_a_method_are_not_resumed(tmp_path: Path, tiny: Path, cli: Cli) -> None:
    fill(tmp_path / "in", ["a.png", "b.png"])
    run = ["explain", "in", "--model", tiny, "--out", "out"]
    assert cli(*run).status == 0
    before = {p: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    for options, told in (
        (["--param", "epsilon=0.1"], "param epsilon 1e-6, not 0.1"),
        (["--mean", "0.4"], "input mean [0.5], not [0.4]"),
        (["--baseline", "in/a.png"], "baseline"),
        (["--pixels", "npz"], "pixels json, not npz"),
        (["--amp"], 'passes [], not ["mixed-precision"])'),
        (["--no-pass", "logit", "--pass", "centre-logits"], 'passes ["logit"], not ["centre-logits"])'),
    ):
        ran = cli(*run, *options, "--resume")
        assert ran.status == 2
        assert f"heatcli: out: holds a run with other parameters ({told}" in ran.err
        assert ran.err.count("\n") == 1
    assert {p: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
    assert cli(*run, "--batch-size", "1", "--workers", "3", "--resume").status == 0
    assert cli(*run).status == 0  # the same again, from the start
    whole(tmp_path / "out")


def test_one_name_for_two_pictures_is_refused_on_resume(tmp_path: Path, tiny: Path, cli: Cli) -> None:
    fill(tmp_path / "one", ["a.png"])
    fill(tmp_path / "two", ["a.png"])
    assert cli("explain", "one", "--model", tiny, "--out", "out").status == 0
    ran = cli("explain", "two", "--model", tiny, "--out", "out", "--resume")
    assert ran.status == 2
    assert "out/a.lrp-eps.png was written for one/a.png, not for two/a.png" in ran.err


def test_a_wrong_target_leaves_no_record(tmp_path: Path, tiny: Path, cli: Cli) -> None:
    """Only a run that has written something has a claim on its folder."""
    fill(tmp_path / "in", ["a.png"])
    assert cli("explain", "in", "--model", tiny, "--out", "out", "--target", "7").status == 2
    assert cli("explain", "in", "--model", tiny, "--out", "out", "--target", "2").status == 0


def test_runs_side_by_side_in_one_folder(tmp_path: Path, tiny: Path, cli: Cli) -> None:
    """Two shards, and the whole a second time, at once into one folder: each image once in the index, files whole."""
    link(tmp_path / "in", 40)
    command = ["in", "--model", tiny, "--out", "out", "--batch-size", "4"]
    started = [_start(tmp_path, *command, *shard) for shard in (["--shard", "1/2"], ["--shard", "2/2"], [])]
    for process in started:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said.decode()
    assert sorted(row["image"] for row in rows(tmp_path / "out")) == sorted(f"in/{i}.png" for i in range(40))
    whole(tmp_path / "out")
    assert "0 are left" in cli("explain", *command, "--resume").err


def test_shards_are_merged(tmp_path: Path, tiny: Path, cli: Cli) -> None:
    """The joined index of three shards is that of one run, but for where the files are; Parquet holds the same."""
    fill(tmp_path / "in", [f"{i}.png" for i in range(12)])
    (tmp_path / "in" / "3.png").write_bytes(b"no picture")
    shards = [f"maps/{k}" for k in (1, 2, 3)]
    for k, out in enumerate(shards, 1):
        assert cli("explain", "in", "--model", tiny, "--out", out, "--shard", f"{k}/3").status in (0, 1)
        assert len(rows(tmp_path / out)) < 12
    assert cli("explain", "in", "--model", tiny, "--out", "maps/all").status == 1
    ran = cli("merge", *shards, "maps/1", "-o", "maps/index.jsonl", "--index", "parquet")
    assert (ran.status, ran.out) == (0, "")
    assert "wrote maps/index.jsonl: 12 images" in ran.err
    joined = {row["image"]: row for row in rows(tmp_path / "maps")}
    assert len(rows(tmp_path / "maps")) == 12
    for row in rows(tmp_path / "maps" / "all"):
        other = joined[row["image"]]
        for file in other["files"].values():
            assert (tmp_path / "maps" / file["name"]).stat().st_size == file["bytes"]
        assert (row["label"], row["error"]) == (other["label"], other["error"])
        assert row["biases"] == pytest.approx(other["biases"], rel=1e-4, abs=1e-6)
    parquet = pytest.importorskip("pyarrow.parquet")
    table = {row["image"]: row for row in parquet.read_table(tmp_path / "maps" / "index.parquet").to_pylist()}
    for image, row in joined.items():
        assert table[image]["score"] == row["score"]
        assert dict(table[image]["biases"]) == row["biases"]
        assert table[image]["ledger_pixels"] == (row["ledger"] and row["ledger"]["pixels"])
        assert table[image]["error"] == row["error"]


def test_what_cannot_be_merged(tmp_path: Path, tiny: Path, cli: Cli) -> None:
    fill(tmp_path / "in", ["a.png", "b.png"])
    for out, name in (("one", "gradient"), ("two", "lrp-0")):
        assert cli("explain", "in", "--model", tiny, "--out", out, "--method", name).status == 0
    ran = cli("merge", "one", "two")
    assert ran.status == 2
    assert "two: holds a run with other parameters than the folders before it (method lrp-0, not gradient" in ran.err
    assert not (tmp_path / "index.jsonl").exists()
    assert "in: has no index.jsonl" in cli("merge", "one", "in").err
    (tmp_path / "two" / "run.json").write_bytes((tmp_path / "one" / "run.json").read_bytes())
    lines = [row | {"sha256": "0"} for row in rows(tmp_path / "one")]
    (tmp_path / "two" / "index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "two folders explain two different pictures of this name" in cli("merge", "one", "two").err


def test_progress_is_told_in_plain_lines(tmp_path: Path, tiny: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from heatcli.cli import talk

    monkeypatch.setattr(talk, "EVERY", 0.0)
    fill(tmp_path / "in", ["a.png", "b.png", "c.png"])
    (tmp_path / "in" / "b.png").write_bytes(b"")
    lines = cli("explain", "in", "--model", tiny).err.splitlines()
    assert lines[0].startswith("1 of 3 images, ")
    assert lines[1] == "heatcli: in/b.png: the image file is empty"
    assert lines[3].startswith("3 of 3 images, ")
    assert lines[3].endswith(" a second, 0:00:00 left, 1 failed")
    assert lines[4].endswith("1 failed; index: heatmaps/index.jsonl")


def test_one_image_the_model_fails_on_takes_no_other_with_it(tmp_path: Path, tiny: Path, cli: Cli) -> None:  # noqa: ARG001
    """A network whose output is not finite for dark pictures."""
    import numpy as np
    import torch
    from PIL import Image
    from torch import nn

    class Log(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.log(x.mean((2, 3)))

    torch.jit.script(Log().eval()).save(tmp_path / "log.pt")
    fill(tmp_path / "in", [f"{i}.png" for i in range(5)])
    for name in ("2.png", "4.png"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "in" / name)
    flags = ["--model", "log.pt", "--size", "8", "--preset", "none"]
    ran = cli("explain", "in", *flags, "--batch-size", "4")
    assert ran.status == 1
    assert [row["image"] for row in rows(tmp_path / "heatmaps") if row["error"]] == ["in/2.png", "in/4.png"]
    assert len(rows(tmp_path / "heatmaps")) == 5
    for alone in (
        ["in/2.png"],
        ["in/2.png", "in/4.png", "in/1.png", "--batch-size", "1"],
    ):  # it is not the model's fault
        ran = cli("explain", *alone, *flags)
        assert ran.status == 1
        assert "heatcli: in/2.png: log.pt: its output is not finite" in ran.err
