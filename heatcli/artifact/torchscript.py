"""TorchScript, scripted or traced."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import torch

from heatcli.artifact.artifact import Artifact, InputInfo, Shapes
from heatcli.artifact.sidecar import EMBEDDED
from heatcli.artifact.verification import of_module
from heatcli.errors import ModelError, first_line
from heatcli.files import stamp


def load_torchscript(path: Path) -> Artifact:
    """A scripted or traced module; the C++ loader reads tensors and TorchScript code, no Python pickle runs."""
    before = stamp(path)
    module, text = _opened(path)
    dtype = next((p.dtype for p in module.parameters() if p.dtype.is_floating_point), torch.float32)
    required = [a.name for a in module.forward.schema.arguments[1:] if not a.has_default_value()]
    inputs = tuple(InputInfo(name, dtype=dtype) for name in required)
    ran = False

    def module_for(_: Shapes) -> Any:
        """One that never ran, while the file is there: from the second run on TorchScript makes fewer calls, and
        operators are named by the number of their call."""
        nonlocal ran
        if ran and stamp(path) == before:
            return _opened(path)[0]
        ran = True
        return module

    @functools.cache
    def deployed() -> Any:
        """The one that is run as deployed: it may keep a state."""
        return _opened(path)[0]

    return Artifact(
        module_for, inputs, text, runtime=lambda values: of_module(deployed(), values),
        against=f"TorchScript of torch {torch.__version__}",
    )  # fmt: skip


def _opened(path: Path) -> tuple[Any, str]:
    """The module, and the sidecar inside the file."""
    extra = {EMBEDDED: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; that is no news to its users
        try:
            module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra).eval()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise ModelError(f"{path}: TorchScript cannot load it: {first_line(error)}") from error
    if not hasattr(module, "forward"):
        raise ModelError(f"{path}: has no forward method, so there is nothing to run")
    text = extra[EMBEDDED]
    return module, text if isinstance(text, str) else bytes(text).decode()
