"""Prediction difference analysis: the odds of the class with a window, against the odds with the window unknown."""

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
from heatcli.rules.numerics import wide
from heatcli.rules.parameters import Parameters, choice, number

PATCHES = 4096  # number of patches for the estimate of the normal distribution
RIDGE = 1e-3  # added to the covariance's diagonal, as a fraction of the mean variance


@dataclass(frozen=True)
class PredictionDifference(Parameters):
    """Weight of evidence log2 odds(c | x) − log2 odds(c | x without the window), bits; the mean over a pixel's windows.

    p(c | x without w) is the mean over `samples` of contents for the window. `marginal`: the same window in images of
    the folder. `conditional`: a normal distribution of patches (the window and `padding` pixels around it), estimated
    from the folder and conditioned on the surrounding pixels. Probabilities are corrected as (p·n + 1)/(n + classes),
    with n = `trained`, the number of training images of the network. For a target A-B the odds are those of A against
    B.
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
        """No backward run."""
        return f"{self.samples} forwards a window; by default an eighth of the shorter side, every half window"

    def __call__(self, question: Question, method: Method) -> Answer:
        """`samples` forward runs a window. Raises `UsageError` if the network is no classifier."""
        if question.layout.dims != 2:
            raise UsageError(f"prediction-difference takes pictures; this input is {tuple(question.batch.shape)}")
        windows = Windows.of(question, self.window, self.stride)
        pool = question.reference.pool
        assert pool is not None
        fill = (Marginal if self.sampling == "marginal" else Conditional)(self, windows, pool, question)
        count, each = len(windows.corners), self.samples

        def filled(rows: Tensor, which: Tensor) -> Tensor:
            """Images with a sampled window."""
            images = question.batch[rows].clone()
            for j, (row, i) in enumerate(zip(rows.tolist(), which.tolist(), strict=True)):
                y, x = windows.corners[i // each]
                images[j, :, y : y + windows.size, x : x + windows.size] = fill(row, i // each, i % each)
            return images

        without = self._chances(question, question.points(count * each, filled)).reshape(-1, count, each, 2).mean(2)
        seen = self._chances(question, question.points(1, lambda rows, _: question.batch[rows]))
        evidence = self._odds(seen, question)[:, None] - self._odds(without, question)
        heatmap = windows.spread(evidence, question.batch.shape[1], self.share)
        return Answer(heatmap.to(question.batch), score0=mean_score(question))

    def _odds(self, chances: Tensor, question: Question) -> Tensor:
        """log2 of the odds, from the probabilities [..., 2] of the class and the class it is compared with."""
        classes = max(2, question.graph.output_shape[1] if len(question.graph.output_shape) > 1 else 1)
        corrected = (chances * self.trained + 1) / (self.trained + classes)
        if question.goal.minus is None:
            return (corrected[..., 0] / (1 - corrected[..., 0])).log2()
        return (corrected[..., 0] / corrected[..., 1]).log2()

    def _chances(self, question: Question, points: Points) -> Tensor:
        """The probabilities of each point's class and of the class it is compared with, float64 [M, 2]."""
        pairs = []
        for rows, output in question.outputs(points):
            chance = wide(probabilities(question.graph, output))
            if chance.dim() != 2 or bool(chance.isnan().any()):
                raise UsageError("prediction-difference takes classifiers: one probability a class")
            goal = question.goal.rows(rows)
            pair = torch.stack([goal.index, goal.index if goal.minus is None else goal.minus], 1)
            pairs.append(chance.gather(1, pair.to(chance.device)))
        return torch.cat(pairs)


class Marginal:
    """The same window in random images of the folder."""

    def __init__(self, of: PredictionDifference, windows: Windows, pool: Tensor, question: Question) -> None:
        g = torch.Generator().manual_seed(of.seed)
        self.windows, self.pool = windows, pool
        self.which = torch.randint(len(pool), (len(windows.corners), of.samples), generator=g)

    def __call__(self, row: int, window: int, sample: int) -> Tensor:
        """The pixels [C, size, size] of a sample."""
        (y, x), size = self.windows.corners[window], self.windows.size
        return self.pool[int(self.which[window, sample]), :, y : y + size, x : x + size]


class Conditional:
    """A normal distribution of patches, at any position in an image, conditioned on the pixels around the window."""

    def __init__(self, of: PredictionDifference, windows: Windows, pool: Tensor, question: Question) -> None:
        self.windows, self.question, self.seed, self.samples = windows, question, of.seed, of.samples
        self.side = min(windows.size + 2 * of.padding, *windows.sides)
        if self.side == windows.size:
            raise UsageError(f"window={windows.size} is not allowed; sampling=conditional needs pixels around it")
        self.mean, self.covariance = self._estimated(pool)
        self.low, self.high = (end[0].cpu().double() for end in question.model.pictures.pixel_range(question.batch))
        self._given: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}
        self._drawn: tuple[tuple[int, int], Tensor] | None = None

    def _estimated(self, pool: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of patches [C, side, side] at random positions of random images."""
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
        """For a window at `offset` in its patch: a mask of its elements, and how they depend on the others.

        That is the regression on the others, and a Cholesky factor of the conditional covariance.
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
        """All samples of a window, [samples, C, size, size], clamped to the range of pixels."""
        (y, x), size, w = self.windows.corners[window], self.windows.size, self.windows
        pad = (self.side - size) // 2
        top, left = (min(max(0, corner - pad), n - self.side) for corner, n in ((y, w.sides[0]), (x, w.sides[1])))
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
