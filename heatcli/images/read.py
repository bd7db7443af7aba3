"""Reading image files: one clear error a file, never a crash."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from heatcli.errors import ImageError, first_line

SUFFIXES = frozenset(".png .jpg .jpeg .webp .bmp .gif .tif .tiff .ppm .pgm".split())
MAX_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs


def read_image(path: Path) -> Image.Image:
    """The picture in a file, upright (EXIF), fully decoded. Raises `ImageError`."""
    if path.is_dir():
        raise ImageError(f"{path}: is a directory, not an image")
    try:
        if path.stat().st_size == 0:
            raise ImageError(f"{path}: the image file is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                _check_size(path, image)
                image.load()
                return ImageOps.exif_transpose(image)
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such image file") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: is too large; at most {MAX_PIXELS:,} pixels are read") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: is not an image that Pillow can read") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, MemoryError) as error:
        raise ImageError(f"{path}: is damaged or truncated: {first_line(error)}") from error


def _check_size(path: Path, image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(f"{path}: is too large ({image.width}×{image.height}); at most {MAX_PIXELS:,} pixels are read")
