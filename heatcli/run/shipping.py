"""What travels between processes: what a model was made of, and what came of each image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from heatcli.artifact.model import Model, load
from heatcli.artifact.notes import Notes
from heatcli.artifact.sidecar import Input, Output
from heatcli.errors import HeatcliError, ImageError, ModelError, UsageError
from heatcli.run.index import Row
from heatcli.run.request import Done, Failed, Job, Outcome


@dataclass(frozen=True)
class Recipe:
    """What a model was made of, to make the same one elsewhere: its file's hash, its sidecar and options as read."""

    path: str
    sha256: str
    passes: tuple[str, ...]
    others: dict[str, np.ndarray[Any, Any]]
    head: int | None
    cached: bool
    compiled: bool
    input: Input
    labels: tuple[str, ...]
    mean_file: Path | None
    output: Output
    told_by: str
    max_pixels: int | None

    @classmethod
    def of(cls, model: Model) -> Recipe:
        """The recipe of a model."""
        others = {name: value.cpu().numpy() for name, value in model.others.items()}
        return cls(
            str(model.path), model.sha256, model.passes, others, model.head, model.cache is not None,
            model.compiler is not None, model.input, model.labels, model.mean_file,
            model.output, model.told_by, model.max_pixels,
        )  # fmt: skip

    def model(self, device: str, path: Path | None = None, mean_file: Path | None = None) -> Model:
        """The model on a device; `path`, `mean_file`: copies of its files, where it has moved.

        Raises `ModelError` where the file is not the same any more.
        """
        import torch

        others = {name: torch.from_numpy(value) for name, value in self.others.items()}
        loaded = load(path or self.path, device, self.passes, others, self.head, self.cached, self.compiled)
        if loaded.sha256 != self.sha256:
            raise ModelError(f"{self.path}: was changed while it was in use; run again")
        loaded.path, loaded.input, loaded.labels = Path(self.path), self.input, self.labels
        loaded.max_pixels = self.max_pixels
        loaded.mean_file = mean_file or self.mean_file
        loaded.output, loaded.told_by, loaded.notes = self.output, self.told_by, Notes()
        return loaded


class Returned(msgspec.Struct, frozen=True):
    """What comes back of an outcome; with `status`, of what ended the whole run; or the notes, with their keys."""

    path: str = ""
    part: str = ""
    row: Row | None = None
    last: bool = True
    unexplained: dict[str, float] = {}
    fatal: str = ""
    status: int = 0
    notes: list[tuple[str, str]] = []


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Returned]).decode


def packed(outcomes: Iterable[Outcome], notes: Notes) -> bytes:
    """Outcomes as they travel, without their reports, and the model's notes.

    What ends the run, raised between two of them, is the last.
    """
    returned = list[Returned]()
    try:
        for one in outcomes:
            unexplained = dict(one.unexplained) if isinstance(one, Done) else {}
            returned.append(Returned(one.row.image, one.job.part, one.row, one.last, unexplained))
    except HeatcliError as error:
        returned.append(Returned(fatal=str(error), status=error.status))
    returned.insert(0, Returned(notes=notes.items()))
    return _encode(returned)


def unpacked(content: bytes, out: str, notes: Notes) -> Iterable[Outcome]:
    """The outcomes that `packed` made these bytes of; adds the notes. Raises what ended the run where it did."""
    told, *found = _decode(content)
    for key, text in told.notes:
        notes.add(text, key)
    for one in found:
        if one.row is None:
            raise {UsageError.status: UsageError, ImageError.status: ImageError}.get(one.status, ModelError)(one.fatal)
        job = Job(one.path, out, one.part)
        if one.row.error is not None:
            yield Failed(job, ImageError(one.row.error), last=one.last)
        else:
            yield Done(job, one.row, f"{job.stem}.json", f"{job.stem}.png", None, one.unexplained, one.last)
