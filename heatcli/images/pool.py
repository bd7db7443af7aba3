"""Pools: several baselines, from a folder of images or an array file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heatcli.errors import ImageError, UsageError, boundary
from heatcli.images.mean import image_files
from heatcli.images.preprocess import Fit, Whole, to_pixels
from heatcli.images.read import Reader, load_array
from heatcli.system.files import is_folder, read_regular

LIMIT = 1000  # all images of a pool are in memory


def is_pool(path: Path, reader: Reader) -> bool:
    """Whether `path` is a folder, or an `.npy` or `.npz` file whose array has four dimensions."""
    if is_folder(path):
        return True
    if path.suffix.lower() not in (".npy", ".npz"):
        return False
    try:
        with boundary(path, ImageError):
            return load_array(path, read_regular(path, 8 * reader.most), reader.most).ndim == reader.layout.dims + 2
    except ImageError:
        return False  # the error is reported when the file is read as a single image


def read_pool(path: Path, reader: Reader, fit: Fit | Whole) -> list[NDArray[np.float32]]:
    """The images of a folder, sorted by name, or of an array [B, C, H, W] or [B, H, W, C], resized by `fit`.

    Raises `UsageError` if there are none or more than `LIMIT`, if one cannot be read, or if they have several sizes.
    """
    try:
        with boundary(path, ImageError):
            if is_folder(path):
                files = list(image_files(path, False, reader.suffixes))
                count = len(files)
                images = [to_pixels(reader.picture(file).pixels, fit) for file in files[: LIMIT + 1]]
                _check_sizes(path, files, images)
            else:
                arrays = load_array(path, read_regular(path, 8 * reader.most), reader.most)
                count = len(arrays)
                images = [to_pixels(one, fit) for one in reader.stack(path, arrays[: LIMIT + 1])]
    except ImageError as error:
        raise UsageError(f"baseline {error}") from error
    if not images:
        raise UsageError(f"baseline {path}: holds no images")
    if count > LIMIT:
        raise UsageError(f"baseline {path}: holds {count} images; give at most {LIMIT}")
    return images


def _check_sizes(path: Path, files: Sequence[Path], images: Sequence[NDArray[np.float32]]) -> None:
    """Raise `UsageError` for signals, volumes or tokens of several sizes."""
    for file, image in zip(files, images, strict=False):
        if image.shape != images[0].shape:
            one, other = ("×".join(map(str, each.shape)) for each in (images[0], image))
            raise UsageError(
                f"baseline {path}: {files[0].name} is {one} and {file.name} {other}, and a pool is of one size; "
                "give a folder of inputs of one size"
            )
