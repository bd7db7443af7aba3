"""Reading pictures: image files, and arrays for networks with other channels than colours. One error a file."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import (
    Image,
    ImageOps,
    ImageSequence,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
    _imaging,
)

from heatcli.artifact.layout import PICTURES, TOKENS, Layout
from heatcli.errors import ImageError, boundary, is_text, one_line
from heatcli.images.numbers import SUFFIXES as NUMBERS
from heatcli.images.numbers import TEXT, Numbers, as_input, channels_first, read_numbers
from heatcli.images.scenes import composite, is_tiff, read_bands
from heatcli.images.values import in_range
from heatcli.system.compress import MAGIC, read_array
from heatcli.system.files import is_folder, is_url, read
from heatcli.system.memory import STRIP

SUFFIXES = frozenset(".png .jpg .jpeg .webp .bmp .gif .tif .tiff .ppm .pgm .npy".split())
# The formats of those suffixes. Other plugins of Pillow read no file: the EPS plugin starts Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
# Pillow's own limit for decompression bombs: half a GiB in colour. 150 megapixel sensors are below it.
MAX_PIXELS = 178_956_970
MODELS = frozenset({".onnx", ".pt", ".pt2", ".pth"})
SCANS = 1000  # limit for a JPEG: each scan takes a few bytes and one pass over the whole picture
_SIDES = 1 << 26  # bytes of a picture's file besides pixels: metadata, thumbnails

Pixels = Image.Image | NDArray[np.float32]

# A bad file gives one line from heatcli, with the file's name. Pillow's warnings and log lack the name. The user's own
# filters and handlers come first. libtiff writes to C's stderr unless its handler is null.
logging.getLogger("PIL").addHandler(logging.NullHandler())
warnings.filterwarnings("ignore", module=r"PIL\.", append=True)
with contextlib.suppress(OSError, AttributeError):  # libtiff linked without the symbol keeps its handler
    ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as read: a Pillow image of 8 bits a channel, or an array [C, H, W], in 0..1 if it holds pixels.

    A signal [C, L], a volume [C, D, H, W] or a table [1, F] is an array, and `numbers` says what its file says besides.
    """

    path: Path | str
    sha256: str
    pixels: Pixels
    numbers: Numbers | None = None

    @property
    def size(self) -> tuple[int, ...]:
        """Width and height, with the depth of a volume behind; the length of a signal or a table."""
        return self.pixels.size if isinstance(self.pixels, Image.Image) else self.pixels.shape[:0:-1]

    def shown(self, bands: Sequence[int] = ()) -> Image.Image:
        """The picture under a heatmap. Channels other than colours are averaged and stretched to full contrast.

        `bands`: one or three to show instead, by number from 1. Raises `ImageError` for a band that there is not.
        """
        if bands:
            planes = self.pixels
            if isinstance(planes, Image.Image):
                planes = np.asarray(as_mode(planes, "RGB"), np.float32).transpose(2, 0, 1)
            return composite(self.path, planes, bands)
        if isinstance(self.pixels, Image.Image):
            return self.pixels
        beyond = max(float(self.pixels.max()), -float(self.pixels.min())) > 1e30  # sums could overflow float32
        grey = self.pixels.mean(0, dtype=np.float64 if beyond else None)
        low, high = float(grey.min()), float(grey.max())
        return Image.fromarray(np.uint8(255 * (grey - low) / ((high - low) or 1)))


