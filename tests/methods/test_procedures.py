"""What holds for every method of many passes: alone or in a batch, from any format, at any batch size, by seed."""

from __future__ import annotations

import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import FORMATS, images, load, network, save
from torch import Tensor, nn

import heatcli
from heatcli.methods.method import Method, OneWalk
from heatcli.methods.smooth import smoothed
from heatcli.methods.table import METHODS, method

FEW: dict[str, Any] = {
    "steps": 6, "samples": 12, "masks": 20, "cells": 4, "superpixels": 5, "window": 5, "stride": 4, "padding": 2,
    "compactness": 1000.0,
}  # fmt: skip
MANY = [name for name, m in METHODS.items() if not isinstance(m.procedure, OneWalk)]
EVERY = pytest.mark.parametrize("name", [*MANY, "smoothed"])
CLOSE = {"prediction-difference": 1e-4}  # log-odds of about 1 in float32, whose differences are some thousandths
SEEDED = [name for name in MANY if "seed" in METHODS[name].parameters]


def few(name: str) -> Method:
    """The method with so few passes that it takes no time."""
    if name == "smoothed":
        return smoothed(method("lrp-eps"), "6:0.2")
    known = {f.name for f in fields(METHODS[name].procedure)}
    return method(name, **{key: value for key, value in FEW.items() if key in known})


def baseline(name: str) -> Tensor | None:
    """Several for methods that take several.

    One that is not of one colour where the walk starts there: there the places of a max pooling are alike, and rounding
    chooses among them.
    """
    takes = METHODS[name].procedure.takes if name in METHODS else "any"
    return images(4, 11) if takes in ("pool", "folder") else images(1, 11) if name == "taylor" else None


def explained(model: heatcli.Model, batch: Tensor, name: str, **more: Any) -> heatcli.Explanation:
    chosen = few(name).configured(more)
    return heatcli.explain(model, batch, chosen, 1, baseline(name))


def apart(found: Tensor, expected: Tensor) -> float:
    assert float(expected.abs().max()) > 0
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> heatcli.Model:
    return load(network("plain"), tmp_path_factory.mktemp("plain"))


@EVERY
def test_an_image_has_the_same_answer_alone_and_in_a_batch(model: heatcli.Model, name: str) -> None:
    batch = images(3)
    together = explained(model, batch, name)
    alone = [explained(model, batch[i : i + 1], name) for i in (2, 0)]
    for i, one in zip((2, 0), alone, strict=True):
        assert apart(one.relevance[0], together.relevance[i]) < 1e-4
        assert torch.allclose(one.ledger.output_baseline[0], together.ledger.output_baseline[i], atol=1e-5)


@pytest.mark.parametrize("name", SEEDED)
def test_the_seed_decides(model: heatcli.Model, name: str) -> None:
    batch = images(2)
    first, again, other = (explained(model, batch, name, seed=seed).relevance for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert apart(other, first) > 1e-3


@pytest.fixture(scope="module")
def formats(tmp_path_factory: pytest.TempPathFactory) -> list[heatcli.Model]:
    folder, module = tmp_path_factory.mktemp("formats"), network("residual")
    return [load(module, folder, form) for form in FORMATS]


@EVERY
def test_every_format_gives_the_same_numbers(formats: list[heatcli.Model], name: str) -> None:
    first, *others = (explained(model, images(2), name).relevance for model in formats)
    for other in others:
        assert apart(other, first) < CLOSE.get(name, 1e-5)


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> heatcli.Model:
    path = tmp_path_factory.mktemp("fixed") / "two.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network("plain"), (images(2),), str(path), dynamo=False, opset_version=17)
    return heatcli.load(path)


@EVERY
def test_a_baked_batch_size_is_filled_up(model: heatcli.Model, fixed: heatcli.Model, name: str) -> None:
    """An ONNX file for two images at a time explains three."""
    assert fixed.batch_size == 2
    batch = images(3)
    assert apart(explained(fixed, batch, name).relevance, explained(model, batch, name).relevance) < 1e-4


class SideBySide(nn.Module):
    """The plain network, whose maps of all images lie side by side for one pooling: as many channels as in all."""

    def __init__(self) -> None:
        super().__init__()
        plain = network("plain")
        self.features, self.head = plain.features, plain.head

    def forward(self, x: Tensor) -> Tensor:
        y = self.features[:2](x)
        n, c, h, w = y.shape
        y = self.features[2](y.reshape(1, n * c, h, w)).reshape(n, c, h // 2, w // 2)
        return self.head(self.features[3:](y))


@pytest.fixture(scope="module")
def side_by_side(tmp_path_factory: pytest.TempPathFactory) -> heatcli.Model:
    path = tmp_path_factory.mktemp("side") / "two.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(SideBySide(), (images(2),), str(path), dynamo=False, opset_version=17)
    return heatcli.load(path)


@EVERY
def test_images_side_by_side_in_a_baked_batch(model: heatcli.Model, side_by_side: heatcli.Model, name: str) -> None:
    """Each image is explained beside copies of itself, which have no score."""
    assert not side_by_side.graph((2, 3, 16, 16)).keeps_images_apart
    batch = images(3)
    assert apart(explained(side_by_side, batch, name).relevance, explained(model, batch, name).relevance) < 1e-4


@EVERY
def test_the_model_is_left_as_it_was(tmp_path: Path, name: str) -> None:
    model = heatcli.load(save(network("plain"), tmp_path), size=16)
    before = heatcli.explain(model, images(2), "gradient").relevance
    explained(model, images(2), name)
    assert torch.equal(heatcli.explain(model, images(2), "gradient").relevance, before)


def test_progress_is_told_to_the_end(model: heatcli.Model) -> None:
    told: list[tuple[int, int]] = []
    heatcli.explain(model, images(2), "smoothgrad", progress=lambda *at: told.append(at), samples=10)
    assert told == [(8, 20), (16, 20), (20, 20)]
    told.clear()
    heatcli.explain(model, images(2), "lrp-eps", progress=lambda *at: told.append(at))
    assert told == [], "a single pass has nothing to tell"
