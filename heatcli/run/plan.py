"""The plan of a run: which image writes where. Names only, so that millions fit."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from heatcli.errors import UsageError, printable
from heatcli.files import is_folder, is_url
from heatcli.run.inputs import Found, digest, find
from heatcli.run.request import Job, Request


class Plan:
    """One job an image, in order; those that an earlier run has done can be taken off it."""

    def __init__(self, found: Found, request: Request) -> None:
        self._found, self._out, self._method = found, str(request.out), request.method.name
        self._done = bytearray(len(found))
        digests = np.fromiter((digest(printable(self._part(i))) for i in range(len(found))), np.uint64, len(found))
        self._order = np.argsort(digests, kind="stable").astype(np.uint32 if len(found) < 1 << 32 else np.uint64)
        self._sorted = digests[self._order]

    def __len__(self) -> int:
        """How many are still to be done."""
        return self._done.count(0)

    def __iter__(self) -> Iterator[Job]:
        return (self.job(i) for i in range(len(self._found)) if not self._done[i])

    def job(self, i: int) -> Job:
        """The job of image `i`."""
        return Job(self._found.path(i), self._out, self._part(i))

    def _part(self, i: int) -> str:
        """What the names of its outputs begin with, below the output folder."""
        return f"{self._found.stem(i)}.{self._method}"

    def find(self, stem: str) -> int | None:
        """The number of the image with the outputs of that stem of an index; None where it is not in the plan."""
        value = np.uint64(digest(stem))
        at = int(np.searchsorted(self._sorted, value))
        while at < len(self._sorted) and self._sorted[at] == value:
            if printable(self._part(int(self._order[at]))) == stem:
                return int(self._order[at])
            at += 1
        return None

    def take_off(self, i: int) -> None:
        """Image `i` is done."""
        self._done[i] = 1

    def collisions(self) -> Iterator[tuple[Job, Job]]:
        """Pairs of images that would write the same files, the earlier first."""
        for at in np.flatnonzero(self._sorted[1:] == self._sorted[:-1]):
            one, other = sorted((int(self._order[at]), int(self._order[at + 1])))
            if self._part(one) == self._part(other):
                yield self.job(one), self.job(other)


def plan(request: Request) -> Plan:
    """One job an image. Raises `UsageError` for outputs that collide or would overwrite an input."""
    out = str(request.out)
    found = find(request.inputs, request.recursive, request.glob, request.shard, out)
    made = Plan(found, request)
    for one, other in made.collisions():
        raise UsageError(
            f"{one.path} and {other.path} would both write {one.stem}.png; use one --out folder each"
            + ("" if request.recursive else ", or --recursive, which mirrors the folders")
        )
    if not is_url(out):
        for overlay in _overwritten(made):
            raise UsageError(f"{overlay} is itself an input; give another --out folder")
    return made


def _overwritten(made: Plan) -> Iterator[str]:
    """Overlays that are inputs, too."""

    def digests(name: Callable[[Job], str]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        names = (os.path.abspath(name(job)) for job in made)  # noqa: PTH100  (links stay, and no file is touched)
        return np.fromiter(map(digest, names), np.uint64, len(made))

    inputs = digests(lambda job: job.path)
    for i in np.flatnonzero(np.isin(digests(lambda job: f"{job.stem}.png"), inputs)):
        yield f"{made.job(int(i)).stem}.png"


def same_folder(given: Path | str, out: Path | str) -> bool:
    """Whether outputs would land among the inputs of a folder."""
    return (
        not is_url(given) and not is_url(out) and is_folder(given) and os.path.realpath(given) == os.path.realpath(out)
    )
