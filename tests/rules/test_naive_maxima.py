"""Every rule for maxima beside a transcription of its formula in plain Python, one maximum at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from dense import REFERENCES, Function, inputs, multiplier_for, steps_of
from networks import images, load, step_of
from torch import Tensor, nn
from torch.nn import functional

import heatcli
from heatcli.rules.maximum import Proportional, Radial, Softmax, SoftmaxLimit, Telescoping, candidates
from heatcli.rules.rule import Rule, Step

pytestmark = pytest.mark.usefixtures("way")

MAXIMA: dict[str, tuple[tuple[int, ...], Function]] = {
    "windows": ((2, 4, 4), lambda x: functional.max_pool2d(x, 2)),
    "overlapping": ((2, 5, 5), lambda x: functional.max_pool2d(x, 3, 2, 1)),
    "ceil mode": ((1, 5, 6), lambda x: functional.max_pool2d(x, 2, 2, ceil_mode=True)),
    "dilated": ((1, 6, 6), lambda x: functional.max_pool2d(x, 2, 1, dilation=2)),
    "adaptive": ((2, 5, 4), lambda x: functional.adaptive_max_pool2d(x, (2, 3))),
    "sequence": ((2, 7), lambda x: functional.max_pool1d(x, 3)),
    "volume": ((1, 2, 4, 4), lambda x: functional.max_pool3d(x, 2)),
    "amax": ((3, 4), lambda x: x.amax((1, 2), keepdim=True)),
    "amin": ((3, 4), lambda x: x.amin(2)),
    "pair": ((2, 4), lambda x: torch.maximum(x[:, :1], x[:, 1:])),
    "smaller": ((2, 4), lambda x: torch.minimum(x[:, :1], x[:, 1:])),
}

List = Sequence[float]


def radial(x: List, x0: List) -> list[float]:
    d, rise = np.subtract(x, x0), max(x) - max(x0)
    return [float(rise * v * v / (d @ d)) if d @ d else 0.0 for v in d]


def proportional(x: List, x0: List) -> list[float]:
    d, rise = np.subtract(x, x0), max(x) - max(x0)
    way = [v if v * rise > 0 else 0.0 for v in d]
    return [float(rise * v / sum(way)) if rise else 0.0 for v in way]


def softmax_limit(x: List, x0: List) -> list[float]:
    rise = max(x) - max(x0)
    who = [v == max(x) for v in x] if rise > 0 else [v == max(x0) for v in x0]
    return [rise * w / sum(who) for w in who]


def softmax(t: float) -> Callable[[List, List], list[float]]:
    """exp(t·x), their sum and log/t, each by its own secant: R_i = Δ(eᵗˣⁱ)·Δlog S/(t·ΔS)."""

    def formula(x: List, x0: List) -> list[float]:
        e, e0 = [math.exp(t * v) for v in x], [math.exp(t * v) for v in x0]
        s, s0 = sum(e), sum(e0)
        slope = (math.log(s) - math.log(s0)) / (s - s0) if s != s0 else 1 / s
        return [(a - b) * slope / t for a, b in zip(e, e0, strict=True)]

    return formula


def telescoping(x: List, x0: List) -> list[float]:
    """m = a + relu(b − a): a keeps what it has of the maximum so far but for the slope of the step."""
    shares = [x[0] - x0[0]]
    best, best0 = x[0], x0[0]
    for i in range(1, len(x)):
        step, step0 = x[i] - best, x0[i] - best0
        slope = (max(step, 0) - max(step0, 0)) / (step - step0) if step != step0 else float(step > 0)
        shares = [share * (1 - slope) for share in shares] + [slope * (x[i] - x0[i])]
        best, best0 = max(best, x[i]), max(best0, x0[i])
    return shares


RULES: dict[str, tuple[Rule, Callable[[List, List], list[float]]]] = {
    "radial": (Radial(), radial),
    "proportional": (Proportional(), proportional),
    "softmax-limit": (SoftmaxLimit(), softmax_limit),
    "softmax": (Softmax(t=2.0), softmax(2.0)),
    "telescoping": (Telescoping(), telescoping),
}


def step_at(name: str, based: bool) -> Step:
    """The one maximum of that function, with reshapes around it or not."""
    shape, function = MAXIMA[name]
    (step,) = (s for s in steps_of(function, *inputs(shape, based)) if s.operator.kind == "maximum")
    return step


def expected(step: Step, formula: Callable[[List, List], list[float]], m: Tensor) -> list[Tensor]:
    """Relevance of each input: every maximum's shares, gone back to where each candidate was taken from."""
    sign = -1 if step.operator.title in ("amin", "minimum") else 1
    sizes = [x[:1].numel() for x in step.inputs]
    # which input each candidate is: candidates of the inputs' own numbers, from 1
    numbers, at = [], 1
    for x, size in zip(step.inputs, sizes, strict=True):
        numbers.append(torch.arange(at, at + size, dtype=torch.float64).reshape(1, *x.shape[1:]).expand(x.shape))
        at += size
    places = candidates(step.operator, numbers)
    starts = step.references() or [torch.zeros_like(x) for x in step.inputs]
    x, x0 = (candidates(step.operator, [v.detach() for v in values]) for values in (step.inputs, starts))
    n = len(step.output)
    relevance = np.zeros((n, at))
    for index in np.ndindex(*step.output.shape):
        where = [int(places[(k, *index)]) if math.isfinite(places[(k, *index)]) else 0 for k in range(len(places))]
        real = [k for k, place in enumerate(where) if place]
        ends = [sign * float(x[(k, *index)]) for k in real], [sign * float(x0[(k, *index)]) for k in real]
        for k, share in zip(real, formula(*ends), strict=True):
            relevance[index[0], where[k]] += sign * share * float(m[index])
    parts = torch.from_numpy(relevance)[:, 1:].split(sizes, 1)
    return [part.reshape(v.shape) for part, v in zip(parts, step.inputs, strict=True)]


