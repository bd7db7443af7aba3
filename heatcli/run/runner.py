"""One run: its plan, what an earlier one has done already, and its index."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from heatcli.artifact.model import Model
from heatcli.errors import ImageError, UsageError
from heatcli.files import is_url, joined, make_folder, read, scratch
from heatcli.run.index import INDEX, Row
from heatcli.run.inputs import is_many
from heatcli.run.parquet import require
from heatcli.run.pipeline import Pipeline
from heatcli.run.plan import plan, same_folder
from heatcli.run.record import Record, record_of
from heatcli.run.request import Outcome, Request
from heatcli.run.runindex import RunIndex

if TYPE_CHECKING:
    from heatcli.run.cluster import Cluster


class Run:
    """Explains everything that a request names; iterate over it once.

    `total`: how many images are left to do; `before`: how many an earlier run has done. Raises `UsageError` before any
    work if the request makes no sense, or if `out` holds a run with other parameters.
    """

    def __init__(self, model: Model, request: Request, load_seconds: float = 0.0) -> None:
        request.validate()
        if request.index == "parquet":
            require()
        self.model, self.request, self._load_seconds = model, request, load_seconds
        self.plan = plan(request)
        self.before = 0
        self.lost = 0  # worker processes that died; what they had was explained again
        self.index: RunIndex | None = None
        self._entered: list[Outcome] | None = None  # the last ones
        for given in request.inputs:
            if is_many(given) and same_folder(given, request.out):
                raise UsageError(f"{given}: is both the input and --out; give another --out folder")
        if not is_url(request.out):
            make_folder(Path(request.out))
        if request.index or request.resume or request.shard or any(map(is_many, request.inputs)):
            self.index = open_index(str(request.out), record_of(model, request))
            self.before = self._take_over(self.index)
        self.total = len(self.plan)

    @property
    def index_path(self) -> str:
        """Where its index is."""
        return joined(str(self.request.out), INDEX)

    def _take_over(self, index: RunIndex) -> int:
        """Take off the plan what the index has, with `resume`; else, and for images that failed, drop those lines."""
        count = 0

        def wanted(rows: list[Row]) -> bool:
            """Whether an image's lines stay."""
            nonlocal count
            i = self.plan.find(rows[0].stem)
            if i is None:
                return True
            if not self.request.resume or any(row.error is not None for row in rows) or not index.is_there(rows):
                return False
            if not same_picture(rows[0].image, rows[0].sha256, self.plan.job(i).path):
                raise UsageError(
                    f"{self.plan.job(i).stem}.png was written for {rows[0].image}, not for {self.plan.job(i).path}; "
                    "give another --out folder"
                )
            self.plan.take_off(i)
            count += 1
            return True

        index.take_over(wanted)
        if self.request.resume or index.damaged:
            self.model.notes.add(index.remarks())
        return count

    def __iter__(self) -> Iterator[Outcome]:
        return self.outcomes()

    def outcomes(self) -> Generator[Outcome, None, None]:
        """What comes of each image, in order; close it to end the run early."""
        with ExitStack() as stack:
            pipeline = self._pipeline(stack)
            if self.index is not None:
                stack.callback(self.index.close)
                stack.callback(self._enter_left, self.index, pipeline)
            for outcomes in stack.enter_context(closing(pipeline.run(self.plan))):
                self.lost = pipeline.lost
                if self.index is not None:
                    with _undisturbed():
                        self.index.enter(outcomes)
                        self._entered = outcomes
                yield from outcomes
            if self.index is not None:
                self.index.finish(self.request.index == "parquet")

    def _pipeline(self, stack: ExitStack) -> Pipeline | Cluster:
        if self.request.engine == "ray":
            from heatcli.run.cluster import Cluster

            return Cluster(self.model, self.request)
        pipeline = Pipeline(self.model, self.request, self._load_seconds)
        if not is_url(self.request.out):
            pipeline.worker.scratch = stack.enter_context(scratch(Path(self.request.out)))
        return pipeline

    def _enter_left(self, index: RunIndex, pipeline: Pipeline | Cluster) -> None:
        """What was finished while an interrupt was on its way."""
        for outcomes in pipeline.left:
            if outcomes is not self._entered:
                index.enter(outcomes)


def same_picture(before: str, sha256: str | None, now: str) -> bool:
    """Whether the picture that was `before`, and had that hash, is the one that is named `now`.

    A name may have become absolute, or lead through a link; one that leads nowhere was seen from another folder, or
    its folder has moved.
    """
    if before == now:
        return True
    with suppress(OSError, ImageError):
        if not is_url(before) and not is_url(now) and os.path.exists(before):  # noqa: PTH110  (names, not paths)
            return os.path.samefile(before, now)  # noqa: PTH121
        return hashlib.sha256(read(now)).hexdigest() == sha256
    return False


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait for the end of the block, so that it is done whole."""
    if threading.current_thread() is not threading.main_thread():  # no other is ever interrupted
        yield
        return
    came = list[int]()
    before = {n: signal.signal(n, lambda number, _: came.append(number)) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler or signal.SIG_DFL)
        for number in came:
            signal.raise_signal(number)


def open_index(out: str, record: Record) -> RunIndex:
    """The index in a folder, here or behind a URL. Raises `UsageError` where it is of other parameters."""
    if not is_url(out):
        return RunIndex(out, record, Path(out))
    from heatcli.run.remote import RemoteIndex

    return RemoteIndex(out, record)
