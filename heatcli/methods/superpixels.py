"""LIME and kernel SHAP: linear models of the score by which superpixels are shown.

Superpixels are computed by scikit-image's SLIC, regressions by scikit-learn (extra `perturbation`).
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heatcli.artifact.layout import TABLE, TOKENS
from heatcli.methods.method import ONE, Answer, Method
from heatcli.methods.path import mean_score
from heatcli.methods.perturbation import hidden
from heatcli.methods.question import Question
from heatcli.rules.parameters import Parameters, number
from heatcli.system.extras import optional

Shown = NDArray[np.bool_]  # [samples, superpixels]: which superpixels a sample shows


def _needed(module: str) -> Any:
    """A module of the extra. Raises `UsageError` if it is not installed."""
    name = {"skimage": "scikit-image", "sklearn": "scikit-learn"}[module.partition(".")[0]]
    return optional(module, f"superpixels need {name}", "perturbation")


def superpixels(image: Tensor, count: int, compactness: float) -> NDArray[np.int64]:
    """About `count` superpixels of an image [C, H, W] by SLIC: numbers from 0, int64 [H, W]. Deterministic.

    Of signals [C, L] they are segments, of volumes supervoxels.
    """
    slic = _needed("skimage.segmentation").slic
    pixels = image.detach().double().cpu().numpy()
    low, high = pixels.min(), pixels.max()
    pixels = (pixels - low) / ((high - low) or 1)
    if line := pixels.ndim == 2:
        pixels = pixels[:, None]  # SLIC takes two axes or three
    labels = slic(
        np.moveaxis(pixels, 0, -1), n_segments=count, compactness=compactness, start_label=0,
        convert2lab=len(pixels) == 3 == pixels.ndim and not line, channel_axis=-1,
    )  # fmt: skip
    numbers: NDArray[np.int64] = np.unique(labels, return_inverse=True)[1].reshape(image.shape[1:])
    return numbers


@dataclass(frozen=True)
class Superpixels(Parameters, abc.ABC):
    """Base class: samples show some of the superpixels, and their scores give each superpixel a weight."""

    kind: ClassVar[str] = "perturbation"
    compares: ClassVar[bool] = False
    takes: ClassVar[str] = ONE
    keeps_values: ClassVar[bool] = True

    samples: int = number(1000, 2)
    superpixels: int = number(50, 1)
    compactness: float = number(10.0, 0.0, above=True)
    seed: int = number(0, 0)

    @property
    def cost(self) -> str:
        """No backward run."""
        return f"at most {self.samples + 2} forwards"

    def __call__(self, question: Question, method: Method) -> Answer:
        """A regression for each image. Each weight is divided evenly over the superpixel's pixels and channels."""
        score0 = mean_score(question)
        planes = question.layout.first(question.batch)
        segments = [self.segments(question, image) for image in planes]
        heatmap = torch.zeros(planes.shape, dtype=torch.float64)
        shown = [self.shown(int(segment.max()) + 1) for segment in segments]
        scores = self._scores(question, segments, shown)
        for i, segment in enumerate(segments):
            weights = self.fitted(shown[i], scores[i], float(score0[i]), float(question.score[i]))
            share = weights / np.bincount(segment.reshape(-1)) / len(heatmap[i])
            heatmap[i] = torch.from_numpy(share[segment]).expand(heatmap[i].shape)
        return Answer(question.layout.back(heatmap).to(question.batch).contiguous(), score0=score0)

    def segments(self, question: Question, image: Tensor) -> NDArray[np.int64]:
        """The superpixels of an image [C, H, W]; each feature of a table is one, tokens are even sections."""
        if question.layout.kind == TABLE:
            return np.arange(image.shape[1])
        if question.layout.kind == TOKENS:
            return np.arange(image.shape[1]) * min(self.superpixels, image.shape[1]) // image.shape[1]
        return superpixels(image, self.superpixels, self.compactness)

    def _scores(
        self, question: Question, segments: list[NDArray[np.int64]], shown: list[Shown]
    ) -> list[NDArray[np.float64]]:
        """The score of every sample of every image."""

        def sampled(rows: Tensor, which: Tensor) -> Tensor:
            """Images in which some superpixels are shown."""
            masks = [shown[i][k][segments[i]] for i, k in zip(rows.tolist(), which.tolist(), strict=True)]
            return hidden(question, rows, torch.from_numpy(np.stack(masks))[:, None].to(question.batch))

        counts = [len(samples) for samples in shown]
        scores = question.scores(question.points(counts, sampled)).cpu().numpy()
        return np.split(scores, np.cumsum(counts)[:-1])

    @abc.abstractmethod
    def shown(self, count: int) -> Shown:
        """Which of `count` superpixels each sample shows."""

    @abc.abstractmethod
    def fitted(
        self, shown: Shown, scores: NDArray[np.float64], score0: float, score: float
    ) -> NDArray[np.float64]:  # fmt: skip
        """The weight of each superpixel, float64 [superpixels].

        `shown`: bool [samples, superpixels]. `scores`: float64 [samples]. `score0`, `score`: of the image with none and
        with all superpixels shown.
        """


