"""Arrays as files, written and read. What a file declares is believed only as far as its bytes go."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Collection, Mapping
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from heatcli.deflate import raw

MAGIC = b"\x93NUMPY"
MOST = 1 << 28  # numbers in a side file: a mean image, an expert, the value of an input
MOST_BYTES = 8 * MOST + (1 << 26)
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_STEP = 1 << 20  # bytes that are inflated at a time


def read_array(content: bytes, most: int = MOST) -> NDArray[Any]:
    """The array in the content of an `.npy` file, or the first one of an `.npz`, of at most so many numbers.

    Raises `ValueError` where it is none, or whatever else a damaged archive makes its reader raise.
    """
    if content.startswith(MAGIC):
        return _array(io.BytesIO(content), len(content), most)
    arrays = read_npz(content, most=most, first=True)
    return next(iter(arrays.values()))


def read_npz(
    content: bytes, names: Collection[str] | None = None, most: int = MOST, first: bool = False
) -> dict[str, NDArray[Any]]:
    """The arrays of an `.npz` of those names, or all, or the first; each of at most so many numbers.

    Raises as `read_array` does, `KeyError` for a name that is not there.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        there = [name.removesuffix(".npy") for name in archive.namelist()]
        if first and not there:
            raise ValueError("the archive holds no array")
        found = {}
        for name in there[:1] if first else there if names is None else names:
            info = archive.getinfo(f"{name}.npy")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError("it is compressed in a way that NumPy does not use")
            with archive.open(info) as file:
                found[name] = _array(file, info.file_size, most)
        return found


def _array(file: IO[bytes], size: int, most: int) -> NDArray[Any]:
    """The array in an `.npy` file of so many bytes: no memory is taken for what the file cannot hold."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"its .npy format {version[0]}.{version[1]} is not known")
    shape, fortran, dtype = _HEADERS[version](file)
    count = math.prod(shape)
    if dtype.kind not in "biuf":
        raise ValueError(f"holds {'objects' if dtype.hasobject else dtype}, not numbers")
    if min(shape, default=0) < 0:
        raise ValueError(f"its shape {shape} is none")
    if count > most:
        raise ValueError(f"its shape {shape} is of {count:,} numbers, and at most {most:,} are read")
    length = count * dtype.itemsize
    if length > size:
        raise ValueError(f"its shape {shape} takes {length:,} bytes, and the file has {size:,}")
    array = np.empty(count, dtype)  # every page of it is touched only as it is filled
    left = memoryview(array.data).cast("B") if count else memoryview(b"")
    while left:
        part = file.read(min(len(left), _STEP))
        if not part:
            raise ValueError(f"is truncated: {len(left):,} of {length:,} bytes are missing")
        left[: len(part)] = part
        left = left[len(part) :]
    file.read(1)  # the end of an archive's member, where its checksum is compared
    array = array.astype(dtype.newbyteorder("="), copy=False)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def npz(arrays: Mapping[str, Any]) -> bytes:
    """An `.npz` file of arrays by name, compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                file._compressor = raw()  # type: ignore[attr-defined]  # instead of zlib at level 6
                np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
    return buffer.getvalue()
