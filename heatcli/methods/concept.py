"""Concept relevance: a walk restricted to what flows through channels of one layer (Achtibat et al. 2023, CRP).

The relevance R_c = Σ m·(z − z0) of the channels c of a layer z is a share of the score. A second walk divides it among
the pixels, and the biases before the layer. The maps of all channels add up to the map of the layer. That is the
ordinary map where nothing passes the layer by.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from heatcli.engine.ledger import Books
from heatcli.engine.walk import walk
from heatcli.errors import UsageError
from heatcli.graph.layers import Layer, one_layer
from heatcli.methods.method import ANY, Answer, Concept, Method, OneWalk
from heatcli.methods.question import Question
from heatcli.rules.numerics import per_image, wide
from heatcli.rules.parameters import Parameters, text

FORM = "LAYER[:CHANNEL,CHANNEL…], such as features.28:3,17"


@dataclass(frozen=True)
class Through(Parameters):
    """One walk from the score to a layer, and one from chosen channels of the layer to the input."""

    kind: ClassVar[str] = "backward"
    compares: ClassVar[bool] = True
    takes: ClassVar[str] = ANY

    concept: str = text("", FORM)

    @property
    def cost(self) -> str:
        """A third forward run where the first, which chose the target, kept no layer; the last ends at the layer."""
        return "2 or 3 forwards, 2 backwards"

    def __call__(self, question: Question, method: Method) -> Answer:
        """The map of the chosen channels; the score is their relevance. Raises `UsageError`."""
        name, chosen = parsed(self.concept)
        layer = one_layer(question.graph, name, question.model.path, "--concept")
        multiplier = _multiplier(question, method, layer, chosen)
        origin, model = question.reference, question.model
        start = model.network.values_on(origin.batch, origin.shared)
        tape = model.forward(question.batch, method.rules, start, compiled=False, until=layer)
        value, reference = tape.output.detach(), tape.reference_output
        difference = value if reference is None else value - reference
        seed = torch.zeros_like(value)
        seed[: len(multiplier)] = multiplier
        relevance = wide(seed * difference)[: len(multiplier)].flatten(2).sum(2)
        if chosen:
            kept = torch.zeros(value.shape[1], dtype=torch.bool, device=value.device)
            kept[list(chosen)] = True
            seed = seed * kept.reshape(1, -1, *[1] * (value.dim() - 2))
        share = per_image(wide(seed * difference))[: len(multiplier)]
        books = Books.open(tape.graph, tape.input)
        at_input = walk(tape, method.rules, seed, books if method.books else None).contiguous()
        pixels = method.relevance(at_input, question.difference, books)
        return Answer(pixels, books, score=share, concept=Concept(layer.name, chosen, relevance, question.score))


def _multiplier(question: Question, method: Method, layer: Layer, chosen: tuple[int, ...]) -> Tensor:
    """The multiplier of the layer's value, [N, channels, …]. Raises `UsageError` for a channel that there is not."""
    n, shape = len(question.batch), layer.operator.shape
    if len(shape) < 2 or shape[0] != n * question.graph.copies:
        raise UsageError(
            f"--concept: layer {layer.title} has no channels [N, C, …]; `heatcli inspect --layers` lists all"
        )
    if chosen and max(chosen) >= shape[1]:
        raise UsageError(f"--concept: layer {layer.name} has channels 0 to {shape[1] - 1}, not {max(chosen)}")
    return question.walk_batch(method.rules, books=False, keep=(layer.name,)).multipliers[layer.name]


def parsed(concept: str) -> tuple[str, tuple[int, ...]]:
    """A layer's name and numbers of its channels; () for all. Raises `UsageError`."""
    name, colon, numbers = concept.rpartition(":")
    if not colon:
        return concept, ()
    each = numbers.split(",")
    if not name or not all(number.isdecimal() and len(number) < 10 for number in each):
        raise UsageError(f"--concept {concept} is not of the form {FORM}")
    return name, tuple(dict.fromkeys(map(int, each)))


def restricted(method: Method, concept: str) -> Method:
    """A method of one walk that divides the score, restricted to a concept `LAYER[:CHANNEL,…]`. Raises `UsageError`."""
    if not isinstance(method.procedure, OneWalk) or method.divides == "no":
        raise UsageError(
            f"method {method.name} does not divide the score in one walk; --concept takes methods that do, such as "
            "lrp-epsilon-plus"
        )
    parsed(concept)
    return replace(method, procedure=Through(concept))
