"""Rules for maxima: max pooling, amax, the larger of two tensors. Minima are maxima of the negatives.

`Winner` uses the operator's own gradient. The other rules compute multipliers for the candidates [K, …] of each maximum
by a formula, and propagate these to the inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from heatcli.graph.facts import facts_of
from heatcli.rules.candidates import candidates, each_candidate
from heatcli.rules.numerics import exponential_slope, per_image, quotient
from heatcli.rules.parameters import number
from heatcli.rules.rule import Booked, Multipliers, Rule, Sent, Step

_TIED, _ALIKE = 16, 1e-5  # values within this many rounding steps are tied, within one where a step is coarse


@dataclass(frozen=True)
class Winner(Rule):
    """The winner takes all: the gradient. With a baseline, a rise goes to the image's winner, a fall to the baseline's.

    y − y0 = (max(y, y0) − y0) + (y − max(y, y0)). The first part goes to the image's winner, whose own difference is at
    least as large, the second to the baseline's winner. Each multiplier is the part over that input's difference.
    Inputs of a window that tie for the maximum that a part goes to, as everywhere in a constant window, share it, so
    that relevance changes its sign where image and baseline are exchanged.
    """

    source: ClassVar[str] = "gradient; with a baseline as SHAP's and Captum's DeepLIFT split max pooling"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Exact with either reference."""
        if step.without_reference:
            return Sent(step.adjoint(multiplier))
        tied = ties(step)
        shared, fell = tied.any(0), step.difference > 0 if facts_of(step.operator).minimum else step.difference < 0
        change, half = multiplier * step.difference, torch.where(shared, 0, multiplier / 2)
        single = torch.where(shared, 0, change)
        sums = _both_ends(step, torch.where(fell, 0, single), torch.where(fell, single, 0))
        limits = _both_ends(step, half, half)  # of the quotients, where a difference is 0
        parts = share_among(step, tied, torch.where(shared, change, 0))
        quotients = [quotient(m, step.input_difference(i), limits[i]) for i, m in enumerate(sums)]
        return Sent([m if part is None else m + part for m, part in zip(quotients, parts, strict=True)])


def _both_ends(step: Step, at_image: Tensor, at_baseline: Tensor) -> list[Tensor]:
    """For each input, the sum of `at_image` propagated at the image and `at_baseline` propagated at the baseline."""
    references = step.references()
    assert references is not None
    ends = step.adjoint(at_image), step.adjoint_at(references, at_baseline)
    zeros = [torch.zeros_like(x) for x in step.inputs]
    return [sum((m for m in pair if m is not None), zero) for zero, *pair in zip(zeros, *ends, strict=True)]


def ties(step: Step) -> Tensor:
    """The candidates that tie for the maximum that changed: the image's for a rise, the baseline's for a fall.

    bool [K, N, …]; False where one candidate alone is the maximum, and where the maximum changed by rounding alone.
    """
    assert step.reference_inputs is not None
    assert step.reference_output is not None
    sign = -1 if facts_of(step.operator).minimum else 1  # a minimum is the maximum of the negatives
    with torch.no_grad():
        y, y0 = sign * step.output.detach(), sign * step.reference_output.detach()
        ends = step.inputs, step.reference_inputs  # the lower end of a change does not reach its upper one
        top = torch.maximum(y, y0)
        eps = torch.finfo(top.dtype).eps
        rounding = max(eps, min(_TIED * eps, _ALIKE)) * torch.maximum(y.abs(), y0.abs())
        least, pairs = top - rounding, zip(*(each_candidate(step.operator, x) for x in ends), strict=True)
        largest = torch.stack([torch.maximum(sign * x, sign * x0) >= least for x, x0 in pairs])
        changed = (y - y0).abs() > 2 * rounding  # so that each of these inputs differs from its reference
    return largest & ((largest.sum(0) > 1) & changed)


