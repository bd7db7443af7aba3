"""`heatcli bench`: what it prints, and what it says of peers that hook nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import MODELS, Cli
from networks import load, network

from heatcli.bench import GRADIENT, bench
from heatcli.methods.table import method


def test_every_contestant_is_timed_and_weighed(tmp_path: Path) -> None:
    model = load(network("plain"), tmp_path)
    found = {t.name: t for t in bench(model, [method("lrp-eps"), method("gradient")], batch_size=4, repeats=2)}
    assert list(found) == [GRADIENT, "lrp-eps", "gradient"]
    assert found[GRADIENT].ratio == 1
    for timing in found.values():
        assert timing.refused is None
        assert timing.images_per_second is not None
        assert timing.images_per_second > 0
        assert timing.peak is None or timing.peak >= 0


def test_what_a_model_cannot_have_is_refused_in_its_row(tmp_path: Path) -> None:
    """It has no ReLU; the others are timed all the same."""
    model = load(network("normed"), tmp_path)
    found = {t.name: t for t in bench(model, [method("guided-backprop"), method("lrp-0")], batch_size=2, repeats=1)}
    assert "would say nothing here" in str(found["guided-backprop"].refused)
    assert found["lrp-0"].ratio is not None


def test_the_command(cli: Cli) -> None:
    ran = cli("bench", MODELS / "digits.onnx", "--methods", "lrp-eps", "--repeats", "1", "--batch-size", "2", "--json")
    assert ran.status == 0, ran.err
    assert [row["name"] for row in json.loads(ran.out)] == [GRADIENT, "lrp-eps"]
    table = cli("bench", MODELS / "digits.onnx", "--methods", "lrp-eps", "--repeats", "1", "--batch-size", "2")
    assert "images/s" in table.out
    assert "batch 2" in table.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--methods", "lrp-epps"], "unknown method 'lrp-epps'; did you mean 'lrp-eps'?"),
        (["--repeats", "0"], "--batch-size 8 and --repeats 0 must be at least 1"),
        (["--threads", "0"], "--threads 0 is not allowed; it is at least 1"),
    ],
)
def test_wrong_usage(cli: Cli, flags: list[str], message: str) -> None:
    ran = cli("bench", *flags)
    assert ran.status == 2
    assert message in ran.err


@pytest.mark.peers
def test_peers_that_hook_nothing_are_told(cli: Cli) -> None:
    """On a ScriptModule: Captum's LRP and DeepLift refuse, its GuidedBackprop and Zennit return the plain gradient."""
    ran = cli("bench", MODELS / "animals.pt", "--methods", "lrp-eps", "--repeats", "1", "--peers", "--json")
    assert ran.status == 0, ran.err
    found = {row["name"]: row for row in json.loads(ran.out)}
    assert found["captum LRP"]["refused"]
    assert found["captum DeepLift"]["refused"]
    for name in ("captum GuidedBackprop", "zennit EpsilonPlus"):
        assert found[name]["note"] == "the plain gradient: its rules never fired"
