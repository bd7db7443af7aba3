"""Rules for layers that read the image itself. They return relevance, not multipliers."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from heatcli.errors import UsageError
from heatcli.graph.kinds import LAYOUT, SUM
from heatcli.graph.operator import Operator
from heatcli.rules.affine import BIAS
from heatcli.rules.numerics import per_image, signed
from heatcli.rules.parameters import choice, number
from heatcli.rules.rule import Rule, Sent, Step
from heatcli.rules.weights import bent, linear


@dataclass(frozen=True)
class WSquare(Rule):
    """R_i = Σ_j w_ij² / (Σ_k w_kj² + b_j²) R_j, independent of the input. The bias takes b_j²/(…)."""

    stabilizer: float = number(1e-6, 0)
    bias: str = choice("book", BIAS)
    source: ClassVar[str] = "Montavon et al. 2017, eq. 12"
    first_only: ClassVar[bool] = True

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Absorbs the stabiliser's share of the denominators."""
        bias = step.bias if self.bias == "book" else None
        squares, ones = step.run(linear(step.operator, torch.square), [torch.ones_like(step.inputs[0])])
        denominator = squares if bias is None else squares + bias**2
        s = multiplier * step.difference / (denominator + self.stabilizer)
        (r,) = step.gradient(squares, ones, s)
        return Sent([None], None if bias is None else s * bias, per_image(s) * self.stabilizer, relevance=r)


@dataclass(frozen=True)
class Flat(Rule):
    """R_i = Σ_j 1/Σ_k 1 · R_j: equal shares for all inputs of a unit."""

    stabilizer: float = number(1e-6, 0)
    source: ClassVar[str] = "Lapuschkin et al. 2019, supplement"
    first_only: ClassVar[bool] = True

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Biases get nothing."""
        counts, ones = step.run(linear(step.operator, torch.ones_like), [torch.ones_like(step.inputs[0])])
        s = multiplier * step.difference / (counts + self.stabilizer)
        (r,) = step.gradient(counts, ones, s)
        return Sent([None], None, per_image(s) * self.stabilizer, relevance=r)


@dataclass(frozen=True)
class ZBox(Rule):
    """R_i = Σ_j (x_i w_ij − l_i w_ij⁺ − h_i w_ij⁻) / Σ_k (…) R_j, for inputs between l and h, the range of pixels."""

    stabilizer: float = number(1e-6, 0)
    source: ClassVar[str] = "Montavon et al. 2017, eq. 19"
    first_only: ClassVar[bool] = True

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Biases get nothing. Raises `UsageError` without the range of pixels."""
        if step.bounds is None:
            raise UsageError("the zB rule needs the range of pixels, which only pictures with a mean and std have")
        (x,), (low, high) = step.inputs, (b.expand_as(step.inputs[0]) for b in step.bounds)
        at_bounds = [step.run(bent(step.operator, sign), [bound]) for sign, bound in ((1, low), (-1, high))]
        bias = step.operator.bias
        z = step.output - at_bounds[0][0] - at_bounds[1][0] - (0 if bias is None else bias)
        stabiliser = signed(self.stabilizer, z)
        s = multiplier * step.difference / (z + stabiliser)
        (to_x,), (to_low,), (to_high,) = step.adjoint(s), *(step.gradient(*run, s) for run in at_bounds)
        assert to_x is not None and to_low is not None and to_high is not None  # noqa: PT018
        r = x * to_x - low * to_low - high * to_high
        return Sent([None], None, per_image(s * stabiliser), relevance=r)


_FILLS = frozenset("constant_pad_nd masked_fill where tril triu".split())


def hand_down(step: Step, relevance: MutableMapping[str, Tensor]) -> Tensor | None:
    """Move the relevance of a step's output, before the first layers, to its inputs. `relevance`: by name of the value.

    Returns the relevance [N] of elements that come from no pixel, such as padding; None if there are none.
    """
    operator, arrived = step.operator, relevance.pop(step.operator.name)
    moves = operator.kind in (LAYOUT, SUM)
    moved = step.adjoint(arrived) if moves else [arrived]  # a scale or a shift keeps every element's relevance
    for name, x, part in zip(operator.sources, step.inputs, moved, strict=True):
        if part is not None:
            relevance[name] = relevance.get(name, 0) + part.sum_to_size(x.shape)
    if not moves or not _fills(operator):
        return None
    return per_image(arrived) - sum(per_image(part) for part in moved if part is not None)


def _fills(operator: Operator) -> bool:
    """Whether a layout inserts numbers into its output that do not come from its input."""
    return operator.title in _FILLS or any(c.value.is_floating_point() for c in operator.constants)
