"""A graph as bytes and back: operators as plain data, tensors as raw storages. Nothing is unpickled.

    length of the head, 8 bytes | head, msgpack | zeros up to a multiple of 64 | storages, each padded likewise

The reader builds a closed list of types only. Names are looked up among torch's dtypes, layouts and memory formats, and
among ATen operators that compute tensors from tensors and write nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import msgspec
import torch
from torch import Tensor

from heatcli.graph.operator import Boxes, Constant, Graph, Offset, Operator, Ref, Returned, Verified
from heatcli.graph.permitted import permitted
from heatcli.system.torch_private import OpOverload, OpOverloadPacket, schema_of

Buffer = bytes | memoryview
_ALIGNED = 64  # torch's own alignment; kernels may round differently at other alignments
_RECORDS: Mapping[str, type] = {
    kind.__name__: kind for kind in (Ref, Constant, Offset, Operator, Returned, Graph, Verified, Boxes)
}
_FIELDS = {kind: tuple(f.name for f in fields(kind) if f.init) for kind in _RECORDS.values()}
_TORCH = {str(x): x for x in vars(torch).values() if isinstance(x, (torch.dtype, torch.layout, torch.memory_format))}


class NotStorableError(Exception):
    """The graph holds something without a stored form, such as an operator outside ATen."""


class _Tensor(msgspec.Struct, array_like=True, frozen=True):
    """A view of a storage. `offset` and `strides` count elements."""

    storage: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str


class _Storage(msgspec.Struct, array_like=True, frozen=True):
    """Memory that tensors share: its size in bytes and its device."""

    size: int
    device: str


class _Head(msgspec.Struct, array_like=True, frozen=True):
    """The graph as plain data, with the tensors and storages that it refers to by number."""

    graph: Any
    tensors: list[_Tensor]
    storages: list[_Storage]


def to_bytes(graph: Graph) -> list[Buffer]:
    """`graph` as chunks of bytes, to be joined. Raises `NotStorableError`."""
    writer = _Writer()
    try:
        head = msgspec.msgpack.encode(_Head(writer.plain(graph), writer.tensors, writer.storages))
    except OverflowError as error:
        raise NotStorableError(str(error)) from error
    parts: list[Buffer] = [len(head).to_bytes(8, "little"), head, bytes(-(8 + len(head)) % _ALIGNED)]
    for memory in writer.memories:
        parts += [memory, bytes(-len(memory) % _ALIGNED)]
    return parts


def from_bytes(content: Tensor) -> Graph:
    """The graph stored in `content` (uint8 [size], 64-byte aligned). Its tensors are views of `content`.

    Raises `ValueError`, or other exceptions, if `content` is not the output of `to_bytes`.
    """
    length = int.from_bytes(bytes(content[:8].tolist()), "little")
    head = msgspec.msgpack.decode(content[8 : 8 + length].numpy().data, type=_Head)
    start, storages = _rounded_up(8 + length), []
    for storage in head.storages:
        memory = content[start : start + _rounded_up(storage.size)]
        storages.append(memory.to(torch.device(storage.device)))
        start += _rounded_up(storage.size)
    if start != len(content):
        raise ValueError(f"{len(content)} bytes, not {start}")
    graph = _value(head.graph, [_tensor(tensor, storages) for tensor in head.tensors])
    if not isinstance(graph, Graph):
        raise ValueError(f"a {type(graph).__name__}, not a graph")
    _check(graph)
    return graph


class _Writer:
    """Collects the tensors and storages that a graph refers to. A tensor used twice is stored once."""

    def __init__(self) -> None:
        self.tensors: list[_Tensor] = []
        self.storages: list[_Storage] = []
        self.memories: list[memoryview] = []
        self._tensor_of: dict[int, int] = {}
        self._storage_of: dict[tuple[str, int, int], int] = {}

    def plain(self, x: Any) -> Any:
        """`x` as msgpack data: numbers, text and None unchanged, all else as [type, …]."""
        if x is None or type(x) in (bool, int, float, str):
            return x
        if isinstance(x, Tensor):
            return ["tensor", self._tensor(x)]
        if isinstance(x, OpOverload):
            return ["aten", _aten_name(x)]
        if isinstance(x, (list, tuple)):
            return ["list" if isinstance(x, list) else "tuple", *map(self.plain, x)]
        if isinstance(x, Mapping):
            return ["dict", *(self.plain(y) for item in x.items() for y in item)]
        if isinstance(x, torch.device):
            return ["device", str(x)]
        if type(x) in _FIELDS:
            return [type(x).__name__, *(self.plain(getattr(x, name)) for name in _FIELDS[type(x)])]
        if str(x) in _TORCH:
            return ["torch", str(x)]
        raise NotStorableError(f"{type(x).__name__} {x}")

    def _tensor(self, x: Tensor) -> int:
        """The number of a tensor. Raises `NotStorableError` for one that is not plain strided memory."""
        if id(x) not in self._tensor_of:
            if x.layout != torch.strided or x.is_quantized or x.is_conj() or x.is_neg():
                raise NotStorableError(f"a tensor of {x.layout}, {x.dtype}")
            self._tensor_of[id(x)] = len(self.tensors)
            offset = int(x.storage_offset())
            self.tensors.append(_Tensor(self._storage(x), offset, tuple(x.shape), x.stride(), str(x.dtype)))
        return self._tensor_of[id(x)]

    def _storage(self, x: Tensor) -> int:
        """The number of a tensor's storage."""
        memory = x.untyped_storage()
        key = (str(x.device), memory.data_ptr(), memory.nbytes())
        if key not in self._storage_of:
            self._storage_of[key] = len(self.storages)
            flat = torch.empty(0, dtype=torch.uint8, device=x.device).set_(memory)
            self.memories.append(flat.cpu().numpy().data)
            self.storages.append(_Storage(memory.nbytes(), str(x.device)))
        return self._storage_of[key]


