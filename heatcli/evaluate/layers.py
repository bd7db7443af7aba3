"""Randomising a model's layers (Adebayo et al. 2018), in its graph, so that all formats are treated alike."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from heatcli.engine.network import Network
from heatcli.errors import ModelError
from heatcli.evaluate.explainer import Explainer
from heatcli.evaluate.similarity import correlation, rank_correlation, ssim
from heatcli.evaluate.subject import Subject
from heatcli.graph.facts import READING_MAPS
from heatcli.graph.kinds import classified
from heatcli.graph.operator import Constant, Graph, Operator
from heatcli.model.model import Model
from heatcli.system.torch_private import pytree


@dataclass(eq=False, kw_only=True)
class Randomised(Network):
    """A network with the weights of some layers shuffled. `original`: the network before."""

    original: Network = field(repr=False)
    layers: frozenset[str]
    seed: int

    _shuffled: dict[Graph, Graph] = field(default_factory=dict, init=False, repr=False)

    def graph(self, shape: Sequence[int]) -> Graph:
        """The original's graph with the layers shuffled. Raises `ModelError`."""
        return self._randomised(self.original.graph(shape))

    def graph_on(self, batch: Tensor) -> Graph:
        """The original's graph for a batch [N, …], with the layers shuffled. Raises `ModelError`."""
        return self._randomised(self.original.graph_on(batch))

    @contextmanager
    def holding(self, batch: Tensor) -> Iterator[None]:
        """As of the original: positions that random weights choose are none that anything was seen at."""
        with self.original.holding(batch):
            yield

    def _randomised(self, graph: Graph) -> Graph:
        if graph not in self._shuffled:
            self._shuffled[graph] = randomised(graph, self.layers, self.seed)
        return self._shuffled[graph]


def with_random(model: Model, layers: Iterable[str], seed: int = 0) -> Model:
    """A copy of `model` with the weights of the named layers shuffled."""
    own = {f.name: getattr(model.network, f.name) for f in fields(Network) if f.init}
    return replace(
        model, network=Randomised(**own, original=model.network, layers=frozenset(layers), seed=seed)
    )  # fmt: skip


def layers_of(graph: Graph) -> dict[str, tuple[str, ...]]:
    """The layers from input to output: name → names of the layer's operators.

    A layer begins at an operator with a weight of at least two dimensions. The batch norms and biases up to the next
    such operator belong to the layer.
    """
    found: dict[str, list[str]] = {}
    for operator in graph.operators:
        weights = _weights(operator)
        if not weights:
            continue
        matrices = [w for w in weights if w.value.numel() > max(w.value.shape)]
        if not found or matrices:
            name = (matrices or weights)[0].name.removesuffix(".weight")
            found.setdefault(name if name not in found else operator.name, [])
        found[next(reversed(found))].append(operator.name)
    return {name: tuple(operators) for name, operators in found.items()}


def randomised(graph: Graph, layers: Iterable[str], seed: int = 0) -> Graph:
    """The graph with the elements of each weight and bias of these layers shuffled.

    Shuffling keeps the distribution of each tensor, so variances stay positive. A weight that is used twice is shuffled
    in the same way.
    """
    members = layers_of(graph)
    chosen = {operator for layer in layers for operator in members[layer]}
    return replace(graph, operators=tuple(_shuffled(op, seed) if op.name in chosen else op for op in graph.operators))


def _weights(operator: Operator) -> list[Constant]:
    """The weights and biases of an operator. Boxes that maps are read at are neither."""
    if operator.title in READING_MAPS:
        return []
    return [c for c in operator.constants if c.value.is_floating_point() and c.value.numel() > 1 and operator.sources]


def _shuffled(operator: Operator, seed: int) -> Operator:
    """The operator with its floating-point constants shuffled."""

    def permuted(x: object) -> object:
        """A weight in an order that depends on its name and the seed; any other argument unchanged."""
        if not isinstance(x, Constant) or not x.value.is_floating_point() or x.value.numel() < 2:
            return x
        generator = torch.Generator().manual_seed(zlib.crc32(x.name.encode()) + seed)
        order = torch.randperm(x.value.numel(), generator=generator).to(x.value.device)
        return Constant(x.name, x.value.flatten()[order].reshape(x.value.shape))

    args, kwargs = pytree.tree_map(permuted, (operator.args, dict(operator.kwargs)))
    return classified(replace(operator, args=args, kwargs=kwargs))


@dataclass(frozen=True, eq=False)
class Likeness:
    """How similar heatmaps are to the original ones after each of K layers was randomised: each float64 [N, K].

    `layers`: from the output's end. `rank`: rank correlation; `absolute_rank`: of |relevance|; `ssim`: structural
    similarity; `correlation`: Pearson's. `matters`, bool: whether the image's score depends on any layer that was
    randomised; that of a box does not depend on the layers of other scales, nor on those that make coordinates.
    """

    layers: tuple[str, ...]
    rank: Tensor
    absolute_rank: Tensor
    ssim: Tensor
    correlation: Tensor
    matters: Tensor

    def mean(self, likeness: Tensor) -> Tensor:
        """The mean of a likeness [N, K] over the layers that matter to each image, float64 [N]."""
        return (likeness * self.matters).sum(1) / self.matters.sum(1).clamp(min=1)


def randomisation(
    subject: Subject, explainer: Explainer, cascading: bool = True, seed: int = 0, at_most: int | None = None
) -> Likeness:
    """Randomise layers from the output's end and explain the same scores again.

    `cascading`: randomise one layer after the other, keeping the earlier ones random; else each layer alone.
    `at_most`: the number of layers to try, evenly spread over all; None tries all. Raises `ModelError` if the model has
    no weights, its outputs are not finite with random ones, or it explains itself.
    """
    note = subject.model.explained
    if note is not None:
        raise ModelError(
            f"{subject.model.path}: explains itself, with weights that cannot be randomised; ask {note.source.name}"
        )
    graph = subject.model.graph(_shape_of_a_run(subject))
    members = layers_of(graph)
    layers = tuple(reversed(members))
    if not layers:
        raise ModelError(f"{subject.model.path}: has no weights that could be randomised")
    original, scored = subject.heatmaps(explainer), subject.scored_by
    rows, matter = [], []
    count = min(at_most or len(layers), len(layers))
    depths = [round(i * (len(layers) - 1) / max(1, count - 1)) for i in range(count)]
    for depth in depths:
        chosen = layers[: depth + 1] if cascading else (layers[depth],)
        changed = subject.heatmaps(explainer, model=with_random(subject.model, chosen, seed))
        rows.append(compare(original, changed))
        matter.append([any(not own.isdisjoint(members[layer]) for layer in chosen) for own in scored])
    rank, absolute, structure, linear = (torch.stack(column, 1) for column in zip(*rows, strict=True))
    matters = torch.tensor(matter, device=rank.device).T
    return Likeness(tuple(layers[depth] for depth in depths), rank, absolute, structure, linear, matters)


def compare(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The rank correlation of heatmaps [N, H, W], that of their absolute values, SSIM, and correlation: each [N]."""
    return rank_correlation(a, b), rank_correlation(a.abs(), b.abs()), ssim(a, b), correlation(a, b)


def _shape_of_a_run(subject: Subject) -> tuple[int, ...]:
    size = subject.model.network.fixed_batch(subject.batch.shape)
    return (size or min(len(subject), subject.batch_size), *subject.batch.shape[1:])
