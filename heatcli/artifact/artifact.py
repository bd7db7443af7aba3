"""What every loader returns: a module that runs, its inputs, and the file's description of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from heatcli.errors import NotComparedError, first_line
from heatcli.graph.quantised import biases
from heatcli.system.files import Stamp
from heatcli.system.torch_private import pytree

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class InputInfo:
    """One input of an artifact. Free dimensions are None; `shape` is None if the file does not declare it.

    `likely`: a shape that the artifact's layers suggest where it declares none (`likely_shape`).
    """

    name: str
    shape: tuple[int | None, ...] | None = None
    dtype: torch.dtype = torch.float32
    likely: tuple[int | None, ...] | None = None

    @property
    def channels_last(self) -> bool:
        """Whether the input's layout is [N, H, W, C]."""
        shape = self.shape
        return shape is not None and len(shape) == 4 and shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4)


@dataclass(frozen=True, eq=False)
class Artifact:
    """A loaded artifact.

    `module_for`: the torch module for inputs of given shapes, called with them in the order of `inputs`.
    `embedded`: the text of a sidecar inside the file, or "". `note`: likewise, what a model that explains itself says
    of its explanation (`heatcli.artifact.explained`). `renamed`: the module's names of parameters and buffers →
    the artifact's own, if they differ. `rewrites`: changes made before the artifact runs, such as `dequantise`.
    `external_data`: the artifact's other files, relative to its folder, with their stamps before they were read.
    `remarks`: notes for the user, each a sentence without its subject. `runtime`: runs the artifact as deployed, on
    inputs in the order of `inputs`, and returns all outputs. `against`: the name of that runtime. `differs`: the first
    node whose value differs in the runtime, in words, or None. `of_nodes`: what nodes
    of given names return in the runtime. `paired`: the explained input holds two pictures side by
    side (`heatcli.artifact.paired`).
    """

    module_for: Callable[[Shapes], Any]
    inputs: tuple[InputInfo, ...]
    embedded: str = ""
    note: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)
    rewrites: tuple[str, ...] = ()
    external_data: Mapping[str, Stamp | None] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    runtime: Callable[[Sequence[Tensor]], list[Tensor]] | None = None
    against: str = ""
    differs: Callable[[Sequence[Tensor]], str | None] | None = None
    of_nodes: Callable[[Sequence[Tensor], Sequence[str]], list[Tensor] | None] | None = None
    paired: bool = False

    def names(self, module: Any) -> dict[str, Tensor]:
        """Parameters and buffers of `module` under the artifact's own names."""
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers()), **biases(module)}
        return {self.renamed.get(name, name): tensor for name, tensor in tensors.items()}


class Fed:
    """A module that is called with the values of other inputs, of which `own` makes its own.

    `read` changes what it returns. Its parameters have the inner module's names.
    """

    def __init__(
        self, inner: Any, own: Callable[[Sequence[Tensor]], Sequence[Tensor]], read: Callable[[Any], Any] | None = None
    ) -> None:
        self._inner, self._own, self._read = inner, own, read
        self.named_parameters, self.named_buffers = inner.named_parameters, inner.named_buffers

    def to(self, device: torch.device) -> Fed:
        """The module on a device."""
        return Fed(self._inner.to(device), self._own, self._read)

    def __call__(self, *values: Tensor) -> Any:
        """What the module returns for its own inputs, read."""
        returned = self._inner(*self._own(values))
        return returned if self._read is None else self._read(returned)


def reads_tokens(module: Any) -> bool:
    """Whether the first layer with weights of a module, eager or scripted, is an embedding, so that it reads tokens."""
    for part in module.modules():
        if isinstance(getattr(part, "weight", None), Tensor):
            return getattr(part, "original_name", type(part).__name__) == "Embedding"
    return False


def likely_shape(module: Any) -> tuple[int | None, ...] | None:
    """[N, C, …] of a module, eager or scripted, whose first convolution is one of signals or volumes; else None.

    C is None where that convolution could be grouped.
    """
    for part in module.modules():
        dims = {"Conv1d": 1, "Conv2d": 2, "Conv3d": 3}.get(getattr(part, "original_name", type(part).__name__))
        if dims is not None and isinstance(getattr(part, "weight", None), Tensor):
            channels = int(part.weight.shape[1])
            return None if dims == 2 else (None, channels if channels > 1 else None, *(None,) * dims)
    return None


def of_module(module: Callable[..., Any], inputs: Sequence[Tensor]) -> list[Tensor]:
    """All tensors that a torch module returns for `inputs`, each [N, …]. Raises `NotComparedError`."""
    try:
        with torch.no_grad():
            given = [x.clone() for x in inputs]  # the module may overwrite its inputs
            return [x for x in pytree.tree_leaves(module(*given)) if isinstance(x, Tensor)]
    except RuntimeError as error:
        raise NotComparedError(f"torch cannot run it: {first_line(error)}") from error
