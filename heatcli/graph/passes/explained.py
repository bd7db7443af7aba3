"""The graph passes `logit` and `centre-logits`: which quantity is explained."""

from __future__ import annotations

from dataclasses import replace

import torch

from heatcli.graph.kinds import SUM, classified
from heatcli.graph.operator import Graph, Operator, Ref, renamed
from heatcli.graph.outputs import final_activation, is_whole
from heatcli.graph.passes.rewriting import uses


def logit(graph: Graph) -> Graph:
    """Take a final softmax, log-softmax or sigmoid off the end (views after it stay): the logit is explained."""
    last = final_activation(graph)
    if last is None or uses(graph)[last.name] > 1 or not is_whole(graph, last):
        return graph
    names = {last.name: last.sources[0]}
    operators = tuple(renamed(op, names) for op in graph.operators if op is not last)
    return replace(graph, operators=operators, output=names.get(graph.output, graph.output), final=last)


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
