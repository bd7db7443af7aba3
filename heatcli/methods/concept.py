"""Concept relevance: a walk restricted to what flows through channels of one layer (Achtibat et al. 2023, CRP).

The relevance R_c = Σ m·(z − z0) of the channels c of a layer z is a share of the score. A second walk divides it among
the pixels, and the biases before the layer. The maps of all channels add up to the map of the layer, which is the
ordinary map if nothing bypasses the layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from heatcli.engine.ledger import Books
from heatcli.engine.tape import Tape
from heatcli.engine.walk import walk
from heatcli.errors import UsageError
from heatcli.graph.layers import Layer, one_layer
from heatcli.graph.operator import Graph
from heatcli.methods.method import ANY, Answer, Concept, Method, OneWalk
from heatcli.methods.question import Question
from heatcli.rules.numerics import per_image, wide
from heatcli.rules.parameters import Parameters, text

if TYPE_CHECKING:
    from heatcli.model.model import Model

FORM = "LAYER[:CHANNEL,…] with numbers or names of channels, such as features.28:3,17"


@dataclass(frozen=True)
class Through(Parameters):
    """One walk from the score to a layer, and one from chosen channels of the layer to the input."""

    kind: ClassVar[str] = "backward"
    compares: ClassVar[bool] = True
    takes: ClassVar[str] = ANY
    keeps_values: ClassVar[bool] = True

    concept: str = text("", FORM)

    @property
    def cost(self) -> str:
        """A third forward run if the first kept no layer; the last ends at the layer."""
        return "2 or 3 forwards, 2 backwards"

    def __call__(self, question: Question, method: Method) -> Answer:
        """The map of the chosen channels; the score is their relevance. Raises `UsageError`."""
        name, wanted = parsed(self.concept)
        layer = one_layer(question.graph, name, question.model.path, "--concept")
        names = names_of(question.model, question.graph, layer)
        chosen = channels_of(wanted, layer, names)
        flow = Flow.through(question, method, layer, chosen)
        books = Books.open(flow.tape.graph, flow.tape.input)
        at_input = walk(flow.tape, method.rules, flow.seed, books if method.books else None).contiguous()
        pixels = method.relevance(at_input, question.difference, books)
        found = Concept(layer.name, chosen, flow.relevance, question.score, names)
        return Answer(pixels, books, score=flow.share, concept=found)


@dataclass(frozen=True, eq=False)
class Flow:
    """What flows through channels of a layer, before the walk below it.

    `tape`: a forward run that ends at the layer. `seed`: the multiplier of the layer's value, 0 outside of the chosen
    channels. `relevance`: of all channels, float64 [N, C]. `share`: of the chosen channels together, float64 [N].
    """

    tape: Tape
    seed: Tensor
    relevance: Tensor
    share: Tensor

    @staticmethod
    def through(
        question: Question, method: Method, layer: Layer, chosen: tuple[int, ...], keep: tuple[str, ...] = ()
    ) -> Flow:
        """Walk to the layer, and run forward to it again. `chosen`: channels; () for all. `keep`: values to keep.

        Raises `UsageError` for a channel that the layer does not have.
        """
        multiplier = _multiplier(question, method, layer, chosen)
        tape = question.model.forward(
            question.batch, method.rules, question.references, keep, compiled=False, until=layer
        )  # fmt: skip
        value, reference = tape.output.detach(), tape.reference_output
        difference = value if reference is None else value - reference
        seed = torch.zeros_like(value)
        seed[: len(multiplier)] = multiplier
        relevance = by_channel(seed * difference)[: len(multiplier)]
        if chosen:
            kept = torch.zeros(value.shape[1], dtype=torch.bool, device=value.device)
            kept[list(chosen)] = True
            seed = seed * kept.reshape(1, -1, *[1] * (value.dim() - 2))
        return Flow(tape, seed, relevance, per_image(wide(seed * difference))[: len(multiplier)])


def sources(
    question: Question, method: Method, layer: Layer, chosen: tuple[int, ...], lower: Layer
) -> Tensor:  # fmt: skip
    """The relevance of each channel of `lower` that goes on to the chosen channels of `layer`, float64 [N, channels].

    These are edges of the attribution graph (Achtibat et al. 2023).
    Raises `UsageError` if `lower` is not below `layer`.
    """
    flow = Flow.through(question, method, layer, chosen, (lower.name,))
    step = next((one for one in flow.tape.steps if one.operator.name == lower.name), None)
    if step is None or lower.name == layer.name:
        raise UsageError(f"layer {lower.title} is not below {layer.title}, so nothing flows from it there")
    value = step.output.detach()
    difference = value if step.reference_output is None else value - step.reference_output
    kept = {lower.name: torch.zeros_like(value)}
    walk(flow.tape, method.rules, flow.seed, None, kept)
    return by_channel(kept[lower.name] * difference)[: len(question.batch)]


def by_channel(relevance: Tensor) -> Tensor:
    """Relevance [N, C, …] summed over positions: float64 [N, C]."""
    return wide(relevance).reshape(*relevance.shape[:2], -1).sum(2)


def _multiplier(question: Question, method: Method, layer: Layer, chosen: tuple[int, ...]) -> Tensor:
    """The multiplier of the layer's value, [N, channels, …].

    Raises `UsageError` for a channel that it does not have.
    """
    n, shape = len(question.batch), layer.operator.shape
    if len(shape) < 2 or shape[0] != n * question.graph.copies:
        raise UsageError(
            f"--concept: layer {layer.title} has no channels [N, C, …]; `heatcli inspect --layers` lists all"
        )
    if chosen and max(chosen) >= shape[1]:
        raise UsageError(f"--concept: layer {layer.name} has channels 0 to {shape[1] - 1}, not {max(chosen)}")
    return question.walk_batch(method.rules, books=False, keep=(layer.name,)).multipliers[layer.name]


def parsed(concept: str) -> tuple[str, tuple[str, ...]]:
    """A layer's name, and channels by number or name; () for all. Raises `UsageError`."""
    name, colon, channels = concept.rpartition(":")
    if not colon:
        return concept, ()
    each = tuple(channel.strip() for channel in channels.split(","))
    if not name or not all(each):
        raise UsageError(f"--concept {concept} is not of the form {FORM}")
    return name, each


