"""Networks of two pictures: their artifact as one of a single input, which holds both pictures side by side.

So the walk, the books and every method see one picture [N, C, H, 2·W], and relevance falls on both.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from heatcli.artifact.artifact import Artifact, Fed, InputInfo, Shapes
from heatcli.errors import UsageError


def side_by_side(path: Path, artifact: Artifact, given: Collection[str]) -> Artifact:
    """The artifact with two pictures as one input, if two inputs of one shape have no value; else unchanged.

    Raises `UsageError` if the two differ in shape.
    """
    left = [i for i in artifact.inputs if i.name not in given]
    if len(left) != 2 or not all(_may_be_picture(i) for i in left):
        return artifact
    one, other = left
    if one.shape and other.shape and one.shape[1:] != other.shape[1:]:
        sizes = " and ".join(f"{i.name} {'×'.join(str(d or 'N') for d in i.shape or ())}" for i in left)
        raise UsageError(f"{path}: its inputs {sizes} differ in shape; a pair is of two pictures of one shape")
    at = artifact.inputs.index(one), artifact.inputs.index(other)
    axis = 2 if one.channels_last else 3
    run = artifact.runtime

    def module_for(shapes: Shapes) -> Fed:
        """The module for inputs of those shapes, that of the pair halved."""
        half = list(shapes[one.name])
        half[axis] //= 2
        inner = artifact.module_for({**shapes, one.name: tuple(half), other.name: tuple(half)})
        return Fed(inner, lambda values: _halves(values, at, axis))

    return replace(
        artifact,
        inputs=tuple(i for i in artifact.inputs if i is not other),
        module_for=module_for,
        runtime=None if run is None else lambda values: run(_halves(values, at, axis)),
        differs=None,
        paired=True,
    )


def _may_be_picture(info: InputInfo) -> bool:
    """Whether an input can be a picture, by its dtype and shape."""
    return info.dtype.is_floating_point and (info.shape is None or len(info.shape) == 4)


def _halves(values: Sequence[Tensor], at: tuple[int, int], axis: int) -> list[Tensor]:
    """The values of all inputs, the pair as its two pictures."""
    first, second = values[at[0]].chunk(2, axis)
    found = list(values)
    found[at[0]] = first.contiguous()
    found.insert(at[1], second.contiguous())
    return found
