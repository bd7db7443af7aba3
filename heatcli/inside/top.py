"""The pictures of a folder of any size that are strongest in each channel of a layer, and the parts of them that are.

Strongest by activation (ActMax), or by relevance (RelMax, Achtibat et al. 2023).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from heatcli.engine.forward import forward
from heatcli.engine.values import values_of
from heatcli.engine.walk import walk
from heatcli.errors import HeatcliError, ImageError, UsageError
from heatcli.graph.layers import Layer, cut_at, one_layer
from heatcli.images.preprocess import seen_box
from heatcli.images.read import Picture
from heatcli.images.sheet import Tile
from heatcli.methods.table import METHODS
from heatcli.model.model import Model

TRIMMED = 0.01  # share of |gradient| cut off at each side of a crop: through gates it reaches the whole picture weakly


@dataclass(frozen=True)
class Hit:
    """A picture that is strong in a channel.

    `strength`: its largest activation, or its relevance. `position`: the index of the strongest place in the flat map.
    `box`: the part of the picture that this place depends on: left, top, right, bottom in the picture's pixels.
    """

    strength: float
    path: Path
    channel: int
    position: int
    box: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(eq=False)
class Best:
    """The `n` strongest pictures of each channel so far, the best first; of equals the earlier.

    `strength`, `picture` (its number), `position`: [C, ≤ n].
    """

    n: int
    strength: Tensor = field(default_factory=lambda: torch.empty(0))
    picture: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    position: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    def add(self, strength: Tensor, position: Tensor, first: int) -> None:
        """Pictures number `first` and following: `strength` and `position`, [N, C] each."""
        picture = torch.arange(first, first + len(strength)).expand(strength.shape[1], -1)
        new = [strength.T.double().cpu(), picture, position.T.cpu()]
        old = [self.strength, self.picture, self.position]
        whole = new if not self.strength.numel() else [torch.cat(both, 1) for both in zip(old, new, strict=True)]
        order = whole[0].sort(dim=1, descending=True, stable=True).indices[:, : self.n]
        self.strength, self.picture, self.position = (one.gather(1, order) for one in whole)

    def hits(self, channel: int, paths: Sequence[Path]) -> list[Hit]:
        """The pictures of a channel with a strength above 0, best first. `paths`: of all pictures, by number."""
        rows = zip(self.strength[channel], self.picture[channel], self.position[channel], strict=True)
        return [Hit(float(s), paths[int(i)], channel, int(p)) for s, i, p in rows if s > 0]


def strongest(maps: Tensor) -> tuple[Tensor, Tensor]:
    """The largest value and its position in each map of [N, C, …]: [N, C] each."""
    found = maps.reshape(*maps.shape[:2], -1).max(2)
    return found.values, found.indices


def top_images(
    model: Model, paths: Iterable[Path], wanted: str, channel: int, n: int, failed: list[HeatcliError],
    batch_size: int = 16,
) -> tuple[Layer, list[Hit]]:  # fmt: skip
    """The layer `wanted`, and the `n` pictures with the largest activations of its `channel`, best first.

    In memory are `batch_size` pictures and the pictures' names. The errors of pictures that cannot be read are
    appended to `failed`. Raises `UsageError` for an unknown layer or channel, and if no picture can be read or
    excites the channel.
    """
    model.pictures.need_pictures()
    layer = one_layer(model.graph((model.batch_size or 1, *model.shape)), wanted, model.path)
    checked(layer, [channel], model)
    best, known = Best(n), list[Path]()
    for pictures, batch in batches(model, paths, batch_size, failed):
        parts = [_values(model, batch[at], layer)[:k] for at, k in model.network.batches(batch.shape)]
        one = torch.cat(parts)[:, channel : channel + 1]
        best.add(*strongest(one), len(known))
        known += [Path(picture.path) for picture in pictures]
    if not known:
        raise UsageError("no image could be read, so none excites the channel")
    hits = [Hit(hit.strength, hit.path, channel, hit.position) for hit in best.hits(0, known)]
    if not hits:
        raise UsageError(f"no picture excites channel {channel} of layer {layer.name}; it is 0 or less on all of them")
    return layer, cropped(model, layer, hits)


def checked(layer: Layer, channels: Iterable[int], model: Model) -> int:
    """How many channels the layer has. Raises `UsageError` for a channel that there is not."""
    shape = layer.operator.shape
    count = shape[1] if len(shape) > 1 else 1
    for channel in channels:
        if not 0 <= channel < count:
            raise UsageError(f"layer {layer.name} of {model.path} has channels 0 to {count - 1}, not {channel}")
    return count


def batches(
    model: Model, paths: Iterable[Path], size: int, failed: list[HeatcliError]
) -> Iterator[tuple[list[Picture], Tensor]]:
    """Pictures, `size` at a time, and the network's input [N, …] of them; errors are appended to `failed`."""
    left = iter(paths)
    while chunk := list(islice(left, size)):
        pictures = []
        for path in chunk:
            try:
                pictures.append(model.pictures.reader.picture(path))
            except ImageError as error:
                failed.append(error)
        if pictures:
            yield pictures, model.preprocess(pictures)


