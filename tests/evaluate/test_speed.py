"""`heatcli bench`: what it prints, and what it says of peers that hook nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import MODELS, Cli
from networks import load, network
from torch import Tensor

from heatcli.evaluate import speed
from heatcli.evaluate.speed import GRADIENT, bench
from heatcli.methods.table import Method, method


def of(*names: str) -> dict[str, Method]:
    return {name: method(name) for name in names}


class Clock:
    """A clock that only jobs move."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def job(self, *seconds: float) -> Callable[[], Tensor]:
        """A job that takes the first number of seconds at its first call, and so on; its result is a zero."""
        left = iter(seconds)

        def run() -> Tensor:
            self.now += next(left)
            return torch.zeros(1)

        return run


def test_times_are_medians_over_rounds_without_the_first_two_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(speed, "time", clock)
    jobs = {
        GRADIENT: clock.job(100, 100, 2, 4, 2),
        "slow": clock.job(100, 100, 6, 20, 40),  # 3, 5, 20 times the yardstick's
        "fails": lambda: 1 / 0,
        "hooks nothing": clock.job(100, 100, 2, 2, 2),
    }
    found = {t.name: t for t in speed.timed(jobs, 8, 3, torch.device("cpu"))}
    assert list(found) == list(jobs)
    assert [found[name].ratio for name in (GRADIENT, "slow", "fails")] == [1, 5, None]
    assert [found[name].images_per_second for name in (GRADIENT, "slow", "fails")] == [4, 0.4, None]
    assert found["fails"].refused == "ZeroDivisionError: division by zero"
    assert found["hooks nothing"].note == "the plain gradient: its rules never fired"
    assert found[GRADIENT].note is None


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not say")
def test_the_peak_is_what_a_job_needs_for_itself() -> None:
    size = 1 << 26
    kept = torch.ones(size // 4)
    with speed.Peak(torch.device("cpu")) as nothing:
        kept.sum()
    with speed.Peak(torch.device("cpu")) as most:
        torch.ones(size // 4).sum()
    if most.most is None:
        pytest.skip("/proc/self/clear_refs cannot be written here")
    assert nothing.most is not None
    assert nothing.most < size / 2
    assert size / 2 < most.most < 3 * size


def test_every_contestant_is_timed_and_weighed(tmp_path: Path) -> None:
    model = load(network("plain"), tmp_path)
    found = {t.name: t for t in bench(model, of("lrp-eps", "gradient"), batch_size=4, repeats=2)}
    assert list(found) == [GRADIENT, "lrp-eps", "gradient"]
    assert {t.refused for t in found.values()} == {None}
    assert all(t.images_per_second and t.ratio for t in found.values())


def test_what_a_model_cannot_have_is_refused_in_its_row(tmp_path: Path) -> None:
    """It has no ReLU; the others are timed all the same."""
    model = load(network("normed"), tmp_path)
    found = {t.name: t for t in bench(model, of("guided-backprop", "lrp-0"), batch_size=2, repeats=1)}
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
