"""Random networks are explained as their artifact computes them on its own runtime, and the map is of that function.

`tests/measure/truth.py` does the same with more networks and formats, and writes the page.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from random_graphs import STEPS, inputs, network, without

sys.path.append(str(Path(__file__).parents[1] / "measure"))
import truth

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]
TRACED, ONNX = 40, 10


def assert_true(seed: int, form: str, passes: bool = False) -> None:
    """Right, or refused in one line: never another answer, nor another map, nor changed by a pass."""
    row = truth.one(seed, form, passes)
    assert row["outcome"] in ("right", "refused", "not exported", "not run"), row
    assert row.get("map") != "wrong", row
    assert all(off <= 1 for off in row.get("passes", {}).values()), row


@pytest.mark.parametrize("seed", range(TRACED))
def test_traced(seed: int) -> None:
    assert_true(seed, "traced")


@pytest.mark.parametrize("seed", range(ONNX))
def test_onnx(seed: int) -> None:
    assert_true(seed, "onnx 17")


@pytest.mark.parametrize("seed", [471, 634, 970, 1000])
def test_what_was_mended(seed: int) -> None:
    """A layout that `as_strided` reads; bounds of 0.05 behind an ELU and a leaky ReLU; two values for one place."""
    row = truth.one(seed, "traced", passes=False)
    assert (row["outcome"], row["map"]) == ("right", "right"), row


@pytest.mark.slow
@pytest.mark.parametrize("form", truth.FORMATS)
@pytest.mark.parametrize("seed", range(TRACED))
def test_all_formats_and_passes(seed: int, form: str) -> None:
    assert_true(seed, form, passes=True)


@pytest.mark.slow
def test_every_sort_of_step_comes_up() -> None:
    """Among the first two hundred networks."""
    assert {step.name for seed in range(200) for step in network(seed).steps} == {*STEPS, "head"}


def test_a_seed_is_one_network() -> None:
    """The same source, weights and scores each time; other seeds are other networks."""
    first, again = network(3), network(3)
    assert first.source == again.source != network(4).source
    with torch.no_grad():
        assert torch.equal(first.module()(inputs(3, 1)), again.module()(inputs(3, 1)))


def test_a_network_is_shrunk_step_by_step() -> None:
    """What is left of a network after a step is taken out runs, or is None."""
    net = network(5)
    for index in range(len(net.steps) - 1):
        less = without(net, index)
        if less is not None:
            assert len(less.steps) == len(net.steps) - 1
            assert less.module()(inputs(5, 1)).dim() == 2


def test_another_answer_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime whose scores are 1 % higher than those explained is told from it; heatcli's own comparison agreed."""
    own = truth.runtime
    seed = next(seed for seed in range(40) if truth.one(seed, "traced", passes=False)["outcome"] == "right")
    monkeypatch.setattr(truth, "runtime", lambda path, form: lambda x: 1.01 * own(path, form)(x))
    assert truth.one(seed, "traced", passes=False)["outcome"] == "wrong"
