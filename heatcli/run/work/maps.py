"""Maps as files of the kind that the picture is: NIfTI in a volume's voxels, GeoTIFF in a scene's pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from heatcli.errors import ImageError
from heatcli.images.numbers import NIFTI, nifti
from heatcli.images.overlay import onto_picture
from heatcli.images.preprocess import Box, Fit, seen_box
from heatcli.images.read import Picture
from heatcli.images.scenes import GEOTIFF, as_geotiff
from heatcli.images.volumes import onto_volume
from heatcli.model.model import Model
from heatcli.system.files import read

IN_PLACE = (*NIFTI, *GEOTIFF)
_LARGEST = 1 << 34  # bytes of a picture, which was read before within its own limit


def in_place(model: Model, path: str, picture: Picture | None, relevance: NDArray[np.float64], name: str) -> bytes:
    """A map, on the picture's own voxels or pixels, as the file `name`. Raises `ImageError`, `UsageError`.

    `relevance`: of the network's input, summed over channels. `picture`: what was read, if it is still there.
    """
    found = picture or model.pictures.reader.picture(path)
    if name.endswith(NIFTI):
        if found.numbers is None or found.numbers.affine is None:
            raise ImageError(f"{path}: is no NIfTI volume, so its map cannot be one; --arrays npy writes an array")
        sides = np.asarray(found.pixels).shape[1:]
        return nifti(onto_volume(relevance, sides), found.numbers.affine, name.endswith(".gz"))
    fit = model.pictures.fit
    if not isinstance(fit, Fit):
        raise ImageError(f"{path}: is no picture, so its map cannot be a TIFF; --arrays npy writes an array")
    width, height = found.size[:2]
    return as_geotiff(onto_scene(relevance, (width, height), seen_box(found.size, fit)), read(path, _LARGEST))


def onto_scene(relevance: NDArray[np.float64], size: tuple[int, int], box: Box) -> NDArray[np.float32]:
    """A map [h, w] of the input on the pixels of a picture of `size` (width, height), whose part `box` it shows.

    Each pixel has its share, so that sums stay; what the network did not see has 0.
    """
    strongest = float(np.abs(relevance).max(initial=0)) or 1.0
    left, top, right, bottom = box
    share = relevance.size / max(1.0, (right - left) * (bottom - top))
    laid = onto_picture(relevance / strongest, size, box)
    return np.asarray(laid * np.float32(strongest * share), np.float32)
