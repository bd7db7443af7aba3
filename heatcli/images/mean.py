"""The mean image of a folder of any size, in constant memory, and its file."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heatcli.errors import HeatcliError, ImageError, UsageError
from heatcli.files import write_atomically
from heatcli.images.preprocess import Fit, to_pixels
from heatcli.images.read import SUFFIXES, Reader


def image_files(folder: Path, recursive: bool = False) -> Iterator[Path]:
    """Files in `folder` with an image's suffix, in the order of their names."""
    try:
        found = folder.rglob("*") if recursive else folder.iterdir()
        yield from sorted(p for p in found if p.suffix.lower() in SUFFIXES and p.is_file())
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
    try:
        with np.load(path, allow_pickle=False) as file:
            mean = np.asarray(file["mean"], dtype=np.float32)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such mean file; heatcli mean FOLDER -o FILE writes one") from error
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: is no mean image; heatcli mean FOLDER -o FILE writes one") from error
    if mean.ndim != 3 or not np.isfinite(mean).all():
        raise UsageError(f"{path}: holds no mean image [C, H, W]; heatcli mean FOLDER -o FILE writes one")
    return mean
