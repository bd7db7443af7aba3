"""From a picture to the pixels of a network's input, and back to their place on the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from heatcli.images.read import Pixels, Reader, as_mode, is_deep
from heatcli.images.volumes import stretched

Box = tuple[float, float, float, float]
Interpolation = Literal["bilinear", "bicubic", "nearest"]
FILL = 114  # the grey of a letterbox, of 255, as YOLO's
WHOLE = 1 << 24  # pixels; larger resized pictures are not computed whole before the centre crop


@dataclass(frozen=True)
class Fit:
    """How a picture is resized to a network's input of (channels, height, width).

    A side of None is the picture's own; where the other is known, the picture keeps its shape. `shorter`: the length of
    the shorter side before the centre crop; None stretches the picture to height × width. `letterbox`: the picture
    keeps its shape and is padded with grey, around it, or `letterbox:corner` right and below.
    """

    channels: int
    height: int | None
    width: int | None
    shorter: int | None = None
    interpolation: Interpolation = "bilinear"
    letterbox: str = ""

    def sides(self, size: tuple[int, ...]) -> tuple[int, int]:
        """The height and width that a picture of `size` (width, height) is resized to."""
        width, height = size[:2]
        if self.height is None:
            return (height, width) if self.width is None else (max(1, round(height * self.width / width)), self.width)
        return self.height, max(1, round(width * self.height / height)) if self.width is None else self.width


@dataclass(frozen=True)
class Whole:
    """How signals, volumes and tables become the input: unchanged, but volumes are stretched to `sides` if given.

    `channels`: None for any number.
    """

    channels: int | None
    sides: tuple[int, ...] | None


def to_pixels(picture: Pixels, fit: Fit | Whole) -> NDArray[np.float32]:
    """The picture as float32 [C, H, W], resized like torchvision (antialiased).

    Pictures are in 0..1 with transparency on white; arrays [C, H, W] keep their values, and so do signals, volumes and
    tables.
    """
    if isinstance(fit, Whole):
        assert isinstance(picture, np.ndarray)
        return stretched(picture, fit.sides) if fit.sides and picture.ndim == 4 else picture
    if isinstance(picture, Image.Image) and is_deep(picture):
        picture = Reader(fit.channels).ready("the picture", picture)
    if isinstance(picture, np.ndarray):
        return np.stack([_fitted(Image.fromarray(plane), fit) for plane in picture])
    pixels = _fitted(as_mode(picture, "L" if fit.channels == 1 else "RGB"), fit) / np.float32(255)
    return np.ascontiguousarray(pixels[None] if fit.channels == 1 else pixels.transpose(2, 0, 1))


def _fitted(image: Image.Image, fit: Fit) -> NDArray[np.float32]:
    """A Pillow image in the input's size, as float32 [H, W] or [H, W, C] in 0..255."""
    resampling = Image.Resampling[fit.interpolation.upper()]
    height, width = fit.sides(image.size)
    if fit.letterbox:
        x, y, wide, tall = _inside(image.size, fit)
        level = FILL if image.mode in ("L", "RGB") else 0
        whole = Image.new(image.mode, (width, height), (level,) * 3 if image.mode == "RGB" else level)
        whole.paste(image.resize((wide, tall), resampling), (x, y))
        image = whole
    elif fit.shorter is None:
        image = image.resize((width, height), resampling)
    else:
        large, tall = _resized(image.width, image.height, fit.shorter)
        left, top = round((large - width) / 2), round((tall - height) / 2)
        if large * tall <= WHOLE:
            image = image.resize((large, tall), resampling)
        else:  # mostly a very thin picture: only the crop; Pillow's boxes are float32, so accurate to 2 levels of 255
            image, left, top = _part(image, (large, tall), (left, top, left + width, top + height), resampling)
        image = image.crop((left, top, left + width, top + height))
    return np.asarray(image, dtype=np.float32)


def _inside(size: tuple[int, int], fit: Fit) -> tuple[int, int, int, int]:
    """Where a picture of `size` lies in a letterbox: left, top, width, height."""
    height, width = fit.sides(size)
    scale = min(width / size[0], height / size[1])
    wide, tall = (max(1, round(length * scale)) for length in size)
    if fit.letterbox.endswith(":corner"):
        return 0, 0, wide, tall
    return (width - wide) // 2, (height - tall) // 2, wide, tall


def _part(
    image: Image.Image, size: tuple[int, int], box: tuple[int, int, int, int], resampling: Image.Resampling
) -> tuple[Image.Image, int, int]:
    """The part of `box` within the picture resized to `size`, and the origin of `box` in that part."""
    x, y = image.width / size[0], image.height / size[1]
    left, top, right, bottom = max(0, box[0]), max(0, box[1]), min(size[0], box[2]), min(size[1], box[3])
    source = (left * x, top * y, min(image.width, right * x), min(image.height, bottom * y))
    part = image.resize((right - left, bottom - top), resampling, box=source)
    return part, box[0] - left, box[1] - top


def _resized(width: int, height: int, shorter: int) -> tuple[int, int]:
    """Width and height with the shorter side as long as `shorter`."""
    if width <= height:
        return shorter, max(shorter, int(shorter * height / width))
    return max(shorter, int(shorter * width / height)), shorter


def seen_box(size: tuple[int, ...], fit: Fit) -> Box:
    """The part of a picture of `size` (width, height) that the network reads: left, top, right, bottom in pixels."""
    width, height = size[:2]
    tall, broad = fit.sides(size)
    if fit.letterbox:
        column, row, wide, high = _inside((width, height), fit)
        across, down = width / wide, height / high
        return -column * across, -row * down, (broad - column) * across, (tall - row) * down
    if fit.shorter is None:
        return 0.0, 0.0, float(width), float(height)
    large, high = _resized(width, height, fit.shorter)
    left, top = round((large - broad) / 2), round((high - tall) / 2)
    x, y = width / large, height / high
    return left * x, top * y, (left + broad) * x, (top + tall) * y
