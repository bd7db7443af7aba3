"""`heatcli.explain`: a model, a batch and a method in; relevance, biases and the ledger out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from heatcli.artifact.model import Model
from heatcli.errors import ModelError, OtherBranchError, UsageError
from heatcli.graph.operator import Verified
from heatcli.graph.outputs import probabilities, quantity, settled
from heatcli.images.baselines import Reference, reference
from heatcli.ledger import Books, Ledger, total
from heatcli.methods.growth import grows_at
from heatcli.methods.method import OneWalk
from heatcli.methods.question import Progress, Question, laid_out, score_of
from heatcli.methods.table import Method
from heatcli.methods.table import method as find_method
from heatcli.rules.base import per_image, wide
from heatcli.targets import Target, choose, joined


@dataclass(frozen=True, eq=False)
class Explanation:
    """What `explain` found for a batch of N images.

    `relevance` [N, C, H, W], of the input as the network sees it; `biases`: name → [N, size], in forward order, per
    element of the bias; `absorbed`, `unexplained`: operator → float64 [N]; `outputs`: the explained scores
    [N, classes], summed over the target's region where there are positions; `probabilities`: their mean there after the
    final activation (softmax where the artifact ends in none).
    `operators`: bias name → ATen operator. `quantity`: what the score is, as
    `heatcli.graph.outputs.quantity` says it.
    `seconds`: forward and backward an image. `verified`: how the explained graph compares with the artifact on its own
    runtime, None where that could not be asked.
    `notes`: what a reader of the maps should know, as `model.notes` has it.
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
    verified: Verified | None = None
    notes: tuple[str, ...] = ()


def explain(
    model: Model,
    batch: Tensor,
    method: str | Method = "lrp-eps",
    target: str | int | Sequence[int] | Tensor | Target | None = None,
    baseline: str | Tensor | Reference | None = None,
    region: Tensor | None = None,
    progress: Progress | None = None,
    **parameters: Any,
) -> Explanation:
    """Attribute one score of each image in `batch` [N, C, H, W] to its pixels and to the network's biases.

    `target`: None or "top" (the highest score), an index, a label, "A-B", "A@T" at position T of a dense or sequential
    output, "path" (the best score of each position), one index an image, or a `Target`. `baseline`: None
    (the method's own), a name (`none`, `zero`, `black`, `blur:SIGMA`, `mean`, a file), a tensor that broadcasts
    against the batch, or a `Reference` that was read before. `region`: for outputs [N, classes, h, w], the part of the
    input, [H, W] or [N, H, W], whose positions are summed over; None is where the class wins. `progress` is told how
    many passes are done and of how many, where a method takes many. `parameters` are the method's, such as `epsilon`.
    Raises `UsageError`, `ModelError`.
    """
    chosen = find_method(method, **parameters)
    if batch.dim() < 2 or not len(batch):
        raise UsageError(f"a batch [N, …] of at least one image is needed, this one has the shape {tuple(batch.shape)}")
    batch = batch.to(model.device, model.picture.dtype)
    origin = reference(model, batch, chosen, baseline)
    if model.sample is None:
        model.sample = batch[:1].detach()
    size = model.fixed_batch(batch.shape)
    alone = size is not None and size > 1 and not model.graph((size, *batch.shape[1:])).keeps_images_apart
    if size is None or (size == len(batch) and not alone):
        return _retried(model, batch, chosen, target, origin, region, progress)
    parts = []
    for index, n in model.parts(batch.shape, alone=alone):
        own = _of(target, index)
        area = region[index] if region is not None and region.dim() == 3 and len(region) > 1 else region
        parts.append((_retried(model, batch[index], chosen, own, origin.rows(index), area, progress, alone), n))
    return _joined(parts)


def _retried(model: Model, batch: Tensor, *rest: Any) -> Explanation:
    """As `_explain`; where the artifact decides otherwise on this batch, by the graph that was captured on it."""
    try:
        return _explain(model, batch, *rest)
    except OtherBranchError:
        model.recapture(batch)
        return _explain(model, batch, *rest)


def _of(target: Any, index: Tensor) -> Any:
    """The target of the images `index`."""
    if isinstance(target, Target):
        return target.rows(index.to(target.index.device))
    return target if target is None or isinstance(target, str | int) else torch.as_tensor(target).cpu()[index.cpu()]


def _explain(
    model: Model, batch: Tensor, method: Method, target: Any, origin: Reference, region: Tensor | None,
    progress: Progress | None, alone: bool = False,
) -> Explanation:  # fmt: skip
    graph = settled(model.graph(batch.shape), model.path)
    started = time.perf_counter()
    method.fits(graph)
    start = model.reference_values(origin) if method.procedure.compares else None
    tape = model.forward(batch, method.rules, start, compiled=method.kind == OneWalk.kind and not alone)
    between = time.perf_counter()
    output, n = tape.output, len(batch)
    if not bool(torch.isfinite(output).all()):
        raise ModelError(f"{model.path}: its output is not finite (NaN or infinite) on this image")
    scores = laid_out(output)
    goal = choose(target, scores, model.labels, _on_grid(model, region, batch, output))
    goal = goal.first() if alone else goal
    score = score_of(goal, output)
    question = Question(model, graph, batch, origin, goal, tape, score, progress=progress, alone=alone)
    answer = method.procedure(question, method)
    relevance, score0 = answer.relevance.contiguous(), answer.score0
    books = answer.books or Books.open(graph, batch[:1] if alone else batch)
    if alone:
        books = books.of(1)
        output, scores, score, relevance = output[:1], scores[:1], score[:1], relevance[:1]
        goal, score0 = goal.rows(torch.zeros_like(goal.index[:1])), None if score0 is None else score0[:1]
    ledger = _ledger(score, score0, relevance, books, method)
    if not bool(torch.isfinite(ledger.pixels).all()):  # a sum is finite only where all that it sums is
        raise ModelError(f"{model.path}: the relevance of {method.name} is not finite; try another method")
    seconds = {"forward": (between - started) / n, "backward": (time.perf_counter() - between) / n}
    at = goal.region[:, None].to(scores)
    chances = (laid_out(probabilities(graph, output)) * at).sum(2) / at.sum(2).clamp(min=1)
    return Explanation(
        relevance, books.biases, ledger, books.absorbed, books.unexplained, (scores * at).sum(2), chances, goal, method,
        origin, {name: operator for name, (operator, _) in graph.offsets.items()}, quantity(graph), seconds,
        graph.verified, _noted(question, ledger, relevance, books, method),
    )  # fmt: skip


