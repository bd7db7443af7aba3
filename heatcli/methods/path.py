"""Methods of many walks: along a path from a baseline, or over several baselines.

Random numbers are drawn once for all images of a batch, from `seed`, so an image's result does not depend on the other
images of its batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heatcli.engine.ledger import Books
from heatcli.errors import UsageError
from heatcli.methods.backward import GRADIENT, LRP_0
from heatcli.methods.method import ONE, POOL, Answer, Method
from heatcli.methods.question import Make, Question
from heatcli.rules.numerics import wide
from heatcli.rules.parameters import Parameters, choice, number

# --- shared helpers -----------------------------------------------------------------------------------------------


def starts(question: Question) -> Tensor:
    """The baselines: [B, …] for all images, or [N, …], one for each image. See `start_of`."""
    baselines = question.reference.pool if question.reference.pool is not None else question.reference.batch
    assert baselines is not None
    return baselines


def start_of(question: Question, rows: Tensor, which: Tensor) -> Tensor:
    """The baseline of each point: number `which` of the pool, or the baseline of image `rows` without a pool.

    `rows`, `which`: int64 [M]. Returns [M, …].
    """
    return starts(question)[rows if question.reference.pool is None else which]


def mean_score(question: Question) -> Tensor:
    """The mean score of each image's baselines, float64 [N]."""
    count = len(starts(question)) if question.reference.pool is not None else 1
    points = question.points(count, partial(start_of, question))
    return question.scores(points).reshape(-1, count).mean(1)


class Mean:
    """A weighted sum over points, for each image, in float64."""

    def __init__(self, question: Question) -> None:
        self.question, self.total = question, torch.zeros_like(wide(question.batch))

    def add(self, rows: Tensor, values: Tensor, weights: Tensor | float) -> None:
        """Add `values` [M, …] times `weights`, a number or [M], to the images `rows`, int64 [M]."""
        if isinstance(weights, Tensor):
            weights = weights.to(self.total).reshape(-1, *[1] * (values.dim() - 1))
        self.total.index_add_(0, rows.to(self.total.device), wide(values) * weights)

    @property
    def relevance(self) -> Tensor:
        """The sum, with the dtype and device of the batch."""
        return self.total.to(self.question.batch)


# --- along a path -------------------------------------------------------------------------------------------------

RULES = ("gauss-legendre", "riemann", "riemann-left", "riemann-middle", "riemann-trapezoid")


