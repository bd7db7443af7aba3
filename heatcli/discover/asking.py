"""Asking a model again: the pictures of a run, and the scores of the classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from torch import Tensor

from heatcli.errors import UsageError
from heatcli.images.read import Picture
from heatcli.methods.question import outputs_of
from heatcli.model.model import Model
from heatcli.run.index.folder import Item

BATCH = 8  # pictures at once


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


def answers(model: Model, batch: Tensor) -> Tensor:
    """The scores of the classes, float64 [N, classes]. Raises `UsageError` for outputs that are none."""
    output = outputs_of(model, batch)
    if output.shape[1] < 2 or output.shape[2] != 1:
        raise UsageError(f"{model.path}: its output is not one score a class; discover asks only classifiers again")
    return output[..., 0].double().cpu()
