"""What a procedure may ask of the network: scores and walks, at the images themselves or anywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from heatcli.graph.operator import Graph
from heatcli.ledger import Books
from heatcli.memory import kept
from heatcli.rules.base import Table, per_image, wide
from heatcli.targets import Target
from heatcli.walk import Tape, output_of, values_of

if TYPE_CHECKING:
    from heatcli.artifact.model import Model
    from heatcli.compiled import CompiledTape
    from heatcli.images.baselines import Reference

AT_ONCE = 8  # points that go through the network together, where the batch itself is not larger
Progress = Callable[[int, int], None]


# Inputs of the network, [K, …]: of which images, int64 [K], and which of each image's points, from 0, int64 [K].
Make = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Points:
    """Inputs of the network anywhere, number `which` of image `rows` (both int64 [M]): made when they are asked for."""

    rows: Tensor
    which: Tensor
    make: Make


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

    Points go through the network a few at a time, each with its image's target; `progress` is told how many have, and
    of how many, where it takes more than one pass. `alone`: the batch is one image, repeated to fill an artifact whose
    operators lay the images of a batch side by side; the first alone has a score.
    """

    model: Model
    graph: Graph
    batch: Tensor
    reference: Reference
    goal: Target
    tape: Tape | CompiledTape | None
    score: Tensor
    progress: Progress | None = None
    alone: bool = False

    @property
    def difference(self) -> Tensor:
        """The batch less its reference."""
        return self.batch if self.reference.batch is None else self.batch - self.reference.batch

    def walk_batch(self, rules: Table, books: bool = True, keep: Sequence[str] = ()) -> Walked:
        """Walk the batch back by `rules`, with its reference; the forward run that chose the target serves once."""
        tape, self.tape = self.tape, None
        if tape is None or not tape.serves(rules, keep):
            tape = self.model.forward(self.batch, rules, keep=keep, compiled=not self.alone)
        return self._walk(tape, self.goal, rules, books, keep)

    def values(self, name: str) -> Tensor:
        """The value of the operator `name` on the batch, [N, …]."""
        return values_of(self.graph, self.batch)[name]

    def points(self, times: int | Sequence[int], make: Make) -> Points:
        """So many points of each image, image after image."""
        counts = torch.tensor([times] * len(self.batch) if isinstance(times, int) else times, device=self.batch.device)
        rows = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
        first = counts.cumsum(0) - counts
        return Points(rows, torch.arange(len(rows), device=counts.device) - first[rows], make)

    def walk(
        self, points: Points, rules: Table, references: Make | None = None, books: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor, Walked]]:  # fmt: skip
        """Walk points back, a few at a time: of which images, which of their points, and their walk.

        `references` are what they are compared with. Nothing is kept between one part and the next.
        """
        for rows, which, n in self._parts(points):
            start = None if references is None else references(rows, which)
            tape = self.model.forward(points.make(rows, which), rules, start, compiled=not self.alone)
            goal = self.goal.rows(rows)
            yield rows[:n], which[:n], self._walk(tape, goal.first() if self.alone else goal, rules, books, (), n)

    def scores(self, points: Points) -> Tensor:
        """The score at each point, float64 [M]."""
        return torch.cat([score_of(self.goal.rows(rows), output) for rows, output in self.outputs(points)])

    def outputs(self, points: Points) -> Iterator[tuple[Tensor, Tensor]]:
        """The network's output at points, a few at a time: of which images, and their output."""
        for rows, which, n in self._parts(points):
            graph = self.model.graph((len(rows), *self.batch.shape[1:]))
            yield rows[:n], output_of(graph, points.make(rows, which))[:n]

    def _parts(self, points: Points) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Images and numbers of points that go together, and how many of these count; `progress` is told of each."""
        count, done = len(points.rows), 0
        parts = list(self.model.parts((count, *self.batch.shape[1:]), max(AT_ONCE, len(self.batch)), self.alone))
        with kept() if len(parts) > 1 else nullcontext():
            for at, n in parts:
                yield points.rows[at], points.which[at], n
                done += n
                if self.progress is not None and n < count:
                    self.progress(done, count)

    def _walk(
        self, tape: Tape | CompiledTape, goal: Target, rules: Table, book: bool, keep: Sequence[str],
        rows: int | None = None,
    ) -> Walked:  # fmt: skip
        seed = goal.seed(laid_out(tape.output))
        score = score_of(goal, tape.output)
        start = tape.reference_output
        score0 = None if start is None else score_of(goal, start.expand_as(tape.output))
        values = tape.values(keep)
        books = Books.open(tape.graph, tape.input[:1] if self.alone else tape.input)
        multipliers: dict[str, Tensor] = {name: torch.zeros_like(value) for name, value in values.items()}
        shape = tape.output.shape
        multiplier = tape.walk(rules, seed.reshape(shape), books if book else None, multipliers).contiguous()
        rows = len(multiplier) if rows is None else rows
        return Walked(
            multiplier[:rows], books if rows == len(multiplier) else books.of(rows), score[:rows],
            None if score0 is None else score0[:rows],
            {n: v[:rows] for n, v in values.items()}, {n: m[:rows] for n, m in multipliers.items()},
        )  # fmt: skip


def laid_out(output: Tensor) -> Tensor:
    """An output [N], [N, classes] or [N, classes, …] as [N, classes, positions]."""
    return output.reshape(len(output), output.shape[1] if output.dim() > 1 else 1, -1)


def score_of(goal: Target, output: Tensor) -> Tensor:
    """The score that `goal` picks from an output [N, …], float64 [N]."""
    scores = laid_out(output)
    return per_image(wide(goal.seed(scores)) * wide(scores))
