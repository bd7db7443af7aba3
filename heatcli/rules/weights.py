"""Convolutions and dense layers without bias and with changed weights: positive only, squared, ones.

`Signs` separates contributions that increase an output from contributions that decrease it.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from heatcli.graph.adjoints import closed_form
from heatcli.graph.operator import Constant, Operator
from heatcli.rules.rule import Step

_ATEN = torch.ops.aten
_WITHOUT_BIAS = {"addmm": _ATEN.mm.default, "baddbmm": _ATEN.bmm.default}
# Layers with weights of one sign, by the original layer; and the weights, shared by the graphs of all batch sizes.
_BENT: WeakKeyDictionary[Operator, dict[int, Operator]] = WeakKeyDictionary()
_CUT: MutableMapping[Tensor, dict[int, Tensor]] = WeakTensorKeyDictionary()


def linear(operator: Operator, change: Callable[[Tensor], Tensor]) -> Operator:
    """The same layer without bias, with weights `change(w)`, of the same shape, in place of `w`."""
    args: list[Any] = list(operator.args)
    kwargs = dict(operator.kwargs)
    target, scale = operator.target, 1
    if operator.title in _WITHOUT_BIAS:
        target = _WITHOUT_BIAS[operator.title]
        scale = kwargs.pop("alpha", 1)
        kwargs.pop("beta", None)
        del args[0]
    elif operator.title in ("convolution", "linear") and len(args) > 2:
        args[2] = None
    position = next(i for i, x in enumerate(args) if isinstance(x, Constant))
    weights = args[position]
    args[position] = Constant(weights.name, change(weights.value if scale == 1 else weights.value * scale))
    return replace(operator, target=target, args=tuple(args), kwargs=kwargs, offsets=())


def bent(operator: Operator, sign: int) -> Operator:
    """The same layer without bias, with only the positive (`sign` 1) or only the negative (−1) weights."""

    def cut(weights: Tensor) -> Tensor:
        """The weights of that sign, others 0; cached."""
        known = _CUT.setdefault(weights, {})
        if sign not in known:
            known[sign] = weights.clamp(min=0) if sign > 0 else weights.clamp(max=0)
        return known[sign]

    known = _BENT.setdefault(operator, {})
    if sign not in known:
        known[sign] = linear(operator, cut)
    return known[sign]


def forget() -> None:
    """Forget the weights of one sign. The next record then computes them, as any other does."""
    _BENT.clear()
    _CUT.clear()


class Signs:
    """One layer's contributions x_i w_ij, separated by sign. x [N, …] is the difference from x0.

    With A⁺ and A⁻ the layer with weights of one sign, the positive contributions sum to A⁺x⁺ + A⁻x⁻, the negative ones
    to A⁻x⁺ + A⁺x⁻. Sums and their multipliers have the output's shape.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.x = step.input_difference(0)

    def positive(self, bias: Tensor | None, stabiliser: float = 0.0) -> Tensor:
        """Σ_i (x_i w_ij)⁺ + b_j⁺ + stabiliser; `bias` broadcasts against the output."""
        return self._sum(1) + (0.0 if bias is None else bias.clamp(min=0)) + stabiliser

    def negative(self, bias: Tensor | None, stabiliser: float = 0.0) -> Tensor:
        """Σ_i (x_i w_ij)⁻ + b_j⁻ − stabiliser, a number ≤ 0; `bias` broadcasts against the output."""
        return self._sum(-1) + (0.0 if bias is None else bias.clamp(max=0)) - stabiliser

    def _sum(self, sign: int) -> Tensor:
        """The sum of the contributions of that sign."""
        above, below = (bent(self.step.operator, s) for s in (sign, -sign))
        others = self.step.others
        return above.run(others, [self.x.clamp(min=0)]) + below.run(others, [self.x.clamp(max=0)])

    def back(self, to_positive: Tensor | None, to_negative: Tensor | None, halved: bool = False) -> Tensor:
        """The multipliers of x: `to_positive` weights contributions above 0, `to_negative` those below; both [N, …].

        Where x = 0 there are no contributions. Then the weights for x > 0 apply, or, `halved`, the mean of both sides.
        """
        above, below = self.one_side(to_positive, to_negative), self.one_side(to_negative, to_positive)
        m = torch.where(self.x < 0, below, above)
        return torch.where(self.x == 0, (above + below) / 2, m) if halved else m

    def one_side(self, to_positive_weights: Tensor | None, to_negative_weights: Tensor | None) -> Tensor:
        """The multipliers of x > 0, whose contributions have the sign of the weight.

        `to_positive_weights`, `to_negative_weights` [N, …]: multipliers of the sums of either sign. None: that sign
        gets nothing.
        """
        sides = ((1, to_positive_weights), (-1, to_negative_weights))
        first, *rest = [self._adjoint(sign, m) for sign, m in sides if m is not None]
        return sum(rest, first)

    def _adjoint(self, sign: int, multiplier: Tensor) -> Tensor:
        """The multipliers of x through the weights of that sign."""
        operator = bent(self.step.operator, sign)
        product = closed_form(operator)
        if product is not None:
            return product(operator, [self.x], self.step.output, multiplier)[0]
        (back,) = self.step.gradient(*self.step.run(operator, [self.x]), multiplier)
        assert back is not None  # a layer with weights depends on its input
        return back
