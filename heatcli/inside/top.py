"""The pictures of a folder of any size that excite a channel most, and the parts of them that do."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
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


@dataclass(order=True, frozen=True)
class Hit:
    """A picture that excites the channel.

    `activation`: the largest one. `position`: its index in the flat map. `box`: the part of the picture that it depends
    on: left, top, right, bottom in the picture's pixels.
    """

    activation: float
    path: Path = field(compare=False)
    position: int = field(compare=False)
    box: tuple[int, int, int, int] = field(compare=False, default=(0, 0, 0, 0))


def top_images(
    model: Model, paths: Iterable[Path], wanted: str, channel: int, n: int, failed: list[HeatcliError],
    batch_size: int = 16,
) -> tuple[Layer, list[Hit]]:  # fmt: skip
    """The layer `wanted`, and the `n` pictures with the largest activations of its `channel`, best first.

    In memory are `batch_size` pictures and `n` hits. The errors of pictures that cannot be read are appended to
    `failed`. Raises `UsageError` for an unknown layer or channel, and if no picture can be read.
    """
    layer = one_layer(model.graph((model.batch_size or 1, *model.shape)), wanted, model.path)
    shape = layer.operator.shape
    channels = shape[1] if len(shape) > 1 else 1
    if not 0 <= channel < channels:
        raise UsageError(f"layer {layer.name} of {model.path} has channels 0 to {channels - 1}, not {channel}")
    best: list[Hit] = []
    for pictures in _batched(paths, model, batch_size, failed):
        batch = model.preprocess(pictures)
        maps = torch.cat(
            [_channel(model, batch[at], layer, channel)[:k] for at, k in model.network.batches(batch.shape)]
        )
        peaks, positions = maps.max(1)
        for picture, peak, position in zip(pictures, peaks.tolist(), positions.tolist(), strict=True):
            hit = Hit(peak, Path(picture.path), position)
            if len(best) < n:
                heapq.heappush(best, hit)
            elif hit > best[0]:
                heapq.heapreplace(best, hit)
    if not best:
        raise UsageError("no image could be read, so none excites the channel")
    return layer, [_cropped(model, hit, layer, channel) for hit in sorted(best, reverse=True)]


def _batched(paths: Iterable[Path], model: Model, size: int, failed: list[HeatcliError]) -> Iterator[list[Picture]]:
    left = iter(paths)
    while chunk := list(islice(left, size)):
        pictures = []
        for path in chunk:
            try:
                pictures.append(model.pictures.reader.picture(path))
            except ImageError as error:
                failed.append(error)
        if pictures:
            yield pictures


def _channel(model: Model, batch: Tensor, layer: Layer, channel: int) -> Tensor:
    """The flat map of the channel for each picture, [N, positions]."""
    graph = cut_at(model.graph(batch.shape), layer)
    value = values_of(graph, batch)[layer.name]
    value = value[: len(value) // graph.copies]
    return value[:, channel].reshape(len(batch), -1)


def _cropped(model: Model, hit: Hit, layer: Layer, channel: int) -> Hit:
    """The hit with its box: the part of the picture that holds the gradient of the activation, without `TRIMMED`."""
    picture = model.pictures.reader.picture(hit.path)
    batch = model.preprocess([picture])
    index, _ = next(model.network.batches(batch.shape))
    rows = batch[index]
    tape = forward(cut_at(model.graph(rows.shape), layer), rows)
    seed = torch.zeros_like(tape.output)
    seed[0, channel].view(-1)[hit.position] = 1
    mass = walk(tape, METHODS["gradient"].rules, seed, None)[0].abs().sum(0)
    x0, x1 = _extent(mass.sum(0))
    y0, y1 = _extent(mass.sum(1))
    left, top, right, bottom = seen_box(picture.size, model.pictures.picture_fit)
    across, down = (right - left) / mass.shape[1], (bottom - top) / mass.shape[0]
    box = (
        round(left + x0 * across), round(top + y0 * down), round(left + x1 * across), round(top + y1 * down),
    )  # fmt: skip
    return replace(hit, box=box)


def _extent(mass: Tensor) -> tuple[int, int]:
    """The range of indices (start, end) of `mass` [L] without `TRIMMED` of it at each side; all if the mass is 0."""
    total = float(mass.sum())
    if total == 0:
        return 0, len(mass)
    part = mass.double().cumsum(0) / total
    first = int((part <= TRIMMED).sum())
    last = int((part < 1 - TRIMMED).sum())
    return min(first, last), last + 1


def tiles(model: Model, hits: Iterable[Hit]) -> list[Tile]:
    """A tile per hit: the part of the picture, the picture's name and the activation."""
    found = []
    for hit in hits:
        shown = model.pictures.reader.picture(hit.path).shown()
        found.append(Tile(shown.crop(hit.box), f"{hit.path.stem[:16]}\n{hit.activation:.3g}"))
    return found