@dataclass(frozen=True)
class Reader:
    """Reads pictures for a network with `channels` channels.

    Image files are upright (EXIF) and fully decoded. `.npy`, `.npz` (its first array) and TIFFs with one page a channel
    give arrays. The layouts [H, W], [C, H, W] and [H, W, C] are told apart by `channels`. `range`: what the values of
    arrays and of pictures with more than 8 bits mean; "" decides by the values (`heatcli.images.values`). `say`: called
    with each guess and the kind of guess. `max_pixels`: the largest picture to decode, and the most numbers in a
    channel of an array; larger files are refused before memory is allocated. `layout`: of what is no picture; its
    `channels` may be unknown, and its `sides`, if given, are those it must have.
    """

    channels: int | None
    range: str = ""
    say: Callable[[str, str], None] | None = None
    max_pixels: int = MAX_PIXELS
    layout: Layout = PICTURES
    sides: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if Image.MAX_IMAGE_PIXELS is not None and self.max_pixels > 2 * Image.MAX_IMAGE_PIXELS:
            Image.MAX_IMAGE_PIXELS = self.max_pixels  # Pillow has one limit for the whole process

    def picture(self, path: Path | str) -> Picture:
        """The picture in a file or at a URL. Raises `ImageError` for any failure."""
        with boundary(path, ImageError):
            content = self._content(path)
            if self.layout != PICTURES:
                return self._numbers(path, content)
            is_array = content.startswith(MAGIC) or str(path).lower().endswith(".npz")
            raw = load_array(path, content, self.most) if is_array else self._decoded(path, content)
            return Picture(path, hashlib.sha256(content).hexdigest(), self.ready(path, raw))

    @property
    def suffixes(self) -> frozenset[str]:
        """The suffixes of files in folders that it reads."""
        return SUFFIXES if self.layout == PICTURES else NUMBERS[self.layout.kind]

    @property
    def most(self) -> int:
        """The largest number of elements in an array."""
        return self.max_pixels * (self.channels or 1)

    def _numbers(self, path: Path | str, content: bytes) -> Picture:
        """The signal, volume or table in a file's bytes. Raises `ImageError`."""
        read = read_numbers(path, content, self.layout, self.channels, self.most)
        if self.say is not None and str(path).lower().endswith(TEXT):
            said = "is read as bytes, each a token; for a network of words give their numbers, as .npy or .csv"
            self.say(one_line(f"{path}: {said}"), "text")
        return Picture(path, hashlib.sha256(content).hexdigest(), self._sized(path, read.values), read)

    def _sized(self, path: object, array: NDArray[Any]) -> NDArray[np.float32]:
        """An array [C, positions …] as the network takes it. Raises `ImageError` for another length."""
        if self.sides not in (None, array.shape[1:]):
            elements = f"{self.layout.element}s"
            given, wanted = ("×".join(f"{n:,}" for n in sides) for sides in (array.shape[1:], self.sides or ()))
            raise ImageError(f"{path}: has {given} {elements}, and the model takes {wanted}; cut or resample it")
        return as_input(path, array, self.range, self.layout.kind == TOKENS)

    def _content(self, path: Path | str) -> bytes:
        """The bytes of a file, or of a URL. Raises `ImageError`."""
        if not is_text(str(path)):
            raise ImageError(f"{path}: its name is not UTF-8, so no report could give it; rename it")
        if not is_url(path) and is_folder(path):
            with os.scandir(path):  # raises if the folder cannot be listed
                raise ImageError(f"{path}: is a directory, not an image")
        several = self.layout != PICTURES or str(path).lower().endswith((".npy", ".npz", ".tif", ".tiff"))
        try:
            content = read(str(path), 8 * (self.most if several else self.max_pixels) + _SIDES)
        except FileNotFoundError as error:
            raise ImageError(f"{path}: no such image file") from error
        if not content:
            raise ImageError(f"{path}: the image file is empty")
        return content

    def ready(self, path: object, raw: Image.Image | NDArray[Any]) -> Pixels:
        """A Pillow image of any mode, or an array of any layout and dtype, as the pixels of a `Picture`.

        Raises `ImageError`, naming `path`.
        """
        if self.layout != PICTURES:
            return self._sized(path, channels_first(path, np.asarray(raw), self.layout, self.channels))
        if isinstance(raw, Image.Image):
            if not is_deep(raw):
                with boundary(path, ImageError, "cannot be shown in colours"):
                    raw = raw.convert("RGB") if raw.mode == "LAB" else raw  # Pillow's only conversion of LAB
                    for mode in ("RGB", "L"):
                        as_mode(raw.crop((0, 0, 1, 1)), mode)  # an impossible conversion fails on one pixel
                return raw
            plane = np.asarray(raw)
            if raw.format == "PNG" or raw.mode.startswith("I;16"):
                plane = plane.astype(np.uint16)
            return np.broadcast_to(self._values(path, plane[None]), (self.channels or 1, *plane.shape))
        return self._values(path, _planes(path, raw, self.channels or 1))

    def stack(self, path: object, arrays: NDArray[Any]) -> list[Pixels]:
        """The arrays of a stack [B, C, H, W] or [B, H, W, C], with one range for all. Raises `ImageError`."""
        if self.layout != PICTURES:
            return [self.ready(path, array) for array in arrays]
        return list(self._values(path, np.stack([_planes(path, array, self.channels or 1) for array in arrays])))

    def _values(self, path: object, array: NDArray[Any]) -> NDArray[np.float32]:
        """An array [C, H, W] of any dtype as float32, in its range. Raises `ImageError`."""
        if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
            raise ImageError(f"{path}: holds values that are not finite numbers")
        with np.errstate(over="ignore"):
            values, said = in_range(array, self.range, self.channels in (1, 3))
        if not np.isfinite(values).all():
            raise ImageError(f"{path}: holds values beyond those of float32, which networks compute in")
        if said and self.say is not None:
            self.say(one_line(f"{path}: {said}"), f"values {said.partition(' to ')[0].partition('largest')[0]}")
        return values

    def _decoded(self, path: Path | str, content: bytes) -> Image.Image | NDArray[Any]:
        """The upright picture in a file's bytes, or the pages of a TIFF, [C, H, W]. Raises `ImageError`."""
        if content.startswith(b"\xff\xd8") and content.count(b"\xff\xda") > SCANS:
            raise ImageError(f"{path}: is a JPEG of more than {SCANS:,} scans, which would take hours to decode")
        with boundary(path, ImageError, "is damaged or truncated"):
            try:
                opened = self._opened(content)
                if opened is None:
                    return read_bands(path, content, self.most)
            except Image.DecompressionBombError as error:
                raise self._too_large(path) from error
            except UnidentifiedImageError as error:
                if Path(path).suffix.lower() in MODELS:
                    raise ImageError(f"{path}: is a model, not an image; give it with --model") from error
                known = ", ".join(FORMATS)
                raise ImageError(f"{path}: is not an image that Pillow can read as any of {known}") from error
            with opened as image:
                if image.width * image.height > self.max_pixels:
                    raise self._too_large(path)
                pages = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
                if pages == self.channels and pages > 1:
                    return np.stack([self._page(path, page) for page in ImageSequence.Iterator(image)])
                if self.channels not in (1, 3):
                    raise ImageError(
                        f"{path}: is a picture, the model takes {self.channels} channels; give a TIFF or .npy file"
                    )
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                return image

    def _opened(self, content: bytes) -> Image.Image | None:
        """The picture that Pillow opens; None for a TIFF file of more bands than Pillow reads, or of other channels."""
        try:
            opened = Image.open(io.BytesIO(content), formats=FORMATS)
        except UnidentifiedImageError:
            if is_tiff(content):
                return None
            raise
        if not isinstance(opened, TiffImagePlugin.TiffImageFile):
            return opened
        bands = opened.tag_v2.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)
        pages = getattr(opened, "n_frames", 1)
        few = bands > len(opened.getbands()) or (self.channels not in (1, 3) and pages != self.channels)
        return None if few else opened

    def _page(self, path: Path | str, page: Image.Image) -> NDArray[Any]:
        """A page of a TIFF [H, W]. Raises `ImageError` if it is too large."""
        if page.width * page.height > self.max_pixels:
            raise self._too_large(path)
        return np.asarray(page)

    def _too_large(self, path: Path | str) -> ImageError:
        return ImageError(f"{path}: is too large; at most {self.max_pixels:,} pixels are read (--max-pixels)")


