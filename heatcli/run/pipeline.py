"""Reading and writing in threads while the network runs; in order, with a bounded number of images under way."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from heatcli.artifact.model import Model
from heatcli.run.request import Done, Failed, Job, Request
from heatcli.run.work import Loaded, Ready, explain_all, read_job, write_ready

Outcome = Done | Failed
AHEAD = 2  # batches that are read ahead of the network, and written behind it


class Pipeline:
    """Jobs in, outcomes out, in the order of the jobs.

    This thread runs the network; `request.threads` others decode and encode. At most `AHEAD` batches wait on either
    side, so memory does not grow with the number of jobs. Closed early, by an interrupt too, it finishes what is being
    written, and `left` holds the outcomes that nobody has been given.
    """

    def __init__(self, model: Model, request: Request, load_seconds: float, scratch: Path | None) -> None:
        self.model, self.request = model, request
        self._load_seconds, self._scratch = load_seconds, scratch
        self._writing: deque[Future[Outcome]] = deque()
        self.left: list[Outcome] = []

    def run(self, jobs: Iterable[Job]) -> Generator[Outcome, None, None]:
        """Explain all jobs. Raises `ModelError` if the model can explain none of the first batch, `UsageError`."""
        size, proven = self.request.batch_size, False
        pool = ThreadPoolExecutor(self.request.threads, thread_name_prefix="heatcli")
        try:
            for read in self._read(pool, iter(jobs), size):
                loaded = [one for one in read if isinstance(one, Loaded)]
                for outcome in _in_order(read, explain_all(self.model, self.request, loaded, proven)):
                    self._writing.append(pool.submit(self._written, outcome))
                    yield from self._finished(AHEAD * size)
                proven = proven or bool(loaded)
            yield from self._finished(0)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            self.left = [f.result() for f in self._writing if not f.cancelled() and not f.exception()]

    def _read(self, pool: ThreadPoolExecutor, jobs: Iterator[Job], size: int) -> Iterator[list[Loaded | Failed]]:
        """Batch by batch, `AHEAD` of them under way."""
        reading: deque[list[Future[Loaded | Failed]]] = deque()
        while True:
            while len(reading) <= AHEAD and (batch := list(islice(jobs, size))):
                reading.append([pool.submit(read_job, self.model, job) for job in batch])
            if not reading:
                return
            yield [future.result() for future in reading.popleft()]

    def _written(self, outcome: Ready | Failed) -> Outcome:
        if isinstance(outcome, Failed):
            return outcome
        return write_ready(self.model, self.request, outcome, self._load_seconds, self._scratch)

    def _finished(self, most: int) -> Iterator[Outcome]:
        """What is written, in order, until at most so many are under way."""
        while self._writing and (len(self._writing) > most or self._writing[0].done()):
            outcome = self._writing[0].result()
            self._writing.popleft()
            yield outcome


def _in_order(read: Sequence[Loaded | Failed], explained: Iterable[Ready | Failed]) -> Iterator[Ready | Failed]:
    """What was explained, with what could not be read at its place between."""
    waiting = deque(read)
    for outcome in explained:
        while outcome.first and isinstance(one := waiting.popleft(), Failed):
            yield one
        yield outcome
    yield from (one for one in waiting if isinstance(one, Failed))
