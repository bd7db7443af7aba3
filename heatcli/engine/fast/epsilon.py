"""LRP-ε with few passes over memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from heatcli.engine.fast.numerics import row_dots, row_sums, summed
from heatcli.engine.fast.passed import Passed
from heatcli.rules.affine import Epsilon
from heatcli.rules.carried import at_output
from heatcli.rules.rule import Carried, Sent, Step


@dataclass(frozen=True)
class FastEpsilon(Epsilon):
    """`Epsilon`, which reads its output only to subtract an ignored bias, or if no ReLU follows."""

    accepts: ClassVar[tuple[type[Carried], ...]] = (Passed,)
    reads_input: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "reads_output", self.bias == "ignore")

    def __call__(self, step: Step, multiplier: Tensor | Passed) -> Sent:
        """As in `Epsilon`.

        R = m·y, where y has the sign of z: y = z, or the output of the nonlinearity that passed its relevance. Then
        q = m/(|z| + ε), s = q·|y|, and q·y·ε is absorbed.
        """
        if self.epsilon == 0 or (self.bias == "ignore" and step.bias is not None):
            return super().__call__(step, at_output(multiplier, step)[0])
        z = y = step.difference.detach()
        m = multiplier
        if isinstance(multiplier, Passed):
            m, y = multiplier.m, multiplier.step.difference.detach()
        assert isinstance(m, Tensor)
        dtype = z.dtype
        if dtype.itemsize < 4:  # m/ε overflows half precision
            z, y, m = z.float(), y.float(), m.float()
        if isinstance(multiplier, Passed) and step.without_reference and multiplier.step.operator.title == "relu":
            inverse = min(1 / self.epsilon, torch.finfo(y.dtype).max)
            s = torch.add(y.new_ones(()), y, alpha=inverse, out=y if multiplier.step.in_place else None)
            torch.addcdiv(m, m, s, value=-1, out=s)  # m·y/(y + ε), rounded once; 0 where y = 0
            booked = summed(s, step.bias)
            return Sent(step.adjoint(s.to(dtype)), booked, row_sums(booked) * self.epsilon)
        q = z.abs().add_(self.epsilon)
        torch.div(m, q, out=q)
        absorbed = row_dots(q, y, step.fixed) * self.epsilon
        s = torch.add(m, q, alpha=-self.epsilon, out=q) if y is z else q.mul_(y.abs())
        s = s.to(dtype)
        return Sent(step.adjoint(s), s, absorbed)
