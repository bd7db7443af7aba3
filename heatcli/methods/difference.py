"""Prediction difference analysis: the class's odds with a window as it is, against the window unknown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from heatcli.errors import UsageError
from heatcli.graph.outputs import probabilities
from heatcli.methods.method import FOLDER, Answer, Method
from heatcli.methods.path import mean_score
from heatcli.methods.perturbation import SHARED, WHOLE, Windows
from heatcli.methods.question import Points, Question
from heatcli.parameters import Parameters, choice, number
from heatcli.rules.base import wide

PATCHES = 4096  # that the normal distribution is estimated from
RIDGE = 1e-3  # share of their mean variance that is added to it


@dataclass(frozen=True)
class PredictionDifference(Parameters):
    """Weight of evidence log2 odds(c | x) − log2 odds(c | x without the window), bits; the mean over a pixel's windows.

    p(c | x without w) is the mean over `samples` of what else could be in the window: `marginal`, what images of the
    folder have in its place; `conditional`, a normal distribution of patches (the window and `padding` pixels around),
    estimated from the folder, given the pixels around. Probabilities are corrected as (p·n + 1)/(n + classes), n being
    `trained`, the number of images that the network was trained on. For a target A-B it is the odds of A against B.
    """

    kind: ClassVar[str] = "perturbation"
    compares: ClassVar[bool] = False
    takes: ClassVar[str] = FOLDER

    sampling: str = choice("conditional", ("conditional", "marginal"))
    samples: int = number(10, 1)
    window: int = number(0, 0)
    stride: int = number(0, 0)
    padding: int = number(2, 1)
    trained: int = number(1_000_000, 1)
    share: str = choice(SHARED, (SHARED, WHOLE))
    seed: int = number(0, 0)

    @property
    def cost(self) -> str:
        """No walk."""
        return f"{self.samples} forwards a window; by default an eighth of the shorter side, every half window"

    def __call__(self, question: Question, method: Method) -> Answer:
        """`samples` forward runs a window."""
        windows = Windows.of(question, self.window, self.stride)
        pool = question.reference.pool
        assert pool is not None
        fill = (Marginal if self.sampling == "marginal" else Conditional)(self, windows, pool, question)
        count, each = len(windows.corners), self.samples

        def filled(rows: Tensor, which: Tensor) -> Tensor:
            """Images with a sample in a window."""
            made = question.batch[rows].clone()
            for j, (row, i) in enumerate(zip(rows.tolist(), which.tolist(), strict=True)):
                y, x = windows.corners[i // each]
                made[j, :, y : y + windows.size, x : x + windows.size] = fill(row, i // each, i % each)
            return made

        without = self._chances(question, question.points(count * each, filled)).reshape(-1, count, each, 2).mean(2)
        seen = self._chances(question, question.points(1, lambda rows, _: question.batch[rows]))
        evidence = self._odds(seen, question)[:, None] - self._odds(without, question)
        found = windows.spread(evidence, question.batch.shape[1], self.share)
        return Answer(found.to(question.batch), score0=mean_score(question))

    def _odds(self, chances: Tensor, question: Question) -> Tensor:
        """log2 of the odds, from the chances [..., 2] of the class and of what it is compared with."""
        classes = max(2, question.graph.output_shape[1] if len(question.graph.output_shape) > 1 else 1)
        corrected = (chances * self.trained + 1) / (self.trained + classes)
        if question.goal.minus is None:
            return (corrected[..., 0] / (1 - corrected[..., 0])).log2()
        return (corrected[..., 0] / corrected[..., 1]).log2()

    def _chances(self, question: Question, points: Points) -> Tensor:
        """The probability of each point's class, and of the one it is compared with, float64 [M, 2]."""
        found = []
        for rows, output in question.outputs(points):
            chance = wide(probabilities(question.graph, output))
            if chance.dim() != 2 or bool(chance.isnan().any()):
                raise UsageError("prediction-difference takes classifiers: one probability a class")
            goal = question.goal.rows(rows)
            pair = torch.stack([goal.index, goal.index if goal.minus is None else goal.minus], 1)
            found.append(chance.gather(1, pair.to(chance.device)))
        return torch.cat(found)


