"""The graph passes `logit` and `centre-logits`: which quantity is explained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from heatcli.graph.kinds import SUM, classified, is_choice
from heatcli.graph.operator import Graph, Operator, Ref, needed_for, renamed
from heatcli.graph.outputs import final_activation, is_whole, softmax_axes
from heatcli.graph.passes.rewriting import uses


def logit(graph: Graph) -> Graph:
    """Remove a final softmax, log-softmax or sigmoid (views after it stay), so that the logit is explained.

    Of a detector, remove that of its class scores and its objectness; the score of a box is the sum of both logits.
    """
    if graph.boxes is not None:
        return _box_logits(graph)
    last = final_activation(graph)
    if last is None or uses(graph)[last.name] > 1 or not is_whole(graph, last):
        return graph
    names = {last.name: last.sources[0]}
    operators = tuple(renamed(op, names) for op in graph.operators if op is not last)
    return replace(graph, operators=operators, output=names.get(graph.output, graph.output), final=last)


def activated(graph: Graph) -> Graph:
    """The graph that `logit` made, with its activation again, now behind all layouts: the artifact's own output.

    So what is explained can be compared with what is deployed to the very end.
    """
    final, aten = graph.final, torch.ops.aten
    if final is None:
        return graph
    shape, name = graph.output_shape, final.name
    steps: list[tuple[Any, list[Any]]]
    if final.title == "sigmoid":
        steps = [(aten.sigmoid.default, [Ref(graph.output)])]
    elif over := list(softmax_axes(graph)):
        steps = [
            (aten.logsumexp.default, [Ref(graph.output), over, True]),
            (aten.sub.Tensor, [Ref(graph.output), Ref(f"{name} 0")]),
            (aten.exp.default, [Ref(f"{name} 1")]),
        ]
        steps = steps[:2] if final.title == "_log_softmax" else steps
    else:  # the softmax of one number
        steps = [((aten.zeros_like if final.title == "_log_softmax" else aten.ones_like).default, [Ref(graph.output)])]
    again = [
        Operator(
            name=f"{name} {i}", target=target, args=tuple(args), kwargs={}, index=None, shape=shape, dtype=final.dtype,
            sources=sources, source_shapes=(shape,) * len(sources),
        )
        for i, (target, args) in enumerate(steps)
        for sources in [tuple(x.name for x in args if isinstance(x, Ref))]
    ]  # fmt: skip
    return replace(graph, operators=(*graph.operators, *again), output=again[-1].name, final=None)


def _box_logits(graph: Graph) -> Graph:
    """The graph of a detector with logits for class scores, if they can be found behind layouts and concatenations."""
    boxes, by_name = graph.boxes, {op.name: op for op in graph.operators}
    whole = by_name[graph.output]
    if boxes is None or boxes.logits or whole.title != "cat":
        return graph
    before = _Before(by_name, graph.input)
    logits = [before(name) for name in whole.sources[:-1]]  # the last source is the boxes
    if any(name is None for name in logits):
        return graph
    names = dict(zip(whole.sources[:-1], logits, strict=True))
    output = renamed(replace(whole, name="boxes_with_logits"), {old: new for old, new in names.items() if new})
    operators = needed_for(output.name, [*graph.operators, *before.made, output])
    return replace(graph, operators=operators, output=output.name, boxes=replace(boxes, logits=True))


# Operators that logits pass: layouts of one value, products of two.
_CARRIED = ((True, False, 1), (False, True, 2))


class _Before:
    """Finds the values before a sigmoid or softmax, and makes new operators (`made`) that compute with them.

    Layouts and concatenations are repeated on the values before. The logit of a product of two probabilities is the sum
    of their logits: it grows with both, and stays useful where the product is near 0 or 1.
    """

    def __init__(self, by_name: Mapping[str, Operator], image: str) -> None:
        self._by_name, self._image = by_name, image
        self.made: list[Operator] = []
        self._known: dict[str, str | None] = {}

    def __call__(self, name: str) -> str | None:
        """The value before the activation that makes the value `name`, through layouts; None where none is found."""
        if name not in self._known:
            self._known[name] = self._found(name)
        return self._known[name]

    def _found(self, name: str) -> str | None:
        """As the call, without the cache."""
        op = self._by_name.get(name)
        if op is None:
            return None
        if op.title in ("sigmoid", "_softmax"):
            return op.sources[0]
        before = [self(source) for source in op.sources]
        if op.title in ("cat", "stack"):
            if not any(before):
                return None
        elif None in before or (is_choice(op), op.title == "mul", len(before)) not in _CARRIED:
            return None
        names = {old: new for old, new in zip(op.sources, before, strict=True) if new}
        again = renamed(replace(op, name=f"{name}.logits"), names)
        if op.title == "mul":
            again = classified(replace(again, target=torch.ops.aten.add.Tensor))
        self.made.append(again)
        return again.name


def centre_logits(graph: Graph) -> Graph:
    """Explain z_c − mean_j z_j, the logit minus the mean logit: DeepLIFT's normalisation for softmax outputs.

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
