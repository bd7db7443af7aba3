"""The mean image of a folder of any size, computed in constant memory, and its file."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heatcli.errors import HeatcliError, ImageError, UsageError, boundary
from heatcli.images.preprocess import Fit, Whole, to_pixels
from heatcli.images.read import SUFFIXES, Reader
from heatcli.system.compress import MOST_BYTES, read_npz
from heatcli.system.files import is_folder, read_regular, write_atomically


def image_files(folder: Path, recursive: bool = False, suffixes: Collection[str] = SUFFIXES) -> Iterator[Path]:
    """Files in `folder` with an image's suffix, sorted by name. Raises `UsageError` if the folder cannot be listed."""
    ends = tuple(suffixes)
    try:
        found = folder.rglob("*") if recursive else folder.iterdir()
        yield from sorted(p for p in found if p.name.lower().endswith(ends) and not is_folder(p))
    except OSError as error:
        raise UsageError(f"{folder}: cannot be listed: {error.strerror}") from error


def images_in(
    given: Iterable[Path], recursive: bool = False, suffixes: Collection[str] = SUFFIXES
) -> Iterator[Path]:  # fmt: skip
    """The files among `given`, and the pictures of the folders among them (`image_files`), in that order."""
    for path in given:
        yield from image_files(path, recursive, suffixes) if is_folder(path) else [path]


def mean_image(
    paths: Iterable[Path], fit: Fit | Whole, failed: list[HeatcliError], reader: Reader | None = None
) -> tuple[NDArray[np.float32], int]:
    """Mean of the images' pixels, float32 [C, H, W] in 0..1 before normalisation, and the number of images.

    Images that cannot be read, or have another shape than the first, are skipped, and their `ImageError`s appended to
    `failed`. Raises `UsageError` if no image is left.
    """
    reader = reader or Reader(fit.channels)
    total, count, first = np.zeros((), dtype=np.float64), 0, None
    for path in paths:
        try:
            with boundary(path, ImageError):
                pixels = to_pixels(reader.picture(path).pixels, fit)
                if count and pixels.shape != total.shape:
                    one, other = ("×".join(map(str, shape)) for shape in (pixels.shape, total.shape))
                    raise ImageError(
                        f"{path}: is {one}, and {first} is {other}; a mean is of inputs of one size, so cut or pad it"
                    )
                first, total = first or path, total + pixels
            count += 1
        except ImageError as error:
            failed.append(error)
    if not count:
        raise UsageError("no image could be read, so there is no mean")
    return (total / count).astype(np.float32), count


def write_mean(path: Path, mean: NDArray[np.float32], count: int) -> None:
    """Write `mean` [C, H, W] and `count` as an `.npz` file. Raises `UsageError`."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, mean=mean, count=np.int64(count))
    write_atomically(path, buffer.getvalue())


def read_mean(path: Path) -> NDArray[np.float32]:
    """The mean image [C, H, W] in 0..1 from a file that `heatcli mean` wrote. Raises `UsageError`."""
    with boundary(path, UsageError, "is no mean image, such as heatcli mean FOLDER -o FILE writes"):
        try:
            content = read_regular(path, MOST_BYTES)
        except FileNotFoundError as error:
            raise UsageError(f"{path}: no such mean file; heatcli mean FOLDER -o FILE writes one") from error
        with np.errstate(over="ignore"):
            mean = read_npz(content, ["mean"])["mean"].astype(np.float32)
    if not 2 <= mean.ndim <= 4 or not mean.size or not np.isfinite(mean).all():
        raise UsageError(f"{path}: holds no mean image [C, H, W]; heatcli mean FOLDER -o FILE writes one")
    return mean
