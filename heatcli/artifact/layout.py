"""Layouts: which axes of a network's input are images, channels and positions, and so what kind of thing it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor

Axes = Literal["NCHW", "NCL", "NLC", "NL", "NCDHW", "NDHWC", "NDHW", "NF", "NT"]
AXES: tuple[str, ...] = get_args(Axes)
PICTURE, SIGNAL, VOLUME, TABLE, TOKENS = "picture", "signal", "volume", "table", "tokens"
# The letters of the positions → what the input is, and what one position of it is called.
_KINDS = {
    "HW": (PICTURE, "pixel"),
    "L": (SIGNAL, "sample"),
    "DHW": (VOLUME, "voxel"),
    "F": (TABLE, "feature"),
    "T": (TOKENS, "token"),
}
TOKEN_DTYPES = ("torch.int64", "torch.int32")
_SIDE = 32  # pixels of the side of a picture without an axis of the batch, at least
_FEW = 64  # channels that the last of three axes can be
_COLOURS = (1, 2, 3, 4)  # channels that the last of five axes can be
# How long each side is, by the number of sides, where a shape is needed and the artifact takes any.
TRIED = {1: 1024, 2: 224, 3: 32}


@dataclass(frozen=True)
class Layout:
    """`axes`: one of `AXES`. N images, C channels; L samples, H and W pixels, D, H and W voxels, F features, T tokens.

    Tokens are whole numbers.
    """

    axes: str

    @property
    def kind(self) -> str:
        """picture, signal, volume, table or tokens."""
        return _KINDS[self._positions][0]

    @property
    def one(self) -> str:
        """The kind in a sentence: a picture, tokens."""
        return self.kind if self.kind == TOKENS else f"a {self.kind}"

    @property
    def element(self) -> str:
        """What a position is called: pixel, sample, voxel, feature or token."""
        return _KINDS[self._positions][1]

    @property
    def _positions(self) -> str:
        return self.axes.replace("N", "").replace("C", "")

    @property
    def dims(self) -> int:
        """How many axes are positions."""
        return len(self._positions)

    @property
    def separate(self) -> bool:
        """Whether nothing lies between neighbours, so that nothing is blurred and each position is a region."""
        return self.kind in (TABLE, TOKENS)

    @property
    def channel(self) -> int | None:
        """The axis of the channels; None where there is none."""
        return self.axes.index("C") if "C" in self.axes else None

    def first(self, x: Tensor) -> Tensor:
        """An input as [N, C, positions …], with one channel where it has no axis of them."""
        return x.unsqueeze(1) if self.channel is None else x.movedim(self.channel, 1)

    def back(self, x: Tensor) -> Tensor:
        """[N, C, positions …] in the input's own order; without the channel where the input has no axis of them."""
        return x.squeeze(1) if self.channel is None else x.movedim(1, self.channel)

    def ordered(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape (C, positions …) of one image in the input's own order."""
        channels, *sides = shape
        own = list(sides)
        if self.channel is not None:
            own.insert(self.channel - 1, channels)
        return tuple(own)

    def channels_of(self, shape: Sequence[int | None]) -> int | None:
        """The number of channels in the shape of a batch; None where it is free."""
        return 1 if self.channel is None else shape[self.channel]

    def sides_of(self, shape: Sequence[int | None]) -> tuple[int, ...] | None:
        """The lengths of the positions' axes in the shape of a batch; None where one is free."""
        sides = tuple(n for i, n in enumerate(shape) if i and i != self.channel and n is not None)
        return sides if len(sides) == self.dims else None


PICTURES = Layout("NCHW")


def lacks_batch(shape: Sequence[int | None] | None) -> bool:
    """Whether a declared shape is that of one picture of three colours, [3, H, W], and not of three signals."""
    if shape is None or len(shape) != 3 or shape[0] != 3:
        return False
    return all(side is None or side >= _SIDE for side in shape[1:])


def layout_of(shape: Sequence[int | None] | None) -> Layout | None:
    """The layout of a declared input, by its number of axes; None where that says nothing.

    Of three axes the last is channels where it is short beside the one before, or fixed where that is free. Of two axes
    the last is features where it is fixed, and samples where it is free, since no table has any number of features.
    """
    if shape is None or not 2 <= len(shape) <= 5:
        return None
    if len(shape) == 3:
        _, length, last = shape
        short = last is not None and last <= _FEW and (length is None or length > 4 * last)
        return Layout("NLC" if short else "NCL")
    if len(shape) == 5:
        return Layout("NDHWC" if shape[4] in _COLOURS and shape[1] not in _COLOURS else "NCDHW")
    if len(shape) == 2:
        return Layout("NL" if shape[1] is None else "NF")
    return PICTURES


def layout_for(axes: str, rank: int) -> Layout:
    """The layout `axes`, or where a batch has another number of axes, the usual one for that number."""
    if len(axes) == rank:
        return Layout(axes)
    return Layout({2: "NF", 3: "NCL", 5: "NCDHW"}.get(rank, PICTURES.axes))
