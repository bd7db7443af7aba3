"""How pictures become the input of a network, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from heatcli.artifact.layout import PICTURES, TABLE, TOKENS, TRIED, VOLUME, Layout, layout_for
from heatcli.artifact.sidecar import LETTERBOXES, Input
from heatcli.errors import ImageError, MissingError, ModelError, UsageError, boundary
from heatcli.graph.lookups import CODE
from heatcli.images.numbers import SUFFIXES as NUMBERS
from heatcli.images.preprocess import Fit, Whole, to_pixels
from heatcli.images.read import MAX_PIXELS, SUFFIXES, Picture, Pixels, Reader


@dataclass(eq=False, kw_only=True)
class Pictures:
    """The pictures (or sequences, signals, volumes, tables) that the artifact `path` takes, as its input and back.

    `input`: what the artifact, its sidecar and the flags say about the input. `declared`: the input shape that the
    artifact declares, or None; `channels_last`: whether that is [N, H, W, C]. `device`, `dtype`: those of the input.
    `mean_file`: the mean image. `max_pixels`: the size limit of pictures, None for `heatcli.images.read.MAX_PIXELS`.
    `say`: called with a reader's guesses, as in `heatcli.images.read.Reader`. `used`: whether any picture has been
    converted.
    """

    path: Path
    input: Input
    declared: tuple[int | None, ...] | None
    channels_last: bool = False
    device: torch.device
    dtype: torch.dtype
    mean_file: Path | None = None
    max_pixels: int | None = None
    say: Callable[[str, str], None] | None = field(default=None, repr=False)
    used: bool = field(default=False, init=False)

    # --- the shape of the input -----------------------------------------------------------------------------------

    @property
    def layout(self) -> Layout:
        """What the axes of the input are."""
        return Layout("NCL") if self.alphabet else self.input.layout

    def layout_of(self, batch: Tensor) -> Layout:
        """What the axes of a batch [N, …] are; of one with another number of axes than the input, the usual ones."""
        return layout_for(self.layout.axes, batch.dim())

    @property
    def suffixes(self) -> frozenset[str]:
        """The suffixes of files in folders that are inputs."""
        return SUFFIXES if self.layout == PICTURES or self.alphabet else NUMBERS[self.layout.kind]

    @property
    def shape(self) -> tuple[int, ...]:
        """The input as (channels, height, width); of signals, volumes and tables as (channels, positions …).

        Raises `MissingError`, naming the flag, if the size of pictures is unknown, `UsageError` for sequences.
        """
        self._refuse_sequences()
        if self.layout == PICTURES:
            self._need_size()
        return self._tried_shape

    def _refuse_sequences(self) -> None:
        """Raise `UsageError` for a network of sequences."""
        if self.alphabet:
            raise UsageError(f"{self.path}: reads sequences of {self.alphabet}, and pictures are needed here")

    def _need_size(self) -> None:
        """Raise `MissingError` if nothing says the size of pictures."""
        self._check_declared()
        if self.input.shape is None:
            nothing = f"neither the artifact nor {self.path.with_suffix('.toml').name}"
            raise MissingError(
                f"{self.path}: {nothing if self.path.is_file() else 'nothing'} says its input size; give --size "
                "HEIGHTxWIDTH (in Python size=(height, width), or an example of the input)"
            )

    def _check_declared(self) -> None:
        """Raise `MissingError` if the artifact declares an input that is no picture and has no other layout."""
        if self.input.shape is None and self.declared is not None and len(self.declared) != 4:
            dims = "×".join("N" if d is None else str(d) for d in self.declared)
            raise MissingError(
                f"{self.path}: its input {dims} is no picture [N, C, H, W], signal, volume, table nor sequence of "
                "one-hot letters; from Python, heatcli.explain(model, tensor) explains it"
            )

    @property
    def _colours(self) -> int:
        """The channels of pictures."""
        return self.input.channels or 3

    @property
    def _tried_shape(self) -> tuple[int, ...]:
        """(channels, positions …), of sides that are tried where the artifact takes any. Raises `MissingError`."""
        if self.layout == PICTURES:
            return (self._colours, *(side or TRIED[2] for side in self._sides))
        layout, channels = self.layout, 1 if self.layout.channel is None else self.input.channels
        sides = self.input.shape
        if channels is None or (sides is None and layout.kind == TABLE):
            missing = [flag for flag, known in (("--channels", channels), ("--size", sides)) if not known]
            ways = " and ".join(missing) if layout.kind != TABLE else "--size"
            raise MissingError(f"{self.path}: nothing says how large a {layout.kind} it takes; give {ways}")
        return (channels, *(sides or (TRIED[layout.dims],) * layout.dims))

    @property
    def alphabet(self) -> str:
        """The letters of the channels, in order, if the input is a sequence; else empty."""
        shape = self.declared
        return self.input.alphabet or ("ACGT" if shape is not None and len(shape) == 3 and shape[1] == 4 else "")

    @property
    def length(self) -> int | None:
        """The length of sequences; None for any length."""
        shape = self.declared
        fixed = shape[2] if shape is not None and len(shape) == 3 else None
        return fixed or self.input.length or None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input without the batch: (channels, height, width), or (letters, length) of a sequence.

        Where any size is taken, sequences count as 100 letters, and other inputs have sides of `TRIED`. Raises
        `MissingError` if the artifact says too little.
        """
        return (len(self.alphabet), self.length or 100) if self.alphabet else self.layout.ordered(self._tried_shape)

    @property
    def sized(self) -> bool:
        """Whether the artifact, its sidecar or a flag says the size of the input."""
        return (self.length if self.alphabet else self.input.shape) is not None

    @property
    def only_shape(self) -> tuple[int, ...]:
        """`input_shape`, of an input that has no other. Raises `MissingError` if the size is unknown."""
        if not self.sized:
            flag = "length = LETTERS in its sidecar" if self.alphabet else "--size"
            raise MissingError(f"{self.path}: nothing says the size of its input; give {flag}")
        return self.input_shape

    @property
    def _sides(self) -> tuple[int | None, int | None]:
        """Height and width of pictures; None for any. Raises `MissingError` if the input is no picture."""
        self._check_declared()
        if self.input.shape is not None:
            height, width = self.input.shape
            return height, width
        if self.declared is None:
            return None, None
        tall, wide = self.declared[1:3] if self.channels_last else self.declared[2:4]
        return tall, wide

    # --- from pictures to the input -------------------------------------------------------------------------------

    @property
    def fit(self) -> Fit | Whole:
        """How pictures are resized to the input; to their own size where nothing says one.

        Raises `MissingError` if a crop has no size, `UsageError` for sequences.
        """
        if self.layout != PICTURES and not self.alphabet:
            return Whole(self.input.channels, self.input.shape)
        boxed = self.input.resize if self.input.resize in LETTERBOXES else ""
        self._refuse_sequences()
        if self.input.resize != "stretch" and not boxed:
            self._need_size()
        height, width = self._sides
        return Fit(self._colours, height, width, self.input.resize_to, self.input.interpolation, boxed)

    @property
    def picture_fit(self) -> Fit:
        """How pictures are resized. Raises `UsageError` for a network that takes none."""
        self.need_pictures()
        fit = self.fit
        assert isinstance(fit, Fit)
        return fit

    def need_pictures(self) -> None:
        """Raise `UsageError` for a network that takes none."""
        if isinstance(self.fit, Whole):
            raise UsageError(f"{self.path}: takes {self.layout.one}, and pictures are needed here")

    def need_values_between(self, what: str) -> None:
        """Raise `UsageError` for a network of tokens, where `what` needs values between them."""
        if self.layout.kind == TOKENS:
            raise UsageError(f"{self.path}: reads tokens, and nothing lies between two of them, so {what}")

    @property
    def reader(self) -> Reader:
        """The reader of pictures for this input."""
        most, layout = MAX_PIXELS if self.max_pixels is None else self.max_pixels, self.layout
        pictures = layout == PICTURES
        self._refuse_sequences()
        channels = self._colours if pictures else 1 if layout.channel is None else self.input.channels
        fixed = not pictures and layout.kind != VOLUME
        return Reader(
            channels=channels, range=self.input.range or "", say=self.say, max_pixels=most,
            layout=PICTURES if pictures else layout, sides=self.input.shape if fixed else None,
        )  # fmt: skip

    def preprocess(self, images: Any) -> Tensor:
        """One picture or several, read as the command line reads them, to the network's input [N, C, H, W].

        A picture is a path or URL, a Pillow image of any size and mode, or an array or tensor [C, H, W], [H, W, C] or
        [H, W] of any dtype, such as uint8. Several pictures are a list, or an array or tensor with one more dimension
        in front. The result has the network's dtype and device. Raises `ImageError` for a picture that cannot be
        read or does not fit.
        """
        reader, fit, arrays = self.reader, self.fit, []
        for given in several(images, self._several):
            one = reader.picture(given) if isinstance(given, str | Path) else given
            named = one.path if isinstance(one, Picture) else "the picture"
            with boundary(named, ImageError, "cannot be made to fit the input"):
                arrays.append(to_pixels(one.pixels if isinstance(one, Picture) else reader.ready(named, one), fit))
        return self.stack(arrays)

    @property
    def _several(self) -> int:
        """The axes of an array of several inputs; one of tokens never has an axis of channels."""
        return self.layout.dims + (1 if self.layout.kind == TOKENS else 2)

    def batch(self, images: Any) -> tuple[Tensor, tuple[Any, ...]]:
        """`images` as the network's input [N, …], and the pictures that it was made of.

        A tensor of floating point is the input already, of one image or of several; so are several such tensors.
        Anything else is a picture, or several, as `preprocess` takes them. Raises `ImageError`.
        """
        inputs = [images] if isinstance(images, Tensor) else images if isinstance(images, list | tuple) else []
        if inputs and all(isinstance(one, Tensor) and one.is_floating_point() for one in inputs):
            sized = self.input.shape is not None and not self.alphabet
            alone = len(self.layout.axes) - 1
            batches = [one[None] if sized and one.dim() == alone else one for one in inputs]
            return batches[0] if len(batches) == 1 else torch.cat(batches), ()
        pictures = several(images, self._several)
        return self.preprocess(pictures), tuple(pictures)

    def fitted(self, pixels: Sequence[Pixels]) -> Tensor:
        """Pictures from a reader, of any size, to the network's input [N, C, H, W]."""
        return self.stack([to_pixels(one, self.fit) for one in pixels])

    def stack(self, arrays: Sequence[NDArray[np.float32]]) -> Tensor:
        """Pictures of the input's size, float32 [C, H, W] in 0..1, to the network's input [N, C, H, W]."""
        self.used = True
        pixels = self.layout.back(torch.stack([torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]))
        if self.input.shape is None and self.say is not None and not self.alphabet:
            tried = "×".join(map(str, (1, *pixels.shape[1:])))
            self.say(f"nothing says the size of its input; tried with the input's own shape {tried}", "tried")
        pixels = pixels.contiguous().to(self.device)
        return (pixels + CODE if self.layout.kind == TOKENS else self.normalise(pixels)).to(self.dtype)

    def normalise(self, pixels: Tensor) -> Tensor:
        """(pixels − mean)/std, for pixels [N, C, H, W] in 0..1, with channels in the network's order."""
        mean, std = (self._per_channel(name, pixels) for name in ("mean", "std"))
        return self._ordered((pixels - mean) / std)

    # --- and back -------------------------------------------------------------------------------------------------

    def pixels(self, batch: Tensor) -> Tensor:
        """The input [N, C, H, W] as pixels: batch·std + mean, in 0..1 if it came from a picture; or as tokens."""
        if self.layout.kind == TOKENS:
            return batch.floor()
        mean, std = (self._per_channel(name, batch) for name in ("mean", "std"))
        return self._ordered(batch) * std + mean

    def pixel_range(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """The lowest and the highest input that pixels can become, each [1, C, 1, 1] for a batch [N, C, H, W].

        Raises `UsageError` for inputs other than pictures.
        """
        if batch.dim() != 4:
            raise UsageError(f"{self.path}: its input {tuple(batch.shape)} is no picture, so pixels have no range")
        ends = (self.normalise(torch.full_like(batch[:1, :, :1, :1], value)) for value in (0.0, 1.0))
        low, high = (end.to(batch.dtype) for end in ends)
        return torch.minimum(low, high), torch.maximum(low, high)

    def _ordered(self, channels: Tensor) -> Tensor:
        """Channels RGB as BGR, and back, if the network takes BGR."""
        return channels.flip(1) if self.input.order == "bgr" else channels

    def _per_channel(self, name: str, batch: Tensor) -> Tensor:
        """The mean or the deviation of each channel, or of each feature of a table, to broadcast against a batch."""
        given = getattr(self.input, name)
        values = [given] if isinstance(given, float | int) else list(given)
        layout = self.layout_of(batch)
        axis = batch.dim() - 1 if layout.kind == TABLE else layout.channel
        count = 1 if axis is None else batch.shape[axis]
        if len(values) not in (1, count):
            what = "features" if layout.kind == TABLE else "channels"
            raise ModelError(f"{self.path}: {name} has {len(values)} values for an input of {count} {what}")
        sides = [len(values) if i == axis else 1 for i in range(batch.dim())]
        return torch.tensor(values, dtype=torch.float32, device=self.device).reshape(sides)


def several(images: Any, rank: int = 4) -> list[Any]:
    """One picture or several, in any form that `Pictures.preprocess` takes, as a list; tensors become arrays.

    `rank`: the number of axes of an array of several pictures. Raises `UsageError`.
    """
    images = _array(images)
    if isinstance(images, np.ndarray):
        return list(images) if images.ndim == rank else [images]
    if isinstance(images, str | Path | Image | Picture):
        return [images]
    if not isinstance(images, Iterable):
        raise _no_picture(images)
    found = [_array(one) for one in images]
    for one in found:
        if not isinstance(one, np.ndarray | str | Path | Image | Picture):
            raise _no_picture(one)
    return found


def _no_picture(image: object) -> UsageError:
    return UsageError(f"{type(image).__name__} is no picture; give a path, a Pillow image, an array or a tensor")


def _array(image: Any) -> Any:
    return image.detach().cpu().numpy() if isinstance(image, Tensor) else image
