"""Operators that can write their output over their input, which is then gone: less memory to go through."""

from __future__ import annotations

import torch
from torch import Tensor

from heatcli.graph.facts import facts_of
from heatcli.graph.kinds import has_fixed_statistics
from heatcli.graph.operator import Operator


def writes_over(operator: Operator) -> bool:
    """Whether it can, and its vector-Jacobian product reads no more than its output."""
    plain = has_fixed_statistics(operator) and not operator.kwargs and len(operator.refs) == 1
    return plain or facts_of(operator).overwrites


def over(operator: Operator, x: Tensor) -> Tensor:
    """The output of an operator that `writes_over`, in the memory of its input x."""
    x = x.detach()
    if operator.title == "relu":
        return x.relu_()
    if x.device.type != "cpu":
        return operator.run({}, [x])
    weights = [constant and constant.value for constant in map(operator.constant, range(1, 5))]
    momentum, eps = operator.args[-2:]
    unused = x.new_empty(0)
    torch.ops.aten.native_batch_norm.out(
        x, *weights, False, momentum, eps, out=x, save_mean=unused, save_invstd=unused
    )  # fmt: skip
    return x
