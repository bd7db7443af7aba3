"""Whether a captured graph is the function that the artifact computes on its own runtime.

A ledger that balances proves the sum, not the function. So the outputs of the graph are compared with those of the
artifact, on inputs that the capture never saw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from heatcli.errors import ModelError, NotComparedError, first_line
from heatcli.graph.operator import Constant, Graph, Verified
from heatcli.walk import output_of, values_of

ROUNDING = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.float16: 3e-2,
    torch.bfloat16: 1e-1,
}  # of the largest output
QUANTISED = 0.1  # a value at the border of two steps may round either way, in every layer
_AMPLIFIED = 100.0  # times what an input's own rounding changes in the runtime's output

Runtime = Callable[[Tensor], Tensor]  # of the batch [N, …]: the explained output, as the artifact has it
Record = Callable[[Tensor], Graph]  # the graph of the artifact, as captured on another batch


def verify(
    graph: Graph, runtime: Runtime, batches: Iterable[Tensor], against: str, tolerance: float | None = None
) -> Verified:  # fmt: skip
    """Compare `graph`, which has its final activation, with the artifact on its own runtime, for each batch [N, …].

    `tolerance` is a share of the largest output; by default that of the output's dtype. Where the runtime's own output
    changes more when its input is rounded, that is what decides; where the graph agrees in float64, the difference is
    rounding. Where the runtime's output is not finite, nothing is compared. Raises `ModelError` where the runtime gives
    two answers for one input.
    """
    worst, agrees = 0.0, True
    allowed = ROUNDING.get(graph.dtype, ROUNDING[torch.float32]) if tolerance is None else tolerance
    for number, batch in enumerate(batches):
        expected = runtime(batch)
        if number == 0 and (apart := difference(runtime(batch), expected)) > allowed:
            raise ModelError(
                f"gives two answers for one input, {apart:.2g} apart: it draws random numbers, or keeps a state from "
                "call to call; export it in evaluation mode"
            )
        if not bool(torch.isfinite(expected).all()):
            continue
        found = output_of(graph, batch)
        error = difference(found, expected)
        bound = allowed
        if not error <= allowed:
            bound = max(allowed, _AMPLIFIED * difference(runtime(_rounded(batch)), expected))
        if not error <= bound and difference(output_of(exact(graph), batch.double()), expected) <= allowed:
            bound = error  # what float64 agrees on, float32 rounded
        worst, agrees = max(worst, error), agrees and error <= bound
    return Verified(against, worst, agrees)


def exact(graph: Graph) -> Graph:
    """The graph in float64 instead of float32."""

    def wide(x: Any) -> Any:
        if isinstance(x, Constant) and x.value.dtype == torch.float32:
            return Constant(x.name, x.value.double())
        return torch.float64 if x is torch.float32 else x

    operators = []
    for op in graph.operators:
        args, kwargs = pytree.tree_map(wide, (op.args, dict(op.kwargs)))
        operators.append(replace(op, args=args, kwargs=kwargs, dtype=wide(op.dtype)))
    return replace(graph, operators=tuple(operators))


def first_difference(graph: Graph, record: Record, batch: Tensor) -> str:
    """The first operator whose value on `batch` is another one than when the artifact runs on `batch`, in words."""
    own = record(batch)
    values, truth = values_of(graph, batch), values_of(own, batch)
    for operator in graph.operators:
        name = operator.name
        if name not in truth or difference(values[name], truth[name]) > 1e-3:
            return f"operator {name}"
    return "no single operator"


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference of two outputs, as a share of the largest of `expected`; infinite for other shapes."""
    if found.shape != expected.shape:
        return float("inf")
    if not expected.numel():
        return 0.0
    a, b = found.detach().cpu().double(), expected.detach().cpu().double()
    largest = float(b.abs().max())
    apart = float((a - b).abs().max())
    return apart / largest if largest > 0 else apart


def of_module(module: Callable[..., Any], inputs: Sequence[Tensor]) -> list[Tensor]:
    """All tensors that a torch module returns for `inputs`. Raises `NotComparedError`."""
    try:
        with torch.no_grad():
            given = [x.clone() for x in inputs]  # it may write into them
            return [x for x in pytree.tree_leaves(module(*given)) if isinstance(x, Tensor)]
    except RuntimeError as error:
        raise NotComparedError(f"torch cannot run it: {first_line(error)}") from error


def _rounded(batch: Tensor) -> Tensor:
    """The batch with every value changed by what its dtype rounds."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(batch.shape, generator=generator).to(batch.device, batch.dtype)
    return batch * (1 + torch.finfo(batch.dtype).eps * noise)
