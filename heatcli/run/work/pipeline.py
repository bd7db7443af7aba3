"""Several batches at once: a thread or a process explains and writes each. Outcomes keep the order of the jobs."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from threading import Event, Semaphore

import torch

from heatcli.model.model import Model
from heatcli.run.work.plan import Plan
from heatcli.run.work.processes import Processes
from heatcli.run.work.request import Job, Outcome, Request
from heatcli.run.work.worker import Worker


class Turns:
    """Limits how many Python threads run the network at once, and divides torch's threads between them.

    A single batch gets all of torch's threads. Two batches on one thread each use two cores better than one batch on
    two threads, which waits whenever one of the cores is busy writing.
    """

    def __init__(self, most: int) -> None:
        self.most, self.threads = most, torch.get_num_threads()
        self.batches: set[int] = set()  # the numbers of the batches in progress
        self._free = Semaphore(most)

    @contextmanager
    def take(self) -> Iterator[None]:
        """A context in which a batch may run the network."""
        with self._free:
            share = max(1, self.threads // max(1, min(self.most, len(self.batches))))
            if torch.get_num_threads() != share:  # the number is kept per Python thread
                torch.set_num_threads(share)
            yield


class Pipeline:
    """Explains jobs on several threads; outcomes come in the order of the jobs.

    Each of `request.threads` threads takes a batch, so that reading and writing overlap with the network. If processes
    are faster, the threads hand their batches to them. The number of batches in progress is bounded, so memory does
    not grow with the number of jobs. If `run` is closed early, as by an interrupt, the files in progress are finished,
    and `left` holds the outcomes of the batch that was yielded last and of all batches after it. Raises `UsageError`
    for a baseline that cannot be read.
    """

    def __init__(self, model: Model, request: Request, load_seconds: float) -> None:
        self.left: list[list[Outcome]] = []
        self._stopped = Event()
        self.worker = Worker(model, request, load_seconds, self._stopped.is_set)
        self.processes = Processes(request, self.worker, self._stopped.is_set)
        alone = model.device.type != "cpu" or request.progress is not None  # the progress bar shows a single batch
        self._turns = Turns(1 if alone else min(request.threads, torch.get_num_threads()))
        self._request = request

    @property
    def lost(self) -> int:
        """The number of worker processes that died."""
        return self.processes.lost

    def run(self, jobs: Plan | list[Job]) -> Generator[list[Outcome], None, None]:
        """Explain all jobs; yields a list of outcomes per batch.

        Raises `ModelError` if the model explains no image of the first batch, `UsageError` if outputs cannot be
        written.
        """
        self._stopped.clear()
        batches = enumerate(_batched(jobs, self._request.batch_size))
        under_way: deque[tuple[Future[None], list[Outcome]]] = deque()
        pool = ThreadPoolExecutor(self._request.threads, thread_name_prefix="heatcli")
        done = 0
        try:
            while True:
                # First one batch, which shows that the model works; then one per thread and one waiting for each.
                most = 2 * self._request.threads if self.worker.proven else 1
                for number, batch in islice(batches, most - len(under_way)):
                    outcomes = list[Outcome]()
                    self._turns.batches.add(number)
                    future = pool.submit(self._batch, batch, outcomes)
                    future.add_done_callback(lambda _, number=number: self._turns.batches.discard(number))  # type: ignore[misc]
                    under_way.append((future, outcomes))
                if not under_way:
                    return
                future, outcomes = under_way[0]
                future.result()
                yield outcomes
                under_way.popleft()  # after the yield: an interrupted caller has not seen these outcomes
                done += sum(outcome.last for outcome in outcomes)
                self.processes.consider(done, len(jobs) - done)
        finally:
            self._stopped.set()
            try:
                pool.shutdown(wait=True, cancel_futures=True)
                self.left = [outcomes for _, outcomes in under_way]
            finally:
                self.processes.end()
            torch.set_num_threads(self._turns.threads)  # threads that start later inherit the number

    def _batch(self, jobs: list[Job], outcomes: list[Outcome]) -> None:
        """Explain and write a batch; append the outcome of each image to `outcomes`."""
        outcomes.extend(self.processes.explain(jobs) or self.worker.explain(jobs, self._turns.take))


def _batched(jobs: Iterable[Job], size: int) -> Iterator[list[Job]]:
    """The jobs, `size` at a time."""
    source = iter(jobs)
    while batch := list(islice(source, size)):
        yield batch
