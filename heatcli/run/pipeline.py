"""Batches side by side: a thread reads, explains and writes each; in order, with a bounded number under way."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from threading import Lock, Semaphore

import torch

from heatcli.artifact.model import Model
from heatcli.errors import ImageError
from heatcli.images.baselines import read_once
from heatcli.run.request import Done, Failed, Job, Request
from heatcli.run.work import Loaded, Ready, explain_all, read_job, write_ready

Outcome = Done | Failed


class Turns:
    """Who may use the network: up to `most` batches at once, each on its share of torch's threads; the last on all.

    A batch of a number of images that was not explained before runs alone on all threads: it may capture the graph.
    One thread a batch makes more of two cores than two threads for one, and does not wait for a core that writes.
    """

    def __init__(self, most: int) -> None:
        self.most, self.threads = most, torch.get_num_threads()
        self.known: set[int] = set()  # numbers of images
        self.batches: set[int] = set()  # those under way, by number
        self._free, self._alone = Semaphore(most), Lock()

    @contextmanager
    def take(self, images: int) -> Iterator[None]:
        """Hold the network for a batch of so many images."""
        if images in self.known:
            with self._free:
                self._use(max(1, self.threads // max(1, min(self.most, len(self.batches)))))
                yield
            return
        with self._alone:
            for _ in range(self.most):
                self._free.acquire()
        try:
            self._use(self.threads)
            yield
            self.known.add(images)
        finally:
            self._free.release(self.most)

    @staticmethod
    def _use(threads: int) -> None:
        """For this thread of Python's; torch keeps the number for each."""
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


class _StoppedError(Exception):
    """Nobody wants the outcomes any more."""


class Pipeline:
    """Jobs in, outcomes out, in the order of the jobs.

    `request.threads` threads take a batch each, so reading and writing keep one core busy while the network runs on
    others; no more batches are under way than those and one, so memory does not grow with the number of jobs. Closed
    early, by an interrupt too, it finishes what is being written, and `left` holds the outcomes that nobody was given.
    `scratch`: a folder for half-written files. Raises `UsageError` for a baseline that cannot be read.
    """

    def __init__(self, model: Model, request: Request, load_seconds: float) -> None:
        baseline = read_once(model, request.method, request.baseline) if isinstance(request.baseline, str) else None
        self.model = model
        self.request = replace(request, progress=self._progress, baseline=baseline or request.baseline)
        self.scratch: Path | None = None
        self.left: list[Outcome] = []
        self._load_seconds, self._told, self._stopped = load_seconds, request.progress, False
        alone = model.device.type != "cpu" or request.progress is not None  # a bar shows the passes of one batch
        self._turns = Turns(1 if alone else min(request.threads, torch.get_num_threads()))

    def run(self, jobs: Iterable[Job]) -> Generator[Outcome, None, None]:
        """Explain all jobs. Raises `ModelError` if the model can explain none of the first batch, `UsageError`."""
        self._stopped = False
        batches = enumerate(_batched(jobs, self.request.batch_size))
        under_way: deque[tuple[Future[None], deque[Outcome]]] = deque()
        pool = ThreadPoolExecutor(self.request.threads, thread_name_prefix="heatcli")
        try:
            while True:
                # the first batch shows that the model works
                most = self.request.threads + 1 if self._turns.known else 1
                for number, batch in islice(batches, most - len(under_way)):
                    outcomes = deque[Outcome]()
                    self._turns.batches.add(number)
                    future = pool.submit(self._batch, batch, outcomes)
                    future.add_done_callback(lambda _, number=number: self._turns.batches.discard(number))  # type: ignore[misc]
                    under_way.append((future, outcomes))
                if not under_way:
                    return
                future, outcomes = under_way[0]
                future.result()
                while outcomes:
                    yield outcomes.popleft()
                under_way.popleft()
        finally:
            self._stopped = True
            pool.shutdown(wait=True, cancel_futures=True)
            self.left = [outcome for _, outcomes in under_way for outcome in outcomes]
            torch.set_num_threads(self._turns.threads)  # for threads that are yet to start

    def _batch(self, jobs: list[Job], outcomes: deque[Outcome]) -> None:
        """All that is done for a batch; what comes of each image goes to `outcomes` as it is written."""
        read = [self._read(job) for job in jobs]
        loaded = [one for one in read if isinstance(one, Loaded)]
        proven = bool(self._turns.known)
        for outcome in _in_order(read, explain_all(self.model, self.request, loaded, proven, self._turns.take)):
            self._check()
            outcomes.append(outcome if isinstance(outcome, Failed) else self._written(outcome))

    def _read(self, job: Job) -> Loaded | Failed:
        self._check()
        return read_job(self.model, job)

    def _written(self, ready: Ready) -> Outcome:
        try:
            return write_ready(self.model, self.request, ready, self._load_seconds, self.scratch)
        except ImageError as error:  # a large picture, which is read again, has gone
            return Failed(ready.loaded.job, error, ready.first)

    def _check(self) -> None:
        if self._stopped:
            raise _StoppedError

    def _progress(self, done: int, total: int) -> None:
        """Between two passes of a method that takes many."""
        self._check()
        if self._told is not None:
            self._told(done, total)


def _batched(jobs: Iterable[Job], size: int) -> Iterator[list[Job]]:
    source = iter(jobs)
    while batch := list(islice(source, size)):
        yield batch


def _in_order(read: list[Loaded | Failed], explained: Iterable[Ready | Failed]) -> Iterator[Ready | Failed]:
    """What was explained, with what could not be read at its place between."""
    waiting = deque(read)
    for outcome in explained:
        while outcome.first and isinstance(one := waiting.popleft(), Failed):
            yield one
        yield outcome
    yield from (one for one in waiting if isinstance(one, Failed))
