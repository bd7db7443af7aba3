"""A run: its plan, the images that an earlier run has explained, and the index."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from heatcli.errors import ImageError, UsageError
from heatcli.figures.draw import RUN
from heatcli.model.model import Model
from heatcli.run.index.index import INDEX, PARTS, Row
from heatcli.run.index.parquet import require
from heatcli.run.index.record import OTHERS, RECORD, Record
from heatcli.run.index.runindex import RunIndex
from heatcli.run.work.inputs import is_many
from heatcli.run.work.parameters import record_of
from heatcli.run.work.pipeline import Pipeline
from heatcli.run.work.plan import plan_outputs, same_folder
from heatcli.run.work.redraw import redraw
from heatcli.run.work.request import Empty, Outcome, Request
from heatcli.system.files import is_url, joined, make_folder, read, remote, remove, scratch

if TYPE_CHECKING:
    from heatcli.run.work.cluster import Cluster


class Run:
    """Explains all images of a request; iterate over it once.

    `total`: the number of images to explain. `before`: the number that an earlier run has explained. `load_seconds`:
    the time that loading the model took, for the reports. Raises `UsageError` before any work if the request is not
    valid, or if `out` holds a run with other parameters.
    """

    def __init__(self, model: Model, request: Request, load_seconds: float = 0.0) -> None:
        request.validate()
        if request.index == "parquet":
            require()
        self.model, self.request, self._load_seconds = model, request, load_seconds
        self.plan = plan_outputs(request, model.pictures.suffixes)
        for empty in self.plan.empty:
            model.notes.add(empty)
        self.before = 0
        self.lost = 0  # worker processes that died; their images were explained again
        self.index: RunIndex | None = None
        self._entered: list[Outcome] | None = None  # the batch that was entered into the index last
        for given in request.inputs:
            if is_many(given, model.pictures.suffixes) and same_folder(given, request.out):
                raise UsageError(f"{given}: is both the input and --out; give another --out folder")
        if not is_url(request.out):
            make_folder(Path(request.out))
        self._on_one_scale = request.style.scale == RUN and request.style.kind != "grid"
        kept = request.index or request.resume or request.shard or self._on_one_scale
        if kept or any(is_many(given, model.pictures.suffixes) for given in request.inputs):
            if request.overwrite:
                forget(str(request.out))
            self.index = open_index(str(request.out), record_of(model, request), request.resume)
            self.before = self._take_over(self.index)
        self.total = len(self.plan)

    @property
    def index_path(self) -> str:
        """The path of the run's index."""
        return joined(str(self.request.out), INDEX)

    def _take_over(self, index: RunIndex) -> int:
        """With `resume`: take the images that the index already has off the plan, and return their number.

        The lines of all other images of the plan are dropped, because this run writes them anew. Raises `UsageError`
        if a line is of another picture than the one in the plan.
        """
        count = 0

        def wanted(rows: list[Row]) -> bool:
            """Whether to keep the rows of an image."""
            nonlocal count
            i = self.plan.find(rows[0].stem)
            if i is None:
                return True
            if not self.request.resume or rows[0].run != index.run or any(row.error is not None for row in rows):
                return False
            if not index.is_there(rows):
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
        """The outcome of each image, in order. Closing the generator ends the run early.

        Raises `ModelError` if the model explains no image of the first batch, `UsageError` if outputs cannot be
        written.
        """
        with ExitStack() as stack:
            pipeline = self._pipeline(stack)
            if self.index is not None:
                stack.callback(self.index.close)
                stack.callback(self._enter_left, self.index, pipeline)
            for outcomes in stack.enter_context(closing(pipeline.run(self.plan))):
                self.lost = pipeline.lost
                if self.index is not None:
                    with _undisturbed():
                        _enter(self.index, outcomes)
                        self._entered = outcomes
                yield from outcomes
            if self.index is not None:
                self.index.finish(self.request.index == "parquet")
            if self._on_one_scale:
                own = self.index.run if self.index is not None else None
                scale = redraw(Path(self.request.out), Path(self.request.out, RECORD), self.request.style, own)
                element = self.model.pictures.layout.element
                self.model.notes.add(
                    f"all figures have one scale: their strongest colour is ±{scale.cut:.3g} a {element}"
                )

    def _pipeline(self, stack: ExitStack) -> Pipeline | Cluster:
        """What explains the jobs: this machine's pipeline, or a cluster."""
        if self.request.engine == "ray":
            from heatcli.run.work.cluster import Cluster

            return Cluster(self.model, self.request)
        pipeline = Pipeline(self.model, self.request, self._load_seconds)
        if not is_url(self.request.out):
            pipeline.worker.scratch = stack.enter_context(scratch(Path(self.request.out)))
        return pipeline

    def _enter_left(self, index: RunIndex, pipeline: Pipeline | Cluster) -> None:
        """Enter the outcomes that were finished while an interrupt was being handled."""
        for outcomes in pipeline.left:
            if outcomes is not self._entered:
                _enter(index, outcomes)


def _enter(index: RunIndex, outcomes: Sequence[Outcome]) -> None:
    """Enter outcomes into the index, except those of images without boxes."""
    index.enter([one for one in outcomes if not isinstance(one, Empty)])


def same_picture(before: str, sha256: str | None, now: str) -> bool:
    """Whether two paths, of an earlier run and of this one, are of the same picture.

    The paths can differ: one may be absolute, or lead through a link. If the earlier path does not exist any more, the
    hash decides: the earlier run had another working directory, or the folder has moved.
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
    """A block that Ctrl-C and SIGTERM do not interrupt: the signals are raised at its end."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread is interrupted by signals
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


def open_index(out: str, record: Record, resume: bool) -> RunIndex:
    """The index in a folder, local or behind a URL. Raises `UsageError` if a resumed run had other parameters."""
    if not is_url(out):
        return RunIndex(out, record, Path(out), resume)
    from heatcli.run.index.remote import RemoteIndex

    return RemoteIndex(out, record, resume)


def forget(out: str) -> None:
    """Delete the index and the records of earlier runs in a folder. Figures and reports stay."""
    patterns = (INDEX, f"{PARTS}*.jsonl", RECORD, OTHERS)
    if is_url(out):
        system, path = remote(out)
        names = [
            f"{out.rstrip('/')}/{str(n).rpartition('/')[2]}"
            for p in patterns
            for n in system.glob(f"{path.rstrip('/')}/{p}")
        ]
    else:
        names = [str(path) for pattern in patterns for path in Path(out).glob(pattern)]
    for name in names:
        remove(name)
