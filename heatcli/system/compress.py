"""Compressed files of numbers: deflate, `.npy` and `.npz` (read and written), PNG (written).

A declared size is checked against the bytes in the file. Intel's ISA-L compresses if it is installed (5 to 10 times as
fast as zlib, files of equal size).
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Collection, Mapping
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from heatcli.system.memory import STRIP

try:
    from isal import isal_zlib as _zlib
except ImportError:  # no wheel for this machine
    import zlib as _zlib  # type: ignore[no-redef]

if TYPE_CHECKING:
    from PIL import Image

LEVEL = 1
MAGIC = b"\x93NUMPY"
MOST = 1 << 28  # numbers in an auxiliary file: a mean image, an expert, an input's value
MOST_BYTES = 8 * MOST + (1 << 26)
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_STEP = 1 << 20  # bytes to inflate at a time
SIGNATURE = b"\x89PNG\r\n\x1a\n"
UP = 2  # PNG filter: the difference from the line above (PNG specification, 9.2)

# --- deflate ----------------------------------------------------------------------------------------------------------


def deflate(content: Any) -> bytes:
    """The bytes as a zlib stream."""
    return _zlib.compress(content, LEVEL)


def crc32(content: bytes | memoryview) -> int:
    """The checksum of PNG and ZIP."""
    return _zlib.crc32(content)


def raw() -> Any:
    """A compressor, with `compress` and `flush`, for a deflate stream without header."""
    return _zlib.compressobj(LEVEL, _zlib.DEFLATED, -15)


# --- arrays -----------------------------------------------------------------------------------------------------------


def read_array(content: bytes, most: int = MOST) -> NDArray[Any]:
    """The array of an `.npy` file, or the first array of an `.npz`, with at most `most` numbers.

    Raises `ValueError` if there is none, or whatever the reader of a damaged archive raises.
    """
    if content.startswith(MAGIC):
        return _array(io.BytesIO(content), len(content), most)
    arrays = read_npz(content, most=most, first=True)
    return next(iter(arrays.values()))


def read_npz(
    content: bytes, names: Collection[str] | None = None, most: int = MOST, first: bool = False
) -> dict[str, NDArray[Any]]:
    """The arrays of an `.npz` called `names`, all arrays, or the first; each with at most `most` numbers.

    Raises `ValueError` if there is no array or it cannot be read, `KeyError` for a missing name, or whatever the reader
    of a damaged archive raises.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        there = [name.removesuffix(".npy") for name in archive.namelist()]
        if first and not there:
            raise ValueError("the archive holds no array")
        arrays = {}
        for name in there[:1] if first else there if names is None else names:
            info = archive.getinfo(f"{name}.npy")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError("it is compressed in a way that NumPy does not use")
            with archive.open(info) as file:
                arrays[name] = _array(file, info.file_size, most)
        return arrays


def _array(file: IO[bytes], size: int, most: int) -> NDArray[Any]:
    """The array of an `.npy` file of `size` bytes. Allocates no more memory than the file can fill."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"its .npy format {version[0]}.{version[1]} is not known")
    shape, fortran, dtype = _HEADERS[version](file)
    count = math.prod(shape)
    if dtype.kind not in "biuf":
        raise ValueError(f"holds {'objects' if dtype.hasobject else dtype}, not numbers")
    if min(shape, default=0) < 0:
        raise ValueError(f"its shape {shape} is not valid")
    if count > most:
        raise ValueError(f"its shape {shape} is of {count:,} numbers, and at most {most:,} are read")
    length = count * dtype.itemsize
    if length > size:
        raise ValueError(f"its shape {shape} takes {length:,} bytes, and the file has {size:,}")
    array = np.empty(count, dtype)  # pages are committed only when filled
    left = memoryview(array.data).cast("B") if count else memoryview(b"")
    while left:
        part = file.read(min(len(left), _STEP))
        if not part:
            raise ValueError(f"is truncated: {len(left):,} of {length:,} bytes are missing")
        left[: len(part)] = part
        left = left[len(part) :]
    file.read(1)  # reaches the end of an archive's member, where its checksum is verified
    array = array.astype(dtype.newbyteorder("="), copy=False)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def npy(array: NDArray[Any]) -> bytes:
    """An array of numbers, of any shape, as an `.npy` file."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def npz(arrays: Mapping[str, Any]) -> bytes:
    """Arrays by name as a compressed `.npz` file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                file._compressor = raw()  # type: ignore[attr-defined]  # instead of zlib at level 6
                np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
    return buffer.getvalue()


# --- pictures ---------------------------------------------------------------------------------------------------------


def png_bytes(picture: Image.Image, text: str = "") -> bytes:
    """An RGB picture as a PNG file, with one filter for all lines. `text`: its description, which viewers show.

    Pillow tries five filters on each line, which takes longer than the compression.
    """
    width, height = picture.size
    filtered: NDArray[np.uint8] = np.empty((height, 1 + 3 * width), np.uint8)
    filtered[:, 0], above = UP, np.zeros(3 * width, np.uint8)
    rows = max(1, STRIP // width)
    for top in range(0, height, rows):
        strip = picture if rows >= height else picture.crop((0, top, width, min(height, top + rows)))
        lines = np.frombuffer(strip.tobytes(), np.uint8).reshape(-1, 3 * width)
        target = filtered[top : top + len(lines), 1:]
        np.subtract(lines[0], above, out=target[0])
        np.subtract(lines[1:], lines[:-1], out=target[1:])
        above = lines[-1]
    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    said = text.encode("utf-8", "backslashreplace")
    about = [(b"iTXt", b"Description\0\0\0\0\0" + said)] if text else []  # PNG specification, 11.3.4.5
    chunks = ((b"IHDR", header), *about, (b"IDAT", deflate(filtered)), (b"IEND", b""))
    return SIGNATURE + b"".join(_chunk(name, content) for name, content in chunks)


def _chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file: length, name, content, checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc32(name + content))
