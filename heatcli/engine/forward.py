"""The first loop: every operator in order, on the images, with references from the baseline."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from heatcli.engine.plan import plan
from heatcli.engine.tape import Tape
from heatcli.engine.values import entered, leaf, values_of
from heatcli.graph.operator import Graph
from heatcli.rules.rule import Step, Table


def forward(
    graph: Graph, batch: Tensor, baseline: Tensor | Mapping[str, Tensor] | None = None, differentiable: bool = False,
    rules: Table | None = None, keep: Collection[str] = (), fixed: bool = False,
) -> Tape:  # fmt: skip
    """Run `graph` on `batch` [N, …], and on `baseline` for the reference of every value, if one is given.

    `baseline`: a tensor [N, …], or every value of the graph on it (`values_of`), with N rows or one row for all.
    `rules`: the rules of the walk; values that it does not read and that are not in `keep` may be overwritten.
    `fixed`: the run and its walk are recorded. Raises `OtherBranchError`.
    """
    references = values_of(graph, baseline) if isinstance(baseline, Tensor) else baseline
    planned = plan(graph, rules or {}, keep, references is not None, differentiable)
    values: dict[str, Tensor] = {graph.input: entered(graph, batch)}
    steps: dict[str, Step] = {}
    for step in planned.steps:
        operator = step.operator
        inputs = [values[name] for name in operator.sources]
        with torch.set_grad_enabled(step.taped):
            if step.taped:
                inputs = [leaf(x, differentiable) for x in inputs]
            output = step.write(operator, inputs[0]) if step.write else operator.run(values, inputs)
        values[operator.name] = output if differentiable else output.detach()
        if operator.sources:
            others = {name: values[name] for name in operator.refs if name not in operator.sources}
            steps[operator.name] = Step(
                operator=operator, inputs=inputs, output=output, others=others, product=step.product, taped=step.taped,
                differentiable=differentiable, fixed=fixed, in_place=step.write is not None,
                producers=[steps.get(name) for name in operator.sources],
                reference_inputs=None if references is None else [references[name] for name in operator.sources],
                reference_output=None if references is None else references[operator.name],
            )  # fmt: skip
    start, end = (None, None) if references is None else (references[graph.input], references[graph.output])
    return Tape(
        graph=graph, input=values[graph.input], steps=list(steps.values()), output=values[graph.output],
        reference=start, reference_output=end, overwritten=planned.overwritten, differentiable=differentiable,
        fixed=fixed,
    )  # fmt: skip
