"""Asking a model again: the pictures of a run, the scores of the classes, and what the answers say of a class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from heatcli.discover.features import Maps
from heatcli.discover.treatments import Name
from heatcli.errors import UsageError
from heatcli.images.read import Picture
from heatcli.methods.question import outputs_of
from heatcli.model.model import Model
from heatcli.run.index.folder import Folder, Item

BATCH = 8  # pictures at once
SHARE = 0.15  # of a class; fewer pictures that stand out come by chance

Question = Literal["background", "treatment"]
Kind = Literal["background"] | Name
KINDS: dict[Question, tuple[Kind, ...]] = {"background": ("background",), "treatment": get_args(Name)}


@dataclass(frozen=True, eq=False)
class Told:
    """A group of a class of N pictures that the model's answers tell of.

    `by`: what it has of its own. `suspicion`: 0..1. `members`: bool [N]. `place`: where it is, in words. `more`: what
    is added to the reason.
    """

    by: Kind
    suspicion: float
    members: NDArray[np.bool_]
    place: str
    more: tuple[str, ...] = ()


class Asked(Protocol):
    """A model's answers to one kind of question."""

    @property
    def question(self) -> Question:
        """What was asked about."""

    def told(self, maps: Maps, others: Sequence[Maps]) -> Iterator[Told]:
        """The groups of a class, beside the pictures of other classes."""


def explanations(run: Path) -> Iterator[Item]:
    """The explanations of a run that have not failed."""
    return (item for item in Folder.open(run).items() if isinstance(item, Item))


def with_pictures(model: Model, run: Path, items: Iterable[Item]) -> Iterator[tuple[list[Item], list[Picture]]]:
    """Explanations with their pictures, a few at a time; a picture that is gone or has changed is left out."""
    left = iter(items)
    while chunk := list(islice(left, BATCH)):
        known, pictures = [], []
        for item in chunk:
            picture = item.read_picture()
            if picture is None or item.report is None:
                continue
            if item.report.model.sha256 != model.sha256:
                raise UsageError(f"{run}: was explained with another model than {model.path}; give that one by --model")
            known.append(item)
            pictures.append(picture)
        if known:
            yield known, pictures


def classes_of(model: Model, batch: Tensor) -> Tensor | None:
    """The scores of the classes, float64 [N, classes]; None if the outputs are not one score a class."""
    output = outputs_of(model, batch)
    return None if output.shape[1] < 2 or output.shape[2] != 1 else output[..., 0].double().cpu()


def answers(model: Model, batch: Tensor) -> Tensor:
    """The scores of the classes, float64 [N, classes]. Raises `UsageError` for outputs that are none."""
    found = classes_of(model, batch)
    if found is None:
        raise UsageError(f"{model.path}: its output is not one score a class; discover asks only classifiers again")
    return found
