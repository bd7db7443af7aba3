"""What a reader of maps should know: classes that win nowhere, ledgers that do not balance, noisy and empty maps."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from heatcli.engine.ledger import Books, Ledger
from heatcli.graph.outputs import present_above
from heatcli.methods.growth import grows_at
from heatcli.methods.method import Method, OneWalk
from heatcli.methods.question import Question
from heatcli.rules.numerics import wide

UNBALANCED = 1e-3  # of the score
CANCELLING = 1e3  # times the score

Remark = tuple[str, str]  # (key, text); a model's notes keep one text a key


def remarks(question: Question, ledger: Ledger, relevance: Tensor, books: Books, method: Method) -> tuple[str, ...]:
    """The remarks on the maps `relevance` [N, …], each once. Adds them to the model's notes."""
    found = list(_nowhere(question))
    if method.conserves:
        found += [*_unbalanced(ledger, books), *_cancelling(question, ledger, relevance, method)]
    found += _empty(relevance, method)
    for key, text in found:
        question.model.notes.add(text, key)
    return tuple(dict.fromkeys(text for _, text in found))


def _nowhere(question: Question) -> Iterator[Remark]:
    """Classes that win at no position."""
    goal = question.goal
    for i in [] if goal.nowhere is None else goal.nowhere.nonzero()[:, 0].tolist():
        index = int(goal.index[i])
        name = question.model.label(index) or f"class {index}"
        where = "wins" if present_above(question.graph) is None else "is present"
        yield f"nowhere {index}", f"{name} {where} nowhere, so it is explained where its score is highest"


def _unbalanced(ledger: Ledger, books: Books) -> Iterator[Remark]:
    """The ledger with the largest relative error."""
    errors = ledger.relative_error.detach()
    worst = int(errors.argmax())
    if float(errors[worst]) <= UNBALANCED:
        return
    lost = max(books.unexplained, key=lambda name: float(books.unexplained[name][worst].detach().abs()), default=None)
    most = "" if lost is None else f", most of it at {lost}"
    yield (
        "unbalanced",
        f"the ledger does not balance: {float(errors[worst]):.2g} of the score are unexplained{most}",
    )


def _cancelling(question: Question, ledger: Ledger, relevance: Tensor, method: Method) -> Iterator[Remark]:
    """Positive and negative relevance far larger than the score, and the operator where they grow."""
    sums = wide(relevance.detach()).abs().flatten(1).sum(1)
    ratio = sums / ledger.output.detach().abs().clamp_min(torch.finfo(torch.float32).tiny)
    worst = int(ratio.argmax())
    if float(ratio[worst]) <= CANCELLING:
        return
    yield (
        f"cancelling {method.name}",
        f"{method.name} gives the pixels {float(sums[worst]):.3g} in all, for and against, and the score is "
        f"{float(ledger.output.detach()[worst]):.3g}: so the map is mostly noise; try another method or a baseline",
    )
    if method.kind == OneWalk.kind and question.model.explained is None:
        key = f"grows {method.name}"
        yield key, question.model.notes.get(key) or _growth(question, method)


def _growth(question: Question, method: Method) -> str:
    """The operator where relevance grows most, as a remark. Takes one more walk."""
    name, times = grows_at(question, method)
    return f"relevance of {method.name} grows most at operator {name}, {times:.3g} times"


def _empty(relevance: Tensor, method: Method) -> Iterator[Remark]:
    """A map of a CAM method that is 0 everywhere."""
    if method.kind == "cam" and not bool(relevance.detach().flatten(1).any(1).all()):
        layer = getattr(method.procedure, "layer", "last")
        yield (
            f"empty {method.name}",
            f"a map of {method.name} is empty: nothing in layer {layer} speaks for the score; --layer names another",
        )
