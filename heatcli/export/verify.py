"""Whether a record computes what the walk computes, and an explained model in its own runtime what its record does.

A record holds other operators than the walk ran, and nothing that was decided by the example. Exporters translate
operator by operator, and some translations are other functions: a resize by a factor of 1.5 that becomes a resize to
the rounded size, for instance.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heatcli.artifact.explained import Note
from heatcli.errors import UsageError, first_line
from heatcli.export.run import opened
from heatcli.export.write import quiet
from heatcli.model.verification import AMPLIFIED, ROUNDING, difference, rounded

Record = Callable[..., Sequence[Tensor]]


def verify(content: bytes, record: Record, note: Note, inputs: Sequence[Tensor], path: Path) -> None:
    """Compare each output of the artifact `content` with that of the record, on `inputs` [N, …].

    A difference counts if it is beyond 1e-4 of the largest value, and a hundred times as large as what rounding the
    input, or convolving in another order, changes. Raises `UsageError`, naming `path`.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"explained{path.suffix}"
        file.write_bytes(content)
        try:
            with quiet():
                artifact = opened(file)
                found = artifact.run(dict(zip(note.inputs, inputs, strict=True)))
        except Exception as error:  # each runtime has its own
            raise UsageError(
                f"{path}: the explained model does not run: {first_line(error, 160)}; nothing was written"
            ) from error
    with torch.no_grad():
        other = _other(_tensors(found, note.outputs), record, note.outputs, inputs)
    if other is not None:
        name, apart = other
        raise UsageError(
            f"{path}: {artifact.name} computes another {name} than torch, {apart:.2g} of the largest value apart; "
            f"nothing was written; {'export it as .onnx' if path.suffix == '.pt2' else 'export it as .pt2'}"
        )


def verify_record(record: Record, walk: Record, outputs: Sequence[str], inputs: Sequence[Tensor]) -> None:
    """Compare each output of a record with that of the function it was made of, as `verify` does. Raises `UsageError`.

    `inputs` [N, …]: not those that it was made on. `outputs`: names.
    """
    with torch.no_grad():
        found = record(*inputs)
    other = _other(found, walk, outputs, inputs)
    if other is not None:
        name, apart = other
        raise UsageError(
            f"this explanation cannot be written down: its graph computes another {name}, {apart:.2g} of the largest "
            "value apart"
        )


def _tensors(found: Mapping[str, np.ndarray[Any, Any]], names: Sequence[str]) -> list[Tensor]:
    """A runtime's arrays as tensors, in the order of the names."""
    return [torch.from_numpy(found[name]) for name in names]


def _other(
    found: Sequence[Tensor], truth: Record, names: Sequence[str], inputs: Sequence[Tensor]
) -> tuple[str, float] | None:  # fmt: skip
    """The name of the first output that is off what `truth` says of the inputs, and how far; None if there is none."""
    expected, others = truth(*inputs), _recomputed(truth, inputs)
    for i, (name, true) in enumerate(zip(names, expected, strict=True)):
        if not true.is_floating_point() or not bool(torch.isfinite(true).all()):
            continue  # bytes are a heatmap, which is an output itself
        apart = difference(found[i], true)
        if not apart <= max(ROUNDING[torch.float32], AMPLIFIED * max(difference(other[i], true) for other in others)):
            return name, apart
    return None


def _recomputed(record: Record, inputs: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    """The record's outputs, rounded otherwise: without oneDNN, and of rounded inputs."""
    with quiet(), torch.backends.mkldnn.flags(enabled=False):
        found = [record(*inputs)]
    batch, *more = inputs
    return [*found, record(rounded(batch), *more)] if batch.is_floating_point() else found
