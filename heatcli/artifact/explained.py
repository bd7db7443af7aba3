"""The note inside a model that explains itself, as `heatcli export` writes it: what the model returns, and how.

ONNX metadata_props, TorchScript extra files and torch.export extra files hold the note under `heatcli.json`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor

from heatcli.artifact.artifact import Artifact, InputInfo
from heatcli.errors import ModelError, first_line

NOTE = "heatcli.json"
NAME: Literal["heatcli.explained/1"] = "heatcli.explained/1"
INPUT = "input"  # as a target: the class is an input of the artifact


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """The model that was explained."""

    name: str
    sha256: str
    format: str


class MethodNote(msgspec.Struct, frozen=True, kw_only=True):
    """The method. `rules`: what `--rule` and `--composite` said. `paper`: its source."""

    name: str
    paper: str
    parameters: dict[str, Any]
    rules: tuple[str, ...] = ()


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What an explained model says of itself.

    `asked`: the baseline as `--baseline` names it. `baseline`: as in a report. `inputs`, `outputs`: names in order.
    `ledger`: the names of the ledger's columns. `biases`: name → number of elements, in order.
    """

    schema: Literal["heatcli.explained/1"] = NAME
    report_schema: str
    heatcli: str
    source: Source
    method: MethodNote
    asked: str
    baseline: dict[str, Any]
    target: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    ledger: tuple[str, ...]
    biases: dict[str, int]
    labels: tuple[str, ...]
    preprocess: bool

    def text(self) -> str:
        """As JSON."""
        return msgspec.json.encode(self).decode()


def read_note(path: Path, text: str) -> Note | None:
    """The note in an artifact, None where there is none. Raises `ModelError` for a note of another form."""
    if not text:
        return None
    try:
        return msgspec.json.decode(text.encode(), type=Note)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ModelError(
            f"{path}: its {NOTE} is of a form that this heatcli does not read ({first_line(error)}); export it anew"
        ) from error


def as_explained(artifact: Artifact, note: Note) -> Artifact:
    """The artifact with its inputs called as in the note, and pixels taken as floating-point numbers.

    A module of pixels, uint8 [N, H, W, C], is called with numbers 0..255, [N, C, H, W], as any other model.
    """
    inputs = tuple(replace(info, name=name) for info, name in zip(artifact.inputs, note.inputs, strict=True))
    if not note.preprocess:
        return replace(artifact, inputs=inputs)
    pixels, *others = inputs
    shape = None if pixels.shape is None else tuple(pixels.shape[i] for i in (0, 3, 1, 2))
    run = artifact.runtime
    return replace(
        artifact,
        inputs=(InputInfo(pixels.name, shape), *others),
        module_for=lambda shapes: _OfNumbers(artifact.module_for(shapes)),
        runtime=None if run is None else lambda values: run([_bytes(values[0]), *values[1:]]),
        differs=None,
    )


class _OfNumbers(torch.nn.Module):
    """A module that takes pixels, called with floating-point numbers; relevance passes through the conversion."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, numbers: Tensor, *others: Tensor) -> Any:
        """What the module returns."""
        return self.inner(numbers.permute(0, 2, 3, 1), *others)


def _bytes(numbers: Tensor) -> Tensor:
    """Numbers 0..255 [N, C, H, W] as pixels, uint8 [N, H, W, C]."""
    return numbers.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
