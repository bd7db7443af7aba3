"""Several baselines at once: a folder of images, or an array file of them."""

from __future__ import annotations

from pathlib import Path

from heatcli.errors import ImageError, UsageError, first_line
from heatcli.images.mean import image_files
from heatcli.images.read import Pixels, Reader, load_array

LIMIT = 1000  # all of them are in memory


def is_pool(path: Path) -> bool:
    """Whether it is a folder, or an `.npy` or `.npz` file with an array of four dimensions in it."""
    if path.is_dir():
        return True
    if path.suffix.lower() not in (".npy", ".npz") or not path.is_file():
        return False
    try:
        return load_array(path, path.read_bytes()).ndim == 4
    except (OSError, ImageError):
        return False  # said where it is read as a single one


def read_pool(path: Path, reader: Reader) -> list[Pixels]:
    """The images of a folder, in the order of their names, or of an array [B, C, H, W] or [B, H, W, C].

    Raises `UsageError` if there is none, one cannot be read, or there are more than `LIMIT`.
    """
    try:
        if path.is_dir():
            files = list(image_files(path))
            found: list[Pixels] = [reader.picture(file).pixels for file in files[: LIMIT + 1]]
            count = len(files)
        else:
            arrays = load_array(path, path.read_bytes())
            count = len(arrays)
            found = reader.stack(path, arrays[: LIMIT + 1])
    except OSError as error:
        raise UsageError(f"baseline {path}: cannot be read: {first_line(error)}") from error
    except ImageError as error:
        raise UsageError(f"baseline {error}") from error
    if not found:
        raise UsageError(f"baseline {path}: holds no images")
    if count > LIMIT:
        raise UsageError(f"baseline {path}: holds {count} images; give at most {LIMIT}")
    return found
