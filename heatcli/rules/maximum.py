"""Rules for maxima: max pooling, amax, the larger of two tensors; minima are maxima of the negatives.

`Winner` is one walk of the operator's own gradient. The others lay the candidates of each maximum out, [K, …], divide
the change among them by a formula, and take that back.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from heatcli.graph.facts import facts_of
from heatcli.graph.operator import Operator
from heatcli.parameters import Parameters, number
from heatcli.rules.base import Booked, Sent, Step, exponential_slope, per_image, quotient, recorded

_TIED = 16  # rounding steps within which values tie


@dataclass(frozen=True)
class Winner(Parameters):
    """The winner takes all: the gradient. With a baseline, a rise goes to the image's winner, a fall to the baseline's.

    y − y0 = (max(y, y0) − y0) + (y − max(y, y0)): the first part is due to the image's winner, whose own difference
    is at least as large, the second to the baseline's; each gets its part over its difference. Where several inputs of
    a window are the baseline's largest up to rounding, as everywhere on a flat one, they share its part equally.
    """

    source: ClassVar[str] = "gradient; with a baseline as SHAP's and Captum's DeepLIFT split max pooling"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Exact with either reference."""
        if step.blamed:
            return Sent(step.adjoint(multiplier))
        dy = step.difference
        risen, fallen = multiplier * dy.clamp(min=0), multiplier * dy.clamp(max=0)
        if facts_of(step.operator).indexed:
            return Sent([_by_index(step, risen, fallen, multiplier / 2)])
        references = step.references()
        assert references is not None
        if facts_of(step.operator).minimum:
            risen, fallen = fallen, risen
        sums = _adjoints(step, references, risen, fallen)
        means = _adjoints(step, references, multiplier / 2, multiplier / 2)  # for where a difference is 0
        pairs = enumerate(zip(sums, means, strict=True))
        return Sent([quotient(m, step.input_difference(i), mean) for i, (m, mean) in pairs])


def _by_index(step: Step, risen: Tensor, fallen: Tensor, half: Tensor) -> Tensor:
    """The multiplier of the input where it is known which won: divided window by window, so with less to divide.

    `half` goes to a winner whose difference is 0. All are of the output's shape.
    """
    assert step.reference_inputs is not None
    assert step.reference_output is not None
    which, space = replace(step.operator, index=1), _dimensions(step.operator)

    def flat(values: Tensor) -> Tensor:
        """[N, positions, C], as channels last lie in memory."""
        return values.movedim(-space - 1, -1).flatten(-space - 1, -2)

    def lifted(values: Tensor, like: Tensor) -> Tensor:
        return values.reshape(like.movedim(-space - 1, -1).shape).movedim(-1, -space - 1)

    x, x0, y, y0 = step.inputs[0], step.reference_inputs[0], step.output, step.reference_output
    with torch.no_grad():
        at_image, at_baseline = (flat(which.run(step.others, [v]).expand_as(y)) for v in (x, x0))
    own = y - lifted(flat(x0.expand_as(x)).gather(-2, at_image), y)
    (m,) = step.adjoint(quotient(risen, own, half))
    assert m is not None
    tied = _tied(step)
    shared = tied.any(0)
    if recorded() or bool(shared.any()):
        m = _total(m, _shared(step, tied, torch.where(shared, fallen, 0)))
        fallen, half = torch.where(shared, 0, fallen), torch.where(shared, 0, half)
    other = lifted(flat(x).gather(-2, at_baseline), y) - y0
    fallen = flat(quotient(fallen, other, half))
    summed = flat(m).scatter_add if torch.is_grad_enabled() else flat(m).scatter_add_
    return lifted(summed(-2, at_baseline, fallen), x)


def _tied(step: Step) -> Tensor:
    """Which candidates of each maximum tie for the baseline's largest, where the output fell: bool [K, N, …]."""
    assert step.reference_inputs is not None
    assert step.reference_output is not None
    y0 = step.reference_output.detach()
    rounding = y0.abs() * (_TIED * torch.finfo(y0.dtype).eps)
    with torch.no_grad():
        largest = candidates(step.operator, step.reference_inputs) >= y0 - rounding
    return largest & ((largest.sum(0) > 1) & (step.output.detach() < y0 - rounding))


def _shared(step: Step, tied: Tensor, fallen: Tensor) -> Tensor:
    """The multiplier of the input where the relevance `fallen` is shared equally among candidates that are `tied`."""
    assert step.reference_inputs is not None
    (x,) = step.inputs
    leaf = x if step.differentiable else x.detach().requires_grad_()
    with torch.enable_grad():
        choice = candidates(step.operator, [leaf])
    x0 = candidates(step.operator, step.reference_inputs)
    change = torch.where(tied, (choice if step.differentiable else choice.detach()) - x0, 1)  # below 0 where tied
    m = torch.where(tied, fallen / tied.sum(0).clamp(min=1) / change, 0)
    (found,) = step.gradient(choice, [leaf], m)
    assert found is not None
    return found


