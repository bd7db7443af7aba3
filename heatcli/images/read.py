"""Reading pictures: image files, and arrays for networks that see more than colour. One clear error a file."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

from heatcli.errors import ImageError, first_line
from heatcli.files import is_url, read
from heatcli.images.values import in_range

SUFFIXES = frozenset(".png .jpg .jpeg .webp .bmp .gif .tif .tiff .ppm .pgm .npy".split())
MAX_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs

Pixels = Image.Image | NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as read: a Pillow image of 8 bits a channel, or an array [C, H, W], in 0..1 where it holds pixels."""

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


@dataclass(frozen=True)
class Reader:
    """Reads pictures for a network of so many channels.

    Image files are upright (EXIF) and fully decoded. `.npy`, `.npz` (its first array) and TIFFs with one page a channel
    give arrays; [H, W], [C, H, W] and [H, W, C] are told apart by `channels`. `range` says what the values of arrays
    and of pictures of more than 8 bits mean, "" leaves it to them (`heatcli.images.values`). `say` is told what was
    guessed, and of which kind of guess that is.
    """

    channels: int
    range: str = ""
    say: Callable[[str, str], None] | None = None

    def picture(self, path: Path | str) -> Picture:
        """The picture in a file, or behind a URL. Raises `ImageError`."""
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
        is_array = content.startswith(b"\x93NUMPY") or str(path).lower().endswith(".npz")
        raw = load_array(path, content) if is_array else self._decoded(path, content)
        return Picture(path, hashlib.sha256(content).hexdigest(), self.ready(path, raw))

    def ready(self, path: object, raw: Image.Image | NDArray[Any]) -> Pixels:
        """A Pillow image of any mode, or an array of any layout and dtype, as a `Picture` holds it.

        Raises `ImageError`, naming `path`.
        """
        if isinstance(raw, Image.Image):
            if not is_deep(raw):
                return raw
            plane = np.asarray(raw)
            if raw.format == "PNG" or raw.mode.startswith("I;16"):
                plane = plane.astype(np.uint16)
            return np.repeat(self._values(path, plane[None]), self.channels, axis=0)
        return self._values(path, _planes(path, raw, self.channels))

    def stack(self, path: object, arrays: NDArray[Any]) -> list[Pixels]:
        """The arrays of a stack [B, C, H, W] or [B, H, W, C], all of the same range. Raises `ImageError`."""
        return list(self._values(path, np.stack([_planes(path, array, self.channels) for array in arrays])))

    def _values(self, path: object, array: NDArray[Any]) -> NDArray[np.float32]:
        if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
            raise ImageError(f"{path}: holds values that are not finite numbers")
        values, said = in_range(array, self.range, self.channels in (1, 3))
        if said and self.say is not None:
            self.say(f"{path}: {said}", f"values {said.partition(' to ')[0].partition('largest')[0]}")
        return values

    def _decoded(self, path: Path | str, content: bytes) -> Image.Image | NDArray[Any]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(content)) as image:
                    if image.width * image.height > MAX_PIXELS:
                        raise Image.DecompressionBombError
                    pages = getattr(image, "n_frames", 1)
                    if pages == self.channels and image.format == "TIFF" and pages > 1:
                        return np.stack([np.asarray(page) for page in ImageSequence.Iterator(image)])
                    if self.channels not in (1, 3):
                        raise ImageError(
                            f"{path}: is a picture, the model takes {self.channels} channels; give an .npy file"
                        )
                    image.load()
                    upright = ImageOps.exif_transpose(image)
                    upright.format = image.format
                    return upright
        except Image.DecompressionBombError as error:
            raise ImageError(f"{path}: is too large; at most {MAX_PIXELS:,} pixels are read") from error
        except UnidentifiedImageError as error:
            raise ImageError(f"{path}: is not an image that Pillow can read") from error
        except (OSError, SyntaxError, ValueError, EOFError, struct.error, MemoryError) as error:
            raise ImageError(f"{path}: is damaged or truncated: {first_line(error)}") from error


def is_deep(image: Image.Image) -> bool:
    """Whether it has more than 8 bits a channel."""
    return image.mode.startswith(("I", "F"))


def read_picture(path: Path | str, channels: int) -> Picture:
    """The picture in a file, or behind a URL, for a network of so many channels. Raises `ImageError`."""
    return Reader(channels).picture(path)


def load_array(path: Path | str, content: bytes) -> NDArray[Any]:
    """The array in the content of an `.npy` file, the first one in that of an `.npz`. Raises `ImageError`."""
    try:
        loaded = np.load(io.BytesIO(content), allow_pickle=False)
        return np.asarray(loaded[loaded.files[0]] if isinstance(loaded, np.lib.npyio.NpzFile) else loaded)
    except (OSError, ValueError, EOFError, IndexError, KeyError, zipfile.BadZipFile) as error:
        raise ImageError(f"{path}: is no array of numbers: {first_line(error)}") from error


def _planes(path: object, array: NDArray[Any], channels: int) -> NDArray[Any]:
    """An array [H, W], [C, H, W] or [H, W, C] as [C, H, W]. Raises `ImageError`."""
    if array.ndim == 2:
        array = array[None]
    elif array.ndim == 3 and array.shape[0] != channels and array.shape[2] == channels:
        array = array.transpose(2, 0, 1)
    if array.ndim != 3 or array.shape[0] != channels or not array.size:
        raise ImageError(f"{path}: has the shape {array.shape}; the model takes {channels} channels, [C, H, W]")
    return array
