"""Any method of one walk, averaged over noisy images: SmoothGrad and related methods."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from heatcli.errors import UsageError
from heatcli.methods.backward import GRADIENT
from heatcli.methods.method import ANY, MULTIPLIER, SQUARE, Answer, Method, OneWalk
from heatcli.methods.path import Mean, mean_of_walks
from heatcli.methods.question import Make, Question
from heatcli.rules.numerics import wide
from heatcli.rules.parameters import Parameters, number

NOISE = "noise"  # the ledger's entry for the score of the image minus the mean score around it, unexplained


def noise(samples: int, shape: torch.Size, seed: int) -> Tensor:
    """Standard normal noise [samples, …], the same for the same seed on every device."""
    return torch.randn(samples, *shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Smooth(Parameters):
    """The mean of the walks from `samples` images with normal noise of `sigma` times the range of the image's input."""

    kind: ClassVar[str] = "path"
    compares: ClassVar[bool] = False
    takes: ClassVar[str] = ANY
    moment: ClassVar[int] = 1

    samples: int = number(25, 1)
    sigma: float = number(0.15, 0.0)
    seed: int = number(0, 0)

    @property
    def cost(self) -> str:
        """A baseline adds one forward run for each."""
        return f"{self.samples + 1} forwards, {self.samples} backwards"

    def __call__(self, question: Question, method: Method) -> Answer:
        """The method's table, walked at every noisy image. The mean difference of their scores is `unexplained`."""
        x, start = question.batch, question.reference.batch
        drawn = noise(self.samples, x.shape[1:], self.seed).to(x)
        drawn = drawn * self.sigma
        flat = x.flatten(1)
        span = (flat.amax(1) - flat.amin(1)).reshape(-1, *[1] * (x.dim() - 1))

        def noisy(rows: Tensor, which: Tensor) -> Tensor:
            """Images with noise."""
            return x[rows] + drawn[which] * span[rows]

        if self.moment > 1:
            return self._central(question, method, noisy)
        references = None if start is None else lambda rows, _: start[rows]
        answer, score = mean_of_walks(question, method, self.samples, noisy, references)
        assert answer.books is not None
        if method.conserves:
            answer.books.unexplained[NOISE] = question.score - score
        return answer

    def _central(self, question: Question, method: Method, noisy: Make) -> Answer:
        """The variance of the walks' multipliers."""
        mean, squares = Mean(question), Mean(question)
        for rows, _, walked in question.walk(question.points(self.samples, noisy), method.rules):
            mean.add(rows, walked.multiplier, 1 / self.samples)
            squares.add(rows, wide(walked.multiplier) ** 2, 1 / self.samples)
        return Answer((squares.total - mean.total**2).clamp(min=0).to(question.batch))


@dataclass(frozen=True)
class Variance(Smooth):
    """The variance of the walks from noisy images."""

    moment: ClassVar[int] = 2


def smoothed(method: Method, text: str) -> Method:
    """A method of one walk, averaged over noisy images as `text`, `N:SIGMA`, sets.

    Raises `UsageError` for another form and for methods of several walks.
    """
    if not isinstance(method.procedure, OneWalk):
        raise UsageError(
            f"method {method.name} cannot be smoothed; --smooth takes methods of one walk, such as lrp-eps"
        )
    count, colon, sigma = text.partition(":")
    try:
        if not colon:
            raise ValueError
        procedure = Smooth(int(count), float(sigma))
    except ValueError:
        raise UsageError(
            f"--smooth {text} is not of the form N:SIGMA, such as 25:0.15: how many noisy images, and how noisy, as a "
            "share of the range of the input"
        ) from None
    return replace(method, procedure=procedure)


SMOOTH = (
    Method(
        name="smoothgrad",
        summary="mean gradient of noisy images",
        source="Smilkov et al. 2017, sec. 3",
        rules=GRADIENT,
        baseline=None,
        readout=MULTIPLIER,
        conserves=False,
        procedure=Smooth(50),
    ),
    Method(
        name="smoothgrad-squared",
        summary="mean squared gradient of noisy images",
        source="Hooker et al. 2019, sec. 3",
        rules=GRADIENT,
        baseline=None,
        readout=SQUARE,
        conserves=False,
        procedure=Smooth(50),
    ),
    Method(
        name="vargrad",
        summary="variance of the gradient of noisy images",
        source="Adebayo et al. 2018, sec. 3.1",
        rules=GRADIENT,
        baseline=None,
        readout=MULTIPLIER,
        conserves=False,
        procedure=Variance(50),
    ),
)
