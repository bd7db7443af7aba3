"""Images of a check or an evaluation: pictures, their masks, and the classes that their folders name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from heatcli.artifact.layout import PICTURES
from heatcli.errors import ImageError, UsageError, boundary
from heatcli.images.mean import image_files
from heatcli.images.preprocess import Fit, Whole, to_pixels
from heatcli.images.read import MAX_PIXELS, SUFFIXES, Pixels, Reader
from heatcli.system.files import is_folder, is_there

MASK = ".mask"


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture; `mask`: float32 [H, W] in 0..1 at the network's input size, or None.

    `folder_label`: the name of the picture's folder if it is a class, else None.
    """

    path: Path
    sha256: str
    pixels: Pixels
    mask: NDArray[np.float32] | None
    folder_label: str | None

    @property
    def size(self) -> tuple[int, ...]:
        """Width and height of the picture; the lengths of another input's sides."""
        return self.pixels.size if isinstance(self.pixels, Image.Image) else self.pixels.shape[:0:-1]


def find(
    inputs: Iterable[Path], labels: Sequence[str], suffixes: Collection[str] = SUFFIXES
) -> list[tuple[Path, str | None]]:
    """The image files in `inputs`, each with the class that its folder is named after, or None.

    A folder stands for its images and the images of its subfolders named after a class, without masks
    (`NAME.mask.png`). Raises `UsageError` if a folder has no images.
    """
    files: list[tuple[Path, str | None]] = []
    for given in inputs:
        if not is_folder(given):
            files.append((given, _class_of(given, labels)))
            continue
        with boundary(given, UsageError, "cannot be listed"):
            folders = [given, *sorted(f for f in given.iterdir() if f.name in labels and is_folder(f))]
        found = [path for folder in folders for path in image_files(folder, False, suffixes)]
        here = [path for path in found if not path.stem.endswith(MASK)]
        if not here:
            raise UsageError(f"{given}: no images in this folder")
        files += [(path, _class_of(path, labels)) for path in here]
    return files


def _class_of(path: Path, labels: Sequence[str]) -> str | None:
    return path.parent.name if path.parent.name in labels else None


def read(
    inputs: Iterable[Path],
    labels: Sequence[str],
    fit: Fit | Whole,
    masks: Path | None = None,
    reader: Reader | None = None,
) -> Iterator[Sample | tuple[Path, ImageError]]:
    """Every image in `inputs` with its mask; for an unreadable image, its path and the error.

    A mask is `masks/NAME.png` if that folder is given, else `NAME.mask.png` or `masks/NAME.png` beside the image.
    Raises `UsageError` if `masks` is no folder, or the network takes no pictures.
    """
    if masks is not None and not is_folder(masks):
        raise UsageError(f"{masks}: is not a folder of masks")
    reader = reader or Reader(fit.channels)
    if masks is not None and reader.layout != PICTURES:
        raise UsageError(f"{masks}: masks are of pictures, and the model takes {reader.layout.one}")
    for path, label in find(inputs, labels, reader.suffixes):
        try:
            with boundary(path, ImageError):
                picture = reader.picture(path)
                sample = Sample(path, picture.sha256, picture.pixels, None, label)
                file = mask_file(path, masks)
                if file is not None and isinstance(fit, Fit):
                    sample = replace(sample, mask=read_mask(file, sample.size, fit, reader.max_pixels))
        except ImageError as error:
            yield path, error
        else:
            yield sample


def mask_file(path: Path, masks: Path | None = None) -> Path | None:
    """The file of an image's mask, or None."""
    beside = [path.with_name(f"{path.stem}{MASK}.png"), path.parent / "masks" / f"{path.stem}.png"]
    return next((file for file in ([masks / f"{path.stem}.png"] if masks else beside) if is_there(file)), None)


def read_mask(file: Path, size: tuple[int, ...], fit: Fit, max_pixels: int = MAX_PIXELS) -> NDArray[np.float32]:
    """A mask (bright is inside) at the network's input size: float32 [H, W] in 0..1, the fraction of a pixel inside.

    Raises `ImageError` if the mask's size is not the picture's `size`, or the mask is outside the network's input.
    """
    picture = Reader(1, max_pixels=max_pixels).picture(file)
    if picture.size != size:
        width, height = picture.size
        raise ImageError(f"{file}: the mask is {width}×{height}, the picture {size[0]}×{size[1]}")
    mask: NDArray[np.float32] = to_pixels(picture.pixels, replace(fit, channels=1))[0]
    if not (mask >= 0.5).any():
        raise ImageError(f"{file}: the mask holds nothing of what the network sees")
    return mask
