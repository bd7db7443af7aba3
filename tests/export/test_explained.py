"""heatcli recognises models that explain themselves: `explain`, `check` and `compare` read what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import MODELS, SAMPLES
from typer.testing import CliRunner

from heatcli.check.run import CheckRequest
from heatcli.check.run import run as check
from heatcli.cli.app import app
from heatcli.errors import ModelError, UsageError
from heatcli.evaluate.compare import Side, compare
from heatcli.evaluate.explainer import Explainer
from heatcli.evaluate.layers import randomisation
from heatcli.evaluate.subject import subject
from heatcli.explanation import Explanation, explain
from heatcli.export.job import DEFAULT, ExportRequest, Recording, export, recording
from heatcli.export.write import WRITERS
from heatcli.images.dataset import Sample, read
from heatcli.methods.table import method
from heatcli.model.inspection import inspect
from heatcli.model.model import Model, load

DIGITS = MODELS / "digits.onnx"
PICTURES = sorted((SAMPLES / "digits").glob("*.png"))[:4]


@pytest.fixture(scope="module")
def digits() -> Model:
    return load(DIGITS)


@pytest.fixture(scope="module")
def recorded(digits: Model) -> Recording:
    """The explanation, which returns the elements of biases too."""
    outputs = (*DEFAULT, "bias_elements")
    return recording(
        digits, ExportRequest(path=Path("explained.onnx"), method=method("lrp-gamma", gamma=0.3), outputs=outputs)
    )


@pytest.fixture(scope="module", params=[".onnx", ".pt2", ".pt"])
def file(request: pytest.FixtureRequest, recorded: Recording, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The explained model."""
    path: Path = tmp_path_factory.mktemp("explained") / f"explained{request.param}"
    path.write_bytes(recorded.content(WRITERS[request.param]))
    return path


