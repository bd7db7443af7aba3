"""The mean image of a folder of any size, in constant memory, and its file."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heatcli.arrays import MOST_BYTES, read_npz
from heatcli.errors import HeatcliError, ImageError, UsageError, boundary
from heatcli.files import is_folder, read_regular, write_atomically
from heatcli.images.preprocess import Fit, to_pixels
from heatcli.images.read import SUFFIXES, Reader


def image_files(folder: Path, recursive: bool = False) -> Iterator[Path]:
    """What in `folder` has an image's suffix and is no folder, by name; whether it can be read its reader says."""
    try:
        found = folder.rglob("*") if recursive else folder.iterdir()
        yield from sorted(p for p in found if p.suffix.lower() in SUFFIXES and not is_folder(p))
    except OSError as error:
        raise UsageError(f"{folder}: cannot be listed: {error.strerror}") from error


def mean_image(
    paths: Iterable[Path], fit: Fit, failed: list[HeatcliError], reader: Reader | None = None
) -> tuple[NDArray[np.float32], int]:
    """Mean of the images' pixels, float32 [C, H, W] in 0..1 before normalisation, and how many there were.

    Images that cannot be read are appended to `failed` and left out. Raises `UsageError` if none is left.
    """
    reader = reader or Reader(fit.channels)
    total, count = np.zeros((fit.channels, fit.height, fit.width), dtype=np.float64), 0
    for path in paths:
        try:
            with boundary(path, ImageError):
                total += to_pixels(reader.picture(path).pixels, fit)
            count += 1
        except ImageError as error:
            failed.append(error)
    if not count:
        raise UsageError("no image could be read, so there is no mean")
    return (total / count).astype(np.float32), count


def write_mean(path: Path, mean: NDArray[np.float32], count: int) -> None:
    """Write `mean` [C, H, W] and `count` as an `.npz` file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, mean=mean, count=np.int64(count))
    write_atomically(path, buffer.getvalue())


def read_mean(path: Path) -> NDArray[np.float32]:
    """The mean image [C, H, W] in 0..1 of a file that `heatcli mean` wrote. Raises `UsageError`."""
    with boundary(path, UsageError, "is no mean image, such as heatcli mean FOLDER -o FILE writes"):
        try:
            content = read_regular(path, MOST_BYTES)
        except FileNotFoundError as error:
            raise UsageError(f"{path}: no such mean file; heatcli mean FOLDER -o FILE writes one") from error
        with np.errstate(over="ignore"):
            mean = read_npz(content, ["mean"])["mean"].astype(np.float32)
    if mean.ndim != 3 or not mean.size or not np.isfinite(mean).all():
        raise UsageError(f"{path}: holds no mean image [C, H, W]; heatcli mean FOLDER -o FILE writes one")
    return mean
