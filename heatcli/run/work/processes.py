"""Worker processes of a run: they take batches where the threads of one process would wait for Python's lock."""

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

WATCHED = 3.0  # seconds of a run before it is judged
FAST = 20.0  # images a second; below, torch holds the threads, not Python's lock
LONG = 30.0  # seconds that are left at that rate; starting takes a few, of all cores
ASKED = 0.05  # seconds between two looks whether the run is to stop


@dataclass(eq=False)
class _Child:
    """A process, and this end of the pipe to it."""

    process: Any
    pipe: Connection
    ready: bool = False


@dataclass(eq=False)
class Processes:
    """As many worker processes as the request has threads, once `consider` finds that they repay.

    Each has the model and one share of torch's threads. One that dies costs nothing: its batch is left to the caller.
    `worker` is this process's own; `stopped`: whether the run is to end; `lost`: how many processes died.
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
        """Start them if that repays: `done` images are, `left` are to come. Asked after every batch."""
        if self._judged:
            return
        compiler = self.worker.model.network.compiler
        compiled = 0 if compiler is None else compiler.made
        if self._since is None or compiled != self._compiled:  # what was compiled took time that is not taken again
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
        threads = max(1, torch.get_num_threads() // self.request.threads)
        order = pickle.dumps((Recipe.of(self.worker.model), self.request, self.worker.scratch, threads))
        spawn = get_context("spawn")
        for _ in range(self.request.threads):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=serve, args=(theirs, order), name="heatcli worker", daemon=True)
            try:
                with _uninterrupted():
                    process.start()
            except OSError:  # no memory for another; the run goes on with those that there are
                break
            theirs.close()  # so that the end of the process is the end of the pipe
            self._children.append(_Child(process, ours))
        self._free.extend(self._children)

    def explain(self, jobs: list[Job]) -> Iterable[Outcome] | None:
        """What came of a batch in a process; None where none is free, or it died. Raises as `Worker.explain` does.

        Told to stop, the process finishes the image that it is at.
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
        """A process that waits for work; those that have just loaded the model have said so."""
        with self._lock:
            for _ in range(len(self._free)):
                child = self._free.popleft()
                try:
                    if child.ready or child.pipe.poll():
                        child.ready = child.ready or child.pipe.recv()
                        return child
                except (EOFError, OSError):  # it could not load the same model
                    continue
                self._free.append(child)
        return None

    def end(self) -> None:
        """End them all; nothing is under way in any."""
        for child in self._children:
            child.process.kill()
            child.pipe.close()
            child.process.join()
        self._children.clear()
        self._free.clear()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Processes started meanwhile never see the Ctrl-C of a terminal, which goes to all: their parent ends them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def serve(pipe: Connection, order: bytes) -> None:
    """What a process does: batches come in, packed outcomes go out, until the pipe ends, as it does with its parent.

    Whatever goes wrong, the parent finds out as the pipe ends, and does the batch itself: it can say what it is.
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
    try:
        yield from outcomes
    except StoppedError:
        return
