"""Fitting an expert to a folder of pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from heatcli.errors import HeatcliError, ImageError, UsageError, boundary
from heatcli.images.mean import image_files
from heatcli.images.preprocess import Fit, to_pixels
from heatcli.images.read import read_picture
from heatcli.images.sheet import Block, Tile, picture_of, png, sheet
from heatcli.prototype.rbm import Epoch, Expert, Training, train, untrained, write
from heatcli.system.files import is_folder, write_atomically

SAMPLES = 30


@dataclass(frozen=True)
class FitRequest:
    """What to learn, and from which pictures.

    `output`: the path of the expert, an `.npz`. `shape`: (channels, height, width) of a picture or a patch. `whole`:
    whole pictures instead of patches. `limit`: the most pictures or patches. `how`: the parameters of the training.
    """

    folder: Path
    output: Path
    shape: tuple[int, int, int]
    whole: bool
    limit: int
    recursive: bool
    how: Training


def fit(request: FitRequest, failed: list[HeatcliError]) -> Iterator[Epoch]:
    """Train an expert, one epoch per step; then write the expert, and a sheet of its samples beside it.

    The errors of pictures that cannot be read are appended to `failed`. Raises `UsageError` for values that are not
    valid, for too few pictures, and if the training diverges.
    """
    _validate(request)
    pictures = gather(request, failed)
    expert = untrained(pictures, request.whole, request.how)
    yield from train(expert, pictures, request.how)
    write(request.output, expert)
    write_atomically(request.output.with_suffix(".samples.png"), png(shown(expert, pictures, request.how.seed)))


def _validate(request: FitRequest) -> None:
    """Raise `UsageError` for values that are not valid."""
    how = request.how
    if not is_folder(request.folder):
        raise UsageError(f"{request.folder}: is not a folder")
    if request.output.suffix != ".npz":
        raise UsageError(f"{request.output}: an expert is an .npz file; name it so")
    if request.shape[0] not in (1, 3):
        raise UsageError(f"--channels {request.shape[0]} is not allowed; use 1 or 3")
    for name, value in (("hidden", how.hidden), ("epochs", how.epochs), ("cd", how.cd), ("limit", request.limit),
                        ("patch", request.shape[1])):  # fmt: skip
        if value < 1:
            raise UsageError(f"--{name} {value} is not allowed; it is at least 1")
    for name, number in (("sigma", how.sigma), ("rate", how.rate)):
        if not 0 < number < float("inf"):
            raise UsageError(f"--{name} {number:g} is not allowed; it is a number above 0")


def gather(request: FitRequest, failed: list[HeatcliError]) -> Tensor:
    """Whole pictures resized to the shape, or random patches of the shape: float32 [N, C, H, W] in 0..1.

    Errors are appended to `failed`. Raises `UsageError` for fewer than 20 pictures or patches.
    """
    channels, height, width = request.shape
    paths = list(image_files(request.folder, request.recursive))
    dice = np.random.default_rng(request.how.seed)
    if request.whole and len(paths) > request.limit:
        paths = [paths[i] for i in sorted(dice.choice(len(paths), request.limit, replace=False))]
    found: list[NDArray[np.float32]] = []
    each = -(-request.limit // max(1, len(paths)))
    for path in paths:
        try:
            with boundary(path, ImageError):
                picture = read_picture(path, channels)
                size = (height, width) if request.whole else picture.size[::-1]
                pixels = to_pixels(picture.pixels, Fit(channels, size[0], size[1]))
        except ImageError as error:
            failed.append(error)
            continue
        if request.whole:
            found.append(pixels)
            continue
        down, across = pixels.shape[1] - height, pixels.shape[2] - width
        if min(down, across) < 0:
            failed.append(ImageError(f"{path}: is smaller than a patch of {height}×{width}"))
            continue
        for y, x in zip(dice.integers(0, down + 1, each), dice.integers(0, across + 1, each), strict=True):
            found.append(pixels[:, y : y + height, x : x + width])
    if len(found) < 20:
        raise UsageError(f"{request.folder}: {len(found)} pictures are too few to learn from; 20 is the least")
    return torch.from_numpy(np.stack(found[: request.limit]))


def shown(expert: Expert, pictures: Tensor, seed: int) -> Image.Image:
    """A sheet: samples of the expert above, pictures [N, C, H, W] of the training set below."""

    def block(title: str, pixels: Tensor) -> Block:
        return Block(title, [Tile(picture_of(p.numpy())) for p in pixels])

    drawn = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed))[:SAMPLES]
    return sheet(
        [block("samples, 1000 Gibbs steps from noise", expert.samples(SAMPLES, seed)),
         block("learnt from", pictures[drawn])], 10, tile=56,
    )  # fmt: skip
