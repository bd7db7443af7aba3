"""Pairs of pictures: the similarity of two embeddings as a score of each picture, the other's embedding being fixed.

With embeddings f(a) and f(b), `dot` is Σₖ fₖ(a)·fₖ(b) and `cosine` is that over |f(a)|·|f(b)|. Either is a weighted sum
of f(a), whose weights are f(b), over both norms for cosine, and these are constants. So every method explains it as it
explains a logit, and the books close. The norm |f(a)| must be a constant for that: the cosine itself does not change
with the length of f(a), so its exact gradient leaves nothing to divide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from heatcli.errors import UsageError, unknown_name
from heatcli.graph.operator import Graph
from heatcli.methods.question import outputs_of
from heatcli.methods.targets import Target
from heatcli.rules.numerics import per_image, wide

if TYPE_CHECKING:
    from heatcli.model.model import Model

COSINE, DOT = "cosine", "dot"
SIMILARITIES = (COSINE, DOT)


def goals(model: Model, batch: Tensor, other: Tensor, similarity: str = COSINE) -> tuple[Target, Target]:
    """The similarity of each image of `batch` [N, …] to that of `other` [N, …], as a score of the one and of the other.

    Raises `UsageError` for an unknown similarity, for outputs that are no embeddings of one form, and for a cosine with
    an embedding of zeros.
    """
    if similarity not in SIMILARITIES:
        raise unknown_name("similarity", similarity, SIMILARITIES)
    _check_one_output(model, model.graph(batch.shape))
    own, others = outputs_of(model, batch), outputs_of(model, other)
    if own.shape != others.shape:
        shapes = " and ".join(str(list(x.shape[1:])) for x in (own, others))
        raise UsageError(f"{model.path}: the embeddings of the two pictures have other shapes: {shapes}")
    return _goal(model, own, others, similarity), _goal(model, others, own, similarity)


def _goal(model: Model, own: Tensor, other: Tensor, similarity: str) -> Target:
    """The similarity of `own` and `other` [N, classes, positions], as a weighted sum of `own`."""
    weights = wide(other)
    if similarity == COSINE:
        norms = per_image(wide(own) ** 2).sqrt() * per_image(wide(other) ** 2).sqrt()
        if not bool((norms > 0).all()):
            raise UsageError(f"{model.path}: an embedding is all zeros, so it has no cosine; --similarity dot has one")
        weights = weights / norms[:, None, None]
    index = torch.zeros(len(own), dtype=torch.int64, device=own.device)
    return Target(index=index, minus=None, region=torch.ones_like(own[:, 0], dtype=torch.bool), weights=weights)


def _check_one_output(model: Model, graph: Graph) -> None:
    """Raise `UsageError` if several outputs may be the embedding."""
    if graph.boxes is not None:
        raise UsageError(f"{model.path}: returns boxes; a pair needs an embedding: --kind embedding says it is one")
    if model.capture.head is None and len(graph.returned) > 1:
        shapes = ", ".join(f"{i} {list(one.shape)}" for i, one in enumerate(graph.returned))
        raise UsageError(
            f"{model.path}: returns {len(graph.returned)} outputs ({shapes}); --head says which is the embedding"
        )
