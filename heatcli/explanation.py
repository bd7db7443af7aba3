"""`heatcli.explain`: a model, a batch and a method in; relevance, biases and the ledger out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from heatcli.artifact.model import Model
from heatcli.errors import ModelError, UsageError
from heatcli.graph.passes import probabilities, quantity
from heatcli.images.baselines import Reference, reference
from heatcli.ledger import Books, Ledger, total
from heatcli.methods.table import Method
from heatcli.methods.table import method as find_method
from heatcli.rules.base import per_image
from heatcli.targets import Target, choose
from heatcli.walk import forward, walk


@dataclass(frozen=True, eq=False)
class Explanation:
    """What `explain` found for a batch of N images.

    `relevance` [N, C, H, W], of the input as the network sees it; `biases`: name → [N, size], in forward order, per
    element of the bias; `absorbed`, `unexplained`: operator → float64 [N]; `outputs`: the explained scores
    [N, classes], `probabilities`: the same after the final activation (softmax where the artifact ends in none).
    `operators`: bias name → ATen operator. `quantity`: what the score is, as
    `heatcli.graph.passes.quantity` says it.
    `seconds`: forward and backward an image.
    """

    relevance: Tensor
    biases: dict[str, Tensor]
    ledger: Ledger
    absorbed: dict[str, Tensor]
    unexplained: dict[str, Tensor]
    outputs: Tensor
    probabilities: Tensor
    target: Target
    method: Method
    reference: Reference
    operators: dict[str, str]
    quantity: str
    seconds: dict[str, float]


def explain(
    model: Model,
    batch: Tensor,
    method: str | Method = "lrp-eps",
    target: str | int | Sequence[int] | Tensor | None = None,
    baseline: str | Tensor | None = None,
    **parameters: Any,
) -> Explanation:
    """Attribute one score of each image in `batch` [N, C, H, W] to its pixels and to the network's biases.

    `target`: None or "top" (the highest score), an index, a label, "A-B", or one index an image. `baseline`: None
    (the method's own), a name (`none`, `zero`, `black`, `blur:SIGMA`, `mean`, a file), or a tensor that broadcasts
    against the batch. `parameters` are the method's, such as `epsilon`. Raises `UsageError`, `ModelError`.
    """
    chosen = find_method(method, **parameters)
    if batch.dim() < 2 or not len(batch):
        raise UsageError(f"a batch [N, …] of at least one image is needed, this one has the shape {tuple(batch.shape)}")
    batch = batch.to(model.device, model.picture.dtype)
    origin = reference(model, batch, chosen, baseline)
    size = model.fixed_batch(batch.shape)
    if size is None or size == len(batch):
        return _explain(model, batch, chosen, target, origin)
    parts = []
    for start in range(0, len(batch), size):
        index = torch.arange(start, start + size, device=batch.device).clamp(max=len(batch) - 1)
        own = target if target is None or isinstance(target, str | int) else torch.as_tensor(target).cpu()[index.cpu()]
        part = _explain(model, batch[index], chosen, own, origin.rows(index))
        parts.append((part, min(size, len(batch) - start)))
    return _joined(parts)


def _explain(model: Model, batch: Tensor, method: Method, target: Any, origin: Reference) -> Explanation:
    graph = model.graph(batch.shape)
    started = time.perf_counter()
    tape = forward(graph, batch, origin.batch)
    between = time.perf_counter()
    output = tape.output
    scores = output.reshape(len(batch), -1)
    _check(model, graph.output_shape, scores)
    goal = choose(target, scores, model.labels)
    seed = goal.seed(scores)
    score = per_image(seed.double() * scores.double())
    if tape.reference_output is None:
        score0 = torch.zeros_like(score)
    else:
        score0 = per_image(seed.double() * tape.reference_output.reshape(len(batch), -1).double())
    books = Books.open(graph, batch)
    multiplier = walk(tape, method.rules, seed.reshape(output.shape), books if method.conserves else None)
    difference = batch if origin.batch is None else batch - origin.batch
    relevance = multiplier * difference if method.times_difference else multiplier
    if not bool(torch.isfinite(relevance).all()):
        raise ModelError(f"{model.path}: the relevance of {method.name} is not finite; try another method")
    ledger = _ledger(score, score0, relevance, books, method)
    seconds = {"forward": (between - started) / len(batch), "backward": (time.perf_counter() - between) / len(batch)}
    return Explanation(
        relevance, books.biases, ledger, books.absorbed, books.unexplained, scores,
        probabilities(graph, scores), goal, method, origin,
        {name: operator for name, (operator, _) in graph.offsets().items()},
        quantity(graph), seconds,
    )  # fmt: skip


def _ledger(score: Tensor, score0: Tensor, relevance: Tensor, books: Books, method: Method) -> Ledger:
    pixels, biases = per_image(relevance), total(books.biases, score)
    absorbed, unexplained = total(books.absorbed, score), total(books.unexplained, score)
    if not method.conserves:
        unexplained = score - score0 - pixels
    return Ledger(score, score0, pixels, biases, absorbed, unexplained)


def _check(model: Model, shape: Sequence[int], scores: Tensor) -> None:
    if any(d != 1 for d in shape[2:]):
        raise ModelError(f"{model.path}: its output has the shape {tuple(shape)}; heatcli explains scores [N, classes]")
    if not bool(torch.isfinite(scores).all()):
        raise ModelError(f"{model.path}: its output is not finite (NaN or infinite) on this image")


def _joined(parts: list[tuple[Explanation, int]]) -> Explanation:
    """One explanation of the first `n` images of each part."""
    first = parts[0][0]

    def join(get: Any) -> Tensor:
        return torch.cat([get(part)[:n] for part, n in parts])

    def joined(name: str) -> dict[str, Tensor]:
        return {key: join(lambda p: getattr(p, name)[key]) for key in getattr(first, name)}  # noqa: B023

    minus = None if first.target.minus is None else join(lambda p: p.target.minus)
    columns = Ledger.__dataclass_fields__
    ledger = Ledger(**{name: join(lambda p: getattr(p.ledger, name)) for name in columns})  # noqa: B023
    return Explanation(
        join(lambda p: p.relevance), joined("biases"), ledger, joined("absorbed"), joined("unexplained"),
        join(lambda p: p.outputs), join(lambda p: p.probabilities), Target(join(lambda p: p.target.index), minus),
        first.method, first.reference, first.operators, first.quantity, first.seconds,
    )  # fmt: skip
