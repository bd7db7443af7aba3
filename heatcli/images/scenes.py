"""Scenes: pictures of several bands, such as a satellite's, from TIFF files, and maps as GeoTIFF."""

from __future__ import annotations

import copy
import io
import logging
import lzma
import math
import zlib
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
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
    library = optional("tifffile", "a TIFF of several bands needs tifffile", "geotiff")
    if not (logger := logging.getLogger("tifffile")).handlers:
        logger.addHandler(logging.NullHandler())  # else it tells of damage on stderr, without the file's name
    return library


def read_bands(path: object, content: bytes, most: int) -> NDArray[Any]:
    """The bands of a TIFF file, [C, H, W], with at most `most` numbers. Raises `ImageError`."""
    with boundary(path, ImageError, "is damaged or truncated"), tifffile().TiffFile(io.BytesIO(content)) as file:
        series = file.series[0]
        if np.prod(series.shape, dtype=np.float64) > most:
            raise ImageError(f"{path}: is too large; at most {most:,} numbers are read (--max-pixels)")
        for page in series.pages:
            _bound_parts(path, page.keyframe, most)
        bands, axes = np.asarray(series.asarray()), str(series.axes)
    if bands.ndim == 2:
        return bands[None]
    if bands.ndim != 3 or "Y" not in axes or "X" not in axes:
        raise ImageError(f"{path}: has the shape {bands.shape}, and a picture has bands, height and width")
    whole: NDArray[Any] = np.moveaxis(bands, [axes.index("Y"), axes.index("X")], [1, 2])
    return whole


def _bound_parts(path: object, page: Any, most: int) -> None:
    """Have a strip or tile of a page decoded to its part of the picture at most; else `ImageError` is raised there.

    `most`: numbers in one. Only the readers of imagecodecs are told how much to decode; those that tifffile has itself
    would fill the memory from a few bytes, so parts are decoded here, and tifffile gets them as plain ones.
    """
    if page.compression == _PLAIN:
        return
    numbers = math.prod(page.chunks)
    decoded = _DECODED.get(int(page.compression))
    if decoded is None and (int(page.compression) not in _TOLD or find_spec("imagecodecs") is None):
        name = getattr(page.compression, "name", page.compression)
        raise ImageError(f"{path}: is compressed as {name}, which is not read here; write it with Deflate")
    if numbers > most:
        raise _beyond(path)
    if decoded is None:
        return
    limit = 2 * (numbers * page.bitspersample // 8) + _SLACK
    plain = copy.copy(page)
    plain.compression = _PLAIN
    for cached in ("hash", "decode"):
        vars(plain).pop(cached, None)
    as_plain = plain.decode

    def decode(part: bytes | None, index: int, **options: Any) -> Any:
        """As `TiffPage.decode`, of a part that decodes to no more than the limit; of None, which has no bytes."""
        if part is None:
            return as_plain(None, index, **options)
        whole = bytearray()
        for step in decoded(part):
            whole += step
            if len(whole) > limit:
                raise _beyond(path)
        return as_plain(bytes(whole), index, **options)

    page.decode = decode


def _beyond(path: object) -> ImageError:
    return ImageError(f"{path}: holds a strip or tile that decodes to more than its part of the picture")


def _inflated(part: bytes) -> Iterator[bytes]:
    """What Deflate decodes to, step by step."""
    decoder = zlib.decompressobj()
    while part:
        yield decoder.decompress(part, _STEP)
        part = decoder.unconsumed_tail
    if not decoder.eof:
        raise zlib.error("incomplete stream")


def _of_lzma(part: bytes) -> Iterator[bytes]:
    """What LZMA decodes to, step by step, stream after stream."""
    while part:
        decoder = lzma.LZMADecompressor(memlimit=_DICTIONARY)
        while not decoder.eof and (part or not decoder.needs_input):
            yield decoder.decompress(part, _STEP)
            part = b""
        part = decoder.unused_data


def _unpacked(part: bytes) -> Iterator[bytes]:
    """What PackBits decodes to: a run, or bytes as they are (TIFF 6.0, section 9)."""
    at = 0
    while at < len(part):
        head = part[at]
        if head > 128:
            yield part[at + 1 : at + 2] * (257 - head)
        elif head < 128:
            yield part[at + 1 : at + 2 + head]
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
