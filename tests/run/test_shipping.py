"""What travels to another machine makes the same model there, with nothing else at hand."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import onnx
import pytest
import torch
from networks import images, network, save

import heatcli
from heatcli.errors import ModelError
from heatcli.run.work.cluster import Shipped


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """An ONNX file whose weights lie in a file beside it, in a folder of its own."""
    (tmp_path / "here").mkdir()
    path = tmp_path / "here" / "m.onnx"
    proto = onnx.load(save(network("plain"), tmp_path, "onnx-old"))
    onnx.save_model(proto, path, save_as_external_data=True, location="m.data", size_threshold=100)
    return path


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("kind", ["beside", "scripted", "pt2"])
def test_a_model_is_the_same_elsewhere(kind: str, cache: bool, beside: Path, tmp_path: Path) -> None:
    path = beside if kind == "beside" else save(network("plain"), tmp_path / "here", kind)
    model = heatcli.load(path, size=(16, 16), mean=(0.4, 0.5, 0.6), cache=cache)
    expected = heatcli.explain(model, images(2), "lrp-eps")
    sent = pickle.dumps(Shipped.of(model, "cpu"))
    shutil.rmtree(tmp_path / "here")
    other = pickle.loads(sent).model()
    found = heatcli.explain(other, images(2), "lrp-eps")
    assert torch.equal(found.relevance, expected.relevance)
    assert other.path == model.path
    assert other.pictures.input == model.pictures.input


def test_weights_that_were_changed_are_not_sent(beside: Path) -> None:
    model = heatcli.load(beside, size=(16, 16))
    weights = beside.with_name("m.data")
    weights.write_bytes(weights.read_bytes()[::-1])
    with pytest.raises(ModelError, match="was changed while it was in use; run again"):
        Shipped.of(model, "cpu")