def names_of(model: Model, graph: Graph, layer: Layer) -> dict[int, str]:
    """The names of a layer's channels, as the sidecar or `--concept-names` has them. Raises `UsageError`."""
    found: dict[int, str] = {}
    for name, channels in model.settings.concepts.items():
        if one_layer(graph, name, model.path, "concepts").name == layer.name:
            found |= channels
    return found


def channels_of(wanted: tuple[str, ...], layer: Layer, names: Mapping[int, str]) -> tuple[int, ...]:
    """Channels by number or name as numbers, each once. Raises `UsageError`."""
    by_name = {name: channel for channel, name in names.items()}
    found = []
    for one in wanted:
        if not one.isdecimal() and one not in by_name:
            known = f"; known: {', '.join(by_name)}" if by_name else "; names come from --concept-names FILE"
            raise UsageError(f"--concept: layer {layer.name} has no channel called {one}{known}")
        found.append(by_name[one] if one in by_name else int(one[:9]))
    return tuple(dict.fromkeys(found))


def restricted(method: Method, concept: str) -> Method:
    """A method of one walk that divides the score, restricted to a concept `LAYER[:CHANNEL,…]`. Raises `UsageError`."""
    divided(method)
    parsed(concept)
    return replace(method, procedure=Through(concept))


def divided(method: Method) -> None:
    """Raise `UsageError` for a method that does not divide the score in one walk, which gives channels no shares."""
    if not isinstance(method.procedure, OneWalk) or method.divides == "no":
        raise UsageError(
            f"method {method.name} does not divide the score in one walk; concepts need a method that does, such as "
            "lrp-epsilon-plus"
        )