def as_mode(image: Image.Image, mode: str) -> Image.Image:
    """A picture of 8 bits a channel in another mode, with transparency on white."""
    if not image.has_transparency_data:
        return image if image.mode == mode else image.convert(mode)
    flat = Image.new(mode, image.size)
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):  # in strips, since RGBA takes several times the memory
        part = image.crop((0, top, image.width, min(image.height, top + rows))).convert("RGBA")
        flat.paste(Image.alpha_composite(Image.new("RGBA", part.size, "white"), part).convert(mode), (0, top))
    return flat


def is_deep(image: Image.Image) -> bool:
    """Whether the image has more than 8 bits a channel."""
    return image.mode.startswith(("I", "F"))


def read_picture(path: Path | str, channels: int) -> Picture:
    """The picture in a file or at a URL, for a network with `channels` channels. Raises `ImageError`."""
    return Reader(channels).picture(path)


def load_array(path: Path | str, content: bytes, most: int) -> NDArray[Any]:
    """The array of an `.npy` file, or the first array of an `.npz`, with at most `most` numbers.

    Raises `ImageError`.
    """
    with boundary(path, ImageError, "is no array of numbers"):
        return read_array(content, most)


def _planes(path: object, array: NDArray[Any], channels: int) -> NDArray[Any]:
    """An array [H, W], [C, H, W] or [H, W, C] as [C, H, W]. Raises `ImageError`."""
    if array.ndim == 2:
        array = array[None]
    elif array.ndim == 3 and array.shape[0] != channels and array.shape[2] == channels:
        array = array.transpose(2, 0, 1)
    if array.ndim != 3 or array.shape[0] != channels or not array.size:
        raise ImageError(f"{path}: has the shape {array.shape}; the model takes {channels} channels, [C, H, W]")
    return array
