"""Random networks walked back: books, gradient, batches, baselines. `tests/measure/reliability` walks more of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parents[1] / "measure"), str(Path(__file__).parents[1] / "measure" / "reliability")]
import walks
from trial import FAULT

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]


def test_properties_of_every_walk() -> None:
    faults = [trial for trial in walks.some_methods(0, 25) if trial.outcome == FAULT]
    assert not faults


# What the sweep found, each once.
@pytest.mark.parametrize(
    ("seed", "method"),
    [(16, "lrp-0"), (68, "deeplift-reveal-cancel"), (83, "deeplift-genomics"), (93, "lrp-flat"),
     (98, "deeplift-reveal-cancel"), (859, "deeplift-reveal-cancel"), (1237, "deeplift-rescale")],
)  # fmt: skip
def test_what_was_mended(seed: int, method: str) -> None:
    assert walks.problems(walks._loaded(seed), seed, method) == []


@pytest.mark.slow
def test_properties_of_every_method() -> None:
    faults = [trial for trial in walks.every_method(0, 300) if trial.outcome == FAULT]
    assert not faults
