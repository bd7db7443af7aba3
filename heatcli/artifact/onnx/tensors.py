"""Tensors of ONNX files as torch tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from heatcli.artifact.onnx.value import RefusedError

# Keys: `TensorProto.DataType`. 4-bit integers are stored as bytes.
DTYPES: dict[int, torch.dtype] = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 4: torch.uint16, 5: torch.int16, 6: torch.int32, 7: torch.int64,
    9: torch.bool, 10: torch.float16, 11: torch.float64, 12: torch.uint32, 13: torch.uint64, 14: torch.complex64,
    15: torch.complex128, 16: torch.bfloat16, 17: torch.float8_e4m3fn, 18: torch.float8_e4m3fnuz,
    19: torch.float8_e5m2, 20: torch.float8_e5m2fnuz,
}  # fmt: skip
HALF_BYTES = {21: (0, 15), 22: (-8, 7)}  # uint4, int4
RANGES = {
    torch.uint8: (0, 255), torch.int8: (-128, 127), torch.uint16: (0, 65535), torch.int16: (-32768, 32767),
    torch.int32: (-(1 << 31), (1 << 31) - 1),
}  # fmt: skip


def dtype_of(number: int) -> torch.dtype:
    """The torch dtype of an ONNX type. Raises `RefusedError` for strings and other types that are no numbers."""
    if number in HALF_BYTES:
        return torch.int8 if number == 22 else torch.uint8
    if number not in DTYPES:
        raise RefusedError(f"values of type {_type_name(number)} cannot be explained; heatcli computes with numbers")
    return DTYPES[number]


def tensor_of(proto: Any) -> Tensor:
    """A `TensorProto` as a tensor with memory of its own. Raises `RefusedError`."""
    from onnx import numpy_helper

    dtype = dtype_of(proto.data_type)
    array = numpy_helper.to_array(proto)
    if proto.data_type in HALF_BYTES:
        return torch.from_numpy(array.astype("i1" if proto.data_type == 22 else "u1"))
    if dtype.itemsize < 4 and dtype.is_floating_point and dtype != torch.float16:  # dtypes unknown to numpy
        return torch.from_numpy(array.view(f"u{dtype.itemsize}").copy()).view(dtype)
    return torch.from_numpy(array.copy())


def dense_of(proto: Any) -> Tensor:
    """A `SparseTensorProto` as a dense tensor. Its indices are linear, or one row a value."""
    values, indices = tensor_of(proto.values), tensor_of(proto.indices)
    shape = list(proto.dims)
    if indices.dim() == 2:
        strides = torch.tensor([torch.tensor(shape[i + 1 :]).prod().int() for i in range(len(shape))])
        indices = (indices * strides).sum(1)
    flat = torch.zeros(int(torch.tensor(shape).prod()), dtype=values.dtype)
    return flat.scatter(0, indices, values).reshape(shape)


def _type_name(number: int) -> str:
    """The standard's name of an ONNX type."""
    from onnx import TensorProto

    try:
        return str(TensorProto.DataType.Name(number)).lower()
    except ValueError:
        return str(number)
