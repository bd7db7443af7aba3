"""What a model that explains itself says: read from its outputs, never computed here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from heatcli.artifact.explained import INPUT, Note
from heatcli.engine.ledger import Books
from heatcli.errors import ModelError, UsageError
from heatcli.images.baselines import Reference
from heatcli.methods.method import Answer, Method
from heatcli.methods.question import Question, laid_out
from heatcli.methods.table import METHODS
from heatcli.methods.table import method as find_method
from heatcli.methods.targets import TOP, choose
from heatcli.model.model import Model

INSIDE = "inside the artifact"  # where absorbed and unexplained relevance was booked


def own_method(model: Model, note: Note) -> Method:
    """The method that the model explains itself by. Raises `ModelError` for a method that this heatcli lacks."""
    said = note.method
    if said.name not in METHODS:
        raise ModelError(f"{model.path}: explains itself by {said.name}, a method that this heatcli does not have")
    return METHODS[said.name].configured(said.parameters).with_rules(said.rules)


def asked(model: Model, note: Note, method: str | Method | None, parameters: Mapping[str, Any]) -> Method:
    """The model's own method. Raises `UsageError` where another was asked for."""
    own = own_method(model, note)
    wanted = own if method is None and not parameters else find_method(method or own.name, **parameters)
    if wanted == own:
        return own
    settings = ", ".join(f"{key}={value}" for key, value in note.method.parameters.items())
    raise UsageError(
        f"{model.path}: explains itself, by {own.name}{f' ({settings})' if settings else ''}; leave the method out, or "
        f"explain the model that it was made of, {note.source.name}"
    )


def reference(model: Model, note: Note, baseline: str | Tensor | Reference | None) -> Reference:
    """What the model compares images with, as far as its note says.

    `baseline`: as `heatcli.explain` takes it; a tensor is [N, …]. Raises `UsageError` for another baseline than the
    model's.
    """
    if isinstance(baseline, Reference):
        baseline = baseline.name
    if baseline is None or (isinstance(baseline, str) and baseline in (note.asked, note.baseline["name"])):
        details = {key: value for key, value in note.baseline.items() if key != "name"}
        return Reference(note.baseline["name"], details=details)
    raise UsageError(
        f"{model.path}: compares with the baseline {note.asked}, inside the artifact; leave --baseline out"
    )


def own_target(note: Note | None, target: Any) -> Any:
    """The target asked for; where none is, the class that the artifact always explains."""
    return note.target if target is None and note is not None and note.target != INPUT else target


def answer(question: Question, note: Note) -> Answer:
    """What the artifact says of the question's batch, in its own runtime. Raises `UsageError`, `ModelError`."""
    model, batch, goal = question.model, question.batch, question.goal
    given = [batch]
    if note.target == INPUT:
        if goal.minus is not None or goal.path is not None:
            raise UsageError(f"{model.path}: explains one class of each image; give an index, a label or top")
        given.append(goal.index)
    else:
        _check_target(question, note)
    run = model.artifact.runtime
    assert run is not None
    found = dict(zip(note.outputs, (value.to(batch.device) for value in run(given)), strict=True))
    relevance = _relevance(model, found, batch)
    books = Books(len(batch), biases=_biases(note, found))
    if "ledger" not in found:
        return Answer(relevance, books)
    columns = dict(zip(note.ledger, found["ledger"].double().unbind(1), strict=True))
    books.absorbed = {INSIDE: columns["absorbed"]}
    books.unexplained = {INSIDE: columns["unexplained"]} if bool(columns["unexplained"].any()) else {}
    return Answer(relevance, books, columns["output_baseline"], columns["output"])


def _check_target(question: Question, note: Note) -> None:
    """Raise `UsageError` where the artifact explains another class than asked for."""
    model, goal = question.model, question.goal
    assert question.tape is not None
    own = choose(note.target, laid_out(question.tape.output), model.labels)
    for name, ours, theirs in (("", goal.index, own.index), ("less ", goal.minus, own.minus)):
        if not (theirs is None if ours is None else theirs is not None and torch.equal(ours, theirs)):
            says = "the highest score" if note.target == TOP else note.target
            raise UsageError(
                f"{model.path}: explains {says} alone, and another class {name}was asked for; export it with "
                "--target input, and it explains any"
            )


def _relevance(model: Model, found: Mapping[str, Tensor], batch: Tensor) -> Tensor:
    """The relevance [N, C, H, W]; a heatmap [N, H, W] is divided evenly over channels. Raises `ModelError`."""
    if "relevance" in found:
        return found["relevance"]
    if "heatmap" in found:
        return (found["heatmap"][:, None] / batch.shape[1]).expand_as(batch)
    raise ModelError(
        f"{model.path}: returns no relevance and no heatmap, so there is nothing to draw; export it with one of them"
    )


def _biases(note: Note, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Elements of each bias [N, size]; [N, 1] where the artifact returns sums alone."""
    if "bias_elements" in found:
        return dict(
            zip(note.biases, found["bias_elements"].split_with_sizes(list(note.biases.values()), 1), strict=True)
        )
    return {name: found["biases"][:, i : i + 1] for i, name in enumerate(note.biases)} if "biases" in found else {}
