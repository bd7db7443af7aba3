"""What a procedure may ask of the network: scores and walks, at the images themselves or anywhere else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from heatcli.graph.kinds import FIRST
from heatcli.graph.operator import Graph
from heatcli.ledger import Books
from heatcli.rules.base import per_image, wide
from heatcli.targets import Target
from heatcli.walk import Table, Tape, forward, values_of, walk

if TYPE_CHECKING:
    from heatcli.artifact.model import Model
    from heatcli.images.baselines import Reference

AT_ONCE = 8  # points that go through the network together, where the batch itself is not larger


@dataclass(frozen=True, eq=False)
class Walked:
    """A walk over M points: the multiplier of the input [M, …], the books, the scores and those of the references.

    `values` and `multipliers` are those at the operators that were to be kept, [M, …] each.
    """

    multiplier: Tensor
    books: Books
    score: Tensor
    score0: Tensor | None = None
    values: dict[str, Tensor] = field(default_factory=dict)
    multipliers: dict[str, Tensor] = field(default_factory=dict)


@dataclass(eq=False)
class Question:
    """A batch [N, …], what it is compared with, and the score of each image that is explained.

    Points [M, …] are inputs of the network anywhere; `rows`, int64 [M], says of which image each is, and so whose
    target counts. They go through the network a few at a time.
    """

    model: Model
    graph: Graph
    batch: Tensor
    reference: Reference
    goal: Target
    tape: Tape | None
    score: Tensor
    score0: Tensor | None = None

    @property
    def difference(self) -> Tensor:
        """The batch less its reference."""
        return self.batch if self.reference.batch is None else self.batch - self.reference.batch

    def walk_batch(self, rules: Table, books: bool = True, keep: Sequence[str] = ()) -> Walked:
        """Walk the batch back by `rules`, with its reference; the forward run that chose the target serves once."""
        tape, self.tape = self.tape, None
        if tape is None:
            tape = forward(self.graph, self.batch)
        return self._walk(tape, self.goal, rules, books, keep, self.score0)

    def walk(
        self, points: Tensor, rows: Tensor, rules: Table, references: Tensor | None = None, books: bool = False,
        keep: Sequence[str] = (),
    ) -> Iterator[tuple[Tensor, Walked]]:  # fmt: skip
        """Walk points back, a few at a time: each time which of them, int64, and their walk.

        `references` [M, …] are what they are compared with. Nothing is kept between one part and the next.
        """
        for at, real in self._parts(len(points)):
            graph = self.model.graph((len(at), *points.shape[1:]))
            tape = forward(graph, points[at], None if references is None else references[at])
            yield real, self._walk(tape, self.goal.rows(rows[at]), rules, books, keep, None, len(real))

    def scores(self, points: Tensor, rows: Tensor) -> Tensor:
        """The score at each point, float64 [M]."""
        found = []
        for at, real in self._parts(len(points)):
            graph = self.model.graph((len(at), *points.shape[1:]))
            output = values_of(graph, points[at])[graph.output]
            found.append(score_of(self.goal.rows(rows[at]), output)[: len(real)])
        return torch.cat(found)

    def _parts(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Indices of points that go together: those that fill the network's batch, and the real ones among them."""
        fixed = self.model.fixed_batch(self.batch.shape)
        size = fixed or max(AT_ONCE, len(self.batch))
        for start in range(0, count, size):
            real = torch.arange(start, min(start + size, count), device=self.batch.device)
            whole = torch.arange(start, start + size, device=self.batch.device).clamp(max=count - 1)
            yield (whole if fixed else real), real

    def _walk(
        self, tape: Tape, goal: Target, rules: Table, book: bool, keep: Sequence[str], score0: Tensor | None,
        rows: int | None = None,
    ) -> Walked:  # fmt: skip
        if FIRST in rules and self.batch.dim() == 4:
            tape.bound(*self.model.pixel_range(self.batch))
        seed = goal.seed(laid_out(tape.output))
        score = per_image(wide(seed) * wide(laid_out(tape.output)))
        if score0 is None and tape.reference_output is not None:
            score0 = score_of(goal, tape.reference_output.expand_as(tape.output))
        kept = dict.fromkeys(keep)
        values = {s.operator.name: s.output.detach() for s in tape.steps if s.operator.name in kept}
        books = Books.open(tape.graph, tape.input)
        multipliers: dict[str, Tensor] = {name: torch.zeros_like(value) for name, value in values.items()}
        shape = tape.output.shape
        multiplier = walk(tape, rules, seed.reshape(shape), books if book else None, multipliers)
        rows = len(multiplier) if rows is None else rows
        return Walked(
            multiplier[:rows], books, score[:rows], None if score0 is None else score0[:rows],
            {n: v[:rows] for n, v in values.items()}, {n: m[:rows] for n, m in multipliers.items()},
        )  # fmt: skip


def laid_out(output: Tensor) -> Tensor:
    """An output [N], [N, classes] or [N, classes, …] as [N, classes, positions]."""
    return output.reshape(len(output), output.shape[1] if output.dim() > 1 else 1, -1)


def score_of(goal: Target, output: Tensor) -> Tensor:
    """The score that `goal` picks from an output [N, …], float64 [N]."""
    scores = laid_out(output)
    return per_image(wide(goal.seed(scores)) * wide(scores))
