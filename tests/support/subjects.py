"""The samples as subjects, made once: what the tests of metrics and checks work on."""

from __future__ import annotations

from functools import cache

from conftest import MODELS, SAMPLES

import heatcli
from heatcli.evaluate.subject import Subject, subject
from heatcli.images.dataset import Sample, read
from heatcli.model.model import Model

FOUR = ("dog-on-grass", "dog-on-snow", "wolf-on-grass", "wolf-on-snow")


@cache
def model(name: str = "animals.pt") -> Model:
    """A model of the checkout."""
    return heatcli.load(MODELS / name)


@cache
def animals(name: str = "animals.pt", pictures: tuple[str, ...] = FOUR) -> Subject:
    """Wolves and dogs on snow and grass."""
    own = model(name)
    found = read([SAMPLES / f"{picture}.png" for picture in pictures], own.labels, own.pictures.fit)
    return subject(own, [s for s in found if isinstance(s, Sample)])


@cache
def digits() -> Subject:
    """The sample digits."""
    own = model("digits.onnx")
    found = read([SAMPLES / "digits"], own.labels, own.pictures.fit)
    return subject(own, [s for s in found if isinstance(s, Sample)])
