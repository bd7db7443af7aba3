"""Worker processes of a run: they take over the batches if threads would wait for the global interpreter lock."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from threading import Lock
from typing import Any

import torch

from heatcli.run.work.request import Job, Outcome, Request
from heatcli.run.work.shipping import Recipe, packed, unpacked
from heatcli.run.work.worker import StoppedError, Worker
from heatcli.system.memory import keep_freed

WATCHED = 3.0  # seconds for which the rate of a run is measured
FAST = 20.0  # images per second; in slower runs the time goes to torch, which releases the interpreter lock
LONG = 30.0  # seconds that must be left at that rate, since starting the processes takes a few seconds of all cores
ASKED = 0.05  # seconds between two checks whether the run was stopped


@dataclass(eq=False)
class _Child:
    """A process, and this process's end of the pipe to it."""

    process: Any
    pipe: Connection
    ready: bool = False


@dataclass(eq=False)
class Processes:
    """One worker process per thread of the request, started once `consider` finds that processes are faster.

    Each loads the model and gets its share of torch's threads. If a process dies, the caller explains its batch.
    `worker`: the worker of this process. `stopped`: tells whether the run was stopped. `lost`: the number of processes
    that died.
    """

    request: Request
    worker: Worker
    stopped: Callable[[], bool]
    lost: int = 0
    _children: list[_Child] = field(default_factory=list)
    _free: deque[_Child] = field(default_factory=deque)
    _lock: Lock = field(default_factory=Lock)
    _since: tuple[float, int] | None = None
    _compiled: int = 0
    _judged: bool = False

    def consider(self, done: int, left: int) -> None:
        """Start the processes if the run is long and fast enough. Called after every batch, until decided.

        `done`: the number of images explained. `left`: the number of images still to explain.
        """
        if self._judged:
            return
        compiler = self.worker.model.network.compiler
        compiled = 0 if compiler is None else compiler.made
        if self._since is None or compiled != self._compiled:  # the time of compiling does not count for the rate
            self._since, self._compiled = (time.monotonic(), done), compiled
        seconds, images = time.monotonic() - self._since[0], done - self._since[1]
        wanted = self.request.processes and self.request.progress is None and self.request.threads > 1
        if not wanted or self.worker.model.device.type != "cpu":
            self._judged = True
        elif images and seconds >= WATCHED:
            rate = images / seconds
            self._judged = True
            if rate > FAST and left > LONG * rate:
                self._start()

    def _start(self) -> None:
        """Start the processes. They load the model while the threads go on."""
        threads = max(1, torch.get_num_threads() // self.request.threads)
        order = pickle.dumps((Recipe.of(self.worker.model), self.request, self.worker.scratch, threads))
        spawn = get_context("spawn")
        for _ in range(self.request.threads):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=serve, args=(theirs, order), name="heatcli worker", daemon=True)
            try:
                with _uninterrupted():
                    process.start()
            except OSError:  # not enough memory for another process; the run continues with those that started
                break
            theirs.close()  # the process holds the only other end, so that its death closes the pipe
            self._children.append(_Child(process, ours))
        self._free.extend(self._children)

    def explain(self, jobs: list[Job]) -> Iterable[Outcome] | None:
        """The outcomes of a batch, from a process; None if no process is free, or the process died.

        Raises the errors of `Worker.explain`. If the run is stopped, the process finishes its current image.
        """
        child = self._take()
        if child is None:
            return None
        try:
            child.pipe.send(jobs)
            told = False
            while not child.pipe.poll(ASKED):
                if self.stopped() and not told:
                    child.pipe.send(None)
                    told = True
            content = child.pipe.recv_bytes()
        except (EOFError, OSError):
            self.lost += not self.stopped()
            return None
        self._free.append(child)
        return unpacked(content, str(self.request.out), self.worker.model.notes)

    def _take(self) -> _Child | None:
        """A process that waits for work: it has loaded the model and said so through its pipe."""
        with self._lock:
            for _ in range(len(self._free)):
                child = self._free.popleft()
                try:
                    if child.ready or child.pipe.poll():
                        child.ready = child.ready or child.pipe.recv()
                        return child
                except (EOFError, OSError):  # the process could not load the same model
                    continue
                self._free.append(child)
        return None

    def end(self) -> None:
        """Kill all processes. None may have a batch at this time."""
        for child in self._children:
            child.process.kill()
            child.pipe.close()
            child.process.join()
        self._children.clear()
        self._free.clear()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Processes that start in this block ignore Ctrl-C, which a terminal sends to all of them: the parent ends them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def serve(pipe: Connection, order: bytes) -> None:
    """The main function of a worker process: receive batches and send packed outcomes, until the pipe closes.

    `order`: a pickled recipe, request, scratch folder and number of torch's threads. On any error the process exits;
    the parent then explains the batch itself and reports the error.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        keep_freed()
        recipe, request, scratch, threads = pickle.loads(order)
        torch.set_num_threads(threads)
        started = time.perf_counter()
        model = recipe.model("cpu")
        worker = Worker(model, replace(request, progress=None), time.perf_counter() - started, pipe.poll)
        worker.scratch, worker.proven = scratch, True
        pipe.send(True)
        while (jobs := pipe.recv()) is not None:
            pipe.send_bytes(packed(_until_stopped(worker.explain(jobs)), model.notes))
    except Exception:
        os._exit(1)


def _until_stopped(outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    """The outcomes until the run is stopped."""
    try:
        yield from outcomes
    except StoppedError:
        return
