"""What a procedure works with: scores and walks of the network, at the images or at other points."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from heatcli.artifact.layout import Layout
from heatcli.engine.ledger import Books
from heatcli.engine.tape import Tape
from heatcli.engine.values import output_of, values_of
from heatcli.engine.walk import walk
from heatcli.graph.operator import Graph
from heatcli.graph.outputs import settled
from heatcli.methods.targets import Target
from heatcli.rules.numerics import per_image, wide
from heatcli.rules.rule import Table
from heatcli.system.memory import kept

if TYPE_CHECKING:
    from heatcli.images.baselines import Reference
    from heatcli.model.model import Model

AT_ONCE = 8  # points per run, if the batch itself is not larger
Progress = Callable[[int, int], None]


# (images, int64 [K]; number of each point within its image, int64 [K]) → inputs of the network [K, …].
Make = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Points:
    """Inputs of the network, point number `which` of image `rows` (both int64 [M]), computed on demand by `make`."""

    rows: Tensor
    which: Tensor
    make: Make


@dataclass(frozen=True, eq=False)
class Walked:
    """A walk over M points: the multiplier of the input [M, …], the books, the scores, and the references' scores.

    `values` and `multipliers`: those of the operators to keep, [M, …] each.
    """

    multiplier: Tensor
    books: Books
    score: Tensor
    score0: Tensor | None = None
    values: dict[str, Tensor] = field(default_factory=dict)
    multipliers: dict[str, Tensor] = field(default_factory=dict)


@dataclass(eq=False)
class Question:
    """A batch [N, …], its reference, and the target whose score is explained for each image.

    `tape`: the forward run of the batch, on which the target was chosen. `score` float64 [N]: the target's.
    Points run a few at a time, each with its image's target. `progress(done, of)` is called when they take more than
    one run.
    """

    model: Model
    graph: Graph
    batch: Tensor
    reference: Reference
    goal: Target
    tape: Tape | None
    progress: Progress | None = None
    score: Tensor = field(init=False)

    def __post_init__(self) -> None:
        assert self.tape is not None  # None only once `walk_batch` has used it
        self.score = score_of(self.goal, self.tape.output)

    @property
    def layout(self) -> Layout:
        """What the axes of the batch are."""
        return self.model.pictures.layout_of(self.batch)

    @property
    def sides(self) -> tuple[int, ...]:
        """The length of each axis of positions: (height, width) of pictures."""
        return tuple(self.layout.first(self.batch).shape[2:])

    @property
    def channels(self) -> int:
        """How many channels the input has."""
        return self.layout.first(self.batch).shape[1]

    @property
    def references(self) -> Tensor | Mapping[str, Tensor] | None:
        """The baseline argument of a forward run on the batch."""
        return self.model.network.values_on(self.reference.batch, self.reference.shared)

    @property
    def difference(self) -> Tensor:
        """The batch minus its reference."""
        return self.batch if self.reference.batch is None else self.batch - self.reference.batch

    def walk_batch(self, rules: Table, books: bool = True, keep: Sequence[str] = ()) -> Walked:
        """Walk the batch and its reference back by `rules`. The forward run that chose the target is used once."""
        tape, self.tape = self.tape, None
        if tape is None or not tape.serves(rules, keep):
            tape = self.model.forward(self.batch, rules, self.references, keep=keep)
        return self._walk(tape, self.goal, rules, books, keep)

    def depends_on(self, rules: Table) -> list[frozenset[str]]:
        """For each image, the operators whose values get a multiplier other than 0: one more forward run and walk."""
        return depends_on(self.model, self.batch, self.goal, rules)

    def values(self, name: str) -> Tensor:
        """The value of the operator `name` on the batch, [N, …]."""
        return values_of(self.graph, self.batch)[name]

    def points(self, times: int | Sequence[int], make: Make) -> Points:
        """`times` points of each image, image by image."""
        images, device = len(self.batch), self.batch.device
        if isinstance(times, int):
            rows = torch.arange(images, device=device).repeat_interleave(times)
            return Points(rows, torch.arange(times, device=device).repeat(images), make)
        counts = torch.tensor(times, device=device)
        rows = torch.arange(images, device=device).repeat_interleave(counts)
        first = counts.cumsum(0) - counts
        return Points(rows, torch.arange(len(rows), device=counts.device) - first[rows], make)

    def walk(
        self, points: Points, rules: Table, references: Make | None = None, books: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor, Walked]]:  # fmt: skip
        """Walk points back, a few at a time: yields their images, their numbers within the image, and their walk.

        `references`: makes the points' references. Nothing is kept from one run to the next.
        """
        for rows, which, n in self._parts(points):
            x0 = None if references is None else references(rows, which)
            tape = self.model.forward(points.make(rows, which), rules, x0)
            yield rows[:n], which[:n], self._walk(tape, self.goal.rows(rows), rules, books, (), n)

    def scores(self, points: Points) -> Tensor:
        """The score at each point, float64 [M]."""
        return torch.cat([score_of(self.goal.rows(rows), output) for rows, output in self.outputs(points)])

    def outputs(self, points: Points) -> Iterator[tuple[Tensor, Tensor]]:
        """The network's output at points, a few at a time: yields their images and their output."""
        for rows, which, n in self._parts(points):
            graph = self.model.graph((len(rows), *self.batch.shape[1:]))
            yield rows[:n], output_of(graph, points.make(rows, which))[:n]

    def _parts(self, points: Points) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Images and numbers of points that run together, and how many of them count. Calls `progress` after each."""
        count, done = len(points.rows), 0
        parts = list(self.model.network.batches((count, *self.batch.shape[1:]), max(AT_ONCE, len(self.batch))))
        with kept() if len(parts) > 1 else nullcontext():
            for index, n in parts:
                yield points.rows[index], points.which[index], n
                done += n
                if self.progress is not None and n < count:
                    self.progress(done, count)

    def _walk(
        self, tape: Tape, goal: Target, rules: Table, book: bool, keep: Sequence[str],
        rows: int | None = None,
    ) -> Walked:  # fmt: skip
        """The walk of a forward run. `rows`: how many of its points count; None: all."""
        seed = goal.seed(laid_out(tape.output))
        score = score_of(goal, tape.output)
        start = tape.reference_output
        score0 = None if start is None else score_of(goal, start.expand_as(tape.output))
        values = tape.values(keep)
        books = Books.open(tape.graph, tape.input)
        multipliers: dict[str, Tensor] = {name: torch.zeros_like(value) for name, value in values.items()}
        shape = tape.output.shape
        multiplier = walk(tape, rules, seed.reshape(shape), books if book else None, multipliers).contiguous()
        rows = len(multiplier) if rows is None else rows
        return Walked(
            multiplier=multiplier[:rows],
            books=books if rows == len(multiplier) else books.of(rows),
            score=score[:rows],
            score0=None if score0 is None else score0[:rows],
            values={name: value[:rows] for name, value in values.items()},
            multipliers={name: value[:rows] for name, value in multipliers.items()},
        )


def depends_on(model: Model, batch: Tensor, goal: Target, rules: Table) -> list[frozenset[str]]:
    """For each image of a batch that the network takes at once, the operators that the target's score depends on.

    These are operators whose values get a multiplier other than 0 by `rules`.
    """
    tape, n = model.forward(batch, rules, compiled=False), len(batch)
    reached = _Reached((op.name, torch.zeros(0)) for op in tape.graph.operators if op.sources)
    walk(tape, rules, goal.seed(laid_out(tape.output)).reshape(tape.output.shape), None, reached)
    found = {name: rows.tolist() for name, rows in reached.items()}  # a value may have more rows than one image
    return [
        frozenset(name for name, rows in found.items() if any(rows if n == 1 else rows[i : i + 1])) for i in range(n)
    ]


class _Reached(dict[str, Tensor]):
    """Of each multiplier that it is given, [N, …], it keeps which rows are not 0 everywhere: bool [N]."""

    def __setitem__(self, name: str, multiplier: Tensor) -> None:
        rows = len(multiplier) if multiplier.dim() else 1
        super().__setitem__(name, (multiplier != 0).reshape(rows, -1).any(1))


def laid_out(output: Tensor) -> Tensor:
    """An output [N], [N, classes] or [N, classes, …] as [N, classes, positions]."""
    return output.reshape(len(output), output.shape[1] if output.dim() > 1 else 1, -1)


def outputs_of(
    model: Model, batch: Tensor, most: int | None = None, read: Callable[[Graph, Tensor], Tensor] | None = None
) -> Tensor:
    """The network's output [N, classes, positions] on a batch, at most `most` images at a time.

    `read`: what is wanted of a graph's output [n, …], None for the output itself. Raises `ModelError`, `UsageError`.
    """
    parts = []
    for index, n in model.network.batches(batch.shape, most):
        rows = batch[index]
        graph = settled(model.network.graph_on(rows), model.path)
        output = output_of(graph, rows)
        parts.append(laid_out((output if read is None else read(graph, output))[:n]))
    return torch.cat(parts)


def score_of(goal: Target, output: Tensor) -> Tensor:
    """The score that `goal` selects from an output [N, …], float64 [N]."""
    scores = laid_out(output)
    return per_image(wide(goal.seed(scores)) * wide(scores))
