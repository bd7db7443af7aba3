"""The graph passes `logit` and `centre-logits`: which quantity is explained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    n, _, places = graph.output_shape
    before = _Before(by_name, boxes.classes)
    found = before(whole.sources[0])
    if found is None:
        return graph
    rows = [found.logits, whole.sources[-1]]
    if found.objects is not None:  # the same for each class, so that of the first
        row = before.appended("objects", torch.ops.aten.narrow.default, found.objects, [1, 0, 1], (n, 1, places))
        rows.insert(1, row)
    output = replace(
        whole, name="boxes_with_logits", args=([Ref(name) for name in rows], 1), kwargs={}, sources=tuple(rows),
        source_shapes=tuple(before.shape(name) for name in rows), shape=(n, boxes.classes + len(rows) + 2, places),
    )  # fmt: skip
    return replace(
        graph, operators=needed_for(output.name, [*graph.operators, *before.made, output]), output=output.name,
        output_shape=output.shape, boxes=replace(
            boxes, logits=True, objectness=found.objects is not None, ends=found.ends, power=boxes.power * found.power
        ),
    )  # fmt: skip


@dataclass(frozen=True)
class _Logits:
    """Names of values: the `logits` of probabilities; of products of class and objectness, both's sum, and `objects`.

    `objects`: the logits of the objectness, in the shape of the product. `ends`: the activation of the classes.
    `power`: which power of it the value is.
    """

    logits: str
    objects: str | None = None
    ends: str = "sigmoid"
    power: float = 1.0

    @property
    def form(self) -> tuple[bool, str, float]:
        """What the probabilities are of the logits."""
        return self.objects is not None, self.ends, self.power


class _Before:
    """Finds the values before a sigmoid or softmax, and makes new operators (`made`) that compute with them.

    Layouts and concatenations are repeated on the values before. The logit of a product of two probabilities, or of its
    root, is the sum of their logits: it grows with both, and stays useful where the product is near 0 or 1.
    """

    def __init__(self, by_name: Mapping[str, Operator], classes: int) -> None:
        self._by_name, self._classes = dict(by_name), classes
        self.made: list[Operator] = []
        self._known: dict[str, _Logits | None] = {}

    def __call__(self, name: str) -> _Logits | None:
        """The logits of the value `name`, through layouts; None where none are found."""
        if name not in self._known:
            op = self._by_name.get(name)
            self._known[name] = None if op is None else self._found(op)
        return self._known[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a value."""
        return self._by_name[name].shape

    def _found(self, op: Operator) -> _Logits | None:
        """As the call, of the value of `op`, without the cache."""
        if op.title in ("sigmoid", "_softmax"):
            of_classes = op.title == "sigmoid" or op.shape[op.arg(1)] == self._classes
            ends = op.title.removeprefix("_")
            return _Logits(op.sources[0], ends=ends) if of_classes and op.sources[0] in self._by_name else None
        found = [self(source) for source in op.sources]
        known = [one for one in found if one is not None]
        if op.title in ("cat", "stack"):  # of probabilities, and of boxes
            return self._repeated(op, found, known[0]) if len({one.form for one in known}) == 1 else None
        if not known or len(known) < len(found):
            return None
        if op.title == "mul" and len(known) == 2:
            return self._product(op, *known)
        if op.title == "sqrt":
            return replace(known[0], power=known[0].power / 2)
        return self._repeated(op, found, known[0]) if len(known) == 1 and is_choice(op) else None

    def _product(self, op: Operator, one: _Logits, other: _Logits) -> _Logits | None:
        """Of the probability of a class, given an object, times that of an object, which is the same for each class."""
        classes, objects = sorted((one, other), key=lambda x: -math.prod(self.shape(x.logits)))
        of_all = math.prod(self.shape(objects.logits)) * self._classes == math.prod(op.shape)
        if not of_all or classes.form[::2] != objects.form[::2] or classes.objects or objects.ends != "sigmoid":
            return None
        names = dict(zip(op.sources, (one.logits, other.logits), strict=True))
        both = self._add(replace(renamed(op, names), name=f"{op.name}.logits", target=torch.ops.aten.add.Tensor))
        expand = torch.ops.aten.expand.default
        wide = self.appended(f"{op.name}.objects", expand, objects.logits, [list(op.shape)], op.shape)
        return replace(classes, logits=both, objects=wide)

    def _repeated(self, op: Operator, found: Sequence[_Logits | None], like: _Logits) -> _Logits:
        """The operator on the logits, and on those of the objectness, instead of its own sources."""

        def again(end: str, names: Sequence[str | None]) -> str:
            own = {old: new for old, new in zip(op.sources, names, strict=True) if new}
            return self._add(replace(renamed(op, own), name=f"{op.name}.{end}"))

        objects = None if like.objects is None else again("objects", [one.objects if one else None for one in found])
        return replace(like, logits=again("logits", [one.logits if one else None for one in found]), objects=objects)

    def appended(self, name: str, target: Any, source: str, args: list[Any], shape: tuple[int, ...]) -> str:
        """The name of a new operator `target(source, *args)`, whose output has `shape`."""
        of = self._by_name[source]
        return self._add(Operator(
            name=name, target=target, args=(Ref(source), *args), kwargs={}, index=None, shape=shape, dtype=of.dtype,
            sources=(source,), source_shapes=(of.shape,),
        ))  # fmt: skip

    def _add(self, op: Operator) -> str:
        """Keep a new operator. Returns its name."""
        op = classified(op)
        self.made.append(op)
        self._by_name[op.name] = op
        return op.name


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
