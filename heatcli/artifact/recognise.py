"""Which format a file is of, told from its content, never from its name; nothing in it is executed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from heatcli.artifact import archive
from heatcli.errors import ModelError

Format = Literal["torchscript", "onnx", "pt2"]
TORCHSCRIPT: Format = "torchscript"
ONNX: Format = "onnx"
PT2: Format = "pt2"

_EXPORT = (
    "heatcli never unpickles; export it where its code is, with torch.jit.script(model).save('model.pt'), "
    "torch.onnx.export(model, …) or torch.export.save(…)"
)
_FOREIGN = (  # (offset, magic bytes, what it is)
    (0, b"\x89HDF", "a HDF5 (Keras) file; convert it to ONNX first"),
    (4, b"TFL3", "a TensorFlow Lite model; convert it to ONNX first"),
    (0, b"GGUF", "a GGUF file, not an image classifier"),
    (0, b"\x1f\x8b", "a gzip archive; unpack it first"),
    (0, b"\x89PNG", "a PNG image, not a model"),
    (0, b"\xff\xd8\xff", "a JPEG image, not a model"),
    (0, b"\x93NUMPY", "a NumPy array, not a model"),
)


def recognise(path: Path) -> Format:
    """`torchscript`, `onnx` or `pt2`. Raises `ModelError` for anything else, saying what to do instead."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read as a model: {error.strerror}") from error
    if not head:
        raise ModelError(f"{path}: the model file is empty")
    if head.startswith(b"PK"):
        return _of_zip(path)
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        raise ModelError(f"{path}: is a pickle; {_EXPORT}")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 40:
        raise ModelError(f"{path}: holds weights only (safetensors), no network; {_EXPORT}")
    for offset, magic, what in _FOREIGN:
        if head[offset : offset + len(magic)] == magic:
            raise ModelError(f"{path}: is {what}")
    # a protobuf field that an ONNX ModelProto may open with
    if head[:1] in (b"\x08", b"\x12", b"\x1a", b"\x3a", b"\x42"):
        return ONNX
    raise ModelError(f"{path}: is neither TorchScript nor ONNX nor a torch.export archive")


def _of_zip(path: Path) -> Format:
    whole = archive.names(path)
    names = {name.partition("/")[2] for name in whole}
    old = next((name for name in whole if name.startswith("serialized_")), None)
    if old is not None:
        raise ModelError(f"{path}: holds parts of the old torch.export format ({old}), which are pickles; save anew")
    if "constants.pkl" in names:
        return TORCHSCRIPT
    if "archive_format" in names:
        return PT2
    if "data.pkl" in names:
        raise ModelError(f"{path}: is a pickled module or a state dict (torch.save); {_EXPORT}")
    raise ModelError(f"{path}: is a zip archive, but neither TorchScript nor a torch.export archive")