@pytest.fixture(scope="module")
def any_class(digits: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pixels in, and the class."""
    path = tmp_path_factory.mktemp("any") / "explained.onnx"
    export(
        digits, ExportRequest(path=path, method=method("lrp-eps"), target="input", preprocess=True, baseline="black")
    )
    return path


def assert_same(found: Explanation, expected: Explanation) -> None:
    largest = float(expected.relevance.abs().max())
    torch.testing.assert_close(found.relevance, expected.relevance, rtol=0, atol=1e-4 * largest)
    for key in ("output", "output_baseline", "pixels", "biases", "absorbed", "unexplained"):
        mine, theirs = (getattr(one.ledger, key).double() for one in (found, expected))
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    assert torch.equal(found.target.index, expected.target.index)
    assert found.method == expected.method
    assert list(found.biases) == list(expected.biases)


def test_it_explains_itself(file: Path, digits: Model) -> None:
    model = load(file)
    assert model.explained is not None
    assert model.explained.source.sha256 == digits.sha256
    assert model.labels == digits.labels
    found, expected = explain(model, PICTURES), explain(digits, PICTURES, "lrp-gamma", gamma=0.3)
    assert_same(found, expected)
    for name, values in expected.biases.items():
        torch.testing.assert_close(found.biases[name], values, rtol=1e-3, atol=1e-4)
    assert_same(explain(model, PICTURES, "lrp-gamma", gamma=0.3), expected)
    assert inspect(model)["explains"]["method"]["name"] == "lrp-gamma"


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"method": "lrp-eps"}, "explains itself, by lrp-gamma"),
        ({"gamma": 0.2}, "leave the method out"),
        ({"baseline": "black"}, "leave --baseline out"),
        ({"target": "0-1"}, "another class"),
        ({"target": [9, 9, 9, 9]}, "--target input"),
    ],
)
def test_what_is_not_inside_is_refused(file: Path, asked: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        explain(load(file), PICTURES, **asked)


def test_pixels_and_any_class(any_class: Path, digits: Model) -> None:
    model = load(any_class)
    for target in (None, 3, [1, 2, 3, 4]):
        found = explain(model, PICTURES, target=target)
        expected = explain(digits, PICTURES, "lrp-eps", target, "black")
        assert_same(found, expected)
        assert {name: values.shape[1] for name, values in found.biases.items()} == dict.fromkeys(expected.biases, 1)
    with pytest.raises(UsageError, match="one class of each image"):
        explain(model, PICTURES, target="3-5")


def test_in_the_sandbox_it_says_the_same(any_class: Path) -> None:
    inside, outside = (explain(load(any_class, sandbox=sandbox), PICTURES) for sandbox in (True, False))
    torch.testing.assert_close(inside.relevance, outside.relevance)  # the child may use another number of threads


def test_an_explained_model_is_not_exported_again(file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"export digits\.onnx instead"):
        export(load(file), ExportRequest(path=tmp_path / "again.onnx", method=method("gradient")))


def test_a_note_of_another_form_is_one_line(any_class: Path, tmp_path: Path) -> None:
    proto = onnx.load(any_class)
    for entry in proto.metadata_props:
        if entry.key == "heatcli.json":
            entry.value = json.dumps({"schema": "heatcli.explained/7"})
    onnx.save(proto, tmp_path / "later.onnx")
    with pytest.raises(ModelError, match="export it anew") as raised:
        load(tmp_path / "later.onnx")
    assert "\n" not in str(raised.value)


def samples(model: Model) -> list[Sample]:
    every = read(PICTURES, model.labels, model.pictures.fit, None, model.pictures.reader)
    return [one for one in every if isinstance(one, Sample)]


def compared(a: Model, b: Model) -> Any:
    explainer = Explainer.shared([a, b], None)
    return compare(Side(a, explainer), Side(b, explainer), samples(a), None, 1e-4)


def changed(file: Path, output: str, factor: float, to: Path) -> Path:
    """The file, whose output of that name is a little larger."""
    proto = onnx.load(file)
    graph = proto.graph
    for node in graph.node:
        node.output[:] = [f"{name}.before" if name == output else name for name in node.output]
        node.input[:] = [f"{name}.before" if name == output else name for name in node.input]
    graph.initializer.append(onnx.numpy_helper.from_array(np.float32(factor), "factor"))
    graph.node.append(onnx.helper.make_node("Mul", [f"{output}.before", "factor"], [output]))
    onnx.save(proto, to)
    return to


def test_compare_gates_what_is_deployed(file: Path, digits: Model, tmp_path: Path) -> None:
    model = load(file)
    for sides in ((digits, model), (model, digits)):
        assert all(pair.ok for pair in compared(*sides).pairs)
    if file.suffix == ".onnx":
        wrong = load(changed(file, "relevance", 1.01, tmp_path / "wrong.onnx"))
        assert not any(pair.ok for pair in compared(digits, wrong).pairs)


def test_check_takes_it(any_class: Path) -> None:
    found = list(check(load(any_class), CheckRequest(tuple(PICTURES))))
    by_check = {name: {r.status for r in found if r.check == name} for name in {r.check for r in found}}
    assert by_check["ledger"] == {"passed"}
    assert by_check["finite"] == {"passed"}
    assert by_check["randomisation"] == {"skipped"}


def test_weights_inside_are_not_randomised(any_class: Path) -> None:
    model = load(any_class)
    with pytest.raises(ModelError, match=r"ask digits\.onnx"):
        randomisation(subject(model, samples(model)), Explainer.shared([model], None))


def test_the_commands(file: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    said = run(app, ["explain", str(PICTURES[0]), "--model", str(file), "--out", str(tmp_path), "--json"])
    assert said.exit_code == 0, said.output
    report = json.loads(said.stdout)
    assert report["method"]["name"] == "lrp-gamma"
    assert report["method"]["parameters"]["gamma"] == 0.3
    assert abs(report["ledger"]["relative_error"]) < 1e-4
    assert "explains itself" in said.stderr
    said = run(app, ["compare", str(DIGITS), str(file), str(PICTURES[0]), "--most-difference", "1e-4"])
    assert said.exit_code == 0, said.output
