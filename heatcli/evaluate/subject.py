"""What metrics and checks work on: a model, pictures with masks, and the explained score of each picture.

All inputs of a `Subject` have one shape; `heatcli.evaluate.subjects` has those of several.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heatcli.artifact.layout import PICTURE, TABLE, TOKENS, Layout
from heatcli.errors import ImageError, UsageError
from heatcli.evaluate.explainer import Explainer
from heatcli.explanation import Explanation
from heatcli.graph.lookups import beyond, vocabulary
from heatcli.graph.operator import Graph
from heatcli.graph.outputs import probabilities
from heatcli.images.dataset import Sample
from heatcli.methods.detections import Asked, asked, choose_for, find, goal, is_of_boxes, most_likely, no_detector
from heatcli.methods.exported import own_target
from heatcli.methods.question import depends_on, outputs_of
from heatcli.methods.table import METHODS
from heatcli.methods.targets import Target
from heatcli.model.model import Model
from heatcli.rules.numerics import per_image

PIXELS_AT_ONCE = 2**21  # the elements of a batch, unless a batch size is given


class NoBoxError(UsageError):
    """No image has a box of a probability of `least` that the target names; `without`: name → why."""

    def __init__(self, least: float, without: Mapping[str, str]) -> None:
        super().__init__(f"no image has a box that the target names of at least {least:g}; --confidence says the least")
        self.without = without


@dataclass(frozen=True, eq=False)
class Subject:
    """N images of one model, and the explained score of each.

    `batch` [N, C, H, W]; of signals, volumes, tables and tokens with the axes of the network's input. `mask` [N, H, W]
    in 0..1: the share of each pixel inside; NaN for images without a mask.
    `target`: chosen on the unchanged images, and kept when the images are changed. `of`: the number of the sample that
    each row is of, where these are the boxes of a detector, one row a box. `without`: images that were left out because
    they have no such box, name → why. `others`: the inputs of other shapes that are measured with these. `_maps`: the
    relevance of the unchanged images by explainer.
    """

    model: Model
    names: tuple[str, ...]
    batch: Tensor
    target: Target
    mask: Tensor
    batch_size: int
    seed: int = 0
    of: tuple[int, ...] = ()
    without: Mapping[str, str] = field(default_factory=dict)
    others: tuple[Tensor, ...] = ()
    _maps: dict[Explainer, Tensor] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.batch)

    @property
    def numbers(self) -> Sequence[int]:
        """The number of the sample that each row is of."""
        return self.of or range(len(self))

    @property
    def graph(self) -> Graph:
        """The graph that explains the batch."""
        return _graph(self.model, self.batch, self.batch_size)

    @property
    def masked(self) -> Tensor:
        """The indices of the images that have a mask, int64."""
        return torch.nonzero(~self.mask.isnan().flatten(1).any(1)).flatten()

    def generator(self, salt: int = 0) -> torch.Generator:
        """A generator of random numbers that are the same at each call with the same `salt`."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + salt)

    @property
    def layout(self) -> Layout:
        """What the axes of the batch are."""
        return self.model.pictures.layout_of(self.batch)

    @property
    def pixel_range(self) -> Tensor:
        """The difference of the network's input between pixels of value 1 and of value 0, [1, C, 1, 1].

        Of signals and volumes it is the span of each channel over all inputs, of tables that of each feature; it
        broadcasts against the batch. Raises `UsageError` for tokens, and where all values are alike.
        """
        layout = self.layout
        if layout.kind == PICTURE:
            low, high = self.model.pictures.pixel_range(self.batch)
            return high - low
        self.model.pictures.need_values_between("they have no noise")
        values = self.values
        span = values.amax(1) - values.amin(1)
        if not bool((span > 0).any()):
            raise UsageError(f"{self.model.path}: all inputs have the same values, so these have no range; give more")
        sides = (1, len(span)) if layout.kind == TABLE else (len(span), *(1,) * layout.dims)
        return layout.back(span.reshape(1, *sides))

    @property
    def values(self) -> Tensor:
        """All values of each channel, or of each feature of a table, [channels, M]: of all inputs, also `others`."""
        axis = 2 if self.layout.kind == TABLE else 1
        each = [self.layout.first(batch).movedim(axis, 0).flatten(1) for batch in (self.batch, *self.others)]
        return torch.cat(each, 1)

    @contextmanager
    def _positions_held(self) -> Iterator[None]:
        """Within it, positions that the network chooses are those of this picture, also on changed ones.

        A network that chooses positions has a subject for each picture (`heatcli.evaluate.subjects`).
        """
        if self.graph.chosen_on is not None:
            with self.model.network.holding(self.batch[:1]):
                yield
        else:
            yield

    def rows(self, index: Tensor) -> Subject:
        """The subject of the images `index`, int64 [M]. An image may occur several times."""
        maps = {explainer: relevance[index] for explainer, relevance in self._maps.items()}
        names = tuple(self.names[i] for i in index.tolist())
        of = tuple(self.of[i] for i in index.tolist()) if self.of else ()
        return replace(
            self, names=names, of=of, batch=self.batch[index], target=self.target.rows(index), mask=self.mask[index],
            _maps=maps,
        )  # fmt: skip

    def with_target(self, target: Any) -> Subject:
        """The same images with another explained score. `target`: as `heatcli.explain` takes it."""
        return replace(self, target=_target(self.model, self.batch, target, self.batch_size), _maps={})

    def outputs(self, batch: Tensor | None = None, chance: bool = False) -> Tensor:
        """The network's output [M, classes, positions] for a batch [M, C, H, W], by default the unchanged images.

        Logits, or with `chance` probabilities.
        """
        with self._positions_held():
            return outputs(self.model, self.batch if batch is None else batch, self.batch_size, chance)

    def predicted(self, batch: Tensor | None = None) -> Tensor:
        """The class that the network gives each image of a batch [M, C, H, W], int64 [M]; of a detector the best box's.

        `batch`: by default the unchanged images.
        """
        out, boxes = self.outputs(batch), self.graph.boxes
        return out.sum(2).argmax(1) if boxes is None else most_likely(out, boxes)

    def scores(self, batch: Tensor | None = None, index: Tensor | None = None, chance: bool = False) -> Tensor:
        """The explained score of `batch` [M, C, H, W], float64 [M].

        `index`: the image that each row of the batch is a version of; None if there are N rows in order. `chance`: the
        probability after the final activation instead; the mean over positions if there are several.
        """
        out = self.outputs(batch, chance).double()
        target = self.target if index is None else self.target.rows(index)
        total = per_image(target.seed(out) * out)
        return total / target.region.sum(1).clamp(min=1) if chance else total

    def relevance(self, explainer: Explainer, batch: Tensor | None = None, model: Model | None = None) -> Tensor:
        """The relevance [N, C, H, W] of each image's score.

        `batch`: changed images. `model`: a model with changed weights. The relevance of the unchanged images and model
        is computed once.
        """
        if batch is None and model is None and explainer in self._maps:
            return self._maps[explainer]
        inputs = self.batch if batch is None else batch
        generator = self.generator(1 if batch is None and model is None else 2)
        parts = []
        with self._positions_held():
            for rows in self.batches():
                own = _as_argument(self.target.rows(rows))
                parts.append(explainer.relevance(model or self.model, inputs[rows], own, generator).detach())
        found = torch.cat(parts)
        if batch is None and model is None:
            self._maps[explainer] = found
        return found

    def batches(self) -> Iterator[Tensor]:
        """The indices of the images of each batch."""
        yield from torch.split(torch.arange(len(self)), self.batch_size)

    def explained(self, explainer: Explainer) -> Iterator[tuple[Tensor, Explanation]]:
        """The explanation of each batch by a method, with the indices of its images. A control raises `UsageError`."""
        for rows in self.batches():
            target = _as_argument(self.target.rows(rows))
            yield rows, explainer.explanation(self.model, self.batch[rows], target)

    @cached_property
    def scored_by(self) -> list[frozenset[str]]:
        """For each image, the operators that its score depends on, by name."""
        found, rules = list[frozenset[str]](), METHODS["gradient"].rules
        with self._positions_held():
            for rows in self.batches():
                for index, n in self.model.network.batches(self.batch[rows].shape):
                    own = rows[index.cpu()]
                    found += depends_on(self.model, self.batch[own], self.target.rows(own), rules)[:n]
        return found

    def heatmaps(self, explainer: Explainer, batch: Tensor | None = None, model: Model | None = None) -> Tensor:
        """`relevance` summed over channels, [N, H, W]; [N, positions …] of other inputs."""
        return self.summed(self.relevance(explainer, batch, model))

    def summed(self, relevance: Tensor) -> Tensor:
        """Relevance with the axes of the input as [N, H, W], or [N, positions …]: summed over channels."""
        return self.layout.first(relevance).sum(1)


