"""Several baselines at once: a folder of images, or an array file of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heatcli.errors import ImageError, UsageError, boundary
from heatcli.files import is_folder, read_regular
from heatcli.images.mean import image_files
from heatcli.images.preprocess import Fit, to_pixels
from heatcli.images.read import Reader, load_array

LIMIT = 1000  # all of them are in memory


def is_pool(path: Path, reader: Reader) -> bool:
    """Whether it is a folder, or an `.npy` or `.npz` file with an array of four dimensions in it."""
    if is_folder(path):
        return True
    if path.suffix.lower() not in (".npy", ".npz"):
        return False
    try:
        with boundary(path, ImageError):
            return load_array(path, read_regular(path, 8 * reader.most), reader.most).ndim == 4
    except ImageError:
        return False  # said where it is read as a single one


def read_pool(path: Path, reader: Reader, fit: Fit) -> list[NDArray[np.float32]]:
    """The images of a folder, in the order of their names, or of an array [B, C, H, W] or [B, H, W, C], as they fit.

    Raises `UsageError` if there is none, one cannot be read, or there are more than `LIMIT`.
    """
    try:
        with boundary(path, ImageError):
            if is_folder(path):
                files = list(image_files(path))
                count = len(files)
                found = [to_pixels(reader.picture(file).pixels, fit) for file in files[: LIMIT + 1]]
            else:
                arrays = load_array(path, read_regular(path, 8 * reader.most), reader.most)
                count = len(arrays)
                found = [to_pixels(one, fit) for one in reader.stack(path, arrays[: LIMIT + 1])]
    except ImageError as error:
        raise UsageError(f"baseline {error}") from error
    if not found:
        raise UsageError(f"baseline {path}: holds no images")
    if count > LIMIT:
        raise UsageError(f"baseline {path}: holds {count} images; give at most {LIMIT}")
    return found
