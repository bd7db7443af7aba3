"""Vector-Jacobian products in closed form, of operators for which torch's own takes longer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from heatcli.graph.kinds import batch_norm_scale_shift, uses_own_statistics
from heatcli.graph.operator import Operator


def relu_from_output(output: Tensor, multiplier: Tensor) -> Tensor:
    """Of a ReLU, from its output alone."""
    return torch.ops.aten.threshold_backward(multiplier, output, 0)  # type: ignore[no-any-return]


def closed(operator: Operator, x: Tensor, multiplier: Tensor) -> Tensor | None:
    """Of `operator` at its input `x`: a tensor of the shape of x. None where there is no such form."""
    found = _CLOSED.get(operator.title)
    return None if found is None or operator.kwargs else found(operator, x, multiplier)


def _mean(operator: Operator, x: Tensor, multiplier: Tensor) -> Tensor | None:  # noqa: ARG001 - they share a signature
    """Each input's share, not written out; torch lays it out as if channels came first."""
    if multiplier.dim() != x.dim():
        return None
    return (multiplier / (x.numel() // multiplier.numel())).expand_as(x)


def _batch_norm(operator: Operator, x: Tensor, multiplier: Tensor) -> Tensor | None:
    """In eval mode a factor for each channel; torch takes twice as long with channels last."""
    if uses_own_statistics(operator) or operator.index not in (None, 0):
        return None
    return multiplier * batch_norm_scale_shift(operator)[0].reshape(-1, *(1,) * (x.dim() - 2))


_CLOSED: dict[str, Callable[[Operator, Tensor, Tensor], Tensor | None]] = {
    "mean": _mean,
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
}
