"""Worker processes: the same results, and neither a killed worker nor a killed parent loses or leaves anything."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Cli
from folders import fill, link, rows, whole

import heatcli
from heatcli.engine import compiled
from heatcli.images.baselines import Reference
from heatcli.methods.smooth import smoothed
from heatcli.methods.table import METHODS, method
from heatcli.run import Request, Run
from heatcli.run.work import processes
from heatcli.run.work.worker import Worker

# The command, with processes that start after the first batch and are waited for; `handed` grows with their batches.
AT_ONCE = """
import sys
from pathlib import Path
from heatcli.cli.app import main
from heatcli.run.work import processes

class Watched(processes.Processes):
    def _start(self):
        super()._start()
        for child in self._children:
            child.pipe.poll(60)
    def explain(self, jobs):
        found = super().explain(jobs)
        if found is not None:
            with open("handed", "a") as file:
                file.write("x")
        return found

processes.WATCHED = processes.FAST = processes.LONG = 0.0
from heatcli.run.work import pipeline
pipeline.Processes = Watched
main()
"""
SLOW = ["--smooth", "30:0.1", "--batch-size", "4", "--pixels", "npz"]  # some 10 ms an image


def _start(folder: Path, *arguments: str | Path, code: str = AT_ONCE) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", code, "explain", *map(str, arguments)], cwd=folder, start_new_session=True,
        stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def _workers(pid: int) -> list[int]:
    """The worker processes of a process."""
    children = [int(p) for task in Path(f"/proc/{pid}/task").glob("*/children") for p in task.read_text().split()]
    return [p for p in children if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]


def _until_handed(process: subprocess.Popen[bytes], folder: Path) -> list[int]:
    """Wait until the workers have done something; their process ids."""
    while not (folder / "handed").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    return _workers(process.pid)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _untimed(path: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(path.read_bytes())
    del report["seconds"]
    return report


def test_processes_say_what_threads_say(tmp_path: Path, tiny: Path, cli: Cli) -> None:
    """Overlays byte for byte, reports and lines of the index but for the seconds; what fails, at its place."""
    fill(tmp_path / "in", [f"{i:02}.png" for i in range(60)])
    (tmp_path / "in" / "37.png").write_bytes(b"no picture")
    command = ["in", "--model", tiny, "--target", "top:2", "--batch-size", "4"]
    process = _start(tmp_path, *command, "--out", "processes")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1, said.decode()
    assert "in/37.png: is not an image" in said.decode()
    assert (tmp_path / "handed").stat().st_size >= 8  # of 15 batches
    assert cli("explain", *command, "--out", "threads", "--workers", "1").status == 1
    one, other = rows(tmp_path / "threads"), rows(tmp_path / "processes")
    assert len(one) == 119
    for a, b in zip(one, other, strict=True):
        for file in ("overlay", "report") if a["files"] else ():
            paths = [tmp_path / out / a["files"][file]["name"] for out in ("threads", "processes")]
            if file == "overlay":
                assert paths[0].read_bytes() == paths[1].read_bytes()
            else:
                assert _untimed(paths[0]) == _untimed(paths[1])
        a["files"].pop("report", None), b["files"].pop("report", None)  # its length: seconds have more digits or fewer
        assert a == b
    whole(tmp_path / "processes")


def test_a_killed_worker_costs_nothing(tmp_path: Path, tiny: Path) -> None:
    link(tmp_path / "in", 120)
    process = _start(tmp_path, "in", "--model", tiny, "--out", "out", *SLOW)
    workers = _until_handed(process, tmp_path)
    assert len(workers) == max(2, min(4, os.cpu_count() or 2))
    os.kill(workers[0], signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said.decode()
    assert said.decode().count("a worker process died; its images are explained again") == 1
    assert [row["image"] for row in rows(tmp_path / "out")] == [
        f"in/{name}" for name in sorted(p.name for p in (tmp_path / "in").iterdir())
    ]
    whole(tmp_path / "out")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_ended_run_ends_its_workers_and_is_continued(tmp_path: Path, tiny: Path, cli: Cli, number: int) -> None:
    """SIGINT goes to all processes, as a terminal's Ctrl-C does; SIGTERM and SIGKILL to the parent alone."""
    link(tmp_path / "in", 120)
    command = ["in", "--model", tiny, "--out", "out", *SLOW]
    process = _start(tmp_path, *command)
    workers = _until_handed(process, tmp_path)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    process.wait(timeout=60)
    began = time.monotonic()
    while any(map(_is_alive, workers)):
        assert time.monotonic() - began < 10
        time.sleep(0.01)
    said = process.communicate()[1].decode()
    done = len(rows(tmp_path / "out"))
    assert done < 120
    if number == signal.SIGKILL:
        assert process.returncode == -9
    else:
        assert process.returncode == 128 + number
        assert "of 120 images; the same with --resume goes on" in said
        assert "worker" not in said
        whole(tmp_path / "out")  # what was begun is finished, and in the index

    ran = cli("explain", *command, "--resume")
    assert ran.status == 0, ran.err
    assert f"{done} images are done already, {120 - done} are left" in ran.err
    assert sorted(row["image"] for row in rows(tmp_path / "out")) == sorted(f"in/{i}.png" for i in range(120))
    whole(tmp_path / "out")


