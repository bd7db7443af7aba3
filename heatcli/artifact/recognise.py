"""Recognises a file's content by its first bytes, and refuses known files that are no models. Executes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from heatcli.artifact import archive
from heatcli.artifact.artifact import Artifact
from heatcli.errors import ModelError

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


# module: an nn.Module in memory, which no file is; torchvision: a network by name
Format = Literal["torchscript", "onnx", "pt2", "module", "torchvision"]


@dataclass(frozen=True)
class Content:
    """A file's first bytes; for a zip archive the names of its entries, below the archive's only folder."""

    head: bytes
    entries: frozenset[str] | None = None


@dataclass(frozen=True)
class FileFormat:
    """A format of artifacts: how to recognise a file, and how to load it."""

    name: Format
    recognises: Callable[[Content], bool]
    load: Callable[[Path], Artifact]


def content_of(path: Path) -> Content:
    """A file's content. Raises `ModelError`, with advice, for files known to be no models."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read as a model: {error.strerror}") from error
    if not head:
        raise ModelError(f"{path}: the model file is empty")
    if head.startswith(b"PK"):
        return Content(head, _entries(path))
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        raise ModelError(f"{path}: is a pickle; {_EXPORT}")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 40:
        raise ModelError(f"{path}: holds weights only (safetensors), no network; {_EXPORT}")
    for offset, magic, what in _FOREIGN:
        if head[offset : offset + len(magic)] == magic:
            raise ModelError(f"{path}: is {what}")
    return Content(head)


def _entries(path: Path) -> frozenset[str]:
    """The names of an archive's entries. Raises `ModelError` for the old torch.export format."""
    names = archive.names(path)
    old = next((name for name in names if name.startswith("serialized_")), None)
    if old is not None:
        raise ModelError(f"{path}: holds parts of the old torch.export format ({old}), which are pickles; save anew")
    return frozenset(name.partition("/")[2] for name in names)


def of_no_format(path: Path, content: Content) -> ModelError:
    """The error for a file that no format recognises."""
    if content.entries is None:
        return ModelError(f"{path}: is neither TorchScript nor ONNX nor a torch.export archive")
    if "data.pkl" in content.entries:
        return ModelError(f"{path}: is a pickled module or a state dict (torch.save); {_EXPORT}")
    return ModelError(f"{path}: is a zip archive, but neither TorchScript nor a torch.export archive")
