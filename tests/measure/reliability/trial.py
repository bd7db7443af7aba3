"""What the scripts of this folder share: a trial, its outcome, and the command run as a process."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

RIGHT, REFUSED, FAULT = "right", "refused", "fault"
SECONDS = 60.0  # a command that takes longer hangs


@dataclass(frozen=True)
class Trial:
    """One thing tried: what, how it came out (`RIGHT`, `REFUSED` in one line, `FAULT`), and for a fault why."""

    what: str
    outcome: str
    why: str = ""


# A class of trials by name: from a seed and how many are wanted (a hint, where the class has a fixed list) to trials.
Class = Callable[[int, int], Iterator[Trial]]


@dataclass(frozen=True)
class Ran:
    """A command that ended: its status (negative: the signal that ended it; None: it hung), and what it wrote."""

    status: int | None
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """What it wrote to stderr, without notes."""
        return [line for line in self.err.splitlines() if line.strip() and not line.startswith("heatcli: note:")]

    def problem(self, statuses: Sequence[int], names: str = "") -> str:
        """Why it did not end as it should: one of those statuses, and if that is not 0 one line that holds `names`."""
        if self.status is None:
            return f"no end after {SECONDS:g} s"
        if self.status not in statuses or "Traceback" in self.err or "internal error" in self.err:
            return f"status {self.status}: {' / '.join(self.lines[-3:])[:300]}"
        if self.status and (len(self.lines) != 1 or names not in self.err):
            return f"not one line that names {names!r}: {self.err[:300]!r}"
        return ""


def command(
    *arguments: str | Path, folder: Path | None = None, memory: int | None = None, seconds: float = SECONDS,
    environment: Mapping[str, str] | None = None, kill_after: float | None = None,
) -> Ran:  # fmt: skip
    """`heatcli` with those arguments, in a process group of its own; `memory`: bytes of address space at most.

    `kill_after`: seconds until it is killed.
    """

    def limited() -> None:
        """What the child does before it begins."""
        os.setsid()
        if memory is not None:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

    process = subprocess.Popen(
        [sys.executable, "-m", "heatcli", *map(str, arguments)], cwd=folder, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", preexec_fn=limited,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=kill_after or seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        return Ran(None if kill_after is None else process.returncode, out, err)
    return Ran(process.returncode, out, err)
