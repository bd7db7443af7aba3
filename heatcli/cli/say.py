"""Messages of a command on stderr. `--quiet` and `--verbose` decide how many.

Results go to stdout (`results.py`). The level is a variable of this module, since a process runs one command.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

Level = Literal["errors", "notes", "details"]

_level: Level = "notes"
_started = time.perf_counter()


def choose(quiet: bool = False, verbose: bool = False) -> None:
    """Set the level of this process. Raises `UsageError` for both at once."""
    from heatcli.errors import UsageError

    global _level
    if quiet and verbose:
        raise UsageError("--quiet and --verbose exclude each other; give one of them")
    _level = "errors" if quiet else "details" if verbose else "notes"


def is_quiet() -> bool:
    """Whether only errors are wanted."""
    return _level == "errors"


def is_verbose() -> bool:
    """Whether details are wanted."""
    return _level == "details"


def error(text: object) -> None:
    """What went wrong, at every level."""
    print(f"heatcli: {text}", file=sys.stderr)


def result(text: str) -> None:
    """A result on stdout, at every level; at once, so that it stands before what stderr says next."""
    print(text, flush=True)


def line(text: str) -> None:
    """What was done, such as a file that was written."""
    if _level != "errors":
        print(text, file=sys.stderr)


def note(text: str) -> None:
    """What the user should know of the model, the input or the result."""
    line(f"heatcli: note: {text}")


def detail(text: str) -> None:
    """What was decided, with the seconds since the command began; only for `--verbose`."""
    if _level == "details":
        print(f"heatcli: {time.perf_counter() - _started:.2f} s: {text}", file=sys.stderr)


def passes_bar() -> Callable[[int, int], None] | None:
    """A bar on stderr for methods of many passes, gone when they are done.

    None where stderr is no terminal, or with `--quiet`.
    """
    if _level == "errors" or not sys.stderr.isatty():
        return None
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    bar = Progress(
        "passes", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True
    )
    task = bar.add_task("passes", total=None)

    def show(done: int, total: int) -> None:
        """Show that `done` of `total` passes are done; the bar goes with the last."""
        bar.start()
        bar.update(task, completed=done, total=total)
        if done == total:
            bar.stop()
            bar.reset(task)

    return show


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[Iterable[Any]], Iterator[Any]]]:
    """A count on stderr of what passes through the function that it yields.

    Nothing is shown where stderr is no terminal, or with `--quiet`.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    off = _level == "errors" or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=off) as bar:

        def advance(items: Iterable[Any]) -> Iterator[Any]:
            """The items, each counted when the next is asked for."""
            task = bar.add_task(what, total=total)
            for item in items:
                yield item
                bar.advance(task)

        yield advance
