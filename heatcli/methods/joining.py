"""How explanations of parts of a batch become one: a function for each field, named in the field's metadata."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from heatcli.engine.ledger import Ledger
from heatcli.images.baselines import Reference
from heatcli.methods.method import Concept
from heatcli.methods.targets import Target, joined

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Record = TypeVar("Record", bound="DataclassInstance")

# (the field's value in each part, the number of images to take from each part) → the value for all images.
Join = Callable[[Sequence[Any], Sequence[int]], Any]


def rows(values: Sequence[Any], counts: Sequence[int]) -> Any:
    """The first rows of each part's tensors [N, …], one part after the other."""
    return _mapped(lambda tensors: joined(tensors, counts), values, counts)


def same(values: Sequence[Any], counts: Sequence[int]) -> Any:  # noqa: ARG001
    """What is the same for every image."""
    return values[0]


def targets(values: Sequence[Target], counts: Sequence[int]) -> Target:
    """The targets of all images."""
    return Target.joined(list(zip(values, counts, strict=True)))


def references(values: Sequence[Reference], counts: Sequence[int]) -> Reference:
    """What all images were compared with."""
    batches = [one.batch for one in values if one.batch is not None]
    return replace(values[0], batch=joined(batches, counts)) if batches else values[0]


def mean_seconds(values: Sequence[dict[str, float]], counts: Sequence[int]) -> dict[str, float]:
    """Seconds an image, over all images."""
    return {name: sum(one[name] * n for one, n in zip(values, counts, strict=True)) / sum(counts) for name in values[0]}


def each_once(values: Sequence[tuple[str, ...]], counts: Sequence[int]) -> tuple[str, ...]:  # noqa: ARG001
    """Every text, once."""
    return tuple(dict.fromkeys(text for one in values for text in one))


def concepts(values: Sequence[Concept | None], counts: Sequence[int]) -> Concept | None:
    """What channels gave to the scores of all images."""
    known = [one for one in values if one is not None]
    if not known:
        return None
    relevance, score = (joined([getattr(one, name) for one in known], counts) for name in ("relevance", "score"))
    return replace(known[0], relevance=relevance, score=score)


def joined_parts(parts: Sequence[Record], counts: Sequence[int]) -> Record:
    """One record of the first images of each part, as many as `counts` says."""
    named = {
        f.name: f.metadata["join"]([getattr(part, f.name) for part in parts], counts) for f in fields(parts[0])
    }  # fmt: skip
    return replace(parts[0], **named)


def combined(parts: Sequence[Record], how: Callable[[Sequence[Tensor]], Tensor]) -> Record:
    """A record whose tensors are computed by `how` from the tensors of all parts; the rest is the first part's.

    `how`: from a tensor [N, …] of each part to one tensor [N, …].
    """
    names = [f.name for f in fields(parts[0]) if f.metadata["join"] is rows]
    values = {name: [getattr(part, name) for part in parts] for name in names}
    counts = [len(one) for one in values[names[0]]]
    return replace(parts[0], **{name: _mapped(how, values[name], counts) for name in names})


def _mapped(how: Callable[[Sequence[Tensor]], Tensor], values: Sequence[Any], counts: Sequence[int]) -> Any:
    """`how` of each tensor, in a tensor, a dictionary of tensors or a ledger of each part.

    A dictionary's entry that only some parts have is 0 in the other parts, for as many images as `counts` says.
    """
    first = values[0]
    if isinstance(first, Tensor):
        return how(values)
    if isinstance(first, Ledger):
        return Ledger(**{f.name: how([getattr(one, f.name) for one in values]) for f in fields(first)})
    found = {}
    for name in dict.fromkeys(name for one in values for name in one):
        known = next(one[name] for one in values if name in one)
        found[name] = how([
            one[name] if name in one else known.new_zeros(n, *known.shape[1:])
            for one, n in zip(values, counts, strict=True)
        ])  # fmt: skip
    return found
