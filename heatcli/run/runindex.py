"""The index as one run uses it: with the record of its parameters, and whole images only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from heatcli.errors import UsageError
from heatcli.files import joined
from heatcli.run.index import INDEX, WAY_OUT, Index, Row, told
from heatcli.run.parquet import write_parquet
from heatcli.run.record import RECORD, Record, agree, claim, read_record
from heatcli.run.request import Outcome


class RunIndex(Index):
    """A folder's index, and the record of the parameters that all its lines were made with."""

    def __init__(self, out: str, record: Record, folder: Path) -> None:
        """`out`: where the files of images are; `folder`: where the index is."""
        self._folder, path = folder, folder / RECORD
        super().__init__(folder, path, out)
        self.name = joined(out, INDEX)
        has_lines = self.path.exists()  # asked first: another run writes its record before its first line
        self._record, self._claimed = record, path.exists()
        self._open: dict[str, list[Row]] = {}
        if self._claimed:
            agree(record, read_record(path, joined(out, RECORD)), joined(out, RECORD))
        elif has_lines:
            raise UsageError(f"{self.name}: has no {RECORD} beside it, which says how it was made; {WAY_OUT}")

    def claim(self) -> None:
        """Write the record, if no run has done so. Raises `UsageError` if one with other parameters has."""
        if not self._claimed:
            claim(self._folder, self._record)
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
            self.append(finished)

    def take_over(self, wanted: Callable[[list[Row]], bool]) -> None:
        """Keep what earlier runs have left where it is `wanted`."""
        if self._claimed:
            self.keep(wanted)

    def remarks(self) -> str:
        """What is wrong with what earlier runs have left; empty where nothing is."""
        if self._claimed and not self._size and not self.damaged:
            return f"{self.name}: is not there or empty; every image counts as not done"
        return told(self.name, self.damaged)

    def finish(self, parquet: bool) -> None:
        """The run is over."""
        self.claim()
        self.append([])  # so that there is an index of no images, too
        Index.close(self)
        if parquet:
            write_parquet(self.path)
