"""Images of one model in several sizes: a `Subject` for each, and what is measured of each image, in one order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from heatcli.artifact.layout import Layout
from heatcli.errors import ModelError, UsageError
from heatcli.evaluate.explainer import Explainer
from heatcli.evaluate.subject import NoBoxError, Subject, subject
from heatcli.explanation import Explanation
from heatcli.images.dataset import Sample
from heatcli.model.model import Model


@dataclass(frozen=True, eq=False)
class Subjects:
    """N images of one model, in a subject for each size of the input.

    `parts`: the subjects. `places`: for each part, the number of each of its rows among all N, int64. `samples`: the
    sample that each of the N is of; of a detector's boxes several are of one. `missed`: images without a box that the
    target names, in a size of which none has one, name → why.
    """

    parts: tuple[Subject, ...]
    places: tuple[Tensor, ...]
    samples: tuple[Sample, ...]
    missed: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def model(self) -> Model:
        """The model of all parts."""
        return self.parts[0].model

    @property
    def layout(self) -> Layout:
        """What the axes of the inputs are."""
        return self.parts[0].layout

    @property
    def seed(self) -> int:
        """The seed of all random numbers."""
        return self.parts[0].seed

    @property
    def one(self) -> Subject:
        """The only part. Raises `UsageError` where there are several."""
        if len(self.parts) > 1:
            first, second = (own.names[0] for own in self.parts[:2])
            raise UsageError(
                f"{first} and {second} have different sizes, and these are of one; give --size, or pictures of one size"
            )
        return self.parts[0]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of all images, in order."""
        return self._ordered([own.names for own in self.parts])

    @property
    def without(self) -> dict[str, str]:
        """The images that were left out because they have no box that the target names, name → why."""
        found = dict(self.missed)
        for own in self.parts:
            found.update(own.without)
        return found

    @cached_property
    def boxes(self) -> tuple[int, ...]:
        """The number of the box that each row is, where boxes of a detector are explained; else empty."""
        each = [own.target.box for own in self.parts if own.of and own.target.box is not None]
        return self._ordered([box.tolist() for box in each]) if len(each) == len(self.parts) else ()

    @property
    def masked(self) -> Tensor:
        """The numbers of the images that have a mask, int64."""
        return torch.nonzero(self.each(lambda own: ~own.mask.isnan().flatten(1).any(1))).flatten()

    def predicted(self) -> Tensor:
        """The class that the network gives each image, int64 [N]."""
        return self.each(Subject.predicted)

    def each(self, measure: Callable[[Subject], Tensor]) -> Tensor:
        """What `measure` returns of each part, [M, …], as one tensor [N, …]. Raises `ModelError` as `joined`."""
        return self.joined([measure(own) for own in self.parts])

    def joined(self, values: Sequence[Tensor]) -> Tensor:
        """Values of each part, [M, …], as one tensor [N, …] in the order of the images.

        Raises `ModelError` if these have different shapes, such as a number for each layer of different graphs.
        """
        if len({value.shape[1:] for value in values}) > 1:
            one, other = next((a, b) for a, b in zip(self.parts, self.parts[1:], strict=False))
            raise ModelError(
                f"{self.model.path}: computes other things for {one.names[0]} than for {other.names[0]}, which has "
                "another size; give inputs of one size at a time"
            )
        whole = torch.cat(list(values))
        return whole[torch.cat(self.places).argsort().to(whole.device)]

    def explained(self, explainer: Explainer) -> Iterator[tuple[Tensor, Explanation]]:
        """The explanation of each batch by a method, with the numbers of its images."""
        for own, place in zip(self.parts, self.places, strict=True):
            for rows, found in own.explained(explainer):
                yield place[rows], found

    def rows(self, numbers: Tensor) -> Subjects:
        """The images of those numbers, int64 [M], each at most once and in ascending order."""
        parts, places = list[Subject](), list[Tensor]()
        for own, place in zip(self.parts, self.places, strict=True):
            at = torch.isin(place, numbers)
            if at.any():
                parts.append(own if at.all() else own.rows(torch.nonzero(at).flatten()))
                places.append(torch.searchsorted(numbers, place[at]))
        return Subjects(tuple(parts), tuple(places), tuple(self.samples[i] for i in numbers.tolist()))

    def _ordered(self, each: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
        """The items of each part as one tuple, in the order of the images."""
        flat = list(chain.from_iterable(each))
        return tuple(flat[i] for i in torch.cat(self.places).argsort().tolist())


def alike(samples: Sequence[Sample], *models: Model) -> list[list[int]]:
    """The numbers of samples that have one size as input of each of these models, size by size.

    Each is alone for a model that chooses positions by the picture, which has a graph for each. Raises `ModelError`.
    """
    fits, found = [one.pictures.fit for one in models], dict[tuple[tuple[int, ...], ...], list[int]]()
    for i, sample in enumerate(samples):
        found.setdefault(tuple(fit.shape(sample.pixels) for fit in fits), []).append(i)
    groups = list[list[int]]()
    for group in found.values():
        apart = len(group) > 1 and any(_chooses_positions(model, samples[group[0]]) for model in models)
        groups += [[i] for i in group] if apart else [group]
    return groups


def _chooses_positions(model: Model, sample: Sample) -> bool:
    """Whether the model chooses positions by pictures of the sample's size."""
    batch = model.pictures.fitted([sample.pixels])
    model.network.seen(batch)
    return model.graph((model.batch_size or 1, *batch.shape[1:])).chosen_on is not None


def subjects(
    model: Model, samples: Sequence[Sample], target: Any = None, batch_size: int | None = None, seed: int = 0
) -> Subjects:
    """The subjects of `samples` of any sizes, as `heatcli.evaluate.subject.subject` makes each.

    Raises `UsageError`, `ImageError`, `ModelError`.
    """
    if not samples:
        raise UsageError("no image is left to work on")
    parts, numbers, without = list[Subject](), list[list[int]](), dict[str, str]()
    for group in alike(samples, model):
        try:
            own = subject(model, [samples[i] for i in group], target, batch_size, seed)
        except NoBoxError as error:
            without.update(error.without)
            continue
        parts.append(own)
        numbers.append([group[i] for i in own.numbers])
    if not parts:
        raise NoBoxError(model.thresholds.confidence, without)
    return replace(together(parts, numbers, samples), missed=without)


def together(parts: Sequence[Subject], numbers: Sequence[Sequence[int]], samples: Sequence[Sample]) -> Subjects:
    """Subjects of one model as one. `numbers`: of each part's rows, the number of the sample that it is of."""
    order = torch.tensor(list(chain.from_iterable(numbers))).argsort(stable=True)
    places = torch.split(order.argsort(), [len(own) for own in parts])
    batches = [own.batch for own in parts]
    known = [replace(own, others=tuple(b for b in batches if b is not own.batch)) for own in parts]
    every = [samples[i] for i in sorted(chain.from_iterable(numbers))]
    return Subjects(tuple(known), tuple(places), tuple(every))


def alone(own: Subject, samples: Sequence[Sample] = ()) -> Subjects:
    """A single subject as `Subjects`. `samples`: that its rows are of, if they are known."""
    return Subjects((own,), (torch.arange(len(own)),), tuple(samples))
