"""The graph passes `logit` and `centre-logits`: which quantity is explained."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from heatcli.graph.kinds import LAYOUT, SUM, classified
from heatcli.graph.operator import Graph, Operator, Ref, renamed
from heatcli.graph.passes.rewriting import uses

FINAL = ("_softmax", "_log_softmax", "sigmoid")


def logit(graph: Graph) -> Graph:
    """Take a final softmax, log-softmax or sigmoid off the end (views after it stay): the logit is explained."""
    last = _final_activation(graph)
    if last is None or uses(graph)[last.name] > 1:
        return graph
    names = {last.name: last.sources[0]}
    operators = tuple(renamed(op, names) for op in graph.operators if op is not last)
    return replace(graph, operators=operators, output=names.get(graph.output, graph.output), final=last)


def _final_activation(graph: Graph) -> Operator | None:
    """The softmax, log-softmax or sigmoid that the graph ends in, but for views after it."""
    by_name = {op.name: op for op in graph.operators}
    last = by_name.get(graph.output)
    while last is not None and last.kind == LAYOUT and len(last.sources) == 1:
        last = by_name.get(last.sources[0])
    return last if last is not None and last.title in FINAL else None


def centre_logits(graph: Graph) -> Graph:
    """Explain z_c − mean_j z_j, the logit less the mean of all: DeepLIFT's normalisation for softmax outputs.

    Shrikumar et al. 2017, sec. 3.6: contributions are normalised by subtracting their mean over all classes.
    """
    if len(graph.output_shape) != 2:
        return graph
    aten, dtype = torch.ops.aten, graph.operators[-1].dtype
    n, classes = graph.output_shape
    mean = Operator(
        name="class_mean", target=aten.mean.dim, args=(Ref(graph.output), [1], True), kwargs={}, index=None,
        shape=(n, 1), dtype=dtype, sources=(graph.output,), source_shapes=((n, classes),),
    )  # fmt: skip
    centred = Operator(
        name="centred", target=aten.sub.Tensor, args=(Ref(graph.output), Ref("class_mean")), kwargs={}, index=None,
        shape=(n, classes), dtype=dtype, sources=(graph.output, "class_mean"), source_shapes=((n, classes), (n, 1)),
        kind=SUM,
    )  # fmt: skip
    return replace(graph, operators=(*graph.operators, classified(mean), centred), output="centred", centred=True)


def quantity(graph: Graph) -> str:
    """What the explained score is: `logit`, `centred-logit`, `probability`, or the artifact's own `output`."""
    if graph.centred:
        return "centred-logit"
    if graph.final is not None:
        return "logit"
    last = _final_activation(graph)
    return "probability" if last is not None and last.title != "_log_softmax" else "output"


def probabilities(graph: Graph, output: Tensor) -> Tensor:
    """The explained output [N, classes, …] as probabilities: by the graph's own final activation, else softmax."""
    kept = _final_activation(graph)
    if graph.final is not None:
        with torch.no_grad():
            shape = (len(output), *graph.final.source_shapes[0][1:])
            after: Tensor = graph.final.run({}, [output.reshape(shape)]).reshape(output.shape)
        return after.exp() if graph.final.title == "_log_softmax" else after
    if kept is not None:
        return output.exp() if kept.title == "_log_softmax" else output
    return output.softmax(1) if output.dim() > 1 and output.shape[1] > 1 else torch.full_like(output, float("nan"))