def subject(
    model: Model,
    samples: Sequence[Sample],
    target: Any = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> Subject:
    """The subject of `samples`. `target`: as `heatcli.explain` takes it.

    As input they have one shape. Raises `UsageError`, `ImageError` for a token that the model has not.
    """
    pictures = model.pictures
    batch = torch.cat([pictures.fitted([s.pixels for s in part]) for part in _parts(samples, 64)])
    model.network.seen(batch)
    size = batch_size or max(1, min(512, PIXELS_AT_ONCE // batch[0].numel()))
    nothing = np.full(pictures.layout_of(batch).first(batch).shape[2:], np.nan, dtype=np.float32)
    _check_tokens(model, samples, batch)
    mask = torch.from_numpy(np.stack([nothing if s.mask is None else s.mask for s in samples])).to(batch)
    names = tuple(str(s.path) for s in samples)
    target = own_target(model.explained, target)
    if is_of_boxes(target) and target not in model.labels:
        return _by_box(model, names, batch, mask, target, size, seed)
    return Subject(model, names, batch, _target(model, batch, target, size), mask, size, seed)


def _by_box(
    model: Model, names: Sequence[str], batch: Tensor, mask: Tensor, target: str, size: int, seed: int
) -> Subject:
    """The boxes of a detector that the target names, one row a box. Images without one are left out, and told.

    Raises `NoBoxError` if no image has a box that the target names, `UsageError` for a network without boxes.
    """
    boxes = _graph(model, batch, size).boxes
    if boxes is None:
        raise no_detector(model, target)
    output = outputs(model, batch, size)
    every, least = find(output, boxes, model.thresholds), model.thresholds.confidence
    rows: list[int] = []
    wanted: list[Asked] = []
    without: dict[str, str] = {}
    for i, found in enumerate(every):
        try:
            each = asked(target, found, boxes, model.labels)
        except ImageError as error:
            without[names[i]] = str(error)
            continue
        if not each.numbers:
            without[names[i]] = f"no box of at least {least:g}; --confidence finds more"
        rows += [i] * len(each.numbers)
        wanted += each.each
    for name, why in without.items():
        model.notes.add(f"{name}: {why}; it is left out")
    if not rows:
        raise NoBoxError(least, without)
    chosen = goal(output, boxes, rows, [every[i] for i in rows], wanted)
    titles = tuple(f"{names[i]} box {one.numbers[0]}" for i, one in zip(rows, wanted, strict=True))
    index = torch.tensor(rows)
    return Subject(model, titles, batch[index], chosen, mask[index], size, seed, of=tuple(rows), without=without)


def _check_tokens(model: Model, samples: Sequence[Sample], batch: Tensor) -> None:
    """Raise `ImageError` for the first input with a token beyond the table that it is looked up in."""
    if model.pictures.layout.kind != TOKENS:
        return
    known = vocabulary(model.graph((1, *batch.shape[1:])))
    for sample, most in zip(samples, batch.flatten(1).amax(1).tolist(), strict=True):
        if known is not None and most >= known:
            raise ImageError(f"{sample.path}: {beyond(int(most), known)}")


def outputs(model: Model, batch: Tensor, batch_size: int, chance: bool = False) -> Tensor:
    """The network's output [N, classes, positions], computed in batches; with `chance` as probabilities.

    A single output without a final activation is not a probability and stays as it is, and so do coordinates of boxes.
    """

    def chances(graph: Graph, output: Tensor) -> Tensor:
        likely = probabilities(graph, output)
        return torch.where(likely.isnan(), output, likely)

    return outputs_of(model, batch, batch_size, chances if chance else None)


def _parts(samples: Sequence[Sample], size: int) -> Iterator[Sequence[Sample]]:
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def _target(model: Model, batch: Tensor, target: Any, batch_size: int) -> Target:
    """The target for a batch [N, …], chosen on its outputs."""
    return choose_for(model, _graph(model, batch, batch_size), target, outputs(model, batch, batch_size))


def _graph(model: Model, batch: Tensor, batch_size: int) -> Graph:
    """The graph that explains a batch [N, …]."""
    index, _ = next(model.network.batches(batch.shape, batch_size))
    return model.graph(batch[index].shape)


def _as_argument(target: Target) -> Any:
    """The target as an argument of `heatcli.explain`; the object itself if the output has several positions."""
    if target.region.shape[1] > 1:
        return target
    if target.minus is None:
        return target.index
    return f"{int(target.index[0])}-{int(target.minus[0])}"
