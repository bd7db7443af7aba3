"""Rules for elementwise nonlinearities y = f(x)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from heatcli.rules.base import Booked, Sent, Step

# f(c·x) = c·f(x) for c > 0, so the slope from 0 is the gradient.
_HOMOGENEOUS = frozenset("relu leaky_relu _prelu_kernel prelu abs".split())
# Piecewise linear through exact arithmetic: differences carry no rounding error worth avoiding.
_EXACT = _HOMOGENEOUS | frozenset("hardtanh clamp clamp_min clamp_max threshold maximum minimum".split())
# A slope whose rounding error would exceed a thousandth is replaced by the derivative halfway.
_ROUNDING = 1e3


@dataclass(frozen=True)
class Slope:
    """m_in = m·(f(x) − f(x0)) / (x − x0), the secant; the derivative where x = x0.

    DeepLIFT's rescale rule; from reference 0 it hands an activation's relevance through unchanged (LRP's rule for
    nonlinearities), and f(0) is booked as the operator's offset.
    """

    source: ClassVar[str] = "Shrikumar et al. 2017, sec. 3.5.1 (rescale)"

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        """Exact: m·(y − y0) = m_in·(x − x0)."""
        operator, blamed = step.operator, step.reference_inputs is None
        if blamed and operator.title in _HOMOGENEOUS:
            return Sent(step.adjoint(multiplier))
        if blamed and not operator.vanishes:
            return Booked()(step, multiplier)
        x, dx = step.inputs[0], step.input_difference(0)
        dy = step.difference
        if blamed and operator.offsets:
            dy = dy - operator.offsets[0].value
        rounding: Tensor | float = 0.0
        if operator.title not in _EXACT and (operator.offsets or not blamed):
            rounding = _ROUNDING * torch.finfo(dy.dtype).eps * (step.output.abs() + (step.output - dy).abs())
        level = dx.abs() <= rounding
        slope = dy / torch.where(level, 1, dx)
        if bool(level.any()):
            _, (derivative,) = step.adjoint_at(step.midpoints(), torch.ones_like(step.output))
            slope = torch.where(level, 0 if derivative is None else derivative, slope)
        m = multiplier * slope
        return Sent([m if m.shape == x.shape else m.sum_to_size(x.shape)], offsets_at=multiplier)