def _adjoints(step: Step, references: Sequence[Tensor], at_image: Tensor, at_baseline: Tensor) -> list[Tensor]:
    """For each input, `at_image` taken back from the image's output and `at_baseline` from the baseline's, summed."""
    found = step.adjoint(at_image)
    other = step.gradient(*step.run(step.operator, references), at_baseline)
    return [_total(a, b) for a, b in zip(found, other, strict=True)]


def _total(a: Tensor | None, b: Tensor | None) -> Tensor:
    """a + b; None is nothing."""
    found = [part for part in (a, b) if part is not None]
    if len(found) == 1:
        return found[0]
    return found[0] + found[1] if torch.is_grad_enabled() else found[0].add_(found[1])


@dataclass(frozen=True)
class Radial(Parameters):
    """m = Δy·Δx/‖Δx‖²: the smallest multiplier that conserves, along the way from the reference to the image.

    Of one input it is the slope.
    """

    source: ClassVar[str] = "the secant of a function of several variables, of least norm"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Exact: R_k = Δy·Δx_k²/‖Δx‖²."""
        return _divided(step, multiplier, _radial)


@dataclass(frozen=True)
class Proportional(Parameters):
    """In proportion to what points the way of the change: R_k = Δy·Δx_k±/Σ Δx±, the sign that of Δy."""

    source: ClassVar[str] = "z⁺ on a maximum: Montavon et al. 2017, sec. 5.1 (proportional pooling)"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Exact: a maximum never rises unless one of its inputs does, nor falls."""
        return _divided(step, multiplier, _proportional)


@dataclass(frozen=True)
class SoftmaxLimit(Parameters):
    """The limit for t → ∞ of log Σ exp(t·x)/t by the slope rule, operator by operator.

    A rise goes to the image's largest inputs, a fall to the reference's, in equal shares where several are largest;
    from reference 0 all inputs are the reference's largest, so a negative maximum falls to all alike.
    """

    source: ClassVar[str] = "limit of Softmax(t)"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Exact."""
        return _divided(step, multiplier, _softmax_limit)


@dataclass(frozen=True)
class Softmax(Parameters):
    """log Σ exp(t·x)/t in place of the maximum, by the slope rule: exp, sum, log. Conserves its own output.

    What the soft maximum misses the hard one by (at most log K/t) is booked as unexplained.
    """

    t: float = number(10.0, 0, above=True)
    source: ClassVar[str] = "slope rule (Shrikumar et al. 2017, sec. 3.5.1) on log Σ exp(t·x)/t"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Exact up to the difference between the soft and the hard maximum, which is measured."""

        def shares(x: Tensor, x0: Tensor, y: Tensor, y0: Tensor) -> Tensor:  # noqa: ARG001
            return _soft(self.t, x, x0)

        sent = _divided(step, multiplier, shares)
        left = Booked()(step, multiplier)
        assert left.unexplained is not None
        total = left.unexplained  # of the adjoint; now of what was really sent
        for i, (own, gradient) in enumerate(zip(sent.multipliers, left.multipliers, strict=True)):
            if isinstance(own, Tensor) and isinstance(gradient, Tensor):
                total = total + per_image((gradient - own) * step.input_difference(i))
        return Sent(sent.multipliers, unexplained=total)


@dataclass(frozen=True)
class Telescoping(Parameters):
    """max(a, b) = a + relu(b − a), one candidate after the other in the order of memory, relu by the slope rule."""

    source: ClassVar[str] = "slope rule (Shrikumar et al. 2017, sec. 3.5.1) on a + relu(b − a)"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Exact; depends on the order of the candidates."""
        return _divided(step, multiplier, _telescoping)


# --- the formulas: multipliers of the candidates x [K, …] of each maximum y, from references x0, y0 ----------------

Formula = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a/b, and 0 where b is."""
    return torch.where(b == 0, 0, a / torch.where(b == 0, 1, b))


def _difference(x: Tensor, x0: Tensor) -> Tensor:
    """x − x0, and 0 where a candidate is padding (−∞)."""
    return torch.where(x.isneginf(), 0, x - x0)


def _radial(x: Tensor, x0: Tensor, y: Tensor, y0: Tensor) -> Tensor:
    dx = _difference(x, x0)
    return _ratio((y - y0) * dx, (dx * dx).sum(0))


def _proportional(x: Tensor, x0: Tensor, y: Tensor, y0: Tensor) -> Tensor:
    dx, dy = _difference(x, x0), y - y0
    way = torch.where(dx * dy > 0, dx, 0)
    return torch.where(way != 0, _ratio(dy, way.sum(0)), 0)


def _softmax_limit(x: Tensor, x0: Tensor, y: Tensor, y0: Tensor) -> Tensor:
    dy, real = y - y0, ~x.isneginf()
    largest = real & torch.where(dy > 0, x == y, x0 == y0)
    dx = _difference(x, x0)
    m = _ratio(largest * dy / largest.sum(0).clamp(min=1), dx)
    winners = real & (x == y)
    return torch.where((dy == 0) & (dx == 0), winners / winners.sum(0).clamp(min=1), m)


