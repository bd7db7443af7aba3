"""A worker reads, explains and writes the images of a batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

from heatcli.errors import ImageError, UsageError, boundary, is_text
from heatcli.model.model import Model
from heatcli.run.work.pair import read_other
from heatcli.run.work.request import Empty, Failed, Job, Outcome, Request, Unwritten
from heatcli.run.work.stages import Explained, Loaded, Ready, Room, explain_all, read_job, write_ready
from heatcli.system.files import is_own_fault


class StoppedError(BaseException):
    """The run was stopped. Not an `Exception`, so that no `except Exception` takes it for the failure of an image."""


class Worker:
    """A model, a request and its baseline, which is read once. Threads may share a worker, each with its own batch.

    `stopped` tells whether to stop. It is called between images, and between the passes of a method that makes many;
    the remaining classes of an image are written first. `scratch`: a folder for files that are not complete yet.
    `proven`: whether the model has explained an image. Raises `UsageError` for a baseline, or another picture of
    pairs, that cannot be read.
    """

    def __init__(self, model: Model, request: Request, load_seconds: float, stopped: Callable[[], bool]) -> None:
        named = request.baseline
        baseline = request.method.read_once(named, model.pictures) if isinstance(named, str) else None
        self.model, self.proven = model, False
        self.scratch: Path | None = None
        other = read_other(model, request.pair) if isinstance(request.pair, str) else request.pair
        self.request = replace(request, progress=self._progress, baseline=baseline or request.baseline, pair=other)
        self._room = Room.of(request)
        self._load_seconds, self._told, self._stopped = load_seconds, request.progress, stopped

    def explain(
        self, jobs: Iterable[Job], turn: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> Iterator[Outcome]:
        """Explain and write a batch; yields the outcome of each image, in order.

        `turn`: a context that is entered while the network runs. Raises `StoppedError`, `UsageError` if outputs cannot
        be written, and `ModelError` if the model is not proven and explains none of the images.
        """
        read = [self._read(job) for job in jobs]
        loaded = [one for one in read if isinstance(one, Loaded)]
        lost: Job | None = None  # the job whose files could not be written; its further classes are left out
        explained = explain_all(self.model, self.request, loaded, self.proven, turn, self._room)
        for outcome in _in_order(read, explained):
            if outcome.first:
                self._check()
            if isinstance(outcome, Unwritten):
                self.proven = self.proven or isinstance(outcome, Empty)
                yield outcome
            elif outcome.loaded.job is not lost:
                self.proven = True
                written = self._written(outcome)
                lost = outcome.loaded.job if isinstance(written, Failed) else None
                yield written

    def _read(self, job: Job) -> Loaded | Failed:
        """As `read_job`. Raises `StoppedError`."""
        self._check()
        if not is_text(job.path + job.part):  # a report could not name it
            why = "its name is not UTF-8; rename it (or, in a locale that is not, set PYTHONUTF8=1)"
            return Failed(job, ImageError(f"{job.path}: {why}"))
        return read_job(self.model, job, self.request)

    def _written(self, ready: Ready) -> Outcome:
        """Write an explained image. Raises `UsageError` if no other image can be written either."""
        job = ready.loaded.job
        try:
            with boundary(job.path, ImageError, "its outputs cannot be made"):
                return write_ready(self.model, self.request, ready, self._load_seconds, self.scratch)
        except ImageError as error:  # for example, a large picture is read again but was deleted
            return Failed(job, error, first=ready.first)
        except UsageError as error:
            if not is_own_fault(error.__cause__):
                raise
            return Failed(job, ImageError(f"{job.path}: {error}"), first=ready.first)

    def _check(self) -> None:
        """Raise `StoppedError` if the run is to stop."""
        if self._stopped():
            raise StoppedError

    def _progress(self, done: int, total: int) -> None:
        """Called between two passes of a method that makes many. Raises `StoppedError`."""
        self._check()
        if self._told is not None:
            self._told(done, total)


def _in_order(read: list[Loaded | Failed], explained: Iterable[Explained]) -> Iterator[Explained]:
    """Explained images, and between them those that could not be read, in the order of `read`."""
    waiting = deque(read)
    for outcome in explained:
        while outcome.first and isinstance(one := waiting.popleft(), Failed):
            yield one
        yield outcome
    yield from (one for one in waiting if isinstance(one, Failed))
