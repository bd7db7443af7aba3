"""The similarity of two pictures as joint relevance: which region of one goes with which region of the other.

BiLRP (Eberle et al. 2020, arXiv 2003.05405, eq. 3): R_ij = Σ_m R_i(f_m, a)·R_j(f_m, b), where R(f_m, ·) explains number
m of the embedding f. So the similarity Σ_m f_m(a)·f_m(b) is divided among pairs of regions, and among what the network
adds by itself: each f_m is the sum of its pixels and of its biases, and a product of two sums has four parts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from heatcli.errors import UsageError
from heatcli.explanation import explain
from heatcli.methods.method import OneWalk
from heatcli.methods.pairs import COSINE, goals
from heatcli.methods.question import outputs_of
from heatcli.methods.table import Method
from heatcli.methods.table import method as find_method
from heatcli.methods.targets import Target
from heatcli.model.model import Model
from heatcli.rules.numerics import wide

AT_ONCE = 16  # numbers of the embedding in one walk
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Joint:
    """The similarity `score` of pictures a and b, divided among pairs of regions of a grid; all are float64.

    `pixels` [G, G, G, G]: row and column of a's region, row and column of b's. `own` [G, G]: a's regions with b's
    biases; `other` [G, G]: b's regions with a's biases; `biases`: biases with biases. Biases include what ε absorbs.
    """

    score: float
    pixels: Tensor
    own: Tensor
    other: Tensor
    biases: float

    @property
    def relative_error(self) -> float:
        """|score − pixels − own − other − biases| / |score|."""
        left = self.score - float(self.pixels.sum() + self.own.sum() + self.other.sum()) - self.biases
        return abs(left) / (abs(self.score) or 1.0)

    def strongest(self, count: int) -> list[tuple[float, tuple[int, int], tuple[int, int]]]:
        """The pairs of regions with most relevance of either sign: relevance, (row, column) of a, and of b."""
        flat = self.pixels.flatten()
        places = torch.unravel_index(flat.abs().topk(min(count, flat.numel())).indices, self.pixels.shape)
        rows = torch.stack(places, 1).tolist()
        return [(float(self.pixels[i, j, k, n]), (i, j), (k, n)) for i, j, k, n in rows]


def joint(
    model: Model, image: Any, other: Any, method: str | Method = "lrp-eps", similarity: str = COSINE, grid: int = 8,
    progress: Progress | None = None, **parameters: Any,
) -> Joint:  # fmt: skip
    """The joint relevance of two pictures, as `heatcli.explain` has its images, in `grid`×`grid` regions of each.

    One walk on each picture for every number of the embedding. Without a baseline. Raises `UsageError`, `ModelError`.
    """
    chosen = find_method(method, **parameters)
    if not isinstance(chosen.procedure, OneWalk) or not chosen.conserves:
        raise UsageError(f"method {chosen.name} does not divide a score in one walk; use one that does, as lrp-eps")
    batches = [model.pictures.batch(given)[0].to(model.device, model.pictures.dtype) for given in (image, other)]
    for batch in batches:
        if batch.dim() != 4 or len(batch) != 1 or model.artifact.paired:
            raise UsageError(f"{model.path}: joint relevance is of two pictures and of a network that takes one")
        if not 1 <= grid <= min(batch.shape[2:]):
            raise UsageError(f"grid {grid} is not allowed; it must be a whole number from 1 to {min(batch.shape[2:])}")
    model.network.seen(batches[0])
    embedding = model.as_embedding(batches[0].shape)
    goal, _ = goals(embedding, batches[0], batches[1], similarity)
    own, others = (wide(outputs_of(embedding, batch)) for batch in batches)
    assert goal.weights is not None
    weight = float((goal.weights * others).sum() / (others * others).sum())  # 1, or one over both norms
    total = 2 * own[0].numel()

    def told(done: int) -> None:
        if progress is not None:
            progress(done, total)

    cells, rest = _each_number(embedding, batches[0], own.shape[1:], chosen, grid, told)
    other_cells, other_rest = _each_number(
        embedding, batches[1], own.shape[1:], chosen, grid, lambda n: told(total // 2 + n)
    )
    square = (grid, grid)
    return Joint(
        score=weight * float((own * others).sum()),
        pixels=weight * (cells.T @ other_cells).reshape(*square, *square),
        own=weight * (other_rest @ cells).reshape(square),
        other=weight * (rest @ other_cells).reshape(square),
        biases=weight * float(rest @ other_rest),
    )


def _each_number(
    model: Model, batch: Tensor, shape: torch.Size, method: Method, grid: int, told: Callable[[int], None]
) -> tuple[Tensor, Tensor]:
    """Of each of M numbers of the embedding of one picture: relevance of regions [M, G²], and of all else [M]."""
    numbers = shape.numel()
    cells, rest = [], []
    for start in range(0, numbers, AT_ONCE):
        some = torch.arange(start, min(start + AT_ONCE, numbers), device=batch.device)
        seeds = torch.nn.functional.one_hot(some, numbers).double().reshape(-1, *shape)
        found = explain(model, batch.expand(len(some), *batch.shape[1:]), method, _goal(seeds), "none")
        cells.append(_summed(wide(found.relevance.detach()).sum(1), grid).flatten(1))
        rest.append(found.ledger.biases + found.ledger.absorbed)
        told(start + len(some))
    return torch.cat(cells), torch.cat(rest).to(cells[0])


def _goal(seeds: Tensor) -> Target:
    """The scores that `seeds` [n, K, positions] select, one an image."""
    index = torch.zeros(len(seeds), dtype=torch.int64, device=seeds.device)
    return Target(index=index, minus=None, region=torch.ones_like(seeds[:, 0], dtype=torch.bool), weights=seeds)


def _summed(maps: Tensor, grid: int) -> Tensor:
    """[n, H, W] summed over the regions of a grid, [n, G, G]; every pixel belongs to one region."""
    for dim in (1, 2):
        size = maps.shape[dim]
        region = torch.arange(size, device=maps.device) * grid // size
        shape = [*maps.shape]
        shape[dim] = grid
        maps = maps.new_zeros(shape).index_add_(dim, region, maps)
    return maps
