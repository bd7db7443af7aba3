"""What `explain` does where no method is named, as chosen in tests/measure/experiments/DEFAULT.md."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from conftest import MODELS, ROOT, SAMPLES, Cli

import heatcli
from heatcli.methods.table import DEFAULT, DEFAULT_BASELINE

WOLF = SAMPLES / "wolf-on-snow.png"


def explained(cli: Cli, *options: str) -> dict[str, Any]:
    ran = cli("explain", WOLF, *options, "--json", "-q")
    assert ran.status == 0, ran.err
    report: dict[str, Any] = json.loads(ran.out)
    return report


def test_nothing_named_is_the_default_method_against_the_default_baseline(cli: Cli) -> None:
    found = explained(cli)
    named = explained(cli, "--method", DEFAULT, "--baseline", DEFAULT_BASELINE, "--overwrite")
    assert found["pixels"] == named["pixels"]
    assert (found["method"]["name"], found["baseline"]["name"]) == (DEFAULT, DEFAULT_BASELINE)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--method", "lrp-eps"], ("lrp-eps", "none")),
        (["--baseline", "none"], (DEFAULT, "none")),
        (["--baseline", "black"], (DEFAULT, "black")),
        (["--method", "deeplift-rescale"], ("deeplift-rescale", "zero")),
        (["--method", "gradient"], ("gradient", "none")),
    ],
)
def test_a_named_method_has_its_own_baseline(cli: Cli, options: list[str], expected: tuple[str, str]) -> None:
    found = explained(cli, *options)
    assert (found["method"]["name"], found["baseline"]["name"]) == expected


def test_python_has_the_same_default() -> None:
    model = heatcli.load(MODELS / "animals.pt")
    batch = model.preprocess([WOLF])
    found = heatcli.explain(model, batch)
    assert torch.equal(found.relevance, heatcli.explain(model, batch, DEFAULT, baseline=DEFAULT_BASELINE).relevance)
    assert not torch.equal(found.relevance, heatcli.explain(model, batch, DEFAULT).relevance)
    alone = heatcli.explain(model, batch, baseline="none")
    assert torch.equal(alone.relevance, heatcli.explain(model, batch, DEFAULT, baseline="none").relevance)


@pytest.mark.usefixtures("default_figure")
def test_sequences_are_compared_with_the_background(cli: Cli) -> None:
    arguments = [SAMPLES / "sequences" / "motifs.fa", "--model", MODELS / "motifs.onnx", "--json", "-q"]
    ran = cli("explain", *arguments)
    assert ran.status == 0, ran.err
    reports = [json.loads(line) for line in ran.out.splitlines()]
    assert {(r["method"]["name"], r["baseline"]["name"]) for r in reports} == {(DEFAULT, "background")}


def test_the_pages_name_the_default(cli: Cli) -> None:
    choosing = (ROOT / "heatcli" / "help" / "choosing.md").read_text(encoding="utf-8")
    assert f"`{DEFAULT}` against `{DEFAULT_BASELINE}`" in choosing
    helped = " ".join(cli("explain", "--help").out.replace("│", " ").split())
    assert f"Default: {DEFAULT}, with the baseline {DEFAULT_BASELINE}." in helped
