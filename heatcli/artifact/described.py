"""An artifact's description as bytes, for the cache and for child processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
from torch import Tensor

from heatcli.artifact.artifact import Artifact, InputInfo
from heatcli.graph import stored
from heatcli.system.files import Stamp


class _Input(msgspec.Struct, array_like=True, frozen=True):
    """An `InputInfo` as plain data."""

    name: str
    shape: tuple[int | None, ...] | None
    dtype: str
    likely: tuple[int | None, ...] | None = None


class Described(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An `Artifact` without its module. `external_data`: SHA-256 of its other files, `stamps`: their stamps."""

    inputs: tuple[_Input, ...]
    embedded: str
    renamed: dict[str, str]
    rewrites: tuple[str, ...]
    external_data: dict[str, str]
    stamps: dict[str, Stamp | None]
    against: str
    remarks: tuple[str, ...] = ()
    note: str = ""


def described(artifact: Artifact, external_data: Mapping[str, str] | None = None) -> bytes:
    """The artifact's description as bytes. `external_data`: the SHA-256 of its other files."""
    inputs = tuple(_Input(i.name, i.shape, str(i.dtype), i.likely) for i in artifact.inputs)
    record = Described(
        inputs=inputs, embedded=artifact.embedded, renamed=dict(artifact.renamed), rewrites=artifact.rewrites,
        external_data=dict(external_data or {}), stamps=dict(artifact.external_data),
        against=artifact.against, remarks=artifact.remarks, note=artifact.note,
    )  # fmt: skip
    return msgspec.msgpack.encode(record)


def unopened(content: Tensor, opened: Callable[[], Artifact]) -> Artifact:
    """The artifact that `described` wrote, opened only when its module is requested. `content`: uint8 [size]."""
    known = msgspec.msgpack.decode(content.numpy().data, type=Described)

    def run(values: Sequence[Tensor]) -> list[Tensor]:
        """The outputs of the opened artifact's runtime."""
        runtime = opened().runtime
        return runtime(values) if runtime else []

    def differs(values: Sequence[Tensor]) -> str | None:
        """The first node whose value differs in the opened artifact's runtime."""
        first = opened().differs
        return first(values) if first else None

    return Artifact(
        module_for=lambda shapes: opened().module_for(shapes),
        inputs=tuple(InputInfo(i.name, i.shape, stored.torch_name(i.dtype), i.likely) for i in known.inputs),
        embedded=known.embedded, renamed=known.renamed, rewrites=known.rewrites, external_data=known.stamps,
        runtime=run if known.against else None, against=known.against, differs=differs if known.against else None,
        remarks=known.remarks, note=known.note,
    )  # fmt: skip
