"""From a picture to the pixels a network sees, and back to where on the picture they lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from heatcli.images.read import Pixels, Reader, as_mode, is_deep

Box = tuple[float, float, float, float]
Interpolation = Literal["bilinear", "bicubic", "nearest"]
WHOLE = 1 << 24  # pixels of a resized picture that is made whole before its centre is cut out


@dataclass(frozen=True)
class Fit:
    """How a picture is made to fit a network's input of (channels, height, width).

    `shorter`: the length its shorter side gets before the centre is cut out; None stretches it to height × width.
    """

    channels: int
    height: int
    width: int
    shorter: int | None = None
    interpolation: Interpolation = "bilinear"


def to_pixels(picture: Pixels, fit: Fit) -> NDArray[np.float32]:
    """The picture as float32 [C, H, W], resized as torchvision resizes pictures (antialiased).

    Pictures are in 0..1, their transparency laid on white; arrays [C, H, W] keep their values.
    """
    if isinstance(picture, Image.Image) and is_deep(picture):
        picture = Reader(fit.channels).ready("the picture", picture)
    if isinstance(picture, np.ndarray):
        return np.stack([_fitted(Image.fromarray(plane), fit) for plane in picture])
    pixels = _fitted(as_mode(picture, "L" if fit.channels == 1 else "RGB"), fit) / np.float32(255)
    return np.ascontiguousarray(pixels[None] if fit.channels == 1 else pixels.transpose(2, 0, 1))


def _fitted(image: Image.Image, fit: Fit) -> NDArray[np.float32]:
    resampling = Image.Resampling[fit.interpolation.upper()]
    if fit.shorter is None:
        image = image.resize((fit.width, fit.height), resampling)
    else:
        large, tall = _resized(image.width, image.height, fit.shorter)
        left, top = round((large - fit.width) / 2), round((tall - fit.height) / 2)
        if large * tall <= WHOLE:
            image = image.resize((large, tall), resampling)
        else:  # a line of pixels, as a rule: only what is seen; Pillow's boxes are float32, so to 2 levels of 255
            image, left, top = _part(image, (large, tall), (left, top, left + fit.width, top + fit.height), resampling)
        image = image.crop((left, top, left + fit.width, top + fit.height))
    return np.asarray(image, dtype=np.float32)


def _part(
    image: Image.Image, size: tuple[int, int], box: tuple[int, int, int, int], resampling: Image.Resampling
) -> tuple[Image.Image, int, int]:
    """What of `box` lies within the picture resized to `size`, and where the box begins on that."""
    x, y = image.width / size[0], image.height / size[1]
    left, top, right, bottom = max(0, box[0]), max(0, box[1]), min(size[0], box[2]), min(size[1], box[3])
    source = (left * x, top * y, min(image.width, right * x), min(image.height, bottom * y))
    part = image.resize((right - left, bottom - top), resampling, box=source)
    return part, box[0] - left, box[1] - top


def _resized(width: int, height: int, shorter: int) -> tuple[int, int]:
    if width <= height:
        return shorter, max(shorter, int(shorter * height / width))
    return max(shorter, int(shorter * width / height)), shorter


def seen_box(size: tuple[int, int], fit: Fit) -> Box:
    """The part of a picture of `size` (width, height) that the network sees: left, top, right, bottom in its pixels."""
    width, height = size
    if fit.shorter is None:
        return 0.0, 0.0, float(width), float(height)
    large, tall = _resized(width, height, fit.shorter)
    left, top = round((large - fit.width) / 2), round((tall - fit.height) / 2)
    x, y = width / large, height / tall
    return left * x, top * y, (left + fit.width) * x, (top + fit.height) * y
