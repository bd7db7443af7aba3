"""Reading signals, volumes and tables, from arrays, CSV, WAV and NIfTI, as [C, positions …]."""

from __future__ import annotations

import csv
import io
import wave
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from heatcli.artifact.layout import SIGNAL, TABLE, TOKENS, VOLUME, Layout
from heatcli.errors import ImageError, boundary
from heatcli.images.values import DATA, in_range
from heatcli.system.compress import MAGIC, read_array
from heatcli.system.extras import optional

TEXT = ".txt"  # of networks that read tokens: each byte is one
SUFFIXES = {
    SIGNAL: frozenset({".npy", ".npz", ".csv", ".wav"}),
    VOLUME: frozenset({".npy", ".npz", ".nii", ".nii.gz", ".gif", ".webp"}),
    TABLE: frozenset({".npy", ".npz", ".csv"}),
    TOKENS: frozenset({".npy", ".npz", ".csv", ".bin", TEXT}),
}
AXES = {
    SIGNAL: "[channels, samples]",
    VOLUME: "[channels, depth, height, width]",
    TABLE: "[features]",
    TOKENS: "[tokens]",
}
NIFTI = (".nii", ".nii.gz")
CLIPS = {".gif": "GIF", ".webp": "WEBP"}  # suffix → Pillow's name
_MOST_TOKENS = 1 << 23  # float32 tells all halves below apart


@dataclass(frozen=True, eq=False)
class Numbers:
    """An array [C, positions …] as its file has it, and what the file says besides.

    `rate`: samples a second. `names`: of the channels, or of a table's features. `affine`: float64 [4, 4], from the
    voxels of a NIfTI volume, whose axes are x, y, z, to the world.
    """

    values: NDArray[Any]
    rate: float | None = None
    names: tuple[str, ...] = ()
    affine: NDArray[np.float64] | None = None


def read_numbers(path: object, content: bytes, layout: Layout, channels: int | None, most: int) -> Numbers:
    """The signal, volume or table in a file's bytes, with at most `most` numbers. Raises `ImageError`."""
    name = str(path).lower()
    suffix = next((s for s in sorted(SUFFIXES[layout.kind]) if name.endswith(s)), "")
    with boundary(path, ImageError, f"is no {layout.kind}"):
        if content.startswith(MAGIC) or suffix == ".npz":
            found = Numbers(read_array(content, most))
        elif suffix == ".csv":
            found = _csv(path, content, layout)
        elif suffix in (".bin", TEXT):
            found = Numbers(np.frombuffer(content, np.uint8))
        elif suffix == ".wav":
            found = _wav(content)
        elif suffix in CLIPS:
            found = Numbers(_clip(path, content, channels, most))
        elif suffix in NIFTI:
            found = _nifti(path, content, suffix, most)
        else:
            known = ", ".join(sorted(SUFFIXES[layout.kind]))
            raise ImageError(
                f"{path}: is no {layout.kind}, which the model takes; give a file of {known}; "
                "if the model takes pictures, add --axes NCHW"
            )
        if found.values.size > most:
            raise ImageError(f"{path}: is too large; at most {most:,} numbers are read (--max-pixels)")
        values = channels_first(path, found.values, layout, channels)
    names = () if len(found.names) not in (len(values), values.shape[-1]) else found.names
    return Numbers(values, found.rate, names, found.affine)


def channels_first(path: object, array: NDArray[Any], layout: Layout, channels: int | None) -> NDArray[Any]:
    """An array as [C, positions …], whose channels may be last or left out. Raises `ImageError`."""
    dims = layout.dims
    if array.ndim == dims + 2 and len(array) == 1:
        array = array[0]
    if array.ndim == dims:
        array = array[None]
    elif array.ndim == dims + 1 and channels is not None and array.shape[0] != channels == array.shape[-1]:
        array = np.moveaxis(array, -1, 0)
    if array.ndim != dims + 1 or not array.size or channels not in (None, array.shape[0]):
        count = (
            ""
            if channels is None or layout.kind in (TABLE, TOKENS)
            else f" of {channels} channel{'s'[: channels != 1]}"
        )
        raise ImageError(
            f"{path}: has the shape {array.shape}; the model takes {layout.one}{count}, {AXES[layout.kind]}"
        )
    return array


def as_input(path: object, array: NDArray[Any], range: str, tokens: bool = False) -> NDArray[np.float32]:
    """An array [C, positions …] as float32; `range` as `LOW..HIGH` is what becomes 0 and 1. Raises `ImageError`.

    `tokens`: its numbers are tokens, which stay.
    """
    if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
        raise ImageError(f"{path}: holds values that are not finite numbers")
    if tokens:
        if not ((array >= 0) & (array < _MOST_TOKENS) & (array == np.floor(array))).all():
            raise ImageError(f"{path}: holds numbers that are no tokens; those are whole, from 0")
        return array.astype(np.float32)
    with np.errstate(over="ignore"):
        values, _ = in_range(array.astype(np.float64), range or DATA, False)
    if not np.isfinite(values).all():
        raise ImageError(f"{path}: holds values beyond those of float32, which networks compute in")
    return values