def share_among(step: Step, tied: Tensor, change: Tensor) -> Multipliers:
    """The multipliers of the inputs if the relevance `change` [N, …] is shared equally among the `tied` candidates.

    `tied`: bool [K, N, …], as `ties` returns it.
    """
    assert step.reference_inputs is not None
    leaves = [x if step.differentiable else x.detach().requires_grad_() for x in step.inputs]
    with torch.enable_grad():
        choice = candidates(step.operator, leaves)
    x0 = candidates(step.operator, step.reference_inputs)
    difference = torch.where(tied, (choice if step.differentiable else choice.detach()) - x0, 1)  # not 0 where tied
    m = torch.where(tied, change / tied.sum(0).clamp(min=1) / difference, 0)
    return step.gradient(choice, leaves, m)


@dataclass(frozen=True)
class Radial(Rule):
    """m = Δy·Δx/‖Δx‖²: the smallest multiplier that conserves, parallel to the difference from the reference.

    For one input it is the secant.
    """

    source: ClassVar[str] = "the secant of a function of several variables, of least norm"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Exact: R_k = Δy·Δx_k²/‖Δx‖²."""
        return _divided(step, multiplier, _radial)


@dataclass(frozen=True)
class Proportional(Rule):
    """Shares proportional to differences of the sign of Δy: R_k = Δy·Δx_k±/Σ Δx±."""

    source: ClassVar[str] = "z⁺ on a maximum: Montavon et al. 2017, sec. 5.1 (proportional pooling)"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Exact: a maximum rises only if one of its inputs rises, and falls only if one falls."""
        return _divided(step, multiplier, _proportional)


@dataclass(frozen=True)
class SoftmaxLimit(Rule):
    """The limit for t → ∞ of the slope rule applied to log Σ exp(t·x)/t, operator by operator.

    A rise goes to the image's largest inputs, a fall to the reference's, in equal shares for ties. From reference 0 all
    inputs tie in the reference, so a negative maximum goes to all in equal shares.
    """

    source: ClassVar[str] = "limit of Softmax(t)"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Exact."""
        return _divided(step, multiplier, _softmax_limit)


@dataclass(frozen=True)
class Softmax(Rule):
    """log Σ exp(t·x)/t in place of the maximum, by the slope rule: exp, sum, log. Conserves its own output.

    The difference between the soft and the hard maximum (at most log K/t) is booked as unexplained.
    """

    t: float = number(10.0, 0, above=True)
    source: ClassVar[str] = "slope rule (Shrikumar et al. 2017, sec. 3.5.1) on log Σ exp(t·x)/t"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Exact up to the difference between the soft and the hard maximum, which is measured."""

        def shares(x: Tensor, x0: Tensor, y: Tensor, y0: Tensor) -> Tensor:  # noqa: ARG001
            return _soft(self.t, x, x0)

        sent = _divided(step, multiplier, shares)
        adjoint = Booked()(step, multiplier)
        assert adjoint.unexplained is not None
        total = adjoint.unexplained  # for the adjoint; corrected below for the multipliers sent
        for i, (m, gradient) in enumerate(zip(sent.multipliers, adjoint.multipliers, strict=True)):
            if isinstance(m, Tensor) and isinstance(gradient, Tensor):
                total = total + per_image((gradient - m) * step.input_difference(i))
        return Sent(sent.multipliers, unexplained=total)


@dataclass(frozen=True)
class Telescoping(Rule):
    """max(a, b) = a + relu(b − a), candidate by candidate in memory order, with the slope rule for relu."""

    source: ClassVar[str] = "slope rule (Shrikumar et al. 2017, sec. 3.5.1) on a + relu(b − a)"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Exact. Depends on the order of the candidates."""
        return _divided(step, multiplier, _telescoping)


# --- the formulas: multipliers of the candidates x [K, …] of each maximum y, from references x0, y0 ----------------

Formula = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a/b, or 0 where b = 0."""
    return torch.where(b == 0, 0, a / torch.where(b == 0, 1, b))


