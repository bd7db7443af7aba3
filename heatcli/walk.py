"""The two loops: forward over the operators, and the walk back.

Forward runs each operator on detached inputs with a small autograd tape of its own, so its exact vector-Jacobian
product is at hand for the rules. The walk carries a multiplier from the output to the input; the relevance of any
value z is m·(z − z0).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from heatcli.graph.operator import Graph
from heatcli.ledger import Books
from heatcli.rules.base import Booked, Rule, Sent, Step


@dataclass(eq=False)
class Tape:
    """A forward run: its steps in order, what it was given, and the output it ended in."""

    graph: Graph
    input: Tensor
    steps: list[Step]
    output: Tensor
    reference_output: Tensor | None = None


def values_of(graph: Graph, batch: Tensor) -> dict[str, Tensor]:
    """Every value of the graph on `batch`, without a tape."""
    values = {graph.input: batch}
    with torch.no_grad():
        for operator in graph.operators:
            values[operator.name] = operator.run(values)
    return values


def forward(graph: Graph, batch: Tensor, baseline: Tensor | None = None, differentiable: bool = False) -> Tape:
    """Run `graph` on `batch` [N, …], and on `baseline` [N, …] for the reference of every value, if one is given."""
    references = None if baseline is None else values_of(graph, baseline)
    values: dict[str, Tensor] = {graph.input: batch}
    steps: list[Step] = []
    for operator in graph.operators:
        with torch.set_grad_enabled(bool(operator.sources)):
            inputs = [_leaf(values[name], differentiable) for name in operator.sources]
            output = operator.run(values, inputs)
        values[operator.name] = output if differentiable else output.detach()
        if operator.sources:
            step = Step(operator, inputs, output, {n: values[n] for n in operator.refs if n not in operator.sources})
            step.differentiable = differentiable
            if references is not None:
                step.reference_inputs = [references[name] for name in operator.sources]
                step.reference_output = references[operator.name]
            steps.append(step)
    return Tape(graph, batch, steps, values[graph.output], None if references is None else references[graph.output])


def _leaf(value: Tensor, differentiable: bool) -> Tensor:
    """The value as an input of one operator alone: gradients stop here."""
    if differentiable:
        return value.view_as(value) if value.requires_grad else value.detach().requires_grad_()
    return value.detach().requires_grad_()


def walk(
    tape: Tape, rules: Mapping[str, Rule], seed: Tensor, books: Books | None, kept: dict[str, Tensor] | None = None
) -> Tensor:
    """Carry `seed`, the multiplier of the output, back to the input: its multiplier, of the input's shape.

    An operator whose kind is not in `rules` goes by its exact adjoint, and what that leaves is booked. Without
    `books` nothing is booked. The multipliers of the operators whose names are keys of `kept` are put there. The steps
    are used up.
    """
    multipliers = {tape.graph.output: seed}
    fallback = Booked()
    while tape.steps:
        step = tape.steps.pop()
        operator = step.operator
        multiplier = multipliers.pop(operator.name, None)
        if multiplier is None:
            continue
        if kept is not None and operator.name in kept:
            kept[operator.name] = multiplier
        with torch.set_grad_enabled(step.differentiable):
            sent: Sent = rules.get(operator.kind, fallback)(step, multiplier)
            if books is not None:
                books.enter(operator, sent, blame=step.reference_inputs is None)
            for name, part in zip(operator.sources, sent.multipliers, strict=True):
                if part is not None:
                    multipliers[name] = multipliers[name] + part if name in multipliers else part
    return multipliers.get(tape.graph.input, torch.zeros_like(tape.input))
