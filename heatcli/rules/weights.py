"""Convolutions and dense layers without their bias, with other weights: the positive ones, the squares, ones.

`Signs` keeps what counts towards a larger output apart from what counts towards a smaller one.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import replace
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from heatcli.graph.adjoints import closed_form
from heatcli.graph.operator import Constant, Operator
from heatcli.rules.base import Step, above_zero, below_zero, recorded

_ATEN = torch.ops.aten
_WITHOUT_BIAS = {"addmm": _ATEN.mm.default, "baddbmm": _ATEN.bmm.default}
# Layers with weights of one sign, by the layer that they come from; and the weights, which layers of graphs for other
# batch sizes share.
_BENT: WeakKeyDictionary[Operator, dict[int, Operator]] = WeakKeyDictionary()
_CUT: MutableMapping[Tensor, dict[int, Tensor]] = WeakTensorKeyDictionary()


def linear(operator: Operator, change: Callable[[Tensor], Tensor]) -> Operator:
    """The same layer without a bias, its weights `w` replaced by `change(w)`."""
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
    """The same layer without a bias, with weights of one sign only: the positive (1) or the negative ones (−1)."""

    def cut(weights: Tensor) -> Tensor:
        """The weights of that sign, others 0; made once."""
        known = _CUT.setdefault(weights, {})
        if sign not in known:
            known[sign] = weights.clamp(min=0) if sign > 0 else weights.clamp(max=0)
        return known[sign]

    known = _BENT.setdefault(operator, {})
    if sign not in known:
        known[sign] = linear(operator, cut)
    return known[sign]


class Signs:
    """One layer's contributions x_i w_ij, those above zero apart from those below. x is the difference from x0.

    With A⁺ and A⁻ the layer with weights of one sign, the positive ones sum to A⁺x⁺ + A⁻x⁻.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.x = step.input_difference(0) if step.differentiable else step.input_difference(0).detach()

    @cached_property
    def _one_sided(self) -> bool:
        producer = self.step.producers[0] if self.step.producers else None
        if self.step.differentiable:
            return False
        if self.step.blamed and producer is not None and producer.operator.nonnegative:
            return True
        if recorded() or bool(self.x[0].amin() < 0):  # one image mostly tells
            return False
        return bool(self.x.amin() >= 0)

    def _apply(self, sign: int, x: Tensor) -> Tensor:
        """The layer with weights of that sign on x."""
        with torch.set_grad_enabled(self.step.differentiable):
            return bent(self.step.operator, sign).run(self.step.others, [x])

    def _adjoint(self, sign: int, multiplier: Tensor) -> Tensor:
        operator = bent(self.step.operator, sign)
        product = closed_form(operator)
        if product is not None:
            return product(operator, [self.x], self.step.output, multiplier)[0]
        (found,) = self.step.gradient(*self.step.run(operator, [self.x]), multiplier)
        assert found is not None
        return found

    def positive(self, bias: Tensor | None, stabiliser: float = 0.0) -> Tensor:
        """Σ_i (x_i w_ij)⁺ + b_j⁺ + stabiliser."""
        return self._sum(1, (0.0 if bias is None else bias.clamp(min=0)) + stabiliser)

    def negative(self, bias: Tensor | None, stabiliser: float = 0.0) -> Tensor:
        """Σ_i (x_i w_ij)⁻ + b_j⁻ − stabiliser, a number ≤ 0."""
        return self._sum(-1, (0.0 if bias is None else bias.clamp(max=0)) - stabiliser)

    def _sum(self, sign: int, more: Tensor | float) -> Tensor:
        if self._one_sided:
            return self._plus(self._apply(sign, self.x), more)
        part = self.x.clamp(min=0)
        found = self._apply(sign, part)
        part = self.x.clamp(max=0) if self.step.differentiable else torch.clamp(self.x, max=0, out=part)
        return self._plus(self._plus(found, self._apply(-sign, part)), more)

    def _plus(self, own: Tensor, more: Tensor | float) -> Tensor:
        return own + more if self.step.differentiable else own.add_(more)

    def back(self, to_positive: Tensor | None, to_negative: Tensor | None, halved: bool = False) -> Tensor:
        """Multipliers of x: contributions above zero weighted by `to_positive`, those below by `to_negative`.

        Where x = 0 there are none: then the weights of x > 0, or `halved` the mean of both sides.
        """
        above = self._back(to_positive, to_negative)
        if self._one_sided and not halved:
            return above
        below = self._back(to_negative, to_positive)
        over, under = (None, None) if halved or self.step.differentiable else (above, below)
        m = self._plus(above_zero(above, self.x, over), below_zero(below, self.x, under))
        return torch.where(self.x == 0, (above + below) / 2, m) if halved else m

    def _back(self, over_positive_weights: Tensor | None, over_negative_weights: Tensor | None) -> Tensor:
        sent = ((1, over_positive_weights), (-1, over_negative_weights))
        first, *rest = [self._adjoint(sign, multiplier) for sign, multiplier in sent if multiplier is not None]
        return sum(rest, first)