def _csv(path: object, content: bytes, layout: Layout) -> Numbers:
    """Rows are samples and columns channels; of a table, one row of features. A first row of words names columns."""
    text = content.decode("utf-8-sig")
    first = text.partition("\n")[0]
    dialect = next((mark for mark in ";\t," if mark in first), ",")
    rows = [row for row in csv.reader(io.StringIO(text), delimiter=dialect) if any(cell.strip() for cell in row)]
    names: tuple[str, ...] = ()
    if rows and not all(_is_number(cell) for cell in rows[0]):
        names, rows = tuple(cell.strip() for cell in rows[0]), rows[1:]
    if not rows:
        raise ImageError(f"{path}: holds no row of numbers")
    if len({len(row) for row in rows}) > 1:
        raise ImageError(f"{path}: its rows differ in length, so it is no {layout.kind}")
    values = np.array([[float(cell) for cell in row] for row in rows])
    if layout.kind == TOKENS:
        if min(values.shape) != 1:
            raise ImageError(f"{path}: holds {len(values)} rows; a file is one row or one column of tokens")
        return Numbers(values.ravel())
    if layout.kind == TABLE:
        if len(values) != 1:
            raise ImageError(f"{path}: holds {len(values)} rows; a file is one row of features, or an .npy")
        return Numbers(values[0], names=names)
    return Numbers(np.ascontiguousarray(values.T), names=names)


def _is_number(cell: str) -> bool:
    """Whether a cell of a CSV file is a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _wav(content: bytes) -> Numbers:
    """PCM of 8 to 32 bits, in −1..1."""
    with wave.open(io.BytesIO(content)) as file:
        count, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
        raw = np.frombuffer(file.readframes(file.getnframes()), np.uint8)
    wide = np.zeros((len(raw) // width, 4), np.uint8)
    wide[:, 4 - width :] = raw[: len(wide) * width].reshape(-1, width)
    if width == 1:  # the only width without a sign
        wide[:, 3] ^= 0x80
    samples = wide.view("<i4")[:, 0].astype(np.float64) / 2**31
    return Numbers(np.ascontiguousarray(samples.reshape(-1, count).T), rate=float(rate))


def _clip(path: object, content: bytes, channels: int | None, most: int) -> NDArray[np.float32]:
    """The frames of an animated picture, [channels, frames, height, width] in 0..1: RGB, or grey of one channel."""
    if channels not in (None, 1, 3):
        raise ImageError(f"{path}: is a clip in colours, and the model takes {channels} channels; give an .npy")
    mode, frames, size = ("L" if channels == 1 else "RGB"), [], 0
    with Image.open(io.BytesIO(content), formats=list(CLIPS.values())) as image:
        for frame in ImageSequence.Iterator(image):
            size += frame.width * frame.height * len(mode)
            if size > most:
                raise ImageError(f"{path}: is too large; at most {most:,} numbers are read (--max-pixels)")
            frames.append(np.asarray(frame.convert(mode), np.uint8).reshape(frame.height, frame.width, -1))
    if len(frames) == 1:
        raise ImageError(f"{path}: holds one frame, and a clip has several")
    clip: NDArray[np.float32] = np.moveaxis(np.stack(frames), -1, 0).astype(np.float32) / np.float32(255)
    return clip


def nibabel() -> Any:
    """The library that reads NIfTI. Raises `UsageError` where it is not installed."""
    return optional("nibabel", "NIfTI needs nibabel", "volumes")


def _nifti(path: object, content: bytes, suffix: str, most: int) -> Numbers:
    """The volume [x, y, z], or [channels, x, y, z] of a file with a fourth axis."""
    library = nibabel()
    if suffix == ".nii.gz":
        content = _unpacked(path, content, most)
    image = library.Nifti1Image.from_bytes(content)
    if np.prod(image.shape, dtype=np.float64) > most:
        raise ImageError(f"{path}: is too large; at most {most:,} numbers are read (--max-pixels)")
    values = np.asarray(image.dataobj)
    return Numbers(np.moveaxis(values, -1, 0) if values.ndim == 4 else values, affine=np.array(image.affine))


def _unpacked(path: object, content: bytes, most: int) -> bytes:
    """The content of a gzip file. Raises `ImageError` if it is too large."""
    import gzip

    with gzip.open(io.BytesIO(content)) as file:
        found = file.read(8 * most + 4096)
        if file.read(1):
            raise ImageError(f"{path}: is too large; at most {most:,} numbers are read (--max-pixels)")
    return found


def nifti(values: NDArray[np.float32], affine: NDArray[np.float64], packed: bool) -> bytes:
    """A volume [x, y, z] as a NIfTI file with that affine, `packed` by gzip. The same bytes each time."""
    import gzip

    content: bytes = nibabel().Nifti1Image(values, affine).to_bytes()
    return gzip.compress(content, mtime=0) if packed else content
