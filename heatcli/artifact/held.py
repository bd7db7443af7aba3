"""A model in memory, an `nn.Module`, a ScriptModule or an ExportedProgram, as an artifact.

ScriptModules and ExportedPrograms are written as files and read again. An `nn.Module` has no file format: a copy of it
is captured by running it.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from heatcli.artifact.artifact import Artifact, InputInfo, Shapes, likely_shape, of_module, reads_tokens
from heatcli.artifact.formats import recognise
from heatcli.artifact.recognise import Format
from heatcli.errors import ModelError, UsageError, edge, first_line
from heatcli.system.files import digest

Example = Tensor | Sequence[Tensor]
_TRAINED = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.RReLU,
)  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class Held:
    """An opened artifact without a file of the user's: its format, its hash, and the name that stands for a path."""

    name: Path
    format: Format
    artifact: Artifact
    sha256: str


def held(model: Any) -> Held:
    """The artifact of a model in memory. Raises `UsageError` for what is no model, `ModelError`."""
    if isinstance(model, torch.export.ExportedProgram):
        return _through_file(model, "ExportedProgram", ".pt2", torch.export.save)
    if isinstance(model, torch.jit.ScriptModule):
        return _through_file(model, _name(model), ".pt", torch.jit.save)
    if isinstance(model, nn.Module):
        return _copied(model)
    raise UsageError(
        f"{type(model).__name__} is no model; give the path of an artifact, a torch.nn.Module, a ScriptModule or an "
        "ExportedProgram"
    )


def _name(model: Any) -> str:
    """The name of the model's class."""
    return getattr(model, "original_name", "") or type(model).__name__


def _path(name: str) -> Path:
    """The name that replaces the path of a model in memory."""
    return Path(f"{name} (in memory)")


def _through_file(model: Any, name: str, suffix: str, save: Any) -> Held:
    """A model that is written as a file, which is read again as any other."""
    path = _path(name)
    with tempfile.TemporaryDirectory(prefix="heatcli-") as folder, edge(path, "written"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; that is no news to its users
        file = Path(folder, f"model{suffix}")
        save(model, str(file))
        kind = recognise(file)
        return Held(name=path, format=kind.name, artifact=kind.load(file), sha256=digest(file))


def _copied(model: nn.Module) -> Held:
    """A module's copy in evaluation mode, so that what the user does with the module later changes nothing here."""
    path = _path(_name(model))
    try:
        module = copy.deepcopy(model)
    except Exception as error:
        raise ModelError(
            f"{path}: cannot be copied: {first_line(error)}; give a ScriptModule, an ExportedProgram or a file"
        ) from error
    trained = any(part.training and isinstance(part, _TRAINED) for part in model.modules())
    remarks = ("is in training mode, and is explained as after model.eval()",) if trained else ()
    return Held(name=path, format="module", artifact=artifact_of(module, remarks=remarks), sha256=_hash(module))


def artifact_of(module: nn.Module, embedded: str = "", remarks: tuple[str, ...] = ()) -> Artifact:
    """The artifact of a module, which is set to evaluation mode. `embedded`, `remarks`: as in `Artifact`."""
    module = module.eval().requires_grad_(False)
    dtype = next((p.dtype for p in module.parameters() if p.dtype.is_floating_point), torch.float32)
    dtype = torch.int64 if reads_tokens(module) else dtype
    inputs = tuple(InputInfo(name, dtype=dtype, likely=likely_shape(module)) for name in _required(module))

    def module_for(_: Shapes) -> nn.Module:
        """The module, for inputs of any shape."""
        return module

    return Artifact(
        module_for, inputs, embedded=embedded, runtime=lambda values: of_module(module, values),
        against=f"torch {torch.__version__}", remarks=remarks,
    )  # fmt: skip


def _required(module: nn.Module) -> list[str]:
    """The names of the arguments that `forward` needs."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters.values()
    return [p.name for p in parameters if p.kind in positional and p.default is p.empty] or ["x"]


def _hash(module: nn.Module) -> str:
    """SHA-256 of the module's structure and of its parameters and buffers."""
    found = hashlib.sha256(repr(module).encode())
    for name, tensor in sorted(module.state_dict().items()):
        if isinstance(tensor, Tensor):
            plain = tensor.detach().cpu().contiguous()
            found.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
            found.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def with_example(
    artifact: Artifact, inputs: Mapping[str, Tensor], example: Example | None
) -> tuple[Artifact, Mapping[str, Tensor]]:
    """The artifact with the shapes of an example, and the values of all inputs but the picture.

    `example`: the picture's input [N, C, H, W], or all inputs in order, of which the first floating-point one with four
    dimensions is the picture's. Shapes that the artifact declares stay. Raises `UsageError`.
    """
    if example is None:
        return artifact, inputs
    left = [i for i in artifact.inputs if i.name not in inputs]
    values = [example] if isinstance(example, Tensor) else list(example)
    if len(values) != len(left) or not all(isinstance(value, Tensor) for value in values):
        names = ", ".join(i.name for i in left)
        raise UsageError(f"the example is of {len(values)} inputs, the model takes {len(left)} ({names}): tensors all")
    pictures = [i for i, x in enumerate(values) if x.is_floating_point() and x.dim() == 4]
    pictures = pictures or [i for i, x in enumerate(values) if x.is_floating_point()]
    pictures = pictures or [i for i, x in enumerate(values) if x.dtype in (torch.int64, torch.int32) and x.dim() == 2]
    if not pictures:
        raise UsageError("the example holds no input of floating point, so nothing to explain")
    explained = left[pictures[0]].name
    shapes = {i.name: (None, *x.shape[1:]) for i, x in zip(left, values, strict=True)}
    others = {i.name: x[:1].detach() for i, x in zip(left, values, strict=True) if i.name != explained}
    infos = tuple(
        replace(i, shape=shapes[i.name]) if i.name == explained and i.shape is None else i for i in artifact.inputs
    )
    return replace(artifact, inputs=infos), {**inputs, **others}
