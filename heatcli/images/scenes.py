"""Scenes: pictures of several bands, such as a satellite's, from TIFF files, and maps as GeoTIFF."""

from __future__ import annotations

import io
import lzma
import math
import zlib
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from heatcli.errors import ImageError, boundary
from heatcli.system.extras import optional

GEOTIFF = (".tif", ".tiff")
# Where a scene lies: pixel scale, tie points, transformation, and the keys of its projection (GeoTIFF 1.1, 7.1).
_PLACE = (33550, 33922, 34264, 34735, 34736, 34737)
_LONGEST = 1 << 16  # numbers in a tag of those
_STEP = 1 << 20  # bytes that are decoded at once
_SLACK = 1 << 16  # bytes that a strip may hold beyond its rows
_DICTIONARY = 1 << 28  # bytes of memory for LZMA; its own presets take at most 65 MiB
_LOW, _HIGH = 2, 98  # percentiles of a band that become black and full brightness


def tifffile() -> Any:
    """The library that reads and writes TIFF files of many bands. Raises `UsageError` where it is not installed."""
    return optional("tifffile", "a TIFF of several bands needs tifffile", "geotiff")


def read_bands(path: object, content: bytes, most: int) -> NDArray[Any]:
    """The bands of a TIFF file, [C, H, W], with at most `most` numbers. Raises `ImageError`."""
    with boundary(path, ImageError, "is damaged or truncated"), tifffile().TiffFile(io.BytesIO(content)) as file:
        series = file.series[0]
        if np.prod(series.shape, dtype=np.float64) > most:
            raise ImageError(f"{path}: is too large; at most {most:,} numbers are read (--max-pixels)")
        for page in series.pages:
            _check_parts(path, content, page, most)
        bands, axes = np.asarray(series.asarray()), str(series.axes)
    if bands.ndim == 2:
        return bands[None]
    if bands.ndim != 3 or "Y" not in axes or "X" not in axes:
        raise ImageError(f"{path}: has the shape {bands.shape}, and a picture has bands, height and width")
    whole: NDArray[Any] = np.moveaxis(bands, [axes.index("Y"), axes.index("X")], [1, 2])
    return whole


def _check_parts(path: object, content: bytes, page: Any, most: int) -> None:
    """Raise `ImageError` for a strip or tile of a page that decodes to more than its part of the picture.

    `most`: numbers in one. Only the readers of imagecodecs are told how much to decode; those that tifffile has itself
    would fill the memory from a few bytes.
    """
    known = page.keyframe
    if known.compression == _PLAIN:
        return
    numbers = math.prod(known.chunks)
    decoded = _DECODED.get(int(known.compression))
    if decoded is None and (int(known.compression) not in _TOLD or find_spec("imagecodecs") is None):
        name = getattr(known.compression, "name", known.compression)
        raise ImageError(f"{path}: is compressed as {name}, which is not read here; write it with Deflate")
    limit = 2 * (numbers * known.bitspersample // 8) + _SLACK
    for start, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        sizes = () if decoded is None else decoded(content[start : start + count])
        if numbers > most or any(size > limit for size in accumulate(sizes)):
            raise ImageError(f"{path}: holds a strip or tile that decodes to more than its part of the picture")


def _inflated(part: bytes) -> Iterator[int]:
    """The bytes that each step of decoding Deflate gives."""
    decoder = zlib.decompressobj()
    while part:
        yield len(decoder.decompress(part, _STEP))
        part = decoder.unconsumed_tail


def _of_lzma(part: bytes) -> Iterator[int]:
    """The bytes that each step of decoding LZMA gives, stream after stream."""
    while part:
        decoder = lzma.LZMADecompressor(memlimit=_DICTIONARY)
        while not decoder.eof and (part or not decoder.needs_input):
            yield len(decoder.decompress(part, _STEP))
            part = b""
        part = decoder.unused_data


def _unpacked(part: bytes) -> Iterator[int]:
    """The bytes that each step of decoding PackBits gives: a run, or bytes as they are (TIFF 6.0, section 9)."""
    at = 0
    while at < len(part):
        head = part[at]
        yield 257 - head if head > 128 else head + 1 if head < 128 else 0
        at += 2 if head > 128 else head + 2 if head < 128 else 1


_PLAIN = 1
_DECODED = {8: _inflated, 32946: _inflated, 34925: _of_lzma, 32773: _unpacked}
_TOLD = (5, 50000)  # LZW and Zstandard, whose readers stop at the size that they are told


def as_geotiff(values: NDArray[np.float32], like: bytes) -> bytes:
    """A map [H, W] as a TIFF file, at the place on Earth where the TIFF file `like` says that it lies."""
    library, tags, made = tifffile(), [], io.BytesIO()
    if is_tiff(like):
        with library.TiffFile(io.BytesIO(like)) as file:
            known = file.pages[0].tags
            tags = [
                (tag.code, int(tag.dtype), tag.count, tag.value, True)
                for tag in (known.get(code) for code in _PLACE)
                if tag is not None and tag.count <= _LONGEST
            ]
    library.imwrite(
        made, values, photometric="minisblack", compression="zlib", extratags=tags, metadata=None, software="heatcli"
    )
    return made.getvalue()


def is_tiff(content: bytes) -> bool:
    """Whether a file begins as TIFF or BigTIFF does."""
    return content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def composite(path: object, pixels: NDArray[np.float32], bands: Sequence[int]) -> Image.Image:
    """One band of [C, H, W] in grey, or three in red, green and blue, by their numbers from 1. Raises `ImageError`.

    Each band is stretched so that its darkest and its brightest two percent are at the ends.
    """
    beyond = [band for band in bands if band > len(pixels)]
    if beyond:
        raise ImageError(f"{path}: has {len(pixels)} bands, and --bands names band {beyond[0]}")
    planes = [_stretched(pixels[band - 1].astype(np.float64)) for band in bands]
    return Image.fromarray(planes[0] if len(planes) == 1 else np.stack(planes, 2))


def _stretched(plane: NDArray[np.float64]) -> NDArray[np.uint8]:
    low, high = np.percentile(plane, (_LOW, _HIGH))
    if high <= low:
        low, high = float(plane.min()), float(plane.max())
    levels: NDArray[np.uint8] = (255 * np.clip((plane - low) / ((high - low) or 1), 0, 1)).astype(np.uint8)
    return levels
