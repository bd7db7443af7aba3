"""The index as a run uses it: with the record of the run's parameters, and complete images only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import msgspec

from heatcli.errors import UsageError
from heatcli.run.index.index import INDEX, WAY_OUT, Index, Row, damage_note
from heatcli.run.index.parquet import write_parquet
from heatcli.run.index.record import OTHERS, RECORD, Record, agree, claim, is_like, read_record, run_of
from heatcli.system.files import joined


class Outcome(Protocol):
    """The outcome of an image, or of one of its classes."""

    @property
    def row(self) -> Row:
        """The outcome's line in the index."""
        ...

    @property
    def last(self) -> bool:
        """Whether this is the last outcome of the image."""
        ...


class RunIndex(Index):
    """A folder's index, and the record of a run's parameters.

    `run`: the mark of the run's lines in the index; None for the parameters of the folder's first run.
    """

    def __init__(self, out: str, record: Record, folder: Path, resume: bool = False) -> None:
        """`out`: the folder of the images' files, or its URL. `folder`: the folder of the index.

        Raises `UsageError` if `resume` and the folder's run has other parameters, or an index has no record.
        """
        self._folder, path = folder, folder / RECORD
        super().__init__(folder, path, out)
        self.name = joined(out, INDEX)
        has_lines = self.path.exists()  # checked before the record, which another run writes before its first line
        self._record, self._there = record, path.exists()
        self._claimed, self.run = False, None if not self._there else self._run(path, out, resume)
        self._open: dict[str, list[Row]] = {}
        if not self._there and has_lines:
            raise UsageError(f"{self.name}: has no {RECORD} beside it, which says how it was made; {WAY_OUT}")

    def _run(self, path: Path, out: str, resume: bool) -> str | None:
        """The mark of this run's lines in a folder that already holds a run. Raises `UsageError` as `__init__`."""
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
        """Write the record, unless a run with these parameters has written it. Raises `UsageError`."""
        if self._claimed:
            return
        if self.run is None and (self._folder / RECORD).exists():  # another run may have written it meanwhile
            self.run = self._run(self._folder / RECORD, self.name, False)
        claim(self._folder, self._record, self.run)
        self._claimed = True

    def enter(self, outcomes: Iterable[Outcome]) -> None:
        """Keep outcomes until the last one of their image, then write the image's lines. Raises `UsageError`."""
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
        """Keep the images of earlier runs whose rows are `wanted`; drop the others. Raises `UsageError`."""
        if self._there:
            self.keep(wanted)

    def remarks(self) -> str:
        """A note on a missing or damaged index of earlier runs; empty if there is no damage."""
        if self._there and not self._size and not self.damaged:
            return f"{self.name}: is not there or empty; every image counts as not done"
        return damage_note(self.name, self.damaged)

    def finish(self, parquet: bool) -> None:
        """End the index of a run; `parquet`: also write it as Parquet. Raises `UsageError`."""
        self.claim()
        self.append([])  # a run without images also has an index
        Index.close(self)
        if parquet:
            write_parquet(self.path)
