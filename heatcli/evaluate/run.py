"""Evaluation of methods on a folder: every metric of every method, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from heatcli.artifact.layout import PICTURES, Layout
from heatcli.errors import UsageError
from heatcli.evaluate.explainer import Explainer, controls_of
from heatcli.evaluate.metrics import Curve, Measured, Metric
from heatcli.evaluate.subjects import Subjects
from heatcli.version import __version__

NAME: Literal["heatcli.evaluation/1"] = "heatcli.evaluation/1"
RESAMPLES = 2000


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A column of a metric for a method: mean and median over `images` images, with 95% bootstrap intervals.

    `better`: `higher`, `lower` or empty. `values`: a value per image; in the order of the evaluation's `names` if all
    images take part.
    """

    metric: str
    column: str
    better: str
    method: str
    images: int
    mean: float
    low: float
    high: float
    median: float
    median_low: float
    median_high: float
    values: tuple[float, ...]


class CurveRow(msgspec.Struct, frozen=True, kw_only=True):
    """The mean curve over the images, with a 95% bootstrap interval at each point."""

    metric: str
    curve: str
    method: str
    x: tuple[float | str, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    x_label: str
    y_label: str


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """The result of an evaluation. `names`: of the images. `metrics`: name → the metric with its options.

    `without`: images that were left out because they have no such box, name → why.
    """

    schema: Literal["heatcli.evaluation/1"] = NAME
    version: str
    model: str
    sha256: str
    images: int
    names: tuple[str, ...]
    seed: int
    metrics: dict[str, Metric]
    rows: list[Row]
    curves: list[CurveRow]
    without: dict[str, str] = {}


def evaluate(
    subjects: Subjects,
    explainers: Sequence[Explainer],
    metrics: Sequence[Metric],
    told: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Measure every metric of every explainer. `told`: called with a text before each. Raises `UsageError`."""
    rows: list[Row] = []
    curves: list[CurveRow] = []
    metrics = [metric.settled(subjects.layout) for metric in metrics]
    for metric in metrics:
        for explainer in explainers:
            told(f"{metric.name}: {explainer.name}")
            found = measured(metric, subjects, explainer)
            rows += _rows(metric, explainer, found, subjects.seed)
            curves += _curves(metric, explainer, found, subjects.seed)
    return Evaluation(
        version=__version__, model=subjects.model.named_in("."), sha256=subjects.model.sha256, images=len(subjects),
        names=subjects.names, seed=subjects.seed, metrics={m.name: m for m in metrics}, rows=rows, curves=curves,
        without=dict(subjects.without),
    )  # fmt: skip


def measured(metric: Metric, subjects: Subjects, explainer: Explainer) -> Measured:
    """What a metric measures of images of any sizes, in their order where all of them take part.

    Raises `UsageError`, also for a column in which no image takes part.
    """
    each = [metric(own, explainer) for own in subjects.parts]
    values = {}
    for column in each[0].values:
        parts = [found.values[column] for found in each]
        every = all(len(part) == len(own) for part, own in zip(parts, subjects.parts, strict=True))
        values[column] = subjects.joined(parts) if every else torch.cat(parts)
        if not len(values[column]):
            raise UsageError(f"{metric.name}: " + metric.nothing.format(column))
    curves = {name: _together([found.curves[name] for found in each], subjects) for name in each[0].curves}
    return Measured(values, curves)


def _together(each: Sequence[Curve], subjects: Subjects) -> Curve:
    """The curves of all images, over the points of the longest."""
    longest = max(each, key=lambda curve: len(curve.x))
    return replace(longest, y=subjects.joined([curve.until(longest.x) for curve in each]))


def with_controls(explainers: Sequence[Explainer], layout: Layout = PICTURES) -> list[Explainer]:
    """The explainers, and all controls of that kind of input that are not among them."""
    names = {e.name for e in explainers}
    return [*explainers, *(Explainer.parse(name) for name in controls_of(layout) if name not in names)]


def _rows(metric: Metric, explainer: Explainer, found: Measured, seed: int) -> Iterator[Row]:
    """A row per column of a metric, with intervals."""
    for column, values in found.values.items():
        own = values.double().cpu().numpy()
        means, medians = resampled(own[:, None], seed), resampled(own[:, None], seed, np.median)
        yield Row(
            metric=metric.name, column=column, better=metric.better.get(column, "higher"), method=explainer.name,
            images=len(own), mean=float(own.mean()), low=float(means[0, 0]), high=float(means[1, 0]),
            median=float(np.median(own)), median_low=float(medians[0, 0]), median_high=float(medians[1, 0]),
            values=tuple(own.tolist()),
        )  # fmt: skip


def _curves(metric: Metric, explainer: Explainer, found: Measured, seed: int) -> Iterator[CurveRow]:
    """The mean curves of a metric, with intervals."""
    for name, curve in found.curves.items():
        y: NDArray[np.float64] = curve.y.double().cpu().numpy()
        low, high = resampled(y, seed, times=200)
        yield CurveRow(
            metric=metric.name, curve=name, method=explainer.name, x=curve.x, mean=tuple(y.mean(0).tolist()),
            low=tuple(low.tolist()), high=tuple(high.tolist()), x_label=curve.x_label, y_label=curve.y_label,
        )  # fmt: skip


def resampled(
    values: NDArray[np.float64], seed: int = 0, statistic: Callable[..., NDArray[np.float64]] = np.mean,
    times: int = RESAMPLES, level: float = 0.95,
) -> NDArray[np.float64]:  # fmt: skip
    """The percentile bootstrap interval of a statistic over the rows of [N, S]: float64 [2, S] (Efron 1979).

    `times`: the number of resamples. `level`: the confidence level of the interval.
    """
    draw = np.random.default_rng(seed)
    found = np.stack([statistic(values[draw.integers(len(values), size=len(values))], axis=0) for _ in range(times)])
    edge = (1 - level) / 2
    return np.quantile(found, [edge, 1 - edge], axis=0)


def apart(
    a: NDArray[np.float64], b: NDArray[np.float64], seed: int = 0, level: float = 0.95
) -> tuple[float, float, float]:
    """The mean of a − b over the same M images, and the ends of its paired bootstrap interval. `a`, `b`: [M]."""
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    low, high = resampled(difference[:, None], seed, level=level)[:, 0]
    return float(difference.mean()), float(low), float(high)
