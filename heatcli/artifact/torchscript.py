"""TorchScript, scripted or traced."""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from heatcli.artifact import archive, script
from heatcli.artifact.artifact import Artifact, InputInfo, Shapes, likely_shape, of_module, reads_tokens
from heatcli.artifact.explained import NOTE
from heatcli.artifact.recognise import Content, FileFormat
from heatcli.artifact.sidecar import EMBEDDED
from heatcli.errors import ModelError, first_line
from heatcli.graph.quantised import quantises


def is_torchscript(content: Content) -> bool:
    """Whether the file is an archive with a script's constants."""
    return content.entries is not None and "constants.pkl" in content.entries


def load_torchscript(path: Path) -> Artifact:
    """A scripted or traced module. Raises `ModelError`.

    torch's C++ loader receives an archive rewritten from entries known to be harmless (`heatcli.artifact.script`).
    """
    entries = archive.read(path)
    content = archive.safe(path, entries, script.checked)
    module, training = _opened(path, content)
    dtype = next((p.dtype for p in module.parameters() if p.dtype.is_floating_point), torch.float32)
    dtype = torch.int64 if reads_tokens(module) else dtype
    required = [a for a in module.forward.schema.arguments[1:] if not a.has_default_value()]
    listed = tuple(_is_list(path, a) for a in required)
    likely = likely_shape(module)
    inputs = tuple(InputInfo(a.name, dtype=dtype, likely=likely) for a in required)
    ran = False

    def module_for(_: Shapes) -> Any:
        """A module that has not run.

        From the second run on TorchScript makes fewer calls, which would change the numbers in operators' names.
        """
        nonlocal ran
        if ran:
            return _of_tensors(_opened(path, content)[0], listed)
        ran = True
        return _of_tensors(module, listed)

    @functools.cache
    def deployed() -> Any:
        """The module that runs as deployed, kept apart because it may have a state."""
        return _of_tensors(_opened(path, content)[0], listed)

    return Artifact(
        module_for, inputs, archive.text(path, entries, f"extra/{EMBEDDED}"),
        note=archive.text(path, entries, f"extra/{NOTE}"),
        runtime=lambda values: of_module(deployed(), values), against=f"TorchScript of torch {torch.__version__}",
        remarks=(_TRAINING,) if training else (),
        rewrites=("dequantise",) if quantises(module.inlined_graph) else (),
    )  # fmt: skip


def _is_list(path: Path, argument: Any) -> bool:
    """Whether an argument is a list of pictures [C, H, W], as detectors of torchvision take, and no tensor.

    Raises `ModelError` for other containers.
    """
    kind = argument.type.kind()
    if kind in ("ListType", "DictType", "TupleType") and str(argument.type) != "List[Tensor]":
        raise ModelError(
            f"{path}: its input {argument.name} is a {argument.type}; heatcli gives one tensor [N, C, H, W], so export "
            "the network inside a module that takes one"
        )
    return bool(kind == "ListType")


class _OfTensors:
    """A script that takes lists of pictures, called with one tensor [N, …] for each."""

    def __init__(self, module: Any, listed: Sequence[bool]) -> None:
        self._module, self._listed = module, listed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def to(self, device: torch.device) -> _OfTensors:
        """The same on a device."""
        return _OfTensors(self._module.to(device), self._listed)

    def __call__(self, *values: torch.Tensor) -> Any:
        """What the script returns."""
        return self._module(*(list(x.unbind()) if many else x for x, many in zip(values, self._listed, strict=True)))


def _of_tensors(module: Any, listed: Sequence[bool]) -> Any:
    """The script, called with tensors."""
    return _OfTensors(module, listed) if any(listed) else module


_TRAINING = (
    "was saved in training mode, where batch norm and dropout depend on chance and company; it is explained as after "
    "model.eval()"
)


def _parsed(content: bytes) -> Any:
    """The module. Operators of torchvision, such as its suppression, are there once torchvision is imported."""
    try:
        return torch.jit.load(io.BytesIO(content), map_location="cpu")  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    import torchvision  # noqa: F401  (two seconds, so only where an operator is needed)

    return torch.jit.load(io.BytesIO(content), map_location="cpu")  # type: ignore[no-untyped-call]


_TRAINED = ("aten::batch_norm", "aten::dropout", "aten::feature_dropout", "aten::alpha_dropout", "aten::rrelu")


def _opened(path: Path, content: bytes) -> tuple[Any, bool]:
    """The module in evaluation mode, and whether it was saved in training mode and that makes a difference."""
    with warnings.catch_warnings(), torch.set_grad_enabled(torch.is_grad_enabled()):  # code runs, and may switch it
        warnings.simplefilter("ignore")  # torch.jit is deprecated, which its users know
        try:
            module = _parsed(content)
        except Exception as error:  # torch's parser raises several classes
            raise ModelError(f"{path}: TorchScript cannot load it: {first_line(error)}") from error
    training = bool(getattr(module, "training", False))
    module.eval()
    if not hasattr(module, "forward"):
        raise ModelError(f"{path}: has no forward method, so there is nothing to run")
    return module, training and _differs_in_training(module)


def _differs_in_training(module: Any) -> bool:
    """Whether the module has layers that compute something else in training mode."""
    graph = module.inlined_graph
    return any(graph.findNode(kind) for kind in _TRAINED)


TORCHSCRIPT = FileFormat(name="torchscript", recognises=is_torchscript, load=load_torchscript)
