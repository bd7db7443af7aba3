"""Reading pictures: image files, and arrays for networks that see more than colour. One clear error a file."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

from heatcli.errors import ImageError, first_line
from heatcli.files import is_url, read

SUFFIXES = frozenset(".png .jpg .jpeg .webp .bmp .gif .tif .tiff .ppm .pgm .npy".split())
MAX_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs

Pixels = Image.Image | NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as read: a Pillow image, or an array [C, H, W] (0..1 where it was of whole numbers)."""

    path: Path | str
    sha256: str
    pixels: Pixels

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.size if isinstance(self.pixels, Image.Image) else self.pixels.shape[:0:-1]

    def shown(self) -> Image.Image:
        """The picture to lay a heatmap over; channels that are not colours are averaged, contrast stretched."""
        if isinstance(self.pixels, Image.Image):
            return self.pixels
        grey = self.pixels.mean(0)
        low, high = float(grey.min()), float(grey.max())
        return Image.fromarray(np.uint8(255 * (grey - low) / ((high - low) or 1)))


def read_picture(path: Path | str, channels: int) -> Picture:
    """The picture in a file, or behind a URL, for a network of so many channels. Raises `ImageError`.

    Image files are upright (EXIF) and fully decoded. `.npy`, `.npz` (its first array) and TIFFs with one page a channel
    give arrays; [H, W], [C, H, W] and [H, W, C] are told apart by `channels`.
    """
    if not is_url(path) and Path(path).is_dir():
        raise ImageError(f"{path}: is a directory, not an image")
    try:
        content = read(str(path))
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such image file") from error
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not content:
        raise ImageError(f"{path}: the image file is empty")
    array = content.startswith(b"\x93NUMPY") or str(path).lower().endswith(".npz")
    pixels = _array(path, content, channels) if array else _image(path, content, channels)
    return Picture(path, hashlib.sha256(content).hexdigest(), pixels)


def _image(path: Path | str, content: bytes, channels: int) -> Pixels:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                pages = getattr(image, "n_frames", 1)
                if pages == channels and image.format == "TIFF" and pages > 1:
                    return np.stack([_scaled(np.asarray(page)) for page in ImageSequence.Iterator(image)])
                if channels not in (1, 3):
                    raise ImageError(f"{path}: is a picture, the model takes {channels} channels; give an .npy file")
                image.load()
                return ImageOps.exif_transpose(image)
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: is too large; at most {MAX_PIXELS:,} pixels are read") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: is not an image that Pillow can read") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, MemoryError) as error:
        raise ImageError(f"{path}: is damaged or truncated: {first_line(error)}") from error


def _array(path: Path | str, content: bytes, channels: int) -> NDArray[np.float32]:
    return as_planes(path, load_array(path, content), channels)


def load_array(path: Path | str, content: bytes) -> NDArray[Any]:
    """The array in the content of an `.npy` file, the first one in that of an `.npz`. Raises `ImageError`."""
    try:
        loaded = np.load(io.BytesIO(content), allow_pickle=False)
        return np.asarray(loaded[loaded.files[0]] if isinstance(loaded, np.lib.npyio.NpzFile) else loaded)
    except (OSError, ValueError, EOFError, IndexError, KeyError, zipfile.BadZipFile) as error:
        raise ImageError(f"{path}: is no array of numbers: {first_line(error)}") from error


def as_planes(path: Path | str, array: NDArray[Any], channels: int) -> NDArray[np.float32]:
    """An array of any layout that `read_picture` knows as [C, H, W]. Raises `ImageError`."""
    if array.ndim == 2:
        array = array[None]
    elif array.ndim == 3 and array.shape[0] != channels and array.shape[2] == channels:
        array = array.transpose(2, 0, 1)
    if array.ndim != 3 or array.shape[0] != channels or not array.size:
        raise ImageError(f"{path}: has the shape {array.shape}; the model takes {channels} channels, [C, H, W]")
    if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
        raise ImageError(f"{path}: holds values that are not finite numbers")
    return _scaled(array)


def _scaled(array: NDArray[Any]) -> NDArray[np.float32]:
    """Whole numbers over the largest of their type, others as they are."""
    full = np.iinfo(array.dtype).max if array.dtype.kind in "iu" else 1
    return np.ascontiguousarray(array, dtype=np.float32) / np.float32(full)
