"""From a picture to the pixels a network sees, and back to where on the picture they lie."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Box = tuple[float, float, float, float]


def to_pixels(image: Image.Image, shape: tuple[int, int, int], resize_to: int | None) -> NDArray[np.float32]:
    """The picture as float32 [C, H, W] in 0..1, resized as torchvision does it (bilinear, antialiased).

    Transparency is laid on white. `shape` is the network's input, with 1 or 3 channels.
    """
    channels, height, width = shape
    image = _as_mode(image, "L" if channels == 1 else "RGB")
    if resize_to is None:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    else:
        image = image.resize(_resized(image.width, image.height, resize_to), Image.Resampling.BILINEAR)
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        image = image.crop((left, top, left + width, top + height))
    pixels = np.asarray(image, dtype=np.float32) / np.float32(255)
    return np.ascontiguousarray(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))


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