@dataclass(frozen=True)
class Lime(Superpixels):
    """Ridge regression on random samples with weights exp(−d²/width²), d the cosine distance from the whole image."""

    width: float = number(0.25, 0.0, above=True)
    alpha: float = number(1.0, 0.0)

    def shown(self, count: int) -> Shown:
        """The whole image, then random subsets with probability 1/2 for each superpixel."""
        drawn = np.random.default_rng(self.seed).random((self.samples, count)) < 0.5
        drawn[0] = True
        return drawn

    def fitted(
        self, shown: Shown, scores: NDArray[np.float64], score0: float, score: float
    ) -> NDArray[np.float64]:  # fmt: skip
        """The ridge regression's coefficients, float64 [superpixels]; arguments as in `Superpixels`."""
        ridge = _needed("sklearn.linear_model").Ridge(alpha=self.alpha)
        distance = 1 - np.sqrt(shown.mean(1))  # cosine distance from all shown: similarity k/√(k·n)
        weights = np.exp(-(distance**2) / self.width**2)
        fitted: NDArray[np.float64] = ridge.fit(shown.astype(np.float64), scores, sample_weight=weights).coef_
        return fitted


@dataclass(frozen=True)
class KernelShap(Superpixels):
    """Shapley values of the superpixels: least squares under the Shapley kernel, all and none exact.

    If `samples` suffices for all 2^n subsets, these are the exact Shapley values.
    """

    def shown(self, count: int) -> Shown:
        """Every subset, or random ones with sizes by the kernel's mass, each with its complement."""
        if count == 1:
            return np.ones((1, 1), dtype=bool)
        if 2**count - 2 <= self.samples:
            return np.array(list(product((False, True), repeat=count)), dtype=bool)[1:-1].reshape(-1, count)
        g = np.random.default_rng(self.seed)
        sizes = np.arange(1, count)
        mass = 1 / (sizes * (count - sizes))  # of all subsets of that size together
        drawn = g.choice(sizes, size=-(-self.samples // 2), p=mass / mass.sum())
        half = g.random((len(drawn), count)).argsort(1).argsort(1) < drawn[:, None]
        return np.concatenate([half, ~half])

    def fitted(
        self, shown: Shown, scores: NDArray[np.float64], score0: float, score: float
    ) -> NDArray[np.float64]:  # fmt: skip
        """Weights, float64 [superpixels], that sum to score − score0; arguments as in `Superpixels`.

        The last weight follows from the others.
        """
        count, whole = shown.shape[1], score - score0
        if count == 1:
            return np.array([whole])
        every = len(shown) == 2**count - 2
        sizes = shown.sum(1)
        kernel = [(count - 1) / (math.comb(count, int(k)) * k * (count - k)) for k in sizes] if every else None
        z = shown.astype(np.float64)
        left = scores - score0 - z[:, -1] * whole
        linear = _needed("sklearn.linear_model").LinearRegression(fit_intercept=False)
        fitted = linear.fit(z[:, :-1] - z[:, -1:], left, sample_weight=kernel).coef_
        return np.append(fitted, whole - fitted.sum())


SUPERPIXELS = (
    Method(
        name="lime",
        summary="coefficients of a ridge regression of the score on which superpixels are shown",
        source="Ribeiro et al. 2016, eq. 2",
        rules={},
        baseline="zero",
        conserves=False,
        procedure=Lime(),
    ),
    Method(
        name="kernel-shap",
        summary="Shapley values of superpixels",
        source="Lundberg & Lee 2017, theorem 2",
        rules={},
        baseline="zero",
        procedure=KernelShap(),
    ),
)
