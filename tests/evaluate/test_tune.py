"""`--param gamma=auto`: the value whose maps rank the regions best, told beside the next ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import MODELS, SAMPLES, Cli

import heatcli
from heatcli.evaluate.explainer import Explainer
from heatcli.evaluate.subjects import subjects
from heatcli.evaluate.trial import tried
from heatcli.evaluate.tune import VALUES, tuned
from heatcli.images.dataset import Sample, read
from heatcli.methods.table import method

DIGITS = sorted((SAMPLES / "digits").glob("*.png"))[:6]


def test_no_other_value_ranks_the_regions_better() -> None:
    model = heatcli.load(MODELS / "digits.onnx")
    samples = [one for one in read(DIGITS, model.labels, model.pictures.fit) if isinstance(one, Sample)]
    own = subjects(model, samples)
    said: list[str] = []
    found = tuned(own, method("lrp-gamma"), ["gamma"], "zero", said.append)
    chosen = found.method.parameters["gamma"]
    areas = {
        value: float(tried(own, Explainer.parse(f"lrp-gamma:gamma={value}", "zero")).between.mean())
        for value in {*VALUES["gamma"], method("lrp-gamma").parameters["gamma"]}
    }
    assert len(said) == len(found.areas) == len(areas)
    assert areas[chosen] == max(areas.values()) > min(areas.values())
    assert sorted(found.areas.values()) == pytest.approx(sorted(areas.values()))
    assert f"gamma={chosen:g} ranks the regions of {len(DIGITS)} pictures best" in found.words


def test_on_the_command_line(cli: Cli, tmp_path: Path) -> None:
    """The report has the value that was found, and the note tells it."""
    out = tmp_path / "out"
    done = cli(
        "explain", *map(str, DIGITS), "--model", str(MODELS / "digits.onnx"), "--method", "lrp-gamma",
        "--param", "gamma=auto", "--out", str(out),
    )  # fmt: skip
    assert done.status == 0, done.err
    assert "ranks the regions of 6 pictures best" in done.err
    report = json.loads(next(out.glob("*.json")).read_text())
    value = report["method"]["parameters"]["gamma"]
    assert f"gamma={value:g} ranks" in done.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--method", "occlusion", "--param", "window=auto"], "only epsilon and gamma can be found"),
        (["memory://pictures", "--method", "lrp-gamma", "--param", "gamma=auto"], "a URL is given"),
        (["--method", "gradient", "--param", "gamma=auto"], "gamma"),
        (["--method", "lrp-gamma", "--param", "gamma=automatic"], "is not a number"),
    ],
)
def test_what_cannot_be_found(cli: Cli, tmp_path: Path, arguments: list[str], told: str) -> None:
    done = cli(
        "explain", str(DIGITS[0]), "--model", str(MODELS / "digits.onnx"), "--out", str(tmp_path / "o"), *arguments
    )
    assert done.status == 2
    assert told in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not (tmp_path / "o").exists()
