"""Five networks of torchvision, in every format: no operator is unknown.

The graph's operators have the names that ATen gives them. A name that a new torch changes would be walked by its exact
gradient and be told as unexplained; here it is an error.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from networks import FORMATS, save
from torch import nn

import heatcli
from heatcli.graph.kinds import UNKNOWN

NAMES = ("resnet18", "vgg11", "densenet121", "mobilenet_v3_small", "efficientnet_b0")
# exports that take longer than the rest of the test: of many operators, or by the newer exporter of ONNX
SLOW = {
    ("densenet121", "frozen"), ("densenet121", "scripted"), ("densenet121", "pt2"), ("efficientnet_b0", "frozen"),
    ("efficientnet_b0", "pt2"),
    *((name, "onnx-new") for name in NAMES if name != "resnet18"),
}  # fmt: skip
CASES = [
    pytest.param(name, form, marks=pytest.mark.slow if (name, form) in SLOW else ())
    for name in NAMES
    for form in ("frozen", *FORMATS)
]


def _network(name: str) -> nn.Module:
    found: nn.Module = pytest.importorskip("torchvision.models").get_model(name, weights=None)
    if name == "vgg11":  # as deep, without half a gigabyte of dense layers
        found.classifier = nn.Sequential(nn.Linear(25088, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 10))
    return found.eval()


def _frozen(module: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.freeze(torch.jit.script(module)).save(str(path))
    return path


@pytest.mark.parametrize(("name", "form"), CASES)
def test_no_operator_is_unknown(name: str, form: str, tmp_path: Path) -> None:
    module = _network(name)
    size = 224 if (name, form) == ("vgg11", "onnx-old") else 64  # else its last pooling cannot be exported
    shape = (3, size, size)
    path = _frozen(module, tmp_path / "frozen.pt") if form == "frozen" else save(module, tmp_path, form, shape)
    graph = heatcli.load(path, size=(size, size), cache=False).graph((1, *shape))
    assert {op.title for op in graph.operators if op.kind == UNKNOWN} == set()
    assert len(graph.operators) > 20
