"""DeepLIFT's RevealCancel: positive and negative contributions are kept apart, so cancelling ones stay visible.

Every value has two parts, Δ⁺ ≥ 0 and Δ⁻ ≤ 0 with Δ⁺ + Δ⁻ = Δ. Between a layer with weights and its nonlinearity each
part has its own multiplier (`Pair`). `RevealCancel` creates pairs, `Parts` propagates them through affine operators
and sums.

"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from heatcli.graph.facts import facts_of
from heatcli.graph.kinds import AFFINE, CONVOLUTION, DENSE, ELEMENTWISE, LAYOUT, SUM, has_weights, is_diagonal
from heatcli.rules.affine import offsets_at
from heatcli.rules.carried import at_output
from heatcli.rules.elementwise import Slope, slope
from heatcli.rules.numerics import per_image, quotient
from heatcli.rules.parameters import choice
from heatcli.rules.rule import Carried, Rule, Sent, Step
from heatcli.rules.weights import Signs

Two = tuple[Tensor, Tensor]
_ROUNDINGS = 64  # rounding errors of a part, a sum of a few values of f


@dataclass(frozen=True, slots=True, eq=False)
class Pair(Carried):
    """Two multipliers of one value: for the positive and the negative part of its difference from the reference."""

    positive: Tensor
    negative: Tensor

    def at_output(self, step: Step) -> tuple[Tensor, Tensor | None]:
        """One multiplier with the same relevance. It is lost where opposite parts cancel to a difference of 0."""
        up, down = parts(step)
        relevance, difference = self.positive * up + self.negative * down, step.difference
        m = quotient(relevance, difference, (self.positive + self.negative) / 2)
        return m, per_image(torch.where(difference == 0, relevance, 0))

    def at_image(self, difference: Tensor) -> Tensor:
        """The multiplier of the part that a pixel's difference belongs to; `difference`: [N, …]."""
        return torch.where(difference > 0, self.positive, self.negative)

    def __add__(self, other: Tensor | Carried) -> Tensor | Carried:
        if isinstance(other, Pair):
            return Pair(self.positive + other.positive, self.negative + other.negative)
        if isinstance(other, Carried):
            return other + self
        return Pair(self.positive + other, self.negative + other)


@dataclass(frozen=True)
class Parts(Rule):
    """DeepLIFT's linear rule with positive and negative contributions kept apart, ½w where the difference is 0.

    Contributions to Δz⁺ get the multiplier of Δz⁺, contributions to Δz⁻ that of Δz⁻. Sums, layouts and scales pass on
    both. A single multiplier serves both parts: then this is the linear rule.
    """

    accepts: ClassVar[tuple[type[Carried], ...]] = (Pair,)
    source: ClassVar[str] = "Shrikumar et al. 2017, sec. 3.5.2"

    def __call__(self, step: Step, multiplier: Tensor | Pair) -> Sent:
        """Exact. A bias belongs to the part of its sign."""
        if not isinstance(multiplier, Pair):
            return Sent(step.adjoint(multiplier), offsets_at=multiplier)
        up, down = multiplier.positive, multiplier.negative
        booked = offsets_at(step.bias, up, down)
        if has_weights(step.operator):
            return Sent([self.signs(step).back(up, down, halved=True)], booked)
        if is_diagonal(step.operator):
            falls = _scale(step) < 0
            up, down = torch.where(falls, down, up), torch.where(falls, up, down)
        rise, fall = step.adjoint(up), step.adjoint(down)
        swapped = _falling(step)
        pairs: list[Tensor | Pair | None] = []
        for r, f, swap in zip(rise, fall, swapped, strict=True):
            if r is None or f is None:
                pairs.append(None)
            else:
                pairs.append(Pair(torch.where(swap, f, r), torch.where(swap, r, f)))
        return Sent(pairs, booked)

    def signs(self, step: Step) -> Signs:
        """The contributions of a layer with weights, by sign."""
        return Signs(step)


@dataclass(frozen=True)
class RevealCancel(Rule):
    """Δy⁺ and Δy⁻, each the mean effect of adding its part of Δx first and last, with a multiplier for each part.

    Δy⁺ = ½(f(x0+Δx⁺) − f(x0)) + ½(f(x0+Δx⁻+Δx⁺) − f(x0+Δx⁻)), Δy⁻ likewise, m± = m·Δy±/Δx±. `layers="dense"` applies
    this after dense layers and the slope rule after convolutions, as the paper's genomics model does.
    """

    layers: str = choice("all", ("all", "dense"))
    accepts: ClassVar[tuple[type[Carried], ...]] = (Pair,)
    source: ClassVar[str] = "Shrikumar et al. 2017, sec. 3.5.3"

    def __call__(self, step: Step, multiplier: Tensor | Pair) -> Sent:
        """Exact: m⁺Δy⁺ + m⁻Δy⁻ = m_in⁺Δx⁺ + m_in⁻Δx⁻ (+ f(0), booked)."""
        if not self.reveals(step):
            return Slope()(step, at_output(multiplier, step)[0])
        m = multiplier if isinstance(multiplier, Pair) else Pair(multiplier, multiplier)
        (up, down), (rise, fall) = _parts_of_input(step, 0), _effects(step, self)
        limit = self.slope(step)
        to_up = m.positive * quotient(rise, up, limit)
        to_down = m.negative * quotient(fall, down, limit)
        return Sent([Pair(to_up, to_down)], offsets_at(step.bias, m.positive, m.negative))

    def slope(self, step: Step) -> Tensor:
        """The secant of the nonlinearity, with the output's shape."""
        return slope(step)

    def reveals(self, step: Step) -> bool:
        """Whether the rule keeps parts apart at this nonlinearity. Elsewhere it is the slope rule."""
        if step.inputs[0].shape != step.output.shape or (step.without_reference and not step.operator.finite_at_zero):
            return False
        return self.layers == "all" or not _behind_convolution(step)


