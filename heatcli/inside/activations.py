"""Feature maps of any layer, and the contribution of each channel to the score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from heatcli.engine.values import values_of
from heatcli.errors import UsageError
from heatcli.graph.layers import Layer, find_layers
from heatcli.graph.outputs import settled
from heatcli.methods.detections import choose_for
from heatcli.methods.method import Method, OneWalk
from heatcli.methods.question import Question, laid_out
from heatcli.methods.table import METHODS
from heatcli.methods.targets import Target
from heatcli.model.model import Model

By = Literal["activation", "relevance"]
CONVOLUTIONS = ("*convolution*",)


@dataclass(frozen=True, eq=False)
class FeatureMaps:
    """The values of a layer on N images, and their relevance: each [N, C, …].

    Relevance is m·(z − z0) with the multiplier m of the walk; for a method that returns multipliers (gradient) it is m.
    """

    layer: Layer
    values: Tensor
    relevance: Tensor

    def strengths(self, by: By) -> Tensor:
        """A number per channel, [N, C]: the largest activation, or the relevance summed over positions."""
        if by == "activation":
            return self.values.flatten(2).amax(2) if self.values.dim() > 2 else self.values
        return self.relevance.flatten(2).sum(2) if self.relevance.dim() > 2 else self.relevance

    def ranked(self, i: int, by: By) -> list[int]:
        """The channels of image `i`, by activation or by |relevance|, the largest first."""
        strengths = self.strengths(by)[i]
        return (strengths if by == "activation" else strengths.abs()).argsort(descending=True, stable=True).tolist()


def activations(
    model: Model,
    batch: Tensor,
    layers: Sequence[str] = CONVOLUTIONS,
    method: Method | None = None,
    target: Any = None,
    baseline: str | Tensor | None = None,
) -> tuple[list[FeatureMaps], Target]:
    """The feature maps of layers (names or globs) on `batch` [N, C, H, W], and the explained target.

    `method`: by default lrp-eps. `target`, `baseline`: as in `heatcli.explain`. Raises `UsageError` for unknown layers
    and for methods of several walks, `ModelError`.
    """
    chosen = method or METHODS["lrp-eps"]
    batch = batch.to(model.device, model.pictures.dtype)
    model.network.seen(batch)
    parts, targets = [], []
    for index, n in model.network.batches(batch.shape):
        with model.network.holding(batch[index]):
            maps, goal = _maps(model, batch[index], layers, chosen, target, baseline)
        parts.append([FeatureMaps(m.layer, m.values[:n], m.relevance[:n]) for m in maps])
        targets.append((goal, n))
    together = [
        FeatureMaps(maps[0].layer, torch.cat([m.values for m in maps]), torch.cat([m.relevance for m in maps]))
        for maps in zip(*parts, strict=True)
    ]
    return together, Target.joined(targets)


def _maps(
    model: Model, batch: Tensor, wanted: Sequence[str], method: Method, target: Any, baseline: str | Tensor | None
) -> tuple[list[FeatureMaps], Target]:
    """The feature maps of a batch [N, …] that the network takes at once, and the explained target."""
    layers = find_layers(model.graph(batch.shape), wanted, model.path)
    names = [layer.name for layer in layers]
    question, references = asked(model, batch, method, target, baseline, names)
    walked = question.walk_batch(method.rules, books=False, keep=names)
    found = []
    for layer in layers:
        value, multiplier = walked.values[layer.name], walked.multipliers[layer.name]
        difference = value if references is None else value - references[layer.name][: len(value)]
        found.append(FeatureMaps(layer, value, method.read(multiplier, difference).detach()))
    return found, question.goal


def asked(
    model: Model, batch: Tensor, method: Method, target: Any, baseline: str | Tensor | None, keep: Sequence[str] = ()
) -> tuple[Question, Mapping[str, Tensor] | None]:
    """The question for a batch [N, …] that the network takes at once, and every value on the baseline.

    `keep`: names of values that the walk is to keep. Raises `UsageError` for methods of several walks.
    """
    if not isinstance(method.procedure, OneWalk):
        raise UsageError(f"method {method.name} is not one walk back, so it says nothing of layers; use another")
    graph = model.graph(batch.shape)
    method.fits(graph)
    origin = method.reference(baseline, model.pictures, batch)
    references = model.network.values_on(origin.batch, origin.shared)
    if isinstance(references, Tensor):
        references = values_of(graph, references)
    tape = model.forward(batch, method.rules, references, keep)
    settled(graph, model.path)
    goal = choose_for(model, graph, target, laid_out(tape.output))
    question = Question(model=model, graph=graph, batch=batch, reference=origin, goal=goal, tape=tape)
    return question, references
