"""Running an explained model in its own runtime."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heatcli.artifact.explained import NOTE, Note, read_note
from heatcli.errors import UsageError
from heatcli.export.write import quiet

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Explained:
    """An explained model, ready to run. `name`: of the runtime. `note`: what the model explains."""

    name: str
    note: Note
    _call: Any

    def run(self, inputs: Mapping[str, Tensor]) -> Arrays:
        """The outputs by name, for a batch of any size. `inputs`: name → tensor."""
        found: Arrays = self._call(inputs)
        return found


def opened(path: Path, only: str | None = None) -> Explained:
    """Open the explained model in a file; it runs on one thread. `only`: of an ONNX file, compute only this output.

    Raises `UsageError` if `heatcli export` did not write the file.
    """
    return {".onnx": _onnx, ".pt2": _pt2, ".pt": _torchscript}[path.suffix](path, only)


def inputs_for(note: Note, batch: Tensor) -> dict[str, Tensor]:
    """Inputs for an explained model, by name: the batch [N, C, H, W], or grey pixels of its size.

    If the class is an input, it is class 0.
    """
    n, channels, height, width = (*batch.shape, 1, 1)[:4]  # pixels are an input of pictures alone
    found = {"input": batch, "pixels": torch.full((n, height, width, channels), 128, dtype=torch.uint8)}
    return {name: found.get(name, torch.zeros(n, dtype=torch.int64)) for name in note.inputs}


def _note_in(path: Path, text: str | None) -> Note:
    """The note in a file. Raises `UsageError` if there is none."""
    note = read_note(path, text or "")
    if note is None:
        raise UsageError(f"{path}: does not explain itself; heatcli export writes models that do")
    return note


def _onnx(path: Path, only: str | None) -> Explained:
    """The model in an ONNX file."""
    import onnx
    import onnxruntime

    proto = onnx.load(path)
    note = _note_in(path, next((p.value for p in proto.metadata_props if p.key == NOTE), None))
    if only is not None:
        proto = onnx.utils.Extractor(proto).extract_model([note.inputs[0]], [only])
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    taken = {one.name for one in session.get_inputs()}
    names = [one.name for one in session.get_outputs()]

    def call(inputs: Mapping[str, Tensor]) -> Arrays:
        """The outputs by name."""
        given = {name: value.numpy() for name, value in inputs.items() if name in taken}
        return dict(zip(names, session.run(names, given), strict=True))

    return Explained(f"ONNX Runtime {onnxruntime.__version__}", note, call)


def _torch(note: Note, module: Any, name: str) -> Explained:
    """A torch module, whose outputs are those of the note, in order."""

    def call(inputs: Mapping[str, Tensor]) -> Arrays:
        """The outputs by name."""
        with torch.no_grad():
            found = module(*(inputs[name] for name in note.inputs))
        return {name: np.asarray(x) for name, x in zip(note.outputs, found, strict=True)}

    return Explained(name, note, call)


def _pt2(path: Path, only: str | None) -> Explained:  # noqa: ARG001
    """The model in a .pt2 file."""
    extra = {NOTE: ""}
    program = torch.export.load(io.BytesIO(path.read_bytes()), extra_files=extra)
    return _torch(_note_in(path, extra[NOTE]), program.module(), "torch.export")


def _torchscript(path: Path, only: str | None) -> Explained:  # noqa: ARG001
    """The model in a TorchScript file."""
    extra: dict[str, Any] = {NOTE: ""}
    with quiet():
        module = torch.jit.load(str(path), _extra_files=extra)  # type: ignore[no-untyped-call]
    text = extra[NOTE]
    return _torch(_note_in(path, text.decode() if isinstance(text, bytes) else text), module, "TorchScript")