class Marginal:
    """What random images of the folder have in a window."""

    def __init__(self, of: PredictionDifference, windows: Windows, pool: Tensor, question: Question) -> None:
        g = torch.Generator().manual_seed(of.seed)
        self.windows, self.pool = windows, pool
        self.which = torch.randint(len(pool), (len(windows.corners), of.samples), generator=g)

    def __call__(self, row: int, window: int, sample: int) -> Tensor:
        """The pixels [C, size, size] of a sample."""
        (y, x), size = self.windows.corners[window], self.windows.size
        return self.pool[int(self.which[window, sample]), :, y : y + size, x : x + size]


class Conditional:
    """A normal distribution of patches wherever they are in an image, given the pixels around the window."""

    def __init__(self, of: PredictionDifference, windows: Windows, pool: Tensor, question: Question) -> None:
        self.windows, self.question, self.seed, self.samples = windows, question, of.seed, of.samples
        self.side = min(windows.size + 2 * of.padding, windows.height, windows.width)
        if self.side == windows.size:
            raise UsageError(f"window={windows.size} is not allowed; sampling=conditional needs pixels around it")
        self.mean, self.covariance = self._estimated(pool)
        self.low, self.high = (end[0].cpu().double() for end in question.model.pixel_range(question.batch))
        self._given: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}
        self._drawn: tuple[tuple[int, int], Tensor] | None = None

    def _estimated(self, pool: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of patches [C, side, side] from random places of random images."""
        g = torch.Generator().manual_seed(self.seed)
        pool, side = pool.cpu().double(), self.side
        which = torch.randint(len(pool), (PATCHES,), generator=g).tolist()
        corners = [torch.randint(n - side + 1, (PATCHES,), generator=g).tolist() for n in pool.shape[2:]]
        patches = torch.stack(
            [pool[i, :, y : y + side, x : x + side].reshape(-1) for i, y, x in zip(which, *corners, strict=True)]
        )
        covariance = patches.T.cov() if patches.shape[1] > 1 else patches.var(0)[None]
        ridge = RIDGE * covariance.diagonal().mean() + 1e-12
        return patches.mean(0), covariance + ridge * torch.eye(len(covariance), dtype=covariance.dtype)

    def _at(self, offset: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """For a window at that offset in its patch: which elements, the regression on the others, and a root of what
        is left of the covariance.
        """
        if offset not in self._given:
            (dy, dx), size = offset, self.windows.size
            inside = torch.zeros(len(self.mean) // self.side**2, self.side, self.side, dtype=torch.bool)
            inside[:, dy : dy + size, dx : dx + size] = True
            inside = inside.reshape(-1)
            s = self.covariance
            regression = torch.linalg.solve(s[~inside][:, ~inside], s[~inside][:, inside]).T
            left = s[inside][:, inside] - regression @ s[~inside][:, inside]
            floor = 1e-9 * s.diagonal().mean() * torch.eye(len(left), dtype=left.dtype)
            self._given[offset] = inside, regression, torch.linalg.cholesky((left + left.T) / 2 + floor)
        return self._given[offset]

    def __call__(self, row: int, window: int, sample: int) -> Tensor:
        """The pixels [C, size, size] of a sample."""
        if self._drawn is None or self._drawn[0] != (row, window):
            self._drawn = (row, window), self._samples(row, window)
        return self._drawn[1][sample].to(self.question.batch)

    def _samples(self, row: int, window: int) -> Tensor:
        """All samples of a window, [samples, C, size, size]; no brighter and no darker than a picture can be."""
        (y, x), size, w = self.windows.corners[window], self.windows.size, self.windows
        pad = (self.side - size) // 2
        top, left = (min(max(0, at - pad), n - self.side) for at, n in ((y, w.height), (x, w.width)))
        inside, regression, root = self._at((y - top, x - left))
        patch = self.question.batch[row, :, top : top + self.side, left : left + self.side].cpu().double().reshape(-1)
        mean = self.mean[inside] + regression @ (patch - self.mean)[~inside]
        g = torch.Generator().manual_seed(self.seed * 1_000_003 + window)
        drawn = mean + torch.randn(self.samples, len(mean), generator=g, dtype=torch.float64) @ root.T
        return drawn.reshape(self.samples, -1, size, size).clamp(self.low, self.high)


DIFFERENCE = (
    Method(
        name="prediction-difference",
        summary="weight of evidence of a window, against what else could be there",
        source="Zintgraf et al. 2017, eq. 2 to 5 and alg. 1",
        rules={},
        baseline="given",
        conserves=False,
        procedure=PredictionDifference(),
    ),
)
