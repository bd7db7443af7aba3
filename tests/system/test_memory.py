"""Memory that a walk frees is there for the next one: in processes of heatcli's own, elsewhere within a method."""

from __future__ import annotations

import ctypes
import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from heatcli.errors import ModelError
from heatcli.system import memory
from heatcli.system.memory import is_out_of_memory

SIZES = """
import json, sys
from heatcli.system.memory import give_back, keep_freed, kept, resident

def left():
    "Mebibytes in use that were not before, once 3 blocks of 40 are freed."
    before = resident()
    blocks = [b"x" * (40 << 20) for _ in range(3)]
    del blocks
    return (resident() - before) / (1 << 20)
"""


def run(script: str, tmp_path: Path) -> list[float]:
    command = [sys.executable, "-c", SIZES + script]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    found: list[float] = json.loads(ran.stdout.splitlines()[-1])
    return found


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc"
)
class TestKept:
    """In mebibytes."""

    def test_what_is_freed_stays_until_it_is_given_back(self, tmp_path: Path) -> None:
        script = "print(json.dumps([left(), keep_freed() or left(), left(), give_back() or left()]))"
        usual, kept, again, anew = run(script, tmp_path)
        assert usual < 10
        assert kept > 80
        assert abs(again) < 10
        assert anew > 80

    def test_a_thread_keeps_it_too(self, tmp_path: Path) -> None:
        script = """
from concurrent.futures import ThreadPoolExecutor
keep_freed()
with ThreadPoolExecutor(1) as pool:
    found = [pool.submit(left).result(), pool.submit(left).result(), left()]
print(json.dumps(found))
"""
        first, again, elsewhere = run(script, tmp_path)
        assert first > 80
        assert abs(again) < 10
        assert abs(elsewhere) < 10

    def test_for_a_while(self, tmp_path: Path) -> None:
        script = """
with kept():
    with kept():
        first = left()
    again = left()
print(json.dumps([first, again, left(), left()]))
"""
        first, again, *after = run(script, tmp_path)
        assert first > 80
        assert abs(again) < 10
        assert max(after) < 10

    def test_for_a_while_within_a_program_that_keeps_it(self, tmp_path: Path) -> None:
        script = """
keep_freed()
with kept():
    first = left()
print(json.dumps([first, left()]))
"""
        first, again = run(script, tmp_path)
        assert first > 80
        assert abs(again) < 10

    @pytest.mark.parametrize(("steps", "is_kept"), [(33, True), (8, False)])
    def test_between_the_walks_of_a_method(self, steps: int, is_kept: bool, tmp_path: Path) -> None:
        """Of 33 steps each walk takes eight; of eight there is one walk, and nothing to keep memory for."""
        script = f"""
import torch, heatcli
torch.jit.script(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2)).eval()).save("tiny.pt")
model = heatcli.load("tiny.pt", size=8)
found, make = [], model.forward
def watched(*args, **more):
    found.append(left())
    return make(*args, **more)
model.forward = watched
heatcli.explain(model, torch.ones(1, 3, 8, 8), "integrated-gradients", steps={steps})
print(json.dumps([*found[1:], left()]))
"""
        *between, after = run(script, tmp_path)
        assert len(between) == -(-steps // 8)
        assert (between[0] > 80) == is_kept
        assert max(map(abs, [*between[1:], after])) < 10

    def test_a_command_keeps_it(self, tmp_path: Path) -> None:
        script = """
from heatcli.cli.app import main
sys.argv = ["heatcli", "methods"]
try:
    main()
except SystemExit:
    pass
finally:
    print(json.dumps([left()]))
"""
        assert run(script, tmp_path)[0] > 80


@pytest.mark.parametrize(("system", "looks"), [("linux", True), ("darwin", False), ("win32", False)])
def test_elsewhere_nothing_happens(system: str, looks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the C library has no such functions, as musl; on other systems it is not even looked at."""
    looked_at: list[object] = []

    def library(name: object) -> object:
        looked_at.append(name)
        return object()

    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(ctypes, "CDLL", library)
    monkeypatch.setattr(memory, "_keeping", memory._Keeping())
    with memory.kept():
        memory.keep_freed()
        memory.give_back()
    assert bool(looked_at) == looks


def _caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("std::bad_alloc"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOENT, "No such file", "out of memory.png"), False),
        (ModelError("out of memory.png: is no model"), False),
        (_caused(ModelError("m.onnx: ONNX Runtime cannot load it"), Exception("bad allocation")), True),
        (RuntimeError("shape mismatch"), False),
        (None, False),
    ],
)
def test_what_is_an_error_of_memory(error: Exception | None, expected: bool) -> None:
    assert is_out_of_memory(error) == expected
