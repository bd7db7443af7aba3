"""The ONNX standard's own operator tests, one of each operator, and all modes of Resize, against outside truths.

All of the standard's tests: `tests/measure/onnx_standard.py`, which writes ONNX.md.
"""

from __future__ import annotations

import itertools
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from heatcli.artifact.onnx.load import load_onnx
from heatcli.artifact.onnx.registry import OPERATORS

sys.path.append(str(Path(__file__).parents[1] / "measure"))
from onnx_standard import REFUSED, WRONG, cases, outcome


def _sample() -> Iterator[Any]:
    """The first test of each operator, and each 23rd of the rest."""
    met: set[str] = set()
    for number, case in enumerate(cases()):
        operator = case.model.graph.node[-1].op_type
        if operator not in met or number % 23 == 0:
            met.add(operator)
            yield case


def test_a_sample_of_the_standards_tests_is_right_or_refused(tmp_path: Path) -> None:
    """None is wrong; what is refused is refused by the name of a node, for the type of its values or for its opset."""
    outcomes = [outcome(case, tmp_path) for case in _sample()]
    assert len(outcomes) > 200
    assert [o for o in outcomes if o.verdict == WRONG] == []
    for refused in (o for o in outcomes if o.verdict == REFUSED):
        assert re.search(r'node ".*" \(\w+|values of type|opset', refused.why), refused
    floats = [o for o in outcomes if o.floats]
    assert sum(o.verdict == REFUSED for o in floats) <= 0.1 * len(floats)


def test_a_wrong_operator_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison itself: a LeakyRelu of another slope does not pass for the standard's."""
    monkeypatch.setitem(OPERATORS, ("", "LeakyRelu"), lambda _, x: torch.nn.functional.leaky_relu(x, 0.3))
    found = [outcome(case, tmp_path) for case in cases("test_leakyrelu") if "expanded" not in case.name]
    assert [o.verdict for o in found] == [WRONG] * 3


COORDINATES = [
    "half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric", "tf_crop_and_resize",
]  # fmt: skip
ROUNDING = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]


def _modes() -> list[dict[str, Any]]:
    """All that Resize can be told, by attributes."""
    nearest = [
        {"mode": "nearest", "coordinate_transformation_mode": c, "nearest_mode": r}
        for c, r in itertools.product(COORDINATES, ROUNDING)
    ]
    smooth = [
        {"mode": mode, "coordinate_transformation_mode": c, "exclude_outside": e, "antialias": a}
        for mode, c, e, a in itertools.product(("linear", "cubic"), COORDINATES, (0, 1), (0, 1))
        if not (e and mode == "linear" and not a) and not (a and c == "tf_crop_and_resize")
    ]
    policies = [
        {"mode": mode, "keep_aspect_ratio_policy": policy, "axes": [2, 3], "sizes": 1}
        for mode, policy in itertools.product(("nearest", "linear", "cubic"), ("stretch", "not_larger", "not_smaller"))
    ]
    return [*nearest, *smooth, *policies, {"mode": "cubic", "cubic_coeff_a": -0.5}]


def _resize(attributes: dict[str, Any], scales: tuple[float, float], path: Path) -> onnx.ModelProto:
    """A model of one Resize of [2, 3, 6, 7]."""
    more = {name: value for name, value in attributes.items() if name != "sizes"}
    inner = len(attributes.get("axes", (0, 1, 2, 3)))
    ends = [0.1, -0.2, 0.9, 1.1] if inner == 2 else [0, 0, 0.1, -0.2, 1, 1, 0.9, 1.1]
    constants = {"roi": np.array(ends, np.float32)}
    if "sizes" in attributes:
        constants["sizes"] = np.array([round(6 * scales[0]), round(7 * scales[1])], np.int64)
    else:
        constants["scales"] = np.array([1, 1, *scales][-inner:], np.float32)
    inputs = ["x", "roi", *(["", "sizes"] if "sizes" in constants else ["scales"])]
    node = helper.make_node("Resize", inputs, ["y"], extrapolation_value=0.5, **more)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 6, 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.save(model, path)
    return model


@pytest.mark.parametrize("scales", [(2.0, 3.0), (1.7, 0.9), (0.7, 0.62)])
def test_every_mode_of_resize(tmp_path: Path, scales: tuple[float, float]) -> None:
    """As ONNX Runtime has it, or where that refuses, as the standard's reference implementation has it.

    At these scales no output lies exactly halfway between inputs, where the last bit of a division decides.
    """
    x = torch.randn(2, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    off = {}
    for attributes in _modes():
        model = _resize(attributes, scales, tmp_path / "m.onnx")
        (ours,) = load_onnx(tmp_path / "m.onnx").module_for({})(x)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                session = onnxruntime.InferenceSession(model.SerializeToString(), options)
                (theirs,) = session.run(None, {"x": x.numpy()})
            except Exception:  # its errors have no class of their own
                (theirs,) = ReferenceEvaluator(model).run(None, {"x": x.numpy()})
        alike = ours.shape == theirs.shape and np.abs(ours.numpy() - theirs).max() < 1e-4
        if not alike:
            off[str(attributes)] = (
                float(np.abs(ours.numpy() - theirs).max()) if ours.shape == theirs.shape else ours.shape
            )
    assert off == {}