def test_what_is_compiled_once_makes_no_run_slow(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether processes repay is judged by the time after it. The walk is recorded, and run without machine code."""
    started: list[bool] = []
    monkeypatch.setattr(processes.Processes, "_start", lambda _: started.append(True))
    monkeypatch.setattr(processes, "WATCHED", 0.0)
    monkeypatch.setattr(processes, "LONG", 0.0)
    monkeypatch.setattr(compiled, "_code", lambda function: function)
    model = heatcli.load(tiny, compiled=True)
    request = Request((tmp_path,), tmp_path, method("lrp-eps"), workers=2, processes=True)
    of_run = processes.Processes(request, Worker(model, request, 0.0, lambda: False), lambda: False)
    of_run.consider(1, 1000)
    for _ in range(2):
        heatcli.explain(model, torch.zeros(8, 3, 8, 8))
    assert model.network.compiler is not None
    assert model.network.compiler.made == 1
    of_run.consider(2, 999)
    of_run.consider(1000, 1)
    assert started == [True]


def test_another_model_under_its_name_is_not_used(tmp_path: Path, tiny: Path) -> None:
    """The file is replaced when processes are about to load it: the run goes on without them, with what it has."""
    link(tmp_path / "in", 12)
    for file in (tiny, tiny.with_suffix(".toml")):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    replaced = 'Path("tiny.pt").write_bytes(Path("tiny.pt").read_bytes() + b"0")\n        super()._start()'
    code = AT_ONCE.replace("super()._start()", replaced)
    process = _start(tmp_path, "in", "--model", "tiny.pt", "--out", "out", "--batch-size", "1", code=code)
    assert "12 images in " in process.communicate(timeout=60)[1].decode()
    assert not (tmp_path / "handed").exists()
    whole(tmp_path / "out")


def test_only_long_runs_of_fast_networks_start_them(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link(tmp_path / "in", 24)
    started = list[int]()
    monkeypatch.setattr(processes.Processes, "_start", lambda self: started.append(id(self)))
    model = heatcli.load(tiny)

    def starts(wanted: bool = True, **limits: float) -> bool:
        for name, value in ({"WATCHED": 0.0, "FAST": 0.0, "LONG": 0.0} | limits).items():
            monkeypatch.setattr(processes, name, value)
        started.clear()
        list(Run(model, Request((tmp_path / "in",), tmp_path / "out", method("lrp-0"), batch_size=2, processes=wanted)))
        assert len(started) < 2
        return bool(started)

    assert starts()
    assert not starts(wanted=False)  # programs that use the library may have no guard around their main part
    assert not starts(WATCHED=60)
    assert not starts(FAST=1e9)
    assert not starts(LONG=1e4)


@pytest.mark.parametrize("name", METHODS)
def test_requests_travel(name: str) -> None:
    chosen = method(name)
    parameters = {key: value for key, value in chosen.parameters.items() if isinstance(value, int)}
    chosen = chosen.configured({key: value + 1 for key, value in parameters.items()})
    request = Request(("in",), "out", chosen.with_rules(["elementwise=gradient"]))
    other = pickle.loads(pickle.dumps(request))
    assert (other, repr(other.method)) == (request, repr(request.method))


def test_smoothing_and_a_baseline_travel() -> None:
    request = Request(("in",), "out", smoothed(method("lrp-eps"), "9:0.2"), baseline=Reference("x", torch.ones(2, 2)))
    other = pickle.loads(pickle.dumps(request))
    assert other.method == request.method
    assert isinstance(other.baseline, Reference)
    assert np.array_equal(other.baseline.batch, torch.ones(2, 2))
