"""A method tried on some images: faithfulness, location, the share of the score in the map, and cost."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from heatcli.evaluate.explainer import Explainer
from heatcli.evaluate.location import inside_share
from heatcli.evaluate.perturbation import falls
from heatcli.evaluate.subject import Subject
from heatcli.evaluate.subjects import Subjects


@dataclass(frozen=True, eq=False)
class Trial:
    """The result for M images; tensors are float64 [M], NaN if a value is not defined.

    `most`, `least`: the mean fall of the score as regions are replaced, the most or the least relevant first (`falls`).
    `inside`: the share of the positive relevance inside the mask. `shown`: pixels / (output − output_baseline) for
    methods that divide the score. `seconds`: processor time per image.
    """

    explainer: Explainer
    most: Tensor
    least: Tensor
    inside: Tensor
    shown: Tensor
    seconds: float

    @property
    def between(self) -> Tensor:
        """The area between the two orders (Samek et al. 2015); higher if the map ranks the regions better."""
        return self.most - self.least

    @property
    def area(self) -> float:
        """The mean of `between` over the images."""
        return float(self.between.mean())


def tried(subjects: Subjects, explainer: Explainer, points: int = 5) -> Trial:
    """Try a method on images of any sizes. Raises `UsageError` if the method cannot explain the model."""
    each = [_tried(own, explainer, points) for own in subjects.parts]
    most, least, inside, shown = (
        subjects.joined([getattr(trial, name) for trial in each]) for name in ("most", "least", "inside", "shown")
    )
    seconds = sum(trial.seconds * len(own) for trial, own in zip(each, subjects.parts, strict=True))
    return Trial(explainer, most, least, inside, shown, seconds / len(subjects))


def _tried(subject: Subject, explainer: Explainer, points: int) -> Trial:
    """A method on images of one size."""
    start = time.process_time()
    heatmaps, shown = maps(subject, explainer)
    seconds = (time.process_time() - start) / len(subject)
    most, least = falls(subject, heatmaps, points)
    inside = torch.full((len(subject),), torch.nan, dtype=torch.float64)
    rows = subject.masked
    inside[rows] = inside_share(heatmaps[rows], subject.mask[rows]).cpu()
    return Trial(explainer, most.cpu(), least.cpu(), inside, shown, seconds)


def maps(subject: Subject, explainer: Explainer) -> tuple[Tensor, Tensor]:
    """Heatmaps [M, H, W], and the share of the score in them, float64 [M]; NaN for methods that do not divide it."""
    shown = torch.full((len(subject),), torch.nan, dtype=torch.float64)
    if explainer.method is None:
        return subject.heatmaps(explainer), shown
    parts = []
    for rows, found in subject.explained(explainer):
        parts.append(subject.summed(found.relevance.detach()))
        if explainer.method.conserves:
            ledger = found.ledger
            score = ledger.output - ledger.output_baseline
            shown[rows] = (ledger.pixels / torch.where(score == 0, torch.nan, score)).double().cpu()
    return torch.cat(parts), shown