def _soft(t: float, x: Tensor, x0: Tensor) -> Tensor:
    """(eᵗˣ − eᵗˣ⁰)/(x − x0) · (log S − log S0)/(S − S0)/t with S = Σ eᵗˣ, scaled so that nothing overflows."""
    top = torch.maximum(x.amax(0), x0.amax(0))
    s, s0 = (torch.logsumexp(t * (v - top), 0) for v in (x, x0))
    return exponential_slope(t * (x - top), t * (x0 - top)) / exponential_slope(s, s0)


def _telescoping(x: Tensor, x0: Tensor, y: Tensor, y0: Tensor) -> Tensor:  # noqa: ARG001 - formulas share a signature
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


# --- candidates ---------------------------------------------------------------------------------------------------


def _divided(step: Step, multiplier: Tensor, formula: Formula) -> Sent:
    """Multipliers of the inputs, from those that `formula` gives each candidate of each maximum."""
    sign = -1 if facts_of(step.operator).minimum else 1
    references = step.references() or [torch.zeros_like(x) for x in step.inputs]
    leaves = [x if step.differentiable else x.detach().requires_grad_() for x in step.inputs]
    with torch.enable_grad():
        x = candidates(step.operator, leaves)
    with torch.no_grad():
        x0 = candidates(step.operator, references)
    own = x if step.differentiable else x.detach()
    real = torch.isfinite(own)
    x0 = torch.where(real, sign * x0, -math.inf)
    own = torch.where(real, sign * own, -math.inf)
    m = formula(own, x0, own.amax(0), x0.amax(0))
    return Sent(step.gradient(x, leaves, torch.where(real, m * multiplier, 0)))


def candidates(operator: Operator, inputs: Sequence[Tensor]) -> Tensor:
    """What each maximum of `operator` chooses from: [K, *output], padded with −∞ (for minima with +∞)."""
    title = operator.title
    if title in ("maximum", "minimum"):
        return torch.stack([x.expand(operator.shape) for x in inputs])
    (x,) = inputs
    if title in ("amax", "amin", "max", "min"):
        return _along(x, operator)
    windows = _adaptive_windows if title.startswith("adaptive") else _pooling_windows
    space = _dimensions(operator)
    tables = windows(operator, tuple(x.shape[-space:]), operator.shape[-space:])
    return _gathered(x, tables)


def _dimensions(operator: Operator) -> int:
    """How many dimensions, the last ones, a pooling's windows have."""
    return int(operator.title[operator.title.index("pool") + 4])


def _along(x: Tensor, operator: Operator) -> Tensor:
    dims = operator.arg(1)
    whole = dims is None or dims == []
    chosen = range(x.dim()) if whole else [dims] if isinstance(dims, int) else dims
    gone = sorted(d % x.dim() for d in chosen)
    kept = [d for d in range(x.dim()) if d not in gone]
    laid_out = x.permute(*gone, *kept).reshape(-1, *(x.shape[d] for d in kept))
    return laid_out.reshape(-1, *operator.shape)


def _pooling_windows(operator: Operator, sizes: Sequence[int], out: Sequence[int]) -> list[Tensor]:
    """For each dimension which inputs each output sees, int64 [out, K]; −1 is padding."""
    n = len(sizes)

    def each(value: Any, otherwise: Sequence[int]) -> Sequence[int]:
        given = [value] if isinstance(value, int) else list(value or [])
        return given * n if len(given) == 1 else given or otherwise

    kernel = each(operator.arg(1), ())
    stride, padding, dilation = (
        each(operator.arg(i), otherwise) for i, otherwise in ((2, kernel), (3, [0] * n), (4, [1] * n))
    )
    tables = []
    for d in range(n):
        at = torch.arange(out[d])[:, None] * stride[d] - padding[d] + torch.arange(kernel[d])[None] * dilation[d]
        tables.append(torch.where((at >= 0) & (at < sizes[d]), at, -1))
    return tables


def _adaptive_windows(operator: Operator, sizes: Sequence[int], out: Sequence[int]) -> list[Tensor]:  # noqa: ARG001
    tables = []
    for size, cells in zip(sizes, out, strict=True):
        spans = [(i * size // cells, -(-(i + 1) * size // cells)) for i in range(cells)]
        width = max(end - start for start, end in spans)
        at = torch.tensor([start for start, _ in spans])[:, None] + torch.arange(width)[None]
        tables.append(torch.where(at < torch.tensor([end for _, end in spans])[:, None], at, -1))
    return tables


def _gathered(x: Tensor, tables: Sequence[Tensor]) -> Tensor:
    """The inputs at every combination of one column of each table: [K, …, *out]."""
    space = len(tables)
    found = []
    for columns in itertools.product(*(range(table.shape[1]) for table in tables)):
        part, real = x, torch.ones((1,) * space, dtype=torch.bool)
        for d, (table, column) in enumerate(zip(tables, columns, strict=True)):
            at = table[:, column]
            part = part.index_select(d - space, at.clamp(min=0).to(x.device))
            real = real & (at >= 0).reshape([-1 if i == d else 1 for i in range(space)])
        found.append(part.masked_fill(~real.to(x.device), -math.inf))
    return torch.stack(found)
