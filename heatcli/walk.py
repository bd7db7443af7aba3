"""The two loops: forward over the operators, and the walk back.

Forward runs each operator on detached inputs, with a small autograd tape of its own where its exact vector-Jacobian
product has no closed form, so that either is at hand for the rules. The walk carries a multiplier from the output to
the input; the relevance of any value z is m·(z − z0).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, MutableMapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from heatcli.errors import OtherBranchError
from heatcli.graph.adjoints import closed_form
from heatcli.graph.in_place import over
from heatcli.graph.kinds import LAYOUT
from heatcli.graph.operator import Graph, Operator
from heatcli.ledger import Books
from heatcli.rules.base import Carried, Pair, Passed, Sent, Step, Table, per_image, recorded
from heatcli.rules.reveal_cancel import single
from heatcli.walkplan import plan


@dataclass(eq=False)
class Tape:
    """A forward run: its steps in order, what it was given, and the output it ended in."""

    graph: Graph
    input: Tensor
    steps: list[Step]
    output: Tensor
    reference: Tensor | None = None
    reference_output: Tensor | None = None
    overwritten: Mapping[str, str] = field(default_factory=dict)  # values whose place another took → that one
    differentiable: bool = False

    def serves(self, rules: Table, keep: Collection[str]) -> bool:
        """Whether it can be walked by these rules, the values called `keep` kept."""
        return self.overwritten.items() <= plan(self.graph, rules, keep, self.reference is not None).overwritten.items()

    def values(self, names: Collection[str]) -> dict[str, Tensor]:
        """The values of those names, [N, …]."""
        return {s.operator.name: s.output.detach() for s in self.steps if s.operator.name in names}

    def walk(
        self, rules: Table, seed: Tensor, books: Books | None, keep: MutableMapping[str, Tensor] | None = None
    ) -> Tensor:
        """As `walk` says."""
        return walk(self, rules, seed, books, keep)

    def bound(self, low: Tensor, high: Tensor) -> None:
        """Tell first layers the range of their inputs, from that of the input: `low` and `high` [1 or N, …]."""
        ranges = {self.graph.input: (low.expand_as(self.input), high.expand_as(self.input))}
        for step in self.steps:
            operator = step.operator
            if operator.near:
                with torch.no_grad():
                    ends = [operator.run(step.others, [ranges[s][end] for s in operator.sources]) for end in (0, 1)]
                ranges[operator.name] = torch.minimum(*ends), torch.maximum(*ends)
            elif operator.first:
                step.bounds = ranges[operator.sources[0]]


def values_of(graph: Graph, batch: Tensor) -> dict[str, Tensor]:
    """Every value of the graph on `batch`, without a tape."""
    values = {graph.input: _entered(graph, batch)}
    with torch.no_grad():
        for operator in graph.operators:
            values[operator.name] = operator.run(values)
    return values


def output_of(graph: Graph, batch: Tensor) -> Tensor:
    """The graph's output on `batch`, without a tape; each value is dropped where nothing needs it any more."""
    last = {name: i for i, operator in enumerate(graph.operators) for name in operator.refs}
    values = {graph.input: _entered(graph, batch)}
    with torch.no_grad():
        for i, operator in enumerate(graph.operators):
            values[operator.name] = operator.run(values)
            for name in set(operator.refs):
                if last[name] == i and name != graph.output:
                    del values[name]
    return values[graph.output]


def forward(
    graph: Graph, batch: Tensor, baseline: Tensor | Mapping[str, Tensor] | None = None, differentiable: bool = False,
    rules: Table | None = None, keep: Collection[str] = (),
) -> Tape:  # fmt: skip
    """Run `graph` on `batch` [N, …], and on `baseline` for the reference of every value, if one is given.

    `baseline` is a tensor [N, …], or every value of the graph on it (`values_of`), of N rows or of one for all.
    `rules`: those of the walk to come; values that it will not read, and that are not to be kept, are overwritten.
    """
    references = values_of(graph, baseline) if isinstance(baseline, Tensor) else baseline
    batch = _entered(graph, batch)
    overwritten: Mapping[str, str] = {}
    if rules is not None and not differentiable:
        overwritten = plan(graph, rules, keep, compared=references is not None).overwritten
    in_place = set(overwritten.values())
    values: dict[str, Tensor] = {graph.input: batch}
    steps: list[Step] = []
    by_name: dict[str, Step] = {}
    for operator in graph.operators:
        taped = bool(operator.sources) and (differentiable or closed_form(operator) is None)
        with torch.set_grad_enabled(taped):
            inputs = [_leaf(values[name], differentiable) if taped else values[name] for name in operator.sources]
            output = over(operator, inputs[0]) if operator.name in in_place else operator.run(values, inputs)
        values[operator.name] = output.detach() if taped and not differentiable else output
        if operator.sources:
            step = Step(operator, inputs, output, {n: values[n] for n in operator.refs if n not in operator.sources})
            step.differentiable, step.in_place = differentiable, operator.name in in_place
            step.producers = [by_name.get(name) for name in operator.sources]
            if references is not None:
                step.reference_inputs = [references[name] for name in operator.sources]
                step.reference_output = references[operator.name]
            steps.append(step)
            by_name[operator.name] = step
    start, end = (None, None) if references is None else (references[graph.input], references[graph.output])
    return Tape(graph, batch, steps, values[graph.output], start, end, overwritten, differentiable)


