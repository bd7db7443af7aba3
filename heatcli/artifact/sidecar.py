"""The sidecar: what is known about an artifact's input and labels, in `NAME.toml` beside it or inside it.

TorchScript extra files, ONNX metadata_props and torch.export extra files hold it under `heatcli.toml`. Flags override
the sidecar, and the sidecar overrides the artifact.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import msgspec

from heatcli.artifact.layout import PICTURES, Axes, Layout
from heatcli.errors import ModelError, UsageError, boundary
from heatcli.system.files import TEXT, is_there, read_regular

EMBEDDED = "heatcli.toml"


# A picture keeps its shape, and grey fills the rest: around it, or to its right and below.
LETTERBOXES = ("letterbox", "letterbox:corner")


class Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How pixels become the network's input: (pixel/255 − mean)/std, resized to `size` = (height, width).

    `mean` and `std` are for red, green and blue, in that order. `order`: the order in which the network takes the
    channels, by default rgb. `range`: the meaning of values in arrays and in pictures with more than 8 bits
    (`heatcli.images.values`). A model of sequences has an `alphabet`, such as ACGT, whose letters are its channels, and
    optionally a fixed `length`.

    `axes`: what the input's axes are, where it is no picture (`heatcli.artifact.layout`); `size` has a number for each
    axis of positions. `rate`: samples a second of a signal. `names`: of a
    signal's channels, a picture's bands or a table's features; or the words that tokens stand for.
    """

    size: tuple[int, ...] | int | None = None
    channels: int | None = None
    mean: tuple[float, ...] | float = 0.0
    std: tuple[float, ...] | float = 1.0
    resize: str = "stretch"
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    order: Literal["rgb", "bgr"] | msgspec.UnsetType = msgspec.UNSET
    range: str | msgspec.UnsetType = msgspec.UNSET
    alphabet: str | msgspec.UnsetType = msgspec.UNSET
    length: int | msgspec.UnsetType = msgspec.UNSET
    axes: Axes | msgspec.UnsetType = msgspec.UNSET
    rate: float | msgspec.UnsetType = msgspec.UNSET
    names: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET

    @property
    def layout(self) -> Layout:
        """What the input's axes are."""
        return Layout(self.axes) if self.axes else PICTURES

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The length of each axis of positions, (height, width) of pictures; None if unknown."""
        return (self.size,) * self.layout.dims if isinstance(self.size, int) else self.size

    @property
    def resize_to(self) -> int | None:
        """For `crop` and `crop:N`: the length of the shorter side before the centre crop. None for other ways.

        Raises `UsageError` for other values.
        """
        if self.resize in ("stretch", *LETTERBOXES):
            return None
        shape = self.shape or (0, 0)
        kind, _, number = self.resize.partition(":")
        if kind != "crop" or (number and not (number.isdecimal() and len(number) < 6 and int(number))):
            raise UsageError(
                f"resize {self.resize!r} is not known; use stretch, crop, crop:N (N from 1 to 99999), letterbox "
                "or letterbox:corner"
            )
        return int(number) if number else max(shape)


Kind = Literal[
    "classes", "labels", "binary", "regression", "segmentation", "sequence", "embedding", "detections"
]  # fmt: skip
KINDS: tuple[str, ...] = get_args(Kind)


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The axis of the classes in the explained output, counted as the artifact returns it, and the kind of output.

    `unit`: of a regression, such as mm. `background`: a detector's class that stands for no object. `boxes`: the four
    numbers of a box, `centre` (x, y, w, h) or `corners` (x1, y1, x2, y2). `anchors`: an `.npy` beside the sidecar, what
    its boxes are relative to, and `offsets`, how (`heatcli.graph.anchors`). `confidence`, `overlap`: what counts as a
    box (`heatcli.graph.heads.Thresholds`).
    """

    axis: int | None = None
    kind: Kind | None = None
    unit: str = ""
    background: int | None = None
    boxes: Literal["centre", "corners"] | None = None
    anchors: str | None = None
    offsets: Literal["ssd", "retinanet", "fcos"] | None = None
    confidence: float = 0.25
    overlap: float = 0.45


class Labels(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Class names in index order, here or one a line in a file beside the sidecar."""

    names: tuple[str, ...] = ()
    file: str | None = None


class Baseline(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`mean`: the mean image's `.npz`, as `heatcli mean` writes it, beside the sidecar.

    `background`: for sequences, the frequency of each letter of the alphabet.
    """

    mean: str | None = None
    background: tuple[float, ...] = ()


# Names of channels: layer, as `--layer` takes it → channel → name.
Concepts = dict[str, dict[int, str]]


class Named(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An input beside the picture that gets relevance; the names of its values, in order, () for their numbers."""

    names: tuple[str, ...] = ()


class Sidecar(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file. `input` is None if the file has no `[input]`. `inputs`: others that get relevance."""

    input: Input | None = None
    inputs: dict[str, Named] = {}
    output: Output = Output()
    labels: Labels = Labels()
    baseline: Baseline = Baseline()
    concepts: Concepts = msgspec.field(default_factory=dict)


def read_sidecar(artifact: Path, embedded: str) -> Sidecar:
    """The sidecar beside `artifact`, else the embedded text, else an empty sidecar. Raises `ModelError`."""
    path = artifact.with_suffix(".toml")
    beside = is_there(path)
    with boundary(path, ModelError):
        text = read_regular(path, TEXT).decode("utf-8") if beside else embedded
    with boundary(path if beside else artifact, ModelError, "bad sidecar"):
        return msgspec.toml.decode(text, type=Sidecar)


def read_concepts(path: Path) -> Concepts:
    """Names of channels from a TOML file with a table per layer: `["features.28"]`, `17 = "snow"`.

    Raises `UsageError`.
    """
    with boundary(path, UsageError, "the names of concepts cannot be read"):
        return msgspec.toml.decode(read_regular(path, TEXT).decode("utf-8"), type=Concepts, strict=False)


def overridden(given: Input, flags: dict[str, Any]) -> Input:
    """`given` with the values of all flags that are not None. Raises `UsageError` for a value of another type."""
    types, said = get_type_hints(Input), {name: value for name, value in flags.items() if value is not None}
    for name in types.keys() & said.keys():
        try:
            said[name] = msgspec.convert(said[name], types[name])
        except msgspec.ValidationError as error:
            raise UsageError(f"{name} {said[name]!r} is not allowed: {str(error)[0].lower()}{str(error)[1:]}") from None
    return msgspec.structs.replace(given, **said)


def read_labels(artifact: Path, labels: Labels) -> tuple[str, ...]:
    """Class names in index order, () without labels. Raises `ModelError` for a missing file."""
    if labels.file is None:
        return labels.names
    path = artifact.parent / labels.file
    with boundary(path, ModelError, "the labels cannot be read"):
        text = read_regular(path, TEXT).decode("utf-8")
    return tuple(line.strip() for line in text.splitlines() if line.strip())
