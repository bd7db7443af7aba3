"""What the artifact, its sidecar and the user's flags say about input and output. Flags override all else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec.structs import replace as replace_fields
from torch import Tensor

from heatcli.artifact.artifact import Artifact, InputInfo
from heatcli.artifact.layout import AXES, PICTURES, TOKEN_DTYPES, Layout, layout_for, layout_of
from heatcli.artifact.sidecar import (
    KINDS,
    Concepts,
    Input,
    Labels,
    Named,
    Output,
    overridden,
    read_concepts,
    read_labels,
    read_sidecar,
)
from heatcli.errors import MissingError, ModelError, UsageError, boundary, unknown_name
from heatcli.graph.anchors import Anchors
from heatcli.model.preprocessing import checked, told_by
from heatcli.model.presets import for_size, preset
from heatcli.system.compress import MOST_BYTES, read_array
from heatcli.system.files import read_regular


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is known about an artifact besides its file.

    `input`: how a picture becomes its input. `told_by`: who says so, "" for nobody. `labels`: in index order.
    `mean_file`: the mean image. `background`: the frequency of each letter. `output`: what the user says about the
    explained output. `max_pixels`: the largest picture to read, None for the default. `concepts`: names of channels.
    `inputs`: those beside the picture that get relevance. `anchors`: those that a detector's boxes are relative to.
    """

    input: Input
    told_by: str
    labels: tuple[str, ...]
    mean_file: Path | None
    background: tuple[float, ...]
    output: Output
    max_pixels: int | None
    concepts: Concepts = field(default_factory=dict)
    inputs: Mapping[str, Named] = field(default_factory=dict)
    anchors: Anchors | None = None


@dataclass(frozen=True, kw_only=True)
class Flags:
    """The user's flags: `input` overrides the sidecar's `[input]`, `output` its `[output]`.

    `preset` sets several of `input`. `labels`: a file of labels. `concepts`: a file of names of channels.
    `max_pixels`: as in `Settings`.
    """

    input: Mapping[str, Any]
    output: Mapping[str, Any]
    preset: str | None
    labels: str | Path | None
    max_pixels: int | None
    concepts: str | Path | None = None

    def settings(self, path: Path, artifact: Artifact, picture: InputInfo) -> Settings:
        """The settings of the artifact `path`, whose input `picture` is explained. Raises `UsageError`, `ModelError`.

        A value of the input comes from its flag, the preset, the sidecar, or the artifact's declared shape, in that
        order.
        """
        sidecar = read_sidecar(path, artifact.embedded)
        said = {name: value for name, value in self.output.items() if value is not None}
        if said.get("kind", KINDS[0]) not in KINDS:
            raise unknown_name("kind of output", said["kind"], KINDS)
        stated = sidecar.input or Input()
        flags = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in self.input.items()}
        named = preset(self.preset) if self.preset else {}
        layout = _layout(picture, overridden(stated, named), flags)
        if layout != PICTURES:
            flags["axes"] = layout.axes
        if isinstance(flags.get("size"), int):
            flags["size"] = (flags["size"],) * layout.dims
        shape = _declared(picture, layout)
        fixed = shape.get("size") if picture.shape is not None and layout == PICTURES else None
        if fixed is not None:
            named = for_size(named, fixed)
        declared = {n: value for n, value in shape.items() if getattr(stated, n) is None}
        given = overridden(overridden(overridden(stated, declared), named), flags)
        checked(given, path, flags)
        if fixed is not None and given.shape != fixed:
            height, width = given.shape or fixed
            raise UsageError(
                f"{path}: takes pictures of {fixed[0]}×{fixed[1]} alone, and its size is said to be {height}×{width}; "
                "leave the size out, or export the model for that size"
            )
        labels = sidecar.labels if self.labels is None else Labels(file=str(Path(self.labels).absolute()))
        return Settings(
            input=given,
            told_by=told_by(path, sidecar, self.preset, flags),
            labels=read_labels(path, labels),
            mean_file=path.parent / sidecar.baseline.mean if sidecar.baseline.mean else None,
            background=sidecar.baseline.background,
            output=replace_fields(sidecar.output, **said),
            max_pixels=self.max_pixels,
            concepts=sidecar.concepts if self.concepts is None else read_concepts(Path(self.concepts)),
            inputs=_named_inputs(path, artifact, sidecar.inputs),
            anchors=_anchors(path, sidecar.output),
        )


