"""Models that are damaged, hang or cost too much are refused in one line; the sandbox changes no answer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from bombs import bombs
from malice import EXAMPLE, Small, honest
from mutants import laid_out, models, mutants

import heatcli
from heatcli.artifact import sandbox
from heatcli.errors import HeatcliError, ModelError

pytestmark = pytest.mark.filterwarnings("ignore::Warning")
FAST = ["torchscript, zeros", "torchscript, recursion", "pt2, full", "onnx, initialiser without data", "onnx, Tile",
        "onnx, Range", "onnx, functions in a circle", "onnx, sparse initialiser", "onnx beside, location 'pipe'",
        "onnx beside, length '-1'"]  # fmt: skip
ENDLESS = ["torchscript, while", "torchscript, while with tensors", "onnx, Loop without end"]


@pytest.fixture(scope="module")
def costly() -> dict[str, dict[str, bytes]]:
    return dict(bombs(honest()))


def _explained(path: Path, seconds: float = 30.0, memory: int = 1 << 30) -> torch.Tensor:
    model = heatcli.load(path, size=8, channels=3, sandbox=True, max_seconds=seconds, max_memory=memory)
    return heatcli.explain(model, EXAMPLE, "lrp-eps", target=0).outputs


@pytest.mark.parametrize("format", ["torchscript", "pt2"])
def test_the_sandbox_changes_no_bit(tmp_path: Path, format: str) -> None:
    path = laid_out(tmp_path, {"model": honest()[format]})
    plain, contained = (heatcli.load(path, size=8, channels=3, sandbox=s) for s in (False, True))
    results = [heatcli.explain(model, EXAMPLE, "lrp-eps", target=0) for model in (plain, contained)]
    assert torch.equal(results[0].outputs, results[1].outputs)
    assert torch.equal(results[0].relevance, results[1].relevance)
    assert torch.allclose(results[0].outputs, Small().eval()(EXAMPLE), atol=1e-6)


@pytest.mark.parametrize("name", FAST)
def test_what_costs_too_much_is_one_line(tmp_path: Path, costly: dict[str, dict[str, bytes]], name: str) -> None:
    path = laid_out(tmp_path, costly[name])
    with pytest.raises(ModelError) as error:
        _explained(path)
    assert str(path) in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("name", ENDLESS)
def test_a_loop_without_end_is_one_line(tmp_path: Path, costly: dict[str, dict[str, bytes]], name: str) -> None:
    path = laid_out(tmp_path, costly[name])
    with pytest.raises(ModelError, match=r"takes longer than 1 s to open and capture; .* --max-seconds allows more"):
        _explained(path, seconds=1.0)


def test_a_crash_is_one_line_and_stays_one(tmp_path: Path) -> None:
    """Whatever ends the child, its parent goes on, and asks it no more."""

    def crash(_: object) -> list[bytes]:
        os.kill(os.getpid(), signal.SIGSEGV)
        return []

    child = sandbox.Sandbox(tmp_path / "m", sandbox.Limits(), crash, lambda: None)
    for _ in range(2):
        with pytest.raises(ModelError, match=r"m: torch or ONNX Runtime crashed on it \(SIGSEGV\)"):
            child.ask([])


def test_memory_is_limited(tmp_path: Path) -> None:
    """A child gets no more than it may have; its parent is not limited."""
    child = sandbox.Sandbox(
        tmp_path / "m",
        sandbox.Limits(memory=100 << 20),
        lambda n: [torch.zeros(n << 20, dtype=torch.uint8).numpy().data],
        lambda: None,
    )
    assert len(child.ask(10)) == 10 << 20
    with pytest.raises(ModelError, match=r"crashed|ended"):
        child.ask(200)
    assert torch.zeros(200 << 20, dtype=torch.uint8).numel()


def _refusals(folder: Path, format: str, seed: int, count: int) -> list[str]:
    """What is said of those mutants that are refused; anything but an error of ours fails the test."""
    found = []
    for _, files in mutants(format, models()[format], seed, count):
        path = laid_out(folder, files)
        try:
            _explained(path, seconds=20.0)
        except HeatcliError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("format", ["torchscript", "pt2", "onnx", "onnx beside"])
def test_mutants_are_right_or_one_line(tmp_path: Path, format: str) -> None:
    found = _refusals(tmp_path, format, 7, 6)
    assert found
    assert all(str(tmp_path) in line and line.isprintable() for line in found)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["torchscript", "pt2", "onnx", "onnx beside"])
def test_many_mutants_are_right_or_one_line(tmp_path: Path, format: str) -> None:
    found = _refusals(tmp_path, format, 8, 500)
    assert len(found) > 100
    assert all(str(tmp_path) in line and line.isprintable() for line in found)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", ENDLESS)
def test_one_signal_ends_a_command_that_opens_it(
    tmp_path: Path, costly: dict[str, dict[str, bytes]], name: str, number: int
) -> None:
    path = laid_out(tmp_path, costly[name])
    process = subprocess.Popen(
        [sys.executable, "-m", "heatcli", "inspect", str(path), "--size", "8", "--no-cache"],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    time.sleep(15)
    process.send_signal(number)
    _, said = process.communicate(timeout=8)
    assert (process.returncode, said) == (128 + number, "heatcli: interrupted\n")
