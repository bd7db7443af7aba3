"""The plan of a run: which image writes which files. It holds names only, so that millions of images fit in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePath

import numpy as np

from heatcli.errors import UsageError, printable
from heatcli.images.read import SUFFIXES
from heatcli.run.index.index import number_of
from heatcli.run.work.inputs import LEVELS, Found, find
from heatcli.run.work.request import Job, Request
from heatcli.system.files import is_folder, is_url


class Plan:
    """One job per image, in order, without the images that an earlier run has explained.

    If two images would write the same files, the names of both outputs get longer until they differ
    (`Found.stem`).
    """

    def __init__(self, found: Found, request: Request) -> None:
        self._found, self._out, self._method = found, str(request.out), request.method.name
        self._file = None if request.file is None else PurePath(request.file).stem
        self._done = bytearray(len(found))
        self._levels = bytearray(len(found))
        numbers = np.fromiter((number_of(printable(self._part(i))) for i in range(len(found))), np.uint64, len(found))
        self._sort(numbers)
        for _ in range(2 * LEVELS):
            longer = {i for pair in self._pairs() for i in pair if self._levels[i] < LEVELS - 1}
            if not longer:
                break
            for i in longer:
                self._levels[i] += 1
                numbers[i] = number_of(printable(self._part(i)))
            self._sort(numbers)

    def _sort(self, numbers: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> None:
        self._order = np.argsort(numbers, kind="stable").astype(np.uint32 if len(numbers) < 1 << 32 else np.uint64)
        self._sorted = numbers[self._order]

    def __len__(self) -> int:
        """The number of images still to explain."""
        return self._done.count(0)

    def __iter__(self) -> Iterator[Job]:
        return (self.job(i) for i in range(len(self._found)) if not self._done[i])

    def job(self, i: int) -> Job:
        """The job of image `i`."""
        return Job(self._found.path(i), self._out, self._part(i))

    def _part(self, i: int) -> str:
        """The stem of image `i`'s outputs, below the output folder."""
        return f"{self._found.stem(i, self._levels[i]) if self._file is None else self._file}.{self._method}"

    def find(self, stem: str) -> int | None:
        """The number of the image whose outputs have this stem in an index; None if the plan has no such image."""
        value = np.uint64(number_of(stem))
        at = int(np.searchsorted(self._sorted, value))
        while at < len(self._sorted) and self._sorted[at] == value:
            if printable(self._part(int(self._order[at]))) == stem:
                return int(self._order[at])
            at += 1
        return None

    @property
    def empty(self) -> list[str]:
        """A sentence for each input that holds no images."""
        return self._found.empty

    def take_off(self, i: int) -> None:
        """Mark image `i` as done."""
        self._done[i] = 1

    def collisions(self) -> Iterator[tuple[Job, Job]]:
        """Pairs of images that would write the same files, the earlier image first."""
        for one, other in self._pairs():
            yield self.job(one), self.job(other)

    def _pairs(self) -> Iterator[tuple[int, int]]:
        """The numbers of the images of `collisions`."""
        for at in np.flatnonzero(self._sorted[1:] == self._sorted[:-1]):
            one, other = sorted((int(self._order[at]), int(self._order[at + 1])))
            if self._part(one) == self._part(other):
                yield one, other


def plan_outputs(request: Request, suffixes: Collection[str] = SUFFIXES) -> Plan:
    """The plan for a request. Raises `UsageError` for outputs that collide or would overwrite an input."""
    out = str(request.out)
    found = find(request.inputs, request.recursive, request.glob, request.shard, out, suffixes)
    made = Plan(found, request)
    if request.file is not None and (len(found) != 1 or request.several):
        raise UsageError(
            f"{request.file}: is one figure, and these are several; --figure grid draws those of one image as one, "
            "--out DIR keeps them apart"
        )
    for one, other in made.collisions():
        if one.path == other.path:
            raise UsageError(f"{one.path} is given twice; once is enough")
        raise UsageError(f"{one.path} and {other.path} would both write {one.stem}.png; use one --out folder each")
    if not is_url(out):
        for overlay in _overwritten(made, request):
            raise UsageError(f"{overlay} is itself an input; give another --out folder")
    return made


def _overwritten(made: Plan, request: Request) -> Iterator[str]:
    """Paths of figures that are also inputs."""

    def numbers(name: Callable[[Job], str]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        names = (os.path.abspath(name(job)) for job in made)  # noqa: PTH100  (links stay, and no file is touched)
        return np.fromiter(map(number_of, names), np.uint64, len(made))

    inputs = numbers(lambda job: job.path)
    for i in np.flatnonzero(np.isin(numbers(lambda job: request.figure(job.stem)), inputs)):
        yield request.figure(made.job(int(i)).stem)


def same_folder(given: Path | str, out: Path | str) -> bool:
    """Whether an input folder is also the output folder."""
    return (
        not is_url(given) and not is_url(out) and is_folder(given) and os.path.realpath(given) == os.path.realpath(out)
    )
