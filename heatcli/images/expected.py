"""What a model should say of pictures: one label for all, or each picture's own from a CSV or JSON file."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import msgspec

from heatcli.errors import UsageError, boundary, first_line
from heatcli.system.files import TEXT, read_regular


@dataclass(frozen=True)
class Expected:
    """The expected labels: one for all images, or each image's own."""

    label: str | None = None
    table: dict[str, str] | None = None
    folder: Path = Path()
    given: str = ""

    @classmethod
    def parse(cls, text: str | None) -> Expected:
        """`LABEL`, or the name of a CSV or JSON file as `samples/labels.csv` is. Raises `UsageError`."""
        if text is None:
            return cls()
        file = Path(text)
        if file.suffix.lower() in (".csv", ".json") or file.is_file():
            return cls(None, read_labels(file), file.absolute().parent, text)
        return cls(text, given=text)

    def of(self, image: str, path: Path | None) -> str | None:
        """The label that is expected of an image, by its name as given, below the table's folder, or alone."""
        if self.table is None:
            return self.label
        keys = [image, Path(image).name]
        if path is not None and path.absolute().is_relative_to(self.folder):
            keys.insert(0, path.absolute().relative_to(self.folder).as_posix())
        return next((self.table[key] for key in keys if key in self.table), None)


def read_labels(file: Path) -> dict[str, str]:
    """Image → label from a CSV or JSON file. Raises `UsageError`."""
    with boundary(file, UsageError, "the expected labels cannot be read"):
        return _labels_in(file, read_regular(file, TEXT).decode("utf-8-sig"))


def _labels_in(file: Path, text: str) -> dict[str, str]:
    """As `read_labels`, from the file's text."""
    if file.suffix.lower() == ".json":
        try:
            found = msgspec.json.decode(text, type=dict[str, str | int])
        except msgspec.MsgspecError as error:
            raise UsageError(f"{file}: must be an object of image: label; {first_line(error)}") from error
        return {image: str(label) for image, label in found.items()}
    rows = [row for row in csv.reader(io.StringIO(text)) if row]
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    named = "image" in header and "label" in header
    at = (header.index("image"), header.index("label")) if named else (0, 1)
    if not rows or any(len(row) <= max(at) for row in rows):
        raise UsageError(f"{file}: every row must hold an image and its label")
    return {row[at[0]].strip(): row[at[1]].strip() for row in rows[named:]}