def _difference(x: Tensor, x0: Tensor) -> Tensor:
    """x − x0, or 0 where a candidate is padding (−∞)."""
    return torch.where(x.isneginf(), 0, x - x0)


def _radial(x: Tensor, x0: Tensor, y: Tensor, y0: Tensor) -> Tensor:
    """As `Radial`."""
    dx = _difference(x, x0)
    return _ratio((y - y0) * dx, (dx * dx).sum(0))


def _proportional(x: Tensor, x0: Tensor, y: Tensor, y0: Tensor) -> Tensor:
    """As `Proportional`."""
    dx, dy = _difference(x, x0), y - y0
    along = torch.where(dx * dy > 0, dx, 0)
    return torch.where(along != 0, _ratio(dy, along.sum(0)), 0)


def _softmax_limit(x: Tensor, x0: Tensor, y: Tensor, y0: Tensor) -> Tensor:
    """As `SoftmaxLimit`."""
    dy, real = y - y0, ~x.isneginf()
    largest = real & torch.where(dy > 0, x == y, x0 == y0)
    dx = _difference(x, x0)
    m = _ratio(largest * dy / largest.sum(0).clamp(min=1), dx)
    winners = real & (x == y)
    return torch.where((dy == 0) & (dx == 0), winners / winners.sum(0).clamp(min=1), m)


def _soft(t: float, x: Tensor, x0: Tensor) -> Tensor:
    """(eᵗˣ − eᵗˣ⁰)/(x − x0) · (log S − log S0)/(S − S0)/t with S = Σ eᵗˣ, scaled against overflow."""
    top = torch.maximum(x.amax(0), x0.amax(0))
    s, s0 = (torch.logsumexp(t * (v - top), 0) for v in (x, x0))
    return exponential_slope(t * (x - top), t * (x0 - top)) / exponential_slope(s, s0)


def _telescoping(x: Tensor, x0: Tensor, y: Tensor, y0: Tensor) -> Tensor:  # noqa: ARG001 - formulas share a signature
    """As `Telescoping`. Padding takes no part."""
    rows = [torch.zeros_like(x[0])]
    best, best0, started = x[0], x0[0], ~x[0].isneginf()
    rows[0] = started.to(x)
    for candidate, candidate0 in zip(x[1:], x0[1:], strict=True):
        real = ~candidate.isneginf()
        rise, rise0 = candidate - best, candidate0 - best0
        up, down = rise.clamp(min=0), rise0.clamp(min=0)
        part = torch.where(rise == rise0, (rise > 0).to(x), _ratio(up - down, rise - rise0))
        part = torch.where(real, torch.where(started, part, 1), 0)
        rows = [row * (1 - part) for row in rows] + [part]
        best = torch.where(real, torch.where(started, best + up, candidate), best)
        best0 = torch.where(real, torch.where(started, best0 + down, candidate0), best0)
        started = started | real
    return torch.stack(rows)


def _divided(step: Step, multiplier: Tensor, formula: Formula) -> Sent:
    """The multipliers of the inputs, from `formula`'s multipliers of each maximum's candidates."""
    sign = -1 if facts_of(step.operator).minimum else 1
    references = step.references() or [torch.zeros_like(x) for x in step.inputs]
    leaves = [x if step.differentiable else x.detach().requires_grad_() for x in step.inputs]
    with torch.enable_grad():
        x = candidates(step.operator, leaves)
    with torch.no_grad():
        x0 = candidates(step.operator, references)
    values = x if step.differentiable else x.detach()
    real = torch.isfinite(values)
    x0 = torch.where(real, sign * x0, -math.inf)
    values = torch.where(real, sign * values, -math.inf)
    m = formula(values, x0, values.amax(0), x0.amax(0))
    return Sent(step.gradient(x, leaves, torch.where(real, m * multiplier, 0)))
