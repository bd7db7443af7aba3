"""From a picture to the pixels a network sees, and back to where on the picture they lie."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from heatcli.images.read import Pixels

Box = tuple[float, float, float, float]


def to_pixels(picture: Pixels, shape: tuple[int, int, int], resize_to: int | None) -> NDArray[np.float32]:
    """The picture as float32 [C, H, W], resized as torchvision resizes pictures (bilinear, antialiased).

    Pictures are in 0..1, their transparency laid on white; arrays [C, H, W] keep their values.
    """
    if isinstance(picture, np.ndarray):
        return np.stack([_fitted(Image.fromarray(plane), shape, resize_to) for plane in picture])
    pixels = _fitted(_as_mode(picture, "L" if shape[0] == 1 else "RGB"), shape, resize_to) / np.float32(255)
    return np.ascontiguousarray(pixels[None] if shape[0] == 1 else pixels.transpose(2, 0, 1))


def _fitted(image: Image.Image, shape: tuple[int, int, int], resize_to: int | None) -> NDArray[np.float32]:
    _, height, width = shape
    if resize_to is None:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    else:
        image = image.resize(_resized(image.width, image.height, resize_to), Image.Resampling.BILINEAR)
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        image = image.crop((left, top, left + width, top + height))
    return np.asarray(image, dtype=np.float32)


def _as_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel
        image = Image.fromarray((np.asarray(image, dtype=np.float64) / 257).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert(mode)


def _resized(width: int, height: int, shorter: int) -> tuple[int, int]:
    if width <= height:
        return shorter, max(shorter, int(shorter * height / width))
    return max(shorter, int(shorter * width / height)), shorter


def seen_box(size: tuple[int, int], shape: tuple[int, int, int], resize_to: int | None) -> Box:
    """The part of a picture of `size` (width, height) that the network sees: left, top, right, bottom in its pixels."""
    width, height = size
    if resize_to is None:
        return 0.0, 0.0, float(width), float(height)
    large, tall = _resized(width, height, resize_to)
    left, top = round((large - shape[2]) / 2), round((tall - shape[1]) / 2)
    x, y = width / large, height / tall
    return left * x, top * y, (left + shape[2]) * x, (top + shape[1]) * y
