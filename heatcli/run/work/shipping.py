"""What is sent between processes: the recipe of a model, and the outcomes of images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from heatcli.artifact.notes import Notes
from heatcli.errors import HeatcliError, ImageError, ModelError, UsageError
from heatcli.model.model import Model, Options, assembled
from heatcli.model.settings import Settings
from heatcli.run.index.index import Row
from heatcli.run.work.request import Done, Empty, Failed, Job, Outcome


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What another process needs to load the same model: the path and SHA-256 of its file, settings and options."""

    path: str
    sha256: str
    passes: tuple[str, ...]
    others: dict[str, np.ndarray[Any, Any]]
    head: int | None
    unverified: bool
    memory: int
    cached: bool
    compiled: bool
    pair: bool
    settings: Settings

    @classmethod
    def of(cls, model: Model) -> Recipe:
        """The recipe of a model."""
        capture = model.capture
        return cls(
            path=str(model.path),
            sha256=model.sha256,
            passes=capture.passes,
            others={name: value.cpu().numpy() for name, value in capture.others.items()},
            head=capture.head,
            unverified=capture.unverified,
            memory=capture.memory,
            cached=capture.cache is not None,
            compiled=model.network.compiler is not None,
            pair=model.artifact.paired,
            settings=model.settings,
        )

    def model(self, device: str, path: Path | None = None, mean_file: Path | None = None) -> Model:
        """Load the model onto a device. `path`, `mean_file`: copies of its files on this machine, if any.

        Raises `ModelError` if the file is no longer the same.
        """
        import torch

        options = Options(
            device=device, passes=self.passes, head=self.head, cache=self.cached, compiled=self.compiled,
            unverified=self.unverified, memory=self.memory, pair=self.pair,
            inputs={name: torch.from_numpy(value) for name, value in self.others.items()},
        )  # fmt: skip
        own = Path(self.path)
        settings = self.settings if mean_file is None else replace(self.settings, mean_file=mean_file)
        model = assembled(path or own, options, lambda *_: settings, own)
        if model.sha256 != self.sha256:
            raise ModelError(f"{self.path}: was changed while it was in use; run again")
        return model


class Returned(msgspec.Struct, frozen=True):
    """An outcome as it is sent; or, with `status`, an error that ends the run; or the model's notes with their keys."""

    path: str = ""
    part: str = ""
    row: Row | None = None
    last: bool = True
    unexplained: dict[str, float] = {}
    empty: str = ""
    fatal: str = ""
    status: int = 0
    notes: list[tuple[str, str]] = []


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Returned]).decode


def packed(outcomes: Iterable[Outcome], notes: Notes) -> bytes:
    """Outcomes without their reports, and the model's notes, as bytes (MessagePack).

    An error that `outcomes` raises becomes the last entry.
    """
    returned = list[Returned]()
    try:
        for one in outcomes:
            unexplained = dict(one.unexplained) if isinstance(one, Done) else {}
            empty = one.said if isinstance(one, Empty) else ""
            returned.append(Returned(one.row.image, one.job.part, one.row, one.last, unexplained, empty))
    except HeatcliError as error:
        returned.append(Returned(fatal=str(error), status=error.status))
    returned.insert(0, Returned(notes=notes.items()))
    return _encode(returned)


def unpacked(content: bytes, out: str, notes: Notes) -> Iterable[Outcome]:
    """The outcomes in bytes of `packed`; adds the notes to `notes`. Raises the error that ended the run, if any."""
    head, *found = _decode(content)
    for key, text in head.notes:
        notes.add(text, key)
    for one in found:
        if one.row is None:
            raise {UsageError.status: UsageError, ImageError.status: ImageError}.get(one.status, ModelError)(one.fatal)
        job = Job(one.path, out, one.part)
        if one.empty:
            yield Empty(job, one.empty)
        elif one.row.error is not None:
            yield Failed(job, ImageError(one.row.error), last=one.last)
        else:
            yield Done(job, one.row, f"{job.stem}.json", f"{job.stem}.png", None, one.unexplained, one.last)