def _anchors(artifact: Path, output: Output) -> Anchors | None:
    """The anchors of a detector, None without. Raises `ModelError` for a file that does not hold [A, 4] numbers."""
    if output.anchors is None and output.offsets is None:
        return None
    if output.anchors is None or output.offsets is None:
        raise ModelError(
            f"{artifact}: bad sidecar: [output] has anchors or offsets alone; it takes both, "
            'anchors = "FILE.npy" and offsets = "ssd", "retinanet" or "fcos"'
        )
    path = artifact.parent / output.anchors
    with boundary(path, ModelError, "the anchors cannot be read"):
        values = read_array(read_regular(path, MOST_BYTES))
    if values.ndim != 2 or values.shape[1] != 4 or values.dtype.kind not in "fiu" or not np.isfinite(values).all():
        raise ModelError(f"{path}: holds {list(values.shape)} of {values.dtype}; anchors are [A, 4]: x1, y1, x2, y2")
    return Anchors(torch.from_numpy(values.astype(np.float32)), output.offsets)


def _named_inputs(path: Path, artifact: Artifact, named: Mapping[str, Named]) -> Mapping[str, Named]:
    """The sidecar's `[inputs]`. Raises `UsageError` for an input that the artifact does not have."""
    for name in named:
        if name not in [i.name for i in artifact.inputs]:
            raise unknown_name(f"input of {path.name}", name, [i.name for i in artifact.inputs])
    return named


def explained_input(path: Path, artifact: Artifact, given: Mapping[str, Tensor]) -> InputInfo:
    """The input that is explained: the only one without a value in `given`, which holds tensors [1, …] or [N, …].

    Raises `UsageError` for a value that does not fit, `MissingError` if several inputs have none, `ModelError`.
    """
    names = [i.name for i in artifact.inputs]
    for name in given:
        if name not in names:
            raise unknown_name(f"input of {path.name}", name, names)
        declared, shape = artifact.inputs[names.index(name)].shape, tuple(given[name].shape)
        each = zip(shape[1:], (declared or ())[1:], strict=False)  # the first is the batch's
        if declared and (len(shape) != len(declared) or any(d not in (n, None) for n, d in each)):
            wanted = "×".join("any" if d is None else str(d) for d in declared)
            raise UsageError(f"{path}: its input {name} is {wanted}; the value given is {'×'.join(map(str, shape))}")
    left = [i for i in artifact.inputs if i.name not in given]
    if len(left) != 1:
        pictures = all(i.shape is None or len(i.shape) == 4 for i in left)
        raise MissingError(
            f"{path}: takes {len(names)} inputs ({', '.join(names)}); give all but the one to explain, each with "
            f"--input NAME=FILE.npy{'; --pair gives a second picture' if pictures else ''}"
        )
    axes = None if left[0].shape is None else len(left[0].shape)
    tokens = str(left[0].dtype) in TOKEN_DTYPES and axes in (None, 2)
    if not left[0].dtype.is_floating_point and not tokens:
        raise ModelError(
            f"{path}: its input {left[0].name} is of {left[0].dtype}, not floating-point pixels, nor tokens [N, T]"
        )
    return left[0]


def _layout(picture: InputInfo, stated: Input, flags: Mapping[str, Any]) -> Layout:
    """The input's layout: the user's, the sidecar's, that of the declared shape, or of the likely one.

    A likely shape is a guess: a size of another number of lengths, from the user or the sidecar, overrules it.
    Sequences of letters have no layout of their own. Raises `UsageError`.
    """
    flag, size = flags.get("axes"), flags.get("size") or stated.size
    if flag is not None and flag not in AXES:
        raise unknown_name("layout of axes", flag, AXES)
    if flag or stated.axes:
        return Layout(flag or str(stated.axes))
    if not picture.dtype.is_floating_point:
        return Layout("NT")
    shape = picture.shape or picture.likely
    letters = stated.alphabet or (picture.shape is not None and len(picture.shape) == 3 and picture.shape[1] == 4)
    layout = PICTURES if letters else layout_of(shape) or PICTURES
    lengths = layout.dims if size is None or isinstance(size, int) else len(size)
    return layout if picture.shape or lengths == layout.dims else layout_for("", lengths + 2)


def _declared(picture: InputInfo, layout: Layout) -> dict[str, Any]:
    """Channels and size from the input's declared shape, or from the likely one."""
    shape = picture.shape or picture.likely
    if shape is None or len(shape) != len(layout.axes):
        return {}
    if layout != PICTURES:
        return {"channels": layout.channels_of(shape), "size": layout.sides_of(shape)}
    _, height, width, channels = shape if picture.channels_last else (shape[0], shape[2], shape[3], shape[1])
    return {"channels": channels, "size": (height, width) if height and width else None}
