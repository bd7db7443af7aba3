"""Fixtures shared by all tests: the checkout's models and samples, and the command line, in process and as one."""

from __future__ import annotations

import gc
import getpass
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pytest
from typer.main import get_command

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported: the processes share the cores
if sys.dont_write_bytecode:  # without bytecode every process that a test starts compiles torch anew, for seconds
    sys.pycache_prefix = str(Path(tempfile.gettempdir(), f"pytest-of-{getpass.getuser()}", "bytecode"))
    sys.dont_write_bytecode = False
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

from heatcli.cli import app

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "samples"
MODELS = ROOT / "models"
PEERS = [
    pytest.mark.peers,
    # Captum announces its own hooks, and that it sets requires_grad on the batch
    pytest.mark.filterwarnings("ignore:Setting forward, backward hooks and attributes on non-linear:UserWarning"),
    pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU activations:UserWarning"),
    pytest.mark.filterwarnings("ignore:Input Tensor . did not already require gradients:UserWarning"),
]

needs_compiler = pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler")


signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job, and all that it starts, ignores it


@dataclass(frozen=True)
class Ran:
    """How a command ended and what it printed."""

    status: int
    out: str
    err: str


Cli = Callable[..., Ran]


@pytest.fixture(scope="session", autouse=True)
def shared_command() -> Iterator[None]:
    """Typer makes the commands once instead of at each call, which takes as long as to explain a small image."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "app", get_command(app.app))
        yield


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Captured graphs are kept in a folder of the tests' own, and nobody's settings count.

    `heatcli explain` draws overlays, because the default of a single image, a panel, takes 0.4 s. Tests of the default
    use `default_figure`.
    """
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        for name in [name for name in os.environ if name.startswith("HEATCLI_")]:  # settings of whoever runs the tests
            patch.delenv(name)
        patch.setenv("HEATCLI_CONFIG", "none")
        patch.setenv("HEATCLI_EXPLAIN_FIGURE", "overlay")
        patch.setenv("HEATCLI_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module", params=["formulas", "fast"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """The suite runs twice: by the formulas of `heatcli.rules`, and by what `heatcli.engine.fast` has for them."""
    from heatcli.engine import plan
    from heatcli.engine.fast import FAST, fast
    from heatcli.engine.fast.passed import Passed

    def by(formula: Callable[..., Any]) -> Callable[..., Any]:
        """The rule's call, by its fast equivalent; multipliers where that hands on something else."""

        def call(self: Any, step: Any, carried: Any) -> Any:
            if type(self) not in FAST:
                return formula(self, step, carried)
            sent = fast(self)(step, carried)
            own = [m.multiplier() if isinstance(m, Passed) else m for m in sent.multipliers]
            return replace(sent, multipliers=own)

        return call

    with pytest.MonkeyPatch.context() as patch:
        if request.param == "formulas":
            patch.setattr(plan, "fast", None)
            patch.setattr(plan, "_KNOWN", WeakKeyDictionary())
        else:
            for rule in FAST:
                patch.setattr(rule, "__call__", by(rule.__call__))
        yield request.param


@pytest.fixture
def default_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """`heatcli explain` draws what it draws without settings."""
    monkeypatch.delenv("HEATCLI_EXPLAIN_FIGURE")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For networks so small that they are slower on several."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


_RUNS = itertools.count(1)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    """Run `heatcli ARGS…` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str | Path) -> Ran:
        monkeypatch.setattr(sys, "argv", ["heatcli", *map(str, args)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            app.main()
        out, err = capfd.readouterr()
        status = end.value.code
        if next(_RUNS) % 40 == 0:  # each command freezes what the last one left, such as the files of its sandbox
            gc.unfreeze()
            gc.collect()
            gc.freeze()  # else collections look through all of torch from here on
        return Ran(status if isinstance(status, int) else 0, out, err)

    return run


@pytest.fixture
def terminal() -> Callable[..., bytes]:
    """Run `heatcli ARGS…` as a process on a terminal of `columns`; what it writes there."""
    if sys.platform == "win32":
        pytest.skip("no pseudo-terminals")
    import pty

    def run(*args: str, columns: int) -> bytes:
        ours, theirs = pty.openpty()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": str(columns), "TERM": "xterm"}
        with subprocess.Popen([sys.executable, "-m", "heatcli", *args], stdout=theirs, env=environment) as child:
            os.close(theirs)
            said = b""
            try:
                while part := os.read(ours, 65536):
                    said += part
            except OSError:  # the other end is closed
                pass
        os.close(ours)
        assert child.returncode == 0
        return said

    return run


@pytest.fixture
def process(tmp_path: Path) -> Cli:
    """Run `heatcli ARGS…` as a process of its own, in an empty folder."""

    def run(*args: str | Path) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "heatcli", *map(str, args)],
            cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def on_path(tmp_path: Path) -> dict[str, str]:
    """An environment for shells in which `heatcli` and `python` are commands of this interpreter."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, module in (("heatcli", " -m heatcli"), ("python", "")):
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{module} "$@"\n')
        (folder / name).chmod(0o755)
    path = os.pathsep.join([str(folder), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(sys.path)}


def pytest_addoption(parser: pytest.Parser) -> None:
    """--update-golden: store reports anew instead of comparing."""
    parser.addoption("--update-golden", action="store_true", help="store golden reports anew")
