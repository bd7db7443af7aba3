"""Explanations whose batch went through the network in parts: joined field by field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from networks import images, load, network
from torch import Tensor

import heatcli
from heatcli.engine.ledger import Ledger
from heatcli.explanation import Explanation
from heatcli.images.baselines import Reference
from heatcli.methods.joining import joined_parts
from heatcli.methods.targets import Target


def plain(value: Any) -> Any:
    """A value of a field as tensors, numbers and texts."""
    if isinstance(value, Ledger | Target | Reference):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    return value


def assert_alike(found: Any, expected: Any) -> None:
    if isinstance(expected, Tensor):
        torch.testing.assert_close(found, expected)
    elif isinstance(expected, Mapping):
        assert found.keys() == expected.keys()
        for name in expected:
            assert_alike(found[name], expected[name])
    else:
        assert found == expected


def test_every_field_says_how_it_is_joined() -> None:
    assert [f.name for f in fields(Explanation) if not callable(f.metadata.get("join"))] == []


def test_parts_joined_are_the_whole(tmp_path: Path) -> None:
    """Field by field, what two images at a time give is what three at once give; of seconds there is a mean."""
    model = load(network("plain"), tmp_path)
    batch, given = images(3), {"method": "deeplift-rescale", "baseline": images(3, 1), "target": [0, 1, 2]}
    whole = heatcli.explain(model, batch, **given)
    model.network.batch_size = 2
    parts = heatcli.explain(model, batch, **given)
    for f in fields(Explanation):
        if f.name == "seconds":
            assert parts.seconds.keys() == whole.seconds.keys()
        elif f.name == "verified":
            assert parts.verified is not None
            assert parts.verified.agrees
        else:
            assert_alike(plain(getattr(parts, f.name)), plain(getattr(whole, f.name)))


def test_seconds_are_those_of_an_image(tmp_path: Path) -> None:
    one = heatcli.explain(load(network("plain"), tmp_path), images(2))
    parts = [replace(one, seconds={"forward": 1.0}), replace(one, seconds={"forward": 4.0})]
    assert joined_parts(parts, [2, 1]).seconds == {"forward": 2.0}


def test_an_operator_that_one_part_alone_books_is_zero_in_the_others(tmp_path: Path) -> None:
    one = heatcli.explain(load(network("plain"), tmp_path), images(2))
    parts = [replace(one, unexplained={}), replace(one, unexplained={"relu_1": torch.tensor([1.0, 2.0])})]
    assert joined_parts(parts, [2, 1]).unexplained["relu_1"].tolist() == [0, 0, 1]