def _entered(graph: Graph, batch: Tensor) -> Tensor:
    """The batch as it lies in memory that the graph's convolutions like best. Raises `OtherBranchError`."""
    for guard, number in graph.guards:
        if output_of(guard, batch).item() != number:
            raise OtherBranchError(
                f"decides by the picture (operator {guard.output}), and here otherwise than on the image explained; "
                "choose a baseline or a method that stays on the image's own side"
            )
    return batch.contiguous(memory_format=torch.channels_last) if graph.channels_last and batch.dim() == 4 else batch


def _leaf(value: Tensor, differentiable: bool) -> Tensor:
    """The value as an input of one operator alone: gradients stop here."""
    if differentiable:
        return value.view_as(value) if value.requires_grad else value.detach().requires_grad_()
    return value.detach().requires_grad_()


def walk(
    tape: Tape, rules: Table, seed: Tensor, books: Books | None, keep: MutableMapping[str, Tensor] | None = None
) -> Tensor:
    """Carry `seed`, the multiplier of the output, back to the input: its multiplier, of the input's shape.

    Without `books` nothing is booked. Relevance that a first layer's rule hands to pixels directly is booked as
    `books.direct`. `keep` is filled with the multipliers of the values it has as keys. The steps are used up.
    """
    chosen = plan(tape.graph, rules).rules
    for step in tape.steps:
        step.rule = chosen[step.operator.name]
        del step  # it holds all those before it
    back = _Back({tape.graph.output: seed}, books, {} if keep is None else keep)
    with torch.set_grad_enabled(tape.differentiable):
        while tape.steps:
            back.through(tape.steps.pop())  # what a step held is gone before the next one
        arrived = back.multipliers.get(tape.graph.input)
        if isinstance(arrived, Passed):
            arrived = arrived.multiplier()
        if isinstance(arrived, Pair):  # a pixel's difference is all positive or all negative
            rises = tape.input > (0 if tape.reference is None else tape.reference)
            arrived = torch.where(rises, arrived.positive, arrived.negative)
    if books is not None and tape.graph.input in back.direct:
        books.direct = back.direct[tape.graph.input]
    return torch.zeros_like(tape.input) if arrived is None else arrived


@dataclass(eq=False)
class _Back:
    """A walk on its way: what was carried to each value so far; behind first layers, relevance (`direct`).

    `summed`: multipliers that are sums made here, so that more can be added in place.
    """

    multipliers: dict[str, Carried]
    books: Books | None
    keep: MutableMapping[str, Tensor]
    direct: dict[str, Tensor] = field(default_factory=dict)
    summed: set[str] = field(default_factory=set)

    def through(self, step: Step) -> None:
        """Carry what arrived at a step's output to its inputs, and book what stays."""
        operator, rule = step.operator, step.rule
        assert rule is not None
        if operator.name in self.direct:
            lost = _hand_down(step, self.direct)
            if self.books is not None and lost is not None:
                self.books.enter(operator, Sent([], absorbed=lost), blame=step.blamed)
        multiplier = self.multipliers.pop(operator.name, None)
        if multiplier is None:
            return
        if not isinstance(multiplier, (Tensor, *getattr(rule, "takes", ()))):
            multiplier, lost = _alone(step, multiplier)
            if self.books is not None and lost is not None and (recorded() or bool(lost.any())):
                self.books.lose(operator, lost)
        if operator.name in self.keep:
            self.keep[operator.name] = _alone(step, multiplier)[0]
        sent: Sent = rule(step, multiplier)  # type: ignore[arg-type]
        if self.books is not None:
            self.books.enter(operator, sent, blame=step.blamed)
        if sent.relevance is not None:
            (source,) = operator.sources
            own = self.direct.get(source)
            self.direct[source] = sent.relevance if own is None else own + sent.relevance
            return
        for name, part in zip(operator.sources, sent.multipliers, strict=True):
            if part is not None:
                self._add(name, part, step.differentiable)

    def _add(self, name: str, part: Carried, differentiable: bool) -> None:
        known = self.multipliers.get(name)
        if name in self.summed and isinstance(known, Tensor) and isinstance(part, Tensor):
            known += part
            return
        self.multipliers[name] = part if known is None else known + part
        if known is not None and not differentiable:
            self.summed.add(name)


def _alone(step: Step, multiplier: Carried) -> tuple[Tensor, Tensor | None]:
    """What is carried to a step's output as one multiplier; and relevance [N] that it cannot carry, if any."""
    if isinstance(multiplier, Pair):
        return single(step, multiplier)
    return (multiplier.multiplier() if isinstance(multiplier, Passed) else multiplier), None


def _hand_down(step: Step, direct: MutableMapping[str, Tensor]) -> Tensor | None:
    """Hand relevance, not multipliers, from between the image and its first layers on towards the image.

    Returns the relevance [N] of places that no pixel fills, such as padding; None where there are none.
    """
    relevance, moves = direct.pop(step.operator.name), step.operator.kind in (LAYOUT, "sum")
    handed = step.adjoint(relevance) if moves else [relevance]
    for name, x, part in zip(step.operator.sources, step.inputs, handed, strict=True):
        if part is not None:
            own = part.sum_to_size(x.shape)
            direct[name] = direct[name] + own if name in direct else own
    if not moves or not _puts(step.operator):
        return None
    return per_image(relevance) - sum(per_image(part) for part in handed if part is not None)


_PUTTING = frozenset("constant_pad_nd masked_fill where tril triu".split())


def _puts(operator: Operator) -> bool:
    """Whether a layout puts numbers of its own into its output."""
    return operator.title in _PUTTING or any(c.value.is_floating_point() for c in operator.constants)
