"""What may be done to a whole picture without changing what it shows, and how much of it a picture has already.

A shortcut of this kind, such as a poorly compressed source of one class, has no place in a heatmap: it changes
relevance everywhere. But the model can be asked about pictures that are treated so (`heatcli.discover.treated`).
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from heatcli.discover.rows import Array
from heatcli.images.baselines import gaussian_blur
from heatcli.images.preprocess import Fit, to_pixels
from heatcli.images.read import Pixels, as_mode

BLOCK = 8  # pixels; the side of JPEG's blocks
EVEN = 0.02  # of the usual step; steps that vary less are as good as equal
QUALITY = 10  # of Pillow's 1 to 95
WIDTH = 64  # the blur is this part of the input's shorter side
NOISE = 0.1  # its standard deviation; white is 1
GREY = 0.02  # the largest mean difference of the channels of a grey picture
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as JPEG has it


Name = Literal["jpeg", "blur", "noise", "grey"]


@dataclass(frozen=True, eq=False)
class View:
    """A picture as it was read, and how it is fitted to the network's input."""

    pixels: Pixels
    fit: Fit

    @cached_property
    def fitted(self) -> Array:
        """The picture at the input's size, float32 [C, H, W] in 0..1."""
        return to_pixels(self.pixels, self.fit)

    @cached_property
    def light(self) -> Array:
        """The luma of `fitted`, [H, W]; of one channel, that channel."""
        return _light(self.fitted)

    @property
    def image(self) -> Image.Image:
        """The picture at its own size, in the colours of the network; an array of numbers, at the input's size."""
        mode = "L" if self.fit.channels == 1 else "RGB"
        if isinstance(self.pixels, Image.Image):
            return as_mode(self.pixels, mode)
        levels = (255 * self.fitted.clip(0, 1)).round().astype(np.uint8)
        return Image.fromarray(levels[0] if mode == "L" else levels.transpose(1, 2, 0))


@dataclass(frozen=True)
class Treatment:
    """A treatment of pictures.

    `done`: what is done, after "when". `mark`: what treated pictures have. `of`: a picture,
    treated, as float32 [C, H, W] at the input's size. `trace`: how much of the mark a picture has, on any scale from 0.
    `channels`: of the networks that it is for; none for all.
    """

    name: Name
    done: str
    mark: str
    of: Callable[[View], Array] = field(repr=False)
    trace: Callable[[View], float] = field(repr=False)
    channels: tuple[int, ...] = (1, 3)


def _light(pixels: Array) -> Array:
    found: Array = np.tensordot(LUMA, pixels, 1) if len(pixels) == 3 else pixels.mean(0)
    return found


def _blurred(pixels: Array, sigma: float) -> Array:
    """A Gaussian blur of [..., H, W]."""
    found: Array = gaussian_blur(torch.from_numpy(pixels.reshape(1, -1, *pixels.shape[-2:])), sigma).numpy()
    return found.reshape(pixels.shape)


def stored_as_jpeg(view: View) -> Array:
    """The picture stored as JPEG at its own size, then fitted: as a file of low quality is."""
    stream = io.BytesIO()
    view.image.save(stream, "JPEG", quality=QUALITY)
    with Image.open(stream) as stored:
        return to_pixels(stored, view.fit)


def blocks(view: View) -> float:
    """How far the steps at the edges of blocks stand out from those elsewhere, along rows or columns, the lesser.

    In standard deviations of the steps at the seven other places within a block. The blocks may begin anywhere, as in a
    picture that was cropped or turned later.
    """
    plane = np.asarray(view.image.convert("L"), np.float32)
    return min(_at_edges(np.abs(np.diff(plane, axis=axis)).mean(1 - axis)) for axis in (0, 1))


def _at_edges(steps: NDArray[np.float32]) -> float:
    """The same of the mean steps between neighbouring rows, [n]; 0 for fewer than two blocks."""
    if len(steps) < 2 * BLOCK:
        return 0.0
    *others, edge = sorted(float(steps[at::BLOCK].mean()) for at in range(BLOCK))
    usual = float(np.mean(others))
    spread = float(np.std(others)) + EVEN * usual
    return (edge - usual) / spread if spread > 0 else 0.0


def blurred(view: View) -> Array:
    """The picture out of focus."""
    return _blurred(view.fitted, min(view.fitted.shape[1:]) / WIDTH)


def lack_of_detail(view: View) -> float:
    """The energy of detail of a pixel or two, over that of the finest detail."""
    fine, wide = _blurred(view.fitted, 0.7), _blurred(view.fitted, 1.4)
    energy = [float(np.square(part, dtype=np.float64).mean()) for part in (fine - wide, view.fitted - fine)]
    return energy[0] / max(energy[1], 1e-9)


def with_noise(view: View) -> Array:
    """The picture with noise, the same at each call."""
    rng = np.random.default_rng(zlib.crc32(view.fitted.tobytes()))
    noise = NOISE * rng.standard_normal(view.fitted.shape, np.float32)
    return (view.fitted + noise).clip(0, 1)


def noise(view: View) -> float:
    """The size of the finest detail where there is least of it: in smooth parts only noise is left."""
    fine = np.abs(view.light - _blurred(view.light, 1.0))
    side = 4
    tall, wide = (length // side * side for length in fine.shape)
    cells = fine[:tall, :wide].reshape(tall // side, side, wide // side, side).mean((1, 3))
    return float(np.quantile(cells, 0.1)) if cells.size else 0.0


def without_colours(view: View) -> Array:
    """The picture in grey."""
    return np.broadcast_to(view.light, view.fitted.shape).copy()


def lack_of_colour(view: View) -> float:
    """1 for a grey picture, else 0: a pale one may show pale things."""
    return float((view.fitted.max(0) - view.fitted.min(0)).mean() < GREY)


TREATMENTS = (
    Treatment("jpeg", f"stored as JPEG of quality {QUALITY}", "stronger edges of 8 × 8 blocks", stored_as_jpeg, blocks),
    Treatment("blur", "blurred", "less fine detail", blurred, lack_of_detail, ()),
    Treatment("noise", "with noise", "more noise", with_noise, noise),
    Treatment("grey", "without colours", "no colours", without_colours, lack_of_colour, (3,)),
)
"""Low resolution is blur, and a frame has a place, so heatmaps show it. Light, contrast and colours are no treatments:
many classes have some of their own, such as tomatoes.
"""


def treatments_for(channels: int) -> list[Treatment]:
    """The treatments of pictures with so many channels."""
    return [one for one in TREATMENTS if not one.channels or channels in one.channels]
