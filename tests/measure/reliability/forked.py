"""The command in a process forked from one that has imported torch: the same code in a tenth of the time."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads do not survive a fork: none is started before one

from trial import SECONDS, Ran

import heatcli.check.run
import heatcli.cli.app
import heatcli.evaluate.compare
import heatcli.evaluate.run
import heatcli.inside.job
import heatcli.model.model
import heatcli.prototype.job
import heatcli.run.work.runner


def forked(
    *arguments: str | Path, folder: Path, before: Callable[[], object] = lambda: None,
    during: Callable[[int], object] = lambda _: None, seconds: float = SECONDS,
) -> Ran:  # fmt: skip
    """`heatcli` with those arguments, in a process group of its own: `before` in it, `during` here, with its id."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if not pid:
            _child(arguments, folder, before, out.fileno(), err.fileno())
        end, status = time.monotonic() + seconds, None
        try:
            during(pid)
            while time.monotonic() < end:
                ended, how = os.waitpid(pid, os.WNOHANG)
                if ended:
                    status = os.waitstatus_to_exitcode(how)
                    break
                time.sleep(0.003)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # what the process has started, too
            if status is None:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)
        out.seek(0)
        err.seek(0)
        return Ran(status, out.read().decode(errors="replace"), err.read().decode(errors="replace"))


def _child(arguments: tuple[str | Path, ...], folder: Path, before: Callable[[], object], out: int, err: int) -> None:
    status = 99
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.chdir(folder)
        sys.argv = ["heatcli", *map(str, arguments)]
        before()
        try:
            heatcli.cli.app.main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)