UNBALANCED = 1e-3  # of the score
CANCELLING = 1e3  # times the score


def _noted(question: Question, ledger: Ledger, relevance: Tensor, books: Books, method: Method) -> tuple[str, ...]:
    """Add what a reader of these maps should know to the model's notes, each kind once; returns it."""
    model, goal, found = question.model, question.goal, []
    for i in [] if goal.nowhere is None else goal.nowhere.nonzero()[:, 0].tolist():
        index = int(goal.index[i])
        name = model.label(index) or f"class {index}"
        found.append((f"nowhere {index}", f"{name} wins nowhere, so it is explained where its score is highest"))
    if method.conserves:
        errors = ledger.relative_error.detach()
        worst = int(errors.argmax())
        error = float(errors[worst])
        if error > UNBALANCED:
            lost = max(
                books.unexplained, key=lambda name: float(books.unexplained[name][worst].detach().abs()), default=None
            )
            most = "" if lost is None else f", most of it at {lost}"
            found.append(("unbalanced", f"the ledger does not balance: {error:.2g} of the score are unexplained{most}"))
        sums = wide(relevance.detach()).abs().flatten(1).sum(1)
        ratio = sums / ledger.output.detach().abs().clamp_min(torch.finfo(torch.float32).tiny)
        worst = int(ratio.argmax())
        if float(ratio[worst]) > CANCELLING:
            found.append((
                f"cancelling {method.name}",
                f"{method.name} gives pixels {float(sums[worst]):.3g} for and against a score of "
                f"{float(ledger.output.detach()[worst]):.3g}: what is left of them is noise; another method or a "
                "baseline helps",
            ))  # fmt: skip
            if method.kind == OneWalk.kind:
                key = f"grows {method.name}"
                found.append((key, model.notes.get(key) or _growth(question, method)))
    for key, text in found:
        model.notes.add(text, key)
    return tuple(dict.fromkeys(text for _, text in found))


def _growth(question: Question, method: Method) -> str:
    name, times = grows_at(question, method)
    return f"relevance of {method.name} grows most at operator {name}, {times:.3g} times"


def _on_grid(model: Model, region: Tensor | None, batch: Tensor, output: Tensor) -> Tensor | None:
    """A region [N, H, W] of the input as one of the output's positions, [N, positions]."""
    if region is None:
        return None
    if output.dim() != 4 or output[0, 0].numel() == 1:
        raise UsageError(f"{model.path}: its output has no positions, so a region makes no sense")
    if region.dim() == 2:
        region = region[None]
    if region.shape[-2:] != batch.shape[-2:] or region.shape[0] not in (1, len(batch)):
        raise UsageError(f"the region has the shape {tuple(region.shape)}, the input {tuple(batch.shape)}")
    grid = torch.nn.functional.interpolate(region[:, None].to(batch), output.shape[-2:], mode="area")
    return (grid[:, 0] >= 0.5).flatten(1).expand(len(batch), -1)


def _ledger(score: Tensor, score0: Tensor | None, relevance: Tensor, books: Books, method: Method) -> Ledger:
    score0 = torch.zeros_like(score) if score0 is None else score0
    pixels, biases = per_image(relevance), total(books.biases, score)
    absorbed, unexplained = total(books.absorbed, score), total(books.unexplained, score)
    if not method.conserves:
        unexplained = score - score0 - pixels - biases - absorbed
    return Ledger(score, score0, pixels, biases, absorbed, unexplained)


def _fields(ledger: Ledger) -> dict[str, Tensor]:
    return {f.name: getattr(ledger, f.name) for f in fields(ledger)}


def combined(parts: Sequence[Explanation], how: Callable[[Sequence[Tensor]], Tensor]) -> Explanation:
    """An explanation each of whose tensors is `how` makes it of those of the parts; the rest is as in the first."""
    names = ("relevance", "biases", "absorbed", "unexplained", "outputs", "probabilities")
    tensors = [{**{name: getattr(part, name) for name in names}, "ledger": _fields(part.ledger)} for part in parts]
    found = pytree.tree_map(lambda *values: how(values), *tensors)
    return replace(parts[0], **{**found, "ledger": Ledger(**found["ledger"])})


def _joined(parts: list[tuple[Explanation, int]]) -> Explanation:
    """One explanation of the first `n` images of each part."""
    explanations, counts = zip(*parts, strict=True)
    target = Target.joined([(part.target, n) for part, n in parts])
    notes = tuple(dict.fromkeys(text for part in explanations for text in part.notes))
    return replace(combined(explanations, lambda values: joined(values, counts)), target=target, notes=notes)
