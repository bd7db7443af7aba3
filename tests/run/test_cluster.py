"""--engine ray, on a Ray that is started here: the same results, and a killed worker loses and doubles nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from folders import fill, link, rows, whole

pytest.importorskip("ray")
pytestmark = pytest.mark.slow


def _start(folder: Path, *arguments: str | Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "heatcli", "explain", *map(str, arguments)], cwd=folder,
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip


def _below(pid: int) -> Iterator[int]:
    """All processes that this one has started, and they in turn."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            yield child
            yield from _below(child)


def _workers(pid: int) -> list[int]:
    """The model actors among them."""
    return [p for p in _below(pid) if b"MapWorker" in Path(f"/proc/{p}/cmdline").read_bytes()]


def test_a_killed_worker_loses_and_doubles_nothing(tmp_path: Path, tiny: Path) -> None:
    count = 1500
    link(tmp_path / "in", count)
    out = tmp_path / "out"
    process = _start(tmp_path, "in", "--model", tiny, "--out", "out", "--engine", "ray", "--batch-size", "2")
    started = time.monotonic()
    while not (out / "index.jsonl").exists() or len(rows(out)) < 50:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - started < 240
        time.sleep(0.02)
    workers = _workers(process.pid)
    assert len(workers) == os.cpu_count()
    os.kill(workers[0], signal.SIGKILL)
    assert len(rows(out)) < count
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said.decode()
    assert [row["image"] for row in rows(out)] == [
        f"in/{name}" for name in sorted(p.name for p in (tmp_path / "in").iterdir())
    ]
    whole(out)


def test_the_cluster_says_what_one_process_says(tmp_path: Path, tiny: Path) -> None:
    """Labels, ledgers, failures, the reports on stdout and the exit status; a run on one is continued on the other."""
    fill(tmp_path / "in", [f"{i}.png" for i in range(6)] + ["below/7.png"])
    (tmp_path / "in" / "3.png").write_bytes(b"")
    local = _start(tmp_path, "in", "-r", "--model", tiny, "--out", "local", "--json")
    ray = _start(tmp_path, "in", "-r", "--model", tiny, "--out", "ray", "--json", "--engine", "ray")
    for process in (local, ray):
        out, said = process.communicate(timeout=240)
        assert process.returncode == 1, said.decode()
        assert "in/3.png: the image file is empty" in said.decode()
        assert out.count(b"\n") == 6
    one, other = rows(tmp_path / "local"), rows(tmp_path / "ray")
    assert [row["image"] for row in one] == [row["image"] for row in other]
    for a, b in zip(one, other, strict=True):
        assert (a["label"], a["error"], a["sha256"], a["stem"]) == (b["label"], b["error"], b["sha256"], b["stem"])
        assert a["biases"] == pytest.approx(b["biases"], rel=1e-4, abs=1e-6)
    fill(tmp_path / "in", ["3.png"])
    process = _start(tmp_path, "in", "-r", "--model", tiny, "--out", "ray", "--resume")
    assert b"6 images are done already, 1 are left" in process.communicate(timeout=240)[1]
    assert process.returncode == 0
    whole(tmp_path / "ray")


def test_urls_on_the_cluster(tmp_path: Path, tiny: Path) -> None:
    """From URLs to URLs, files read and written by the actors; one that fails, tried again with --resume."""
    fill(tmp_path / "in", [f"{i}.png" for i in range(6)] + ["below/7.png"])
    (tmp_path / "in" / "3.png").write_bytes(b"")
    where = [f"file://{tmp_path}/in", "-r", "--model", tiny, "--out", f"file://{tmp_path}/out", "--engine", "ray"]
    process = _start(tmp_path, *where, "--batch-size", "2", "--index", "parquet")
    _, said = process.communicate(timeout=240)
    assert process.returncode == 1, said.decode()
    assert f"file://{tmp_path}/in/3.png: the image file is empty" in said.decode()
    out = tmp_path / "out"
    assert [row["image"].rpartition("/in/")[2] for row in rows(out)] == [*(f"{i}.png" for i in range(6)), "below/7.png"]
    assert (out / "index.parquet").read_bytes()[:4] == b"PAR1"
    fill(tmp_path / "in", ["3.png"])
    process = _start(tmp_path, *where, "--resume")
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said.decode()
    assert b"6 images are done already, 1 are left" in said
    for row in rows(out):
        assert row["error"] is None
        for file in row["files"].values():
            assert (out / file["name"]).stat().st_size == file["bytes"]