def quadrature(rule: str, steps: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points in 0..1 and weights, float64 [steps] each, for an integral as a weighted sum of values."""
    if rule == "gauss-legendre":
        points, weights = np.polynomial.legendre.leggauss(steps)
        return (points + 1) / 2, weights / 2
    if rule == "riemann-trapezoid":
        weights = np.full(steps, 1 / (steps - 1))
        weights[[0, -1]] /= 2
        return np.linspace(0, 1, steps), weights
    shift = {"riemann": 1.0, "riemann-left": 0.0, "riemann-middle": 0.5}[rule]
    return (np.arange(steps) + shift) / steps, np.full(steps, 1 / steps)


@dataclass(frozen=True)
class Integrated(Parameters):
    """(x − x0) ∫ ∂score/∂x (x0 + a(x − x0)) da, a from 0 to 1, by quadrature. The error is `unexplained`."""

    kind: ClassVar[str] = "path"
    compares: ClassVar[bool] = False
    takes: ClassVar[str] = ONE

    steps: int = number(50, 1)
    rule: str = choice("gauss-legendre", RULES)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rule == "riemann-trapezoid" and self.steps < 2:
            raise UsageError(f"steps={self.steps} is not allowed; riemann-trapezoid takes at least 2")

    @property
    def cost(self) -> str:
        """Includes the forward runs of image and baseline."""
        return f"{self.steps + 2} forwards, {self.steps} backwards"

    def __call__(self, question: Question, method: Method) -> Answer:
        """The method's table, walked at every point of the path."""
        nodes, weights = (torch.from_numpy(v) for v in quadrature(self.rule, self.steps))
        x, x0, along = question.batch, starts(question), nodes.to(question.batch)
        path = question.points(self.steps, lambda rows, which: _between(x0[rows], x[rows], along[which]))
        mean = Mean(question)
        for rows, which, walked in question.walk(path, method.rules):
            mean.add(rows, walked.multiplier * question.difference[rows], weights[which.cpu()])
        return Answer(mean.relevance, score0=mean_score(question))


def _between(x0: Tensor, x: Tensor, along: Tensor) -> Tensor:
    """The points at the positions `along`, float64 [M] in 0..1, from x0 to x."""
    return x0 + along.reshape(-1, *[1] * (x.dim() - 1)) * (x - x0)


def draws(samples: int, pool: int, seed: int) -> tuple[Tensor, Tensor]:
    """For each sample: which baseline, int64 [samples], and the position from it to the image, float64 [samples].

    Every baseline is drawn equally often (to within one), and every interval of the path of length 1/samples has one
    point: stratified samples, with the distribution of independent draws and less noise.
    """
    g = torch.Generator().manual_seed(seed)
    which = torch.cat([torch.randperm(pool, generator=g) for _ in range(-(-samples // pool))])[:samples]
    along = (torch.arange(samples) + torch.rand(samples, generator=g, dtype=torch.float64)) / samples
    return which, along[torch.randperm(samples, generator=g)]


@dataclass(frozen=True)
class Expected(Parameters):
    """The mean of (x − b) ∂score/∂x (b + a(x − b)) over random baselines b and random a in 0..1."""

    kind: ClassVar[str] = "path"
    compares: ClassVar[bool] = False
    takes: ClassVar[str] = POOL

    samples: int = number(200, 1)
    seed: int = number(0, 0)

    @property
    def cost(self) -> str:
        """The runs, and one forward run for each baseline."""
        return f"{self.samples + 1} forwards, {self.samples} backwards; 1 forward a baseline"

    def __call__(self, question: Question, method: Method) -> Answer:
        """The method's table, walked at every sample."""
        x, pool = question.batch, question.reference.pool
        drawn, along = draws(self.samples, 1 if pool is None else len(pool), self.seed)
        drawn, along = drawn.to(x.device), along.to(x)

        def start(rows: Tensor, which: Tensor) -> Tensor:
            """The baselines drawn for these samples."""
            return start_of(question, rows, drawn[which])

        points = question.points(self.samples, lambda rows, which: _between(start(rows, which), x[rows], along[which]))
        mean = Mean(question)
        for rows, which, walked in question.walk(points, method.rules):
            mean.add(rows, walked.multiplier * (x[rows] - start(rows, which)), 1 / self.samples)
        return Answer(mean.relevance, score0=mean_score(question))


@dataclass(frozen=True)
class Taylor(Parameters):
    """∂score/∂x (r)·(x − r) at a root r on the segment from the baseline to the image."""

    kind: ClassVar[str] = "backward"
    compares: ClassVar[bool] = False
    takes: ClassVar[str] = ONE

    root: str = choice("baseline", ("baseline", "nearest"))
    steps: int = number(32, 1)

    @property
    def cost(self) -> str:
        """`steps` counts only for root=nearest."""
        return "2 forwards, 1 backward" + ("" if self.root == "baseline" else f"; {self.steps + 24} forwards more")

    def __call__(self, question: Question, method: Method) -> Answer:
        """The gradient at each image's root."""
        x, x0 = question.batch, starts(question)
        root = x0 if self.root == "baseline" else _between(x0, x, self._nearest(question).to(x))
        mean, score0 = Mean(question), torch.zeros_like(question.score)
        for rows, _, walked in question.walk(question.points(1, lambda rows, _: root[rows]), method.rules):
            mean.add(rows, walked.multiplier * (x - root)[rows], 1.0)
            score0[rows.to(score0.device)] = walked.score
        return Answer(mean.relevance, score0=score0)

    def _nearest(self, question: Question, halvings: int = 24) -> Tensor:
        """The position of each root between baseline and image, float64 [N] in 0..1.

        The sign change nearest to the image, by bisection. If the sign never changes, the grid point whose score is
        closest to 0.
        """
        x, x0, grid = question.batch, starts(question), torch.linspace(0, 1, self.steps + 1, dtype=torch.float64)
        along = grid.to(x)
        points = question.points(len(grid), lambda rows, which: _between(x0[rows], x[rows], along[which]))
        scores = question.scores(points).cpu().reshape(len(x), -1)
        changes = scores[:, :-1].sign() * scores[:, 1:].sign() <= 0
        last = torch.where(changes, torch.arange(self.steps), -1).amax(1)
        low = grid[last.clamp(min=0)]
        high, sign = low + 1 / self.steps, scores.gather(1, last.clamp(min=0)[:, None])[:, 0].sign()

        def score_at(share: Tensor) -> Tensor:
            """The scores at those positions, float64 [N]."""
            points = question.points(1, lambda rows, _: _between(x0[rows], x[rows], share[rows]))
            return question.scores(points).cpu()

        for _ in range(halvings if bool((last >= 0).any()) else 0):
            middle = (low + high) / 2
            same = score_at(middle.to(x)).sign() == sign
            low, high = torch.where(same, middle, low), torch.where(same, high, middle)
        closest = self.steps - scores.abs().flip(1).argmin(1)  # among equals the last
        return torch.where(last >= 0, (low + high) / 2, grid[closest])


# --- over several baselines ---------------------------------------------------------------------------------------


def mean_of_walks(
    question: Question, method: Method, times: int, make: Make, references: Make | None
) -> tuple[Answer, Tensor]:
    """The mean over `times` points an image of the results of the method's table, and the mean score there [N]."""
    mean, books = Mean(question), Books.open(question.graph, question.batch)
    booked = method.conserves
    score, score0 = torch.zeros_like(question.score), torch.zeros_like(question.score)
    for rows, which, walked in question.walk(question.points(times, make), method.rules, references, books=booked):
        x = make(rows, which)
        relevance = method.read(walked.multiplier, x if references is None else x - references(rows, which))
        if walked.books.direct is not None:
            relevance = relevance + walked.books.direct
        mean.add(rows, relevance, 1 / times)
        score.index_add_(0, rows.to(score.device), walked.score / times)
        if walked.score0 is not None:
            score0.index_add_(0, rows.to(score.device), walked.score0 / times)
        if booked:
            books.take(walked.books, rows, 1 / times)
    return Answer(mean.relevance, books, None if references is None else score0), score


@dataclass(frozen=True)
class EveryBaseline(Parameters):
    """The mean of one walk for each baseline."""

    kind: ClassVar[str] = "path"
    compares: ClassVar[bool] = False
    takes: ClassVar[str] = POOL

    @property
    def cost(self) -> str:
        """One walk for each baseline, with its forward run."""
        return "1 forward; 2 forwards, 1 backward a baseline"

    def __call__(self, question: Question, method: Method) -> Answer:
        """The method's table, walked from the image to every baseline."""
        count = len(starts(question)) if question.reference.pool is not None else 1
        return mean_of_walks(
            question, method, count,
            lambda rows, _: question.batch[rows], partial(start_of, question),
        )[0]  # fmt: skip


PATH = (
    Method(
        name="taylor",
        summary="gradient at a root point times the distance from it",
        source="Montavon et al. 2017, eq. 4; Bach et al. 2015, eq. 14",
        rules=GRADIENT,
        baseline="zero",
        conserves=False,
        procedure=Taylor(),
    ),
    Method(
        name="integrated-gradients",
        summary="gradient averaged along the way from a baseline, times the distance from it",
        source="Sundararajan et al. 2017, eq. 1",
        rules=GRADIENT,
        baseline="zero",
        conserves=False,
        procedure=Integrated(),
    ),
    Method(
        name="expected-gradients",
        summary="integrated gradients averaged over a folder of baselines",
        source="Erion et al. 2021, arXiv 1906.10670, sec. 3",
        rules=GRADIENT,
        baseline="zero",
        conserves=False,
        procedure=Expected(),
    ),
    Method(
        name="deep-shap",
        summary="deeplift-rescale averaged over a folder of baselines",
        source="Lundberg & Lee 2017, sec. 4.2",
        rules=LRP_0,
        baseline="zero",
        procedure=EveryBaseline(),
    ),
)
