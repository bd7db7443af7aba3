"""Whether an explained model computes in its own runtime what its record computes in torch.

Exporters translate operator by operator, and some translations are other functions: a resize by a factor of 1.5 that
becomes a resize to the rounded size, for instance.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

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
        expected, others = record(*inputs), _recomputed(record, inputs)
    for i, (name, truth) in enumerate(zip(note.outputs, expected, strict=True)):
        if not truth.is_floating_point() or not bool(torch.isfinite(truth).all()):
            continue  # bytes are a heatmap, which is an output itself
        apart = difference(torch.from_numpy(found[name]), truth)
        if not apart <= max(ROUNDING[torch.float32], AMPLIFIED * max(difference(other[i], truth) for other in others)):
            raise UsageError(
                f"{path}: {artifact.name} computes another {name} than torch, {apart:.2g} of the largest value apart; "
                f"nothing was written; {'export it as .onnx' if path.suffix == '.pt2' else 'export it as .pt2'}"
            )


def _recomputed(record: Record, inputs: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    """The record's outputs, rounded otherwise: without oneDNN, and of rounded inputs."""
    with quiet(), torch.backends.mkldnn.flags(enabled=False):
        found = [record(*inputs)]
    batch, *more = inputs
    return [*found, record(rounded(batch), *more)] if batch.is_floating_point() else found
