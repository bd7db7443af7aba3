"""The second loop, the walk back: from the multiplier of the output to the multiplier of the image."""

from __future__ import annotations

from collections.abc import MutableMapping

import torch
from torch import Tensor

from heatcli.engine.ledger import Books
from heatcli.engine.plan import plan
from heatcli.engine.tape import Tape
from heatcli.rules.carried import Arrivals, at_output
from heatcli.rules.first_layer import hand_down
from heatcli.rules.rule import Carried, Sent, Step, Table


def walk(
    tape: Tape, rules: Table, seed: Tensor, books: Books | None, keep: MutableMapping[str, Tensor] | None = None
) -> Tensor:
    """Propagate `seed`, the multiplier of the output, back to the input. Returns the input's multiplier, in its shape.

    Nothing is booked if `books` is None. Relevance that a first layer's rule sends to pixels directly becomes
    `books.direct`. `keep` is filled with the multipliers of the values among its keys. The tape's steps are consumed.
    """
    if tape.compiled is not None:
        return tape.compiled(seed, books)
    graph, keep = tape.graph, {} if keep is None else keep
    planned = plan(graph, rules, (), tape.reference is not None, tape.differentiable)
    tape.choose({step.operator.name: step.rule for step in planned.steps})
    arrived = Arrivals(graph.output, seed, in_place=not tape.differentiable)
    relevance: dict[str, Tensor] = {}  # of values before the first layers

    def through(step: Step) -> None:
        """Propagate the multiplier of a step's output to its inputs, and book what stays."""
        operator, rule = step.operator, step.rule
        if operator.name in relevance:
            lost = hand_down(step, relevance)
            if books is not None and lost is not None:
                books.enter(operator, Sent([], absorbed=lost), step.without_reference)
        carried = arrived.pop(operator.name)
        if carried is None or rule is None:
            return
        if not isinstance(carried, (Tensor, *rule.accepts)):
            carried, lost = at_output(carried, step)
            if books is not None and lost is not None and (tape.fixed or bool(lost.any())):
                books.lose(operator, lost)
        if operator.name in keep:
            keep[operator.name] = at_output(carried, step)[0]
        sent = rule(step, carried)
        if books is not None:
            books.enter(operator, sent, step.without_reference)
        if sent.relevance is not None:
            (source,) = operator.sources
            relevance[source] = relevance.get(source, 0) + sent.relevance
        for name, part in zip(operator.sources, sent.multipliers, strict=True):
            arrived.add(name, part)

    with torch.set_grad_enabled(tape.differentiable):
        while tape.steps:
            through(tape.steps.pop())  # frees the step's tensors before the next one
        at_image = arrived.pop(graph.input)
        if isinstance(at_image, Carried):
            at_image = at_image.at_image(tape.input if tape.reference is None else tape.input - tape.reference)
    if books is not None:
        books.direct = relevance.get(graph.input)
    return torch.zeros_like(tape.input) if at_image is None else at_image