def _behind_convolution(step: Step) -> bool:
    """Whether the last layer with weights before this nonlinearity is a convolution."""
    producer = step.producers[0] if step.producers else None
    while producer is not None:
        operator = producer.operator
        if operator.role == CONVOLUTION:
            return True
        if operator.role == DENSE or operator.kind not in (LAYOUT, SUM, ELEMENTWISE, AFFINE):
            return False
        producer = producer.producers[0]
    return False


# --- the parts of every value -------------------------------------------------------------------------------------


def parts(step: Step) -> Two:
    """Δ⁺ and Δ⁻ of the step's output, as the rules before it keep them apart; cached."""
    if step.parts is None:
        step.parts = _parts(step)
    return step.parts


def _parts(step: Step) -> Two:
    """As `parts`, computed anew."""
    operator, bias = step.operator, step.bias
    if has_weights(operator):
        signs = step.rule.signs(step) if isinstance(step.rule, Parts) else Signs(step)
        return signs.positive(bias), signs.negative(bias)
    if operator.kind == ELEMENTWISE and isinstance(step.rule, RevealCancel):
        up, down = (
            _effects(step, step.rule)
            if step.rule.reveals(step)
            else _scaled(step.rule.slope(step), _parts_of_input(step, 0))
        )
    elif is_diagonal(operator):
        up, down = _scaled(_scale(step), _parts_of_input(step, 0))
    elif operator.kind in (AFFINE, SUM, LAYOUT):
        incoming, swapped = [_parts_of_input(step, i) for i in range(len(step.inputs))], _falling(step)
        rising = [torch.where(swap, down, up) for (up, down), swap in zip(incoming, swapped, strict=True)]
        falling = [torch.where(swap, up, down) for (up, down), swap in zip(incoming, swapped, strict=True)]
        up, down = (operator.run(step.others, side) for side in (rising, falling))
        if operator.bias is not None:  # constants among the arguments cancel in a difference
            up, down = up - operator.bias, down - operator.bias
    else:
        return step.difference.clamp(min=0), step.difference.clamp(max=0)
    return (up, down) if bias is None else (up + bias.clamp(min=0), down + bias.clamp(max=0))


def _parts_of_input(step: Step, i: int) -> Two:
    """Δ⁺ and Δ⁻ of input `i`: those of the step that computed it, of the image the difference by its sign."""
    producer = step.producers[i] if step.producers else None
    if producer is not None:
        return parts(producer)
    dx = step.input_difference(i)
    return dx.clamp(min=0), dx.clamp(max=0)


def _effects(step: Step, rule: RevealCancel) -> Two:
    """Δy⁺ and Δy⁻ of a nonlinearity, without f(0)."""
    up, down = _parts_of_input(step, 0)
    references = step.references()
    x0 = torch.zeros_like(up) if references is None else references[0]

    def f(x: Tensor) -> Tensor:
        return step.operator.run(step.others, [x])

    start, end, high, low = f(x0), f(x0 + up + down), f(x0 + up), f(x0 + down)
    rise, fall = (high - start + end - low) / 2, (low - start + end - high) / 2
    if not facts_of(step.operator).steep:
        return rise, fall
    # √x and others may be undefined where one part alone is added. Near the edge of their domain rounding would decide.
    margin = _ROUNDINGS * torch.finfo(x0.dtype).eps * (x0.abs() + up.abs() + down.abs())
    inside = f(x0 + up - margin).isfinite() & f(x0 + down - margin).isfinite() & rise.isfinite() & fall.isfinite()
    secant = rule.slope(step)
    return torch.where(inside, rise, secant * up), torch.where(inside, fall, secant * down)


def _scaled(scale: Tensor, two: Two) -> Two:
    """Both parts times `scale`, swapped where `scale` is negative."""
    a, b = scale * two[0], scale * two[1]
    return torch.where(scale < 0, b, a), torch.where(scale < 0, a, b)


def _scale(step: Step) -> Tensor:
    """The factor by which a diagonal operator scales each element, with the output's shape."""
    if step.inputs[0].shape == step.output.shape:
        (scale,) = step.adjoint(torch.ones_like(step.output))
        assert scale is not None
        return scale
    scaled = step.operator.run(step.others, [torch.ones_like(step.inputs[0])])  # the constant has more elements
    return scaled if step.operator.bias is None else scaled - step.operator.bias


def _falling(step: Step) -> list[Tensor]:
    """For each input of a sum, whether the output falls as the input rises: bool []."""
    title, alpha = step.operator.title, step.operator.kwargs.get("alpha", 1)
    falls = [False] * len(step.inputs)
    if title == "rsub":
        falls[0] = True
    elif title in ("add", "sub") and len(falls) > 1:
        falls[1] = (alpha > 0) == (title == "sub")
    return [torch.tensor(x, device=step.output.device) for x in falls]
