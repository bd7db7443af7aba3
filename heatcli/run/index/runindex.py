"""The index as one run uses it: with the record of its parameters, and whole images only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import msgspec

from heatcli.errors import UsageError
from heatcli.run.index.index import INDEX, WAY_OUT, Index, Row, told
from heatcli.run.index.parquet import write_parquet
from heatcli.run.index.record import OTHERS, RECORD, Record, agree, claim, is_like, read_record, run_of
from heatcli.system.files import joined


class Outcome(Protocol):
    """What came of one image: its row; `last`: no further row of the same image comes."""

    @property
    def row(self) -> Row:
        """The line in the index."""
        ...

    @property
    def last(self) -> bool:
        """Whether the image is done."""
        ...


class RunIndex(Index):
    """A folder's index, and the record of the parameters that a run's lines are made with.

    `run`: what its lines are marked with, None for those of the folder's first run.
    """

    def __init__(self, out: str, record: Record, folder: Path, resume: bool = False) -> None:
        """`out`: where the files of images are; `folder`: where the index is.

        Raises `UsageError` where a run that is to be resumed was made with other parameters.
        """
        self._folder, path = folder, folder / RECORD
        super().__init__(folder, path, out)
        self.name = joined(out, INDEX)
        has_lines = self.path.exists()  # asked first: another run writes its record before its first line
        self._record, self._there = record, path.exists()
        self._claimed, self.run = False, None if not self._there else self._run(path, out, resume)
        self._open: dict[str, list[Row]] = {}
        if not self._there and has_lines:
            raise UsageError(f"{self.name}: has no {RECORD} beside it, which says how it was made; {WAY_OUT}")

    def _run(self, path: Path, out: str, resume: bool) -> str | None:
        """What marks the lines of this run in a folder that holds runs already."""
        first = read_record(path, joined(out, RECORD))
        if is_like(self._record, first):
            return None
        if resume:
            known = [first, *map(read_record, sorted(self._folder.glob(OTHERS)))]
            method = self._record.parameters.get("method")
            known = [one for one in known if one.parameters.get("method") == method]
            if known and not any(is_like(self._record, one) for one in known):
                agree(self._record, known[-1], joined(out, RECORD))
        return run_of(self._record)

    def claim(self) -> None:
        """Write the record, if no run with these parameters has done so."""
        if self._claimed:
            return
        if self.run is None and (self._folder / RECORD).exists():  # another run may have written it meanwhile
            self.run = self._run(self._folder / RECORD, self.name, False)
        claim(self._folder, self._record, self.run)
        self._claimed = True

    def enter(self, outcomes: Iterable[Outcome]) -> None:
        """Write the lines of each image whose last outcome is here."""
        finished = list[Row]()
        for outcome in outcomes:
            row = outcome.row
            self._open.setdefault(row.stem, []).append(row)
            if outcome.last:
                finished += self._open.pop(row.stem)
        if finished:
            self.claim()
            self.append(msgspec.structs.replace(row, run=self.run) if self.run else row for row in finished)

    def take_over(self, wanted: Callable[[list[Row]], bool]) -> None:
        """Keep what earlier runs have left where it is `wanted`."""
        if self._there:
            self.keep(wanted)

    def remarks(self) -> str:
        """What is wrong with what earlier runs have left; empty where nothing is."""
        if self._there and not self._size and not self.damaged:
            return f"{self.name}: is not there or empty; every image counts as not done"
        return told(self.name, self.damaged)

    def finish(self, parquet: bool) -> None:
        """The run is over."""
        self.claim()
        self.append([])  # so that there is an index of no images, too
        Index.close(self)
        if parquet:
            write_parquet(self.path)
