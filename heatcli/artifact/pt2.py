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
from heatcli.artifact.artifact import Artifact, InputInfo
from heatcli.artifact.sidecar import EMBEDDED
from heatcli.artifact.verification import of_module
from heatcli.errors import ModelError, first_line

_loading = threading.local()


def load_pt2(path: Path) -> Artifact:
    """A torch.export archive.

    torch gets an archive that was written anew from entries that are known to do no harm (`heatcli.artifact.program`).
    """
    entries = archive.read(path)
    content = archive.safe(path, entries, program.checked)
    # not torch.export.load, which turns to an older reader of pickles where this one fails
    from torch.export.pt2_archive._package import load_pt2 as opened

    with warnings.catch_warnings(), _nothing_unpickled():
        warnings.simplefilter("ignore")
        try:
            exported = opened(io.BytesIO(content)).exported_programs["model"]
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
        runtime=lambda values: of_module(module, values), against=f"torch.export of torch {torch.__version__}",
    )  # fmt: skip


@contextlib.contextmanager
def _nothing_unpickled() -> Iterator[None]:
    """Any pickle that names a class or function, in this thread, raises: what is loaded holds none."""
    _watch()
    _loading.now = True
    try:
        yield
    finally:
        _loading.now = False


@functools.cache
def _watch() -> None:
    """Let Python say what pickles look up; such a hook stays for good, and is idle outside of loading."""
    sys.addaudithook(_refuse_pickles)


def _refuse_pickles(event: str, _: tuple[Any, ...]) -> None:
    if event == "pickle.find_class" and getattr(_loading, "now", False):
        raise RuntimeError("a pickle in a program; heatcli never unpickles")