_BUILT: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "dict": lambda values: dict(zip(values[::2], values[1::2], strict=True)),
    "torch": lambda values: torch_name(values[0]),
    "device": lambda values: torch.device(values[0]),
    "aten": lambda values: _aten(values[0]),
}


def _value(x: Any, tensors: list[Tensor]) -> Any:
    """The object that `_Writer.plain` encoded as `x`."""
    if not isinstance(x, list):
        return x
    kind, *rest = x
    if kind == "tensor":
        return tensors[rest[0]]
    values = [_value(y, tensors) for y in rest]
    return _BUILT[kind](values) if kind in _BUILT else _RECORDS[kind](*values)


def _tensor(stored: _Tensor, storages: list[Tensor]) -> Tensor:
    """A stored tensor as a view of its storage."""
    flat = storages[stored.storage].view(torch_name(stored.dtype))
    return flat.as_strided(stored.shape, stored.strides, flat.storage_offset() + stored.offset)


def torch_name(name: str) -> Any:
    """The dtype, layout or memory format of that name, such as `torch.float32`. Raises `KeyError`."""
    return _TORCH[name]


def _rounded_up(size: int) -> int:
    """The size rounded up to a multiple of `_ALIGNED`."""
    return size + -size % _ALIGNED


def _aten_name(target: OpOverload) -> str:
    """A name such as `convolution.default`. Raises `NotStorableError` for operators that `_aten` refuses."""
    name = str(target).removeprefix("aten.")
    try:
        same = _aten(name) is target
    except ValueError:
        same = False
    if not same:
        raise NotStorableError(f"operator {target}")
    return name


def _aten(name: str) -> OpOverload:
    """The operator of ATen, or `torchvision.…`, of that name and overload.

    Raises `ValueError` unless it only computes tensors.
    """
    library = "torchvision" if name.startswith("torchvision.") else "aten"
    if library == "torchvision":
        import torchvision  # noqa: F401  (two seconds, so only where an operator is needed)
    packet_name, _, overload = name.removeprefix("torchvision.").partition(".")
    packet = getattr(getattr(torch.ops, library), packet_name, None) if packet_name.isidentifier() else None
    if not isinstance(packet, OpOverloadPacket) or overload not in packet.overloads():  # type: ignore[no-untyped-call]
        raise ValueError(f"no operator of {library}: {name}")
    operator: OpOverload = getattr(packet, overload)
    returns = [str(x.type) for x in schema_of(operator).returns]
    computes = permitted(library, packet_name) and returns and {"Tensor", "List[Tensor]"}.issuperset(returns)
    if schema_of(operator).is_mutable or not computes:
        raise ValueError(f"{name} does more than compute tensors")
    return operator


def _check(graph: Graph) -> None:
    """Check that every operator reads only values of earlier operators, and at least one. Raises `ValueError`."""
    known = {graph.input}
    for op in (*graph.operators, *([graph.final] if graph.final else [])):
        refs = set(op.refs)
        if not refs or not refs <= known or not isinstance(op.target, OpOverload):
            raise ValueError(f"{op.name} reads {refs}")
        known.add(op.name)
    if graph.output not in known:
        raise ValueError(f"no output {graph.output}")
