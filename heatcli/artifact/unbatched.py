"""Artifacts that take one picture without an axis of the batch, [C, H, W], as artifacts that take [1, C, H, W].

torchvision's detectors are exported to ONNX this way, from a list of one picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from torch import Tensor

from heatcli.artifact.artifact import Artifact, Fed, Shapes
from heatcli.artifact.layout import lacks_batch

_T = TypeVar("_T")


def with_batch(artifact: Artifact) -> Artifact:
    """The artifact with a batch of one picture for each input [C, H, W]; unchanged where there is none."""
    bare = tuple(lacks_batch(i.shape) for i in artifact.inputs)
    if not any(bare):
        return artifact

    def single(run: Callable[..., _T] | None) -> Callable[..., _T] | None:
        """A function of the values of all inputs that is called with one picture where that is asked for."""
        return None if run is None else lambda values, *rest: run(_first(values, bare), *rest)

    def module_for(shapes: Shapes) -> Fed:
        """The module for inputs of those shapes."""
        own = {i.name: shapes[i.name][1:] if b else shapes[i.name] for i, b in zip(artifact.inputs, bare, strict=True)}
        return Fed(artifact.module_for(own), partial(_first, bare=bare), _batched)

    run = single(artifact.runtime)
    return replace(
        artifact,
        inputs=tuple(
            replace(i, shape=(1, *i.shape)) if b and i.shape else i for i, b in zip(artifact.inputs, bare, strict=True)
        ),
        module_for=module_for,
        runtime=None if run is None else lambda values: _batched(run(values)),
        differs=single(artifact.differs),
        of_nodes=single(artifact.of_nodes),
    )


def _first(values: Sequence[Tensor], bare: Sequence[bool]) -> list[Tensor]:
    """The values of all inputs, without the axis of the batch where the artifact has none."""
    return [x[0] if b else x for x, b in zip(values, bare, strict=True)]


def _batched(returned: Any) -> Any:
    """What the artifact returns: a single output gets an axis of the batch. Of several, each may be a list of boxes."""
    outputs = [returned] if isinstance(returned, Tensor) else returned
    alone = isinstance(outputs, list | tuple) and len(outputs) == 1 and isinstance(outputs[0], Tensor)
    return [outputs[0].unsqueeze(0)] if alone else returned