def _values(model: Model, batch: Tensor, layer: Layer) -> Tensor:
    """The value of the layer for each picture, [N, C, …]."""
    graph = cut_at(model.network.graph_on(batch), layer)
    value = values_of(graph, batch)[layer.name]
    return value[: len(value) // graph.copies]


def cropped(model: Model, layer: Layer, hits: Sequence[Hit], trimmed: float = TRIMMED) -> list[Hit]:
    """The hits with their boxes: the part of the picture that holds the gradient of the place.

    `trimmed`: the share of |gradient| that may lie beyond each side of the box.
    """
    found = []
    for hit in hits:
        picture = model.pictures.reader.picture(hit.path)
        batch = model.preprocess([picture])
        index, _ = next(model.network.batches(batch.shape))
        rows = batch[index]
        tape = forward(cut_at(model.network.graph_on(rows), layer), rows)
        seed = torch.zeros_like(tape.output)
        seed[0, hit.channel].view(-1)[hit.position] = 1
        mass = walk(tape, METHODS["gradient"].rules, seed, None)[0].abs().sum(0)
        found.append(_boxed(hit, mass, seen_box(picture.size, model.pictures.picture_fit), trimmed))
    return found


def _boxed(hit: Hit, mass: Tensor, seen: tuple[float, float, float, float], trimmed: float) -> Hit:
    """The hit with the box of most of `mass` [H, W]. `seen`: the part of the picture that the network saw."""
    x0, x1 = _extent(mass.sum(0), trimmed)
    y0, y1 = _extent(mass.sum(1), trimmed)
    left, top, right, bottom = seen
    across, down = (right - left) / mass.shape[1], (bottom - top) / mass.shape[0]
    box = round(left + x0 * across), round(top + y0 * down), round(left + x1 * across), round(top + y1 * down)
    return Hit(hit.strength, hit.path, hit.channel, hit.position, box)


def _extent(mass: Tensor, trimmed: float) -> tuple[int, int]:
    """The range of indices (start, end) of `mass` [L] without the share `trimmed` of it at each side.

    The whole range if the mass is 0.
    """
    total = float(mass.sum())
    if total == 0:
        return 0, len(mass)
    part = mass.double().cumsum(0) / total
    first = int((part <= trimmed).sum())
    last = int((part < 1 - trimmed).sum())
    return min(first, last), last + 1


def tiles(model: Model, hits: Iterable[Hit]) -> list[Tile]:
    """A tile per hit: the part of the picture, the picture's name and the strength."""
    found = []
    for hit in hits:
        shown = model.pictures.reader.picture(hit.path).shown()
        found.append(Tile(shown.crop(hit.box), f"{hit.path.stem[:16]}\n{hit.strength:.3g}"))
    return found
