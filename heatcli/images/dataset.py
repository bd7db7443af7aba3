"""Images of a check or an evaluation: the pictures of files and folders, their masks, their expected labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from heatcli.errors import ImageError, UsageError, boundary
from heatcli.files import is_folder, is_there
from heatcli.images.mean import image_files
from heatcli.images.preprocess import Fit, to_pixels
from heatcli.images.read import MAX_PIXELS, Pixels, Reader

MASK = ".mask"


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture; `mask` float32 [H, W] in 0..1 on the network's input, None where there is none.

    `folder_label` is the name of the folder it came from where that is a class.
    """

    path: Path
    sha256: str
    pixels: Pixels
    mask: NDArray[np.float32] | None
    folder_label: str | None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture."""
        return self.pixels.size if isinstance(self.pixels, Image.Image) else self.pixels.shape[:0:-1]


def find(inputs: Iterable[Path], labels: Sequence[str]) -> list[tuple[Path, str | None]]:
    """The image files that `inputs` name, each with the class its folder is named after (None: after no class).

    A folder stands for the images in it and in those of its folders that are named after a class; masks
    (`NAME.mask.png`) are left out. Raises `UsageError` where a folder holds none.
    """
    found: list[tuple[Path, str | None]] = []
    for given in inputs:
        if not is_folder(given):
            found.append((given, _class_of(given, labels)))
            continue
        with boundary(given, UsageError, "cannot be listed"):
            folders = [given, *sorted(f for f in given.iterdir() if f.name in labels and is_folder(f))]
        here = [path for folder in folders for path in image_files(folder) if not path.stem.endswith(MASK)]
        if not here:
            raise UsageError(f"{given}: no images in this folder")
        found += [(path, _class_of(path, labels)) for path in here]
    return found


def _class_of(path: Path, labels: Sequence[str]) -> str | None:
    return path.parent.name if path.parent.name in labels else None


def read(
    inputs: Iterable[Path], labels: Sequence[str], fit: Fit, masks: Path | None = None, reader: Reader | None = None
) -> Iterator[Sample | tuple[Path, ImageError]]:
    """Every image that `inputs` name, with its mask; for one that cannot be read, its path and the error.

    A mask is `masks/NAME.png` where a folder is given; else `NAME.mask.png` or `masks/NAME.png` beside the image.
    """
    if masks is not None and not is_folder(masks):
        raise UsageError(f"{masks}: is not a folder of masks")
    reader = reader or Reader(fit.channels)
    for path, label in find(inputs, labels):
        try:
            with boundary(path, ImageError):
                picture = reader.picture(path)
                sample = Sample(path, picture.sha256, picture.pixels, None, label)
                file = mask_file(path, masks)
                if file is not None:
                    sample = replace(sample, mask=read_mask(file, sample.size, fit, reader.max_pixels))
        except ImageError as error:
            yield path, error
        else:
            yield sample


def mask_file(path: Path, masks: Path | None = None) -> Path | None:
    """Where the mask of an image is, None where it has none."""
    beside = [path.with_name(f"{path.stem}{MASK}.png"), path.parent / "masks" / f"{path.stem}.png"]
    return next((file for file in ([masks / f"{path.stem}.png"] if masks else beside) if is_there(file)), None)


def read_mask(file: Path, size: tuple[int, int], fit: Fit, max_pixels: int = MAX_PIXELS) -> NDArray[np.float32]:
    """A mask (bright is inside) as the network sees it: float32 [H, W] in 0..1, the share of each pixel inside.

    Raises `ImageError` where it is not of the picture's `size`, or holds nothing of what the network sees.
    """
    picture = Reader(1, max_pixels=max_pixels).picture(file)
    if picture.size != size:
        width, height = picture.size
        raise ImageError(f"{file}: the mask is {width}×{height}, the picture {size[0]}×{size[1]}")
    mask: NDArray[np.float32] = to_pixels(picture.pixels, replace(fit, channels=1))[0]
    if not (mask >= 0.5).any():
        raise ImageError(f"{file}: the mask holds nothing of what the network sees")
    return mask
