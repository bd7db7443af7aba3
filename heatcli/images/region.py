"""A region of the picture, a box or a mask, at the network's input size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from heatcli.errors import ImageError, UsageError
from heatcli.images.preprocess import Fit, to_pixels
from heatcli.images.read import Pixels, read_picture


def region_of(text: str, size: tuple[int, ...], fit: Fit) -> NDArray[np.bool_]:
    """The region that `text` names on a picture of `size` (width, height), at the network's input: bool [H, W].

    `text` is LEFT,TOP,RIGHT,BOTTOM in the picture's pixels, or a mask image of the picture's size (bright is inside).
    Raises `UsageError` if `text` is no region, `ImageError` if the region does not fit this picture.
    """
    parts = text.split(",")
    if len(parts) == 4 and all(part.strip().lstrip("-").isdecimal() for part in parts):
        left, top, right, bottom = (int(part) for part in parts)
        if left >= right or top >= bottom:
            raise UsageError(f"--region {text} is empty; give LEFT,TOP,RIGHT,BOTTOM in pixels")
        if left < 0 or top < 0 or right > size[0] or bottom > size[1]:
            raise ImageError(f"--region {text} reaches beyond the picture, which is {size[0]}×{size[1]}")
        box = Image.new("L", (size[0], size[1]), 0)
        ImageDraw.Draw(box).rectangle((left, top, right - 1, bottom - 1), fill=255)
        mask: Pixels = box
    else:
        try:
            picture = read_picture(Path(text), 1)
        except ImageError as error:
            raise UsageError(f"--region is neither LEFT,TOP,RIGHT,BOTTOM nor a mask: {error}") from error
        width, height = picture.size
        if picture.size != size:
            raise ImageError(f"{text}: the mask is {width}×{height}, the picture {size[0]}×{size[1]}")
        mask = picture.pixels
    inside: NDArray[np.bool_] = to_pixels(mask, replace(fit, channels=1))[0] >= 0.5
    if not inside.any():
        raise ImageError(f"--region {text} holds nothing of what the network sees")
    return inside
