"""torch.export archives (.pt2)."""

from __future__ import annotations

import contextlib
import functools
import io
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from heatcli.artifact import archive, program
from heatcli.artifact.artifact import Artifact, InputInfo, of_module
from heatcli.artifact.explained import NOTE
from heatcli.artifact.recognise import Content, FileFormat
from heatcli.artifact.sidecar import EMBEDDED
from heatcli.errors import ModelError, first_line
from heatcli.graph.quantised import quantises_program
from heatcli.system.torch_private import read_program

_loading = threading.local()


def is_pt2(content: Content) -> bool:
    """Whether the file is an archive that names its format."""
    return content.entries is not None and "archive_format" in content.entries


def load_pt2(path: Path) -> Artifact:
    """A torch.export archive. Raises `ModelError`.

    torch receives an archive rewritten from entries known to be harmless (`heatcli.artifact.program`).
    """
    entries = archive.read(path)
    content = archive.safe(path, entries, program.checked)
    with warnings.catch_warnings(), _nothing_unpickled():
        warnings.simplefilter("ignore")
        try:
            exported = read_program(io.BytesIO(content))
            module = exported.module()
        except Exception as error:
            raise ModelError(f"{path}: torch.export cannot load it: {first_line(error)}") from error
    user_inputs = set(exported.graph_signature.user_inputs)
    placeholders = [n for n in exported.graph.nodes if n.op == "placeholder" and n.name in user_inputs]
    inputs = tuple(
        InputInfo(n.name, tuple(d if isinstance(d, int) else None for d in n.meta["val"].shape), n.meta["val"].dtype)
        for n in placeholders
        if isinstance(n.meta.get("val"), Tensor)
    )
    return Artifact(
        lambda _: module, inputs, archive.text(path, entries, f"extra/{EMBEDDED}"),
        note=archive.text(path, entries, f"extra/{NOTE}"),
        runtime=lambda values: of_module(module, values), against=f"torch.export of torch {torch.__version__}",
        rewrites=("dequantise",) if quantises_program(exported.graph) else (),
    )  # fmt: skip


@contextlib.contextmanager
def _nothing_unpickled() -> Iterator[None]:
    """Raise for any pickle in this thread that names a class or function: the checked archive has none."""
    _watch()
    _loading.now = True
    try:
        yield
    finally:
        _loading.now = False


@functools.cache
def _watch() -> None:
    """Install an audit hook for pickle lookups. Python cannot remove the hook; outside of loading it does nothing."""
    sys.addaudithook(_refuse_pickles)


def _refuse_pickles(event: str, _: tuple[Any, ...]) -> None:
    """Raise `RuntimeError` for a pickle that looks up a name while a program is loaded."""
    if event == "pickle.find_class" and getattr(_loading, "now", False):
        raise RuntimeError("a pickle in a program; heatcli never unpickles")


PT2 = FileFormat(name="pt2", recognises=is_pt2, load=load_pt2)
