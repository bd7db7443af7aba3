"""What every loader hands over: a module that runs, its inputs, and what the file says of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from heatcli.files import Stamp

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class InputInfo:
    """One input of an artifact; dimensions are None where free, `shape` is None where the file does not say."""

    name: str
    shape: tuple[int | None, ...] | None = None
    dtype: torch.dtype = torch.float32

    @property
    def channels_last(self) -> bool:
        """Whether pictures go in as [N, H, W, C]."""
        shape = self.shape
        return shape is not None and len(shape) == 4 and shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4)


@dataclass(frozen=True, eq=False)
class Artifact:
    """A loaded artifact.

    `module_for`: the torch module that runs inputs of given shapes, called with them in the order of `inputs`.
    `embedded`: the text of a sidecar inside the file, or "". `renamed`: the module's names of parameters and buffers →
    the artifact's own, where they differ. `rewrites`: what was changed before it runs, such as `dequantise`.
    `parts`: the other files that it consists of, relative to its folder, as they were before they were read.
    `remarks`: what its user should know, each a sentence without its subject. `runtime`: runs the artifact as deployed,
    on inputs in the order of `inputs`, and returns all outputs; `against`: what runs it there. `differs`: the first
    node whose value is another one there, in words; None where none is.
    """

    module_for: Callable[[Shapes], Any]
    inputs: tuple[InputInfo, ...]
    embedded: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)
    rewrites: tuple[str, ...] = ()
    parts: Mapping[str, Stamp | None] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    runtime: Callable[[Sequence[Tensor]], list[Tensor]] | None = None
    against: str = ""
    differs: Callable[[Sequence[Tensor]], str | None] | None = None

    def names(self, module: Any) -> dict[str, Tensor]:
        """Parameters and buffers of `module` under the artifact's own names."""
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        return {self.renamed.get(name, name): tensor for name, tensor in tensors.items()}
