"""The registry of formats. A file's format is recognised from its content, never from its name."""

from __future__ import annotations

from pathlib import Path

from heatcli.artifact.onnx.load import ONNX
from heatcli.artifact.pt2 import PT2
from heatcli.artifact.recognise import FileFormat, Format, content_of, of_no_format
from heatcli.artifact.torchscript import TORCHSCRIPT

FORMATS: dict[Format, FileFormat] = {one.name: one for one in (TORCHSCRIPT, PT2, ONNX)}


def recognise(path: Path) -> FileFormat:
    """The first format that recognises the file. Raises `ModelError`, with advice, if none does."""
    content = content_of(path)
    for one in FORMATS.values():
        if one.recognises(content):
            return one
    raise of_no_format(path, content)
