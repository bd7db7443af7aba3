"""What is known about an artifact's input and labels: `NAME.toml` beside it, or the same text inside it.

TorchScript extra files, ONNX metadata_props and torch.export extra files are looked up under `heatcli.toml`.
Flags override the sidecar, the sidecar overrides the artifact.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from heatcli.errors import ModelError, UsageError, boundary
from heatcli.files import TEXT, is_there, read_regular

EMBEDDED = "heatcli.toml"


class Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How pixels become the network's input: (pixel/255 − mean)/std, resized to `size` = (height, width).

    `mean` and `std` are of red, green and blue, in that order; the network takes the channels as `order` says, by
    default rgb. `range`: what the values of arrays and of pictures of more than 8 bits mean (`heatcli.images.values`).
    A model of sequences has an `alphabet`, such as ACGT, whose letters are its channels, and may have one `length`.
    """

    size: tuple[int, int] | int | None = None
    channels: int | None = None
    mean: tuple[float, ...] | float = 0.0
    std: tuple[float, ...] | float = 1.0
    resize: str = "stretch"
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    order: Literal["rgb", "bgr"] | msgspec.UnsetType = msgspec.UNSET
    range: str | msgspec.UnsetType = msgspec.UNSET
    alphabet: str | msgspec.UnsetType = msgspec.UNSET
    length: int | msgspec.UnsetType = msgspec.UNSET

    @property
    def shape(self) -> tuple[int, int] | None:
        """(height, width), or None where unknown."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def resize_to(self) -> int | None:
        """For `crop` and `crop:N`: the length of the shorter side before the centre is cut out; None for `stretch`."""
        if self.resize == "stretch":
            return None
        shape = self.shape or (0, 0)
        kind, _, number = self.resize.partition(":")
        if kind != "crop" or (number and not (number.isdecimal() and len(number) < 6 and int(number))):
            raise UsageError(f"resize {self.resize!r} is not known; use stretch, crop or crop:N, N from 1 to 99999")
        return int(number) if number else max(shape)


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The axis of the classes in the explained output, counted as the artifact returns it, and what its numbers are."""

    axis: int | None = None
    kind: Literal["classes", "binary", "regression", "embedding", "detections"] | None = None


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


class Sidecar(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file; `input` is None where it says nothing of pictures."""

    input: Input | None = None
    output: Output = Output()
    labels: Labels = Labels()
    baseline: Baseline = Baseline()


def read_sidecar(artifact: Path, embedded: str) -> Sidecar:
    """The sidecar beside `artifact`, else the text embedded in it, else an empty one. Raises `ModelError`."""
    path = artifact.with_suffix(".toml")
    beside = is_there(path)
    with boundary(path, ModelError):
        text = read_regular(path, TEXT).decode("utf-8") if beside else embedded
    with boundary(path if beside else artifact, ModelError, "bad sidecar"):
        return msgspec.toml.decode(text, type=Sidecar)


def overridden(given: Input, flags: dict[str, Any]) -> Input:
    """`given` with the flags that the user set (those not None) in place of its own values."""
    return msgspec.structs.replace(given, **{name: value for name, value in flags.items() if value is not None})


def read_labels(artifact: Path, labels: Labels) -> tuple[str, ...]:
    """Class names in index order; empty where there are none. Raises `ModelError` for a missing file."""
    if labels.file is None:
        return labels.names
    path = artifact.parent / labels.file
    with boundary(path, ModelError, "the labels cannot be read"):
        text = read_regular(path, TEXT).decode("utf-8")
    return tuple(line.strip() for line in text.splitlines() if line.strip())
