"""Whether a captured graph computes the same function as the artifact in its own runtime.

A balanced ledger proves the sum, not the function. So the graph's outputs are compared with the artifact's, on inputs
that the capture did not use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from heatcli.engine.values import output_of, values_of
from heatcli.errors import ModelError
from heatcli.graph.operator import Constant, Graph, Verified
from heatcli.system.torch_private import pytree

ROUNDING = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.float16: 3e-2,
    torch.bfloat16: 1e-1,
}  # of the largest output
QUANTISED = 0.1  # a value between two quantisation steps may round either way, in every layer
LIKE = 1e-2  # difference of one position's numbers, each relative to the largest of its kind
ELSEWHERE = 0.1  # the share of positions that rounding may choose elsewhere
AMPLIFIED = 100.0  # factor on the change of the runtime's output when its input is rounded

Runtime = Callable[[Tensor], Tensor]  # batch [N, …] → the explained output in the artifact's runtime
Record = Callable[[Tensor], Graph]  # batch → the artifact's graph captured on it


def verify(
    graph: Graph, runtime: Runtime, batches: Iterable[Tensor], against: str, tolerance: float | None = None
) -> Verified:  # fmt: skip
    """Compare `graph`, which has its final activation, with the artifact in its own runtime, for each batch [N, …].

    `tolerance`: relative to the largest output, by default that of the output's dtype. If rounding the input changes
    the runtime's own output more, that change is the bound. If the graph agrees in float64, the difference is rounding.
    Outputs that are not finite in the runtime are not compared. Raises `ModelError` if the runtime gives two answers
    for one input.
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
            bound = max(allowed, AMPLIFIED * difference(runtime(rounded(batch)), expected))
        if not error <= bound and difference(output_of(exact(graph), batch.double()), expected) <= allowed:
            bound = error  # the graph agrees in float64, so float32 rounding explains the error
        worst, agrees = max(worst, error), agrees and error <= bound
    return Verified(against, worst, agrees)


def in_order_of(found: Tensor, expected: Tensor) -> tuple[Tensor, float]:
    """An output [N, rows, A] of the runtime with its positions in the order of `found`, and the share of others.

    Rounding changes the order of positions that a network chooses by scores that are nearly equal, and which one of two
    positions beside each other suppresses the other. Positions of `found` that the runtime has not, at most `ELSEWHERE`
    of all, are returned as they are in `found`.
    """
    scale = found.abs().amax(2, keepdim=True).clamp(min=torch.finfo(found.dtype).tiny)
    own, others = ((x / scale).double().transpose(1, 2) for x in (found, expected.to(found)))
    apart, nearest = torch.cdist(own, others, p=float("inf")).min(2)
    same = apart <= LIKE
    elsewhere = float((~same).double().mean())
    if elsewhere > ELSEWHERE:
        return expected, 0.0
    ordered = expected.gather(2, nearest[:, None].expand(-1, expected.shape[1], -1))
    return torch.where(same[:, None], ordered, found), elsewhere


def exact(graph: Graph) -> Graph:
    """The graph in float64 instead of float32."""

    def wide(x: Any) -> Any:
        """A float32 tensor in float64; anything else unchanged."""
        if isinstance(x, Constant) and x.value.dtype == torch.float32:
            return Constant(x.name, x.value.double())
        return torch.float64 if x is torch.float32 else x

    operators = []
    for op in graph.operators:
        args, kwargs = pytree.tree_map(wide, (op.args, dict(op.kwargs)))
        operators.append(replace(op, args=args, kwargs=kwargs, dtype=wide(op.dtype)))
    return replace(graph, operators=tuple(operators))


def first_difference(graph: Graph, record: Record, batch: Tensor) -> str:
    """The first operator whose value differs between `graph` and the artifact's graph, in words.

    `record` captures the artifact's graph on `batch` [N, …].
    """
    recorded = record(batch)
    values, truth = values_of(graph, batch), values_of(recorded, batch)
    for operator in graph.operators:
        name = operator.name
        if name not in truth or difference(values[name], truth[name]) > 1e-3:
            return f"operator {name}"
    return "no single operator"


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference of two outputs of any shape, relative to the largest of `expected`.

    Infinite for different shapes.
    """
    if found.shape != expected.shape:
        return float("inf")
    if not expected.numel():
        return 0.0
    a, b = found.detach().cpu().double(), expected.detach().cpu().double()
    largest = float(b.abs().max())
    apart = float((a - b).abs().max())
    return apart / largest if largest > 0 else apart


def rounded(batch: Tensor) -> Tensor:
    """The batch with random relative changes of the size of its dtype's rounding."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(batch.shape, generator=generator).to(batch.device, batch.dtype)
    return batch * (1 + torch.finfo(batch.dtype).eps * noise)
