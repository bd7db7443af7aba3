"""Reading a folder of `heatcli explain`: its explanations one by one, their pictures, and its record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from heatcli.artifact.layout import PICTURES
from heatcli.artifact.sidecar import Input
from heatcli.errors import HeatcliError, UsageError
from heatcli.figures.reading import places_of
from heatcli.images.read import Picture, Reader
from heatcli.report.schema import NAME, Report
from heatcli.run.index.index import INDEX, FileEntry, Row, images, row_of, told
from heatcli.run.index.record import RECORD, Record, read_record
from heatcli.system.compress import MAGIC, crc32, read_array
from heatcli.system.files import is_folder, is_there, is_url, read_regular

Map = NDArray[np.float64]
LARGEST = 1 << 30  # bytes of a report that are read
_report = msgspec.json.Decoder(Report).decode
_named = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(frozen=True)
class Item:
    """An explanation. `folder`: the names of its files are relative to it. `first`: the row of the picture's rank 1."""

    row: Row
    folder: Path
    first: Row

    @cached_property
    def report(self) -> Report | None:
        """The report; None if it is missing or damaged."""
        content = self.content("report")
        if content is None:
            return None
        try:
            return _report(content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None

    def path(self, what: str) -> Path | None:
        """The path of a file by its role: `overlay`, `report`, `pixels`; None if there is none."""
        entry = self.row.files.get(what)
        return None if entry is None else self.folder / entry.name

    def content(self, what: str) -> bytes | None:
        """The content of a file by its role; None if it is missing, or its checksum is wrong."""
        entry, path = self.row.files.get(what), self.path(what)
        if entry is None or path is None:
            return None
        try:
            found = read_regular(path, LARGEST)
        except OSError:
            return None
        return found if entry.crc32 is None or crc32(found) == entry.crc32 else None

    @cached_property
    def pixels(self) -> Map | None:
        """The relevance of each pixel, float64 [H, W]; None if the run did not keep it, or the file is damaged."""
        if self.report is None:
            return None
        values = self.report.pixels.values
        if values is not msgspec.UNSET:
            return np.asarray(values, np.float64)
        content = self.content("pixels")
        if content is None or not content.startswith((b"PK", MAGIC)):
            return None
        try:
            channels = read_array(content).astype(np.float64)
            summed: Map = channels.reshape(-1, *channels.shape[-2:]).sum(0)
            return summed
        except (HeatcliError, ValueError):
            return None

    def picture(self) -> Path | None:
        """The path of the picture, by its name in the report, then by that in the index; None if it is not there.

        The index has the name that the command was given, relative to the folder that the command ran in.
        """
        beside = self.path("report") or self.folder / INDEX
        names = [] if self.report is None else [self.report.image.path]
        names += [self.row.image]
        if any(map(is_url, names)):
            return None
        places = [place for name in names for place in places_of(beside, name)]
        return next((place for place in [*places, self.folder / self.row.image] if is_there(place)), None)

    @property
    def input(self) -> Input:
        """How the picture became the network's input; the default if there is no report."""
        return Input() if self.report is None else msgspec.convert(self.report.model.input, Input)

    def read_picture(self) -> Picture | None:
        """The picture that was explained; None if it is missing, its hash has changed, or the input is no picture."""
        path, given = self.picture(), self.input
        if path is None or self.report is None or given.layout != PICTURES:
            return None
        try:
            found = Reader(channels_of(given), given.range or "").picture(path)
        except HeatcliError:
            return None
        return found if found.sha256 == self.row.sha256 else None


def channels_of(given: Input) -> int:
    """The number of channels of a network's input; 3 if nothing says."""
    means = len(given.mean) if isinstance(given.mean, tuple) else 0
    return given.channels or means or 3


@dataclass(frozen=True)
class Folder:
    """A folder of explanations. `record`: the parameters of the run; None if there is no record."""

    path: Path
    record: Record | None

    @classmethod
    def open(cls, path: Path) -> Folder:
        """The folder at `path`. Raises `UsageError` if it is not a folder on this machine."""
        if is_url(str(path).replace(":/", "://", 1)):
            raise UsageError(f"{path}: explanations are read from files on this machine; copy the folder here first")
        if not is_folder(path):
            raise UsageError(f"{path}: is not a folder that heatcli explain wrote; give the one named by its --out")
        record = path / RECORD
        return cls(path, read_record(record) if record.is_file() else None)

    def items(self, say: Callable[[str], None] = lambda _: None) -> Iterator[Item | Row]:
        """The explanations in the order of the index, one at a time; for an image that failed, its row.

        Without an index, the explanations of all reports in the folder and below. `say`: called with notes on damage.
        """
        index = self.path / INDEX
        if not index.is_file():
            yield from self._reports(say)
            return
        damaged: list[int] = []
        for rows in images(index, damaged):
            for row, _ in rows:
                yield row if row.error is not None else Item(row, self.path, rows[0][0])
        if note := told(str(index), damaged):
            say(note)

    def count(self) -> int:
        """The approximate number of explanations."""
        index = self.path / INDEX
        if index.is_file():
            with index.open("rb") as file:
                return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
        return sum(1 for _ in self.path.rglob("*.json"))

    def _reports(self, say: Callable[[str], None]) -> Iterator[Item]:
        """The explanations of all reports in the folder and below, for a folder without an index."""
        for file in sorted(self.path.rglob("*.json")):
            try:
                content = read_regular(file, LARGEST)
                if bytes(_named(content).get("schema", b"")) != msgspec.json.encode(NAME):
                    continue
                report = _report(content)
            except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                say(f"{file}: is no report that can be read; it is left out")
                continue
            beside = file.parent.relative_to(self.path)
            names = {"overlay": report.files.overlay, "report": file.name, "pixels": report.files.pixels}
            files = {
                what: FileEntry((beside / name).as_posix(), 0) for what, name in names.items() if isinstance(name, str)
            }
            row = row_of(report, (beside / file.stem).as_posix(), None, 1, files)
            yield Item(row, self.path, row)
