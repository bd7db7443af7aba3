"""The other picture of pairs, read once for a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from heatcli.errors import ImageError, UsageError, boundary
from heatcli.images.preprocess import to_pixels
from heatcli.images.read import as_mode
from heatcli.model.model import Model


@dataclass(frozen=True, eq=False)
class Other:
    """A picture that every image is compared with: its name, hash, size (width, height), and what is shown of it.

    `pixels`: as they go into the network, float32 [C, H, W] before normalisation.
    """

    path: str
    sha256: str
    size: tuple[int, ...]
    shown: Image.Image
    pixels: NDArray[np.float32]


def read_other(model: Model, path: str) -> Other:
    """The picture in a file or behind a URL. Raises `UsageError` where it cannot be read, or is no picture."""
    fit = model.pictures.picture_fit
    try:
        with boundary(path, ImageError):
            picture = model.pictures.reader.picture(path)
            shown = as_mode(picture.shown(), "RGB")
            return Other(path, picture.sha256, picture.size, shown, to_pixels(picture.pixels, fit))
    except ImageError as error:
        raise UsageError(f"--pair {error}") from error