@REFERENCES
@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("name", list(MAXIMA))
def test_shares_are_those_of_the_formula(name: str, rule: str, based: bool) -> None:
    step = step_at(name, based)
    m = multiplier_for(step)
    sent = RULES[rule][0](step, m)
    for i, share in enumerate(expected(step, RULES[rule][1], m)):
        found = sent.multipliers[i]
        assert isinstance(found, Tensor)
        torch.testing.assert_close(found * step.input_difference(i).detach(), share, rtol=1e-6, atol=1e-9)


def test_softmax_comes_to_its_limit() -> None:
    """t → ∞ of the soft maximum's shares is `softmax-limit`, for rises and falls, with and without a baseline."""
    for based in (False, True):
        step = step_of(lambda x: x.amax(1), *inputs((5,), based))
        m = multiplier_for(step)
        limit, near = SoftmaxLimit()(step, m).multipliers[0], Softmax(t=2000.0)(step, m).multipliers[0]
        assert isinstance(limit, Tensor)
        assert isinstance(near, Tensor)
        dx = step.input_difference(0)
        torch.testing.assert_close(near * dx, limit * dx, rtol=1e-2, atol=1e-2)


def test_the_candidates_of_a_pool_are_what_it_chooses_from() -> None:
    for name in MAXIMA:
        if name in ("pair", "smaller"):
            continue
        step = step_at(name, based=False)
        found = candidates(step.operator, step.inputs)
        best = found.nan_to_num(neginf=math.inf).amin(0) if name == "amin" else found.amax(0)
        assert torch.equal(best, step.output), name


class Fallen(nn.Module):
    """Maxima that are below a flat baseline's, where all their inputs tie."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.maximum(x, 0.5 * x)
        return x.amax(1, keepdim=True).flatten(1).amax(1, keepdim=True) + x.amax((2, 3)).amin(1, keepdim=True)


@pytest.mark.parametrize("name", ["lrp-eps", "deeplift-reveal-cancel"])
def test_ties_in_a_batch_are_those_of_each_image(name: str, tmp_path: Path) -> None:
    """One baseline for all: each image gets what it gets alone, and all of the score is shared out."""
    model = load(Fallen(), tmp_path, "traced", (3, 4, 4))
    x = -1 - images(3, shape=(3, 4, 4)).abs()
    baseline = torch.zeros(1, 3, 4, 4)
    together = heatcli.explain(model, x, name, target=0, baseline=baseline)
    alone = [heatcli.explain(model, one[None], name, target=0, baseline=baseline).relevance for one in x]
    torch.testing.assert_close(together.relevance, torch.cat(alone))
    torch.testing.assert_close(together.relevance.flatten(1).sum(1), together.outputs[:, 0])
