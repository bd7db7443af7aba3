"""Batches side by side: a thread, or a process, explains and writes each; in order, a bounded number under way."""

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
    """Which threads may use the network: `most` at once, each on its share of torch's threads; a lone batch on all.

    One thread a batch makes more of two cores than two threads for one, and does not wait for a core that writes.
    """

    def __init__(self, most: int) -> None:
        self.most, self.threads = most, torch.get_num_threads()
        self.batches: set[int] = set()  # those under way, by number
        self._free = Semaphore(most)

    @contextmanager
    def take(self) -> Iterator[None]:
        """Hold the network for a batch."""
        with self._free:
            share = max(1, self.threads // max(1, min(self.most, len(self.batches))))
            if torch.get_num_threads() != share:  # torch keeps the number for each thread of Python's
                torch.set_num_threads(share)
            yield


class Pipeline:
    """Jobs in, outcomes out, in the order of the jobs.

    `request.threads` threads take a batch each, so reading and writing keep one core busy while the network runs on
    others; where it repays, they hand them to as many `processes`. A bounded number of batches is under way, so memory
    does not grow with the number of jobs. Closed early, by an interrupt too, it finishes what is being written, and
    `left` holds the last batch that was given, if any, and those that were not. Raises `UsageError` for a baseline
    that cannot be read.
    """

    def __init__(self, model: Model, request: Request, load_seconds: float) -> None:
        self.left: list[list[Outcome]] = []
        self._stopped = Event()
        self.worker = Worker(model, request, load_seconds, self._stopped.is_set)
        self.processes = Processes(request, self.worker, self._stopped.is_set)
        alone = model.device.type != "cpu" or request.progress is not None  # a bar shows the passes of one batch
        self._turns = Turns(1 if alone else min(request.threads, torch.get_num_threads()))
        self._request = request

    @property
    def lost(self) -> int:
        """How many processes died."""
        return self.processes.lost

    def run(self, jobs: Plan | list[Job]) -> Generator[list[Outcome], None, None]:
        """Explain all jobs; what came of each batch, as a list.

        Raises `ModelError` if the model can explain none of the first batch, `UsageError`.
        """
        self._stopped.clear()
        batches = enumerate(_batched(jobs, self._request.batch_size))
        under_way: deque[tuple[Future[None], list[Outcome]]] = deque()
        pool = ThreadPoolExecutor(self._request.threads, thread_name_prefix="heatcli")
        done = 0
        try:
            while True:
                # the first batch shows that the model works; then every thread has one, and one to go on with
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
                under_way.popleft()  # what came of it is known to the caller now
                done += sum(outcome.last for outcome in outcomes)
                self.processes.consider(done, len(jobs) - done)
        finally:
            self._stopped.set()
            try:
                pool.shutdown(wait=True, cancel_futures=True)
                self.left = [outcomes for _, outcomes in under_way]
            finally:
                self.processes.end()
            torch.set_num_threads(self._turns.threads)  # for threads that are yet to start

    def _batch(self, jobs: list[Job], outcomes: list[Outcome]) -> None:
        """All that is done for a batch; what comes of each image goes to `outcomes`."""
        outcomes.extend(self.processes.explain(jobs) or self.worker.explain(jobs, self._turns.take))


def _batched(jobs: Iterable[Job], size: int) -> Iterator[list[Job]]:
    source = iter(jobs)
    while batch := list(islice(source, size)):
        yield batch
