"""Values of a graph without an autograd tape."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from heatcli.errors import OtherBranchError
from heatcli.graph.operator import Graph


def values_of(graph: Graph, batch: Tensor) -> dict[str, Tensor]:
    """Every value of the graph on `batch` [N, …], without a tape. Raises `OtherBranchError`."""
    values = {graph.input: entered(graph, batch)}
    with torch.no_grad():
        for operator in graph.operators:
            values[operator.name] = operator.run(values)
    return values


def output_of(graph: Graph, batch: Tensor, known: Mapping[str, Tensor] | None = None) -> Tensor:
    """The graph's output on `batch` [N, …], without a tape. `known`: values of operators, by name, instead of a run.

    Values are freed after their last use. Raises `OtherBranchError`.
    """
    last = {name: i for i, operator in enumerate(graph.operators) for name in operator.refs}
    values = {graph.input: entered(graph, batch)}
    with torch.no_grad():
        for i, operator in enumerate(graph.operators):
            given = known.get(operator.name) if known else None
            values[operator.name] = operator.run(values) if given is None else given
            for name in set(operator.refs):
                if last[name] == i and name != graph.output:
                    del values[name]
    return values[graph.output]


def entered(graph: Graph, batch: Tensor) -> Tensor:
    """The batch [N, …] in the memory format that the graph's convolutions prefer. Raises `OtherBranchError`."""
    for guard, number in graph.guards:
        if _number(guard, batch) != number:
            raise OtherBranchError(
                f"decides by the picture (operator {guard.output}), and differently here than on the explained image; "
                "choose another baseline, or a method that runs the network on the image alone"
            )
    if graph.chosen_on is not None and not torch.equal(graph.chosen_on, batch):
        raise OtherBranchError("chooses by the picture where to look again, and this is another picture")
    return batch.contiguous(memory_format=torch.channels_last) if graph.channels_last and batch.dim() == 4 else batch


def _number(guard: Graph, batch: Tensor) -> float | None:
    """What a guard computes; None where sizes of the captured picture do not fit this one."""
    try:
        return output_of(guard, batch).item()
    except (RuntimeError, IndexError):
        return None


def leaf(value: Tensor, differentiable: bool) -> Tensor:
    """The value, of any shape, as an input of one operator only: gradients stop here."""
    if differentiable:
        return value.view_as(value) if value.requires_grad else value.detach().requires_grad_()
    return value.detach().requires_grad_()
