"""One method tried on some images: how faithful its maps are, where they lie, how much of the score they show, cost."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from heatcli.evaluate.explainer import Explainer
from heatcli.evaluate.location import inside_share
from heatcli.evaluate.perturbation import falls
from heatcli.evaluate.subject import Subject


@dataclass(frozen=True, eq=False)
class Trial:
    """Each float64 [M], of M images; NaN where a question has no answer.

    `most`, `least`: the score's mean fall as regions are replaced, most or least relevant first (`falls`).
    `inside`: share of the positive relevance inside the mask. `shown`: pixels over output − output_baseline, of methods
    that divide the score. `seconds`: processor time an image.
    """

    explainer: Explainer
    most: Tensor
    least: Tensor
    inside: Tensor
    shown: Tensor
    seconds: float

    @property
    def between(self) -> Tensor:
        """The area between the two orders (Samek et al. 2015): the higher, the better the map ranks the regions."""
        return self.most - self.least


def tried(subject: Subject, explainer: Explainer, points: int = 5) -> Trial:
    """The method on the images of the subject. Raises `UsageError` where the method cannot explain the model."""
    start = time.process_time()
    heatmaps, shown = maps(subject, explainer)
    seconds = (time.process_time() - start) / len(subject)
    most, least = falls(subject, heatmaps, points)
    inside = torch.full((len(subject),), torch.nan, dtype=torch.float64)
    rows = subject.masked
    inside[rows] = inside_share(heatmaps[rows], subject.mask[rows]).cpu()
    return Trial(explainer, most.cpu(), least.cpu(), inside, shown, seconds)


def maps(subject: Subject, explainer: Explainer) -> tuple[Tensor, Tensor]:
    """Heatmaps [M, H, W]; and the share of the score that they hold [M], NaN where the method does not divide it."""
    shown = torch.full((len(subject),), torch.nan, dtype=torch.float64)
    if explainer.method is None:
        return subject.heatmaps(explainer), shown
    parts = []
    for rows, found in subject.explained(explainer):
        parts.append(found.relevance.detach().sum(1))
        if explainer.method.conserves:
            ledger = found.ledger
            score = ledger.output - ledger.output_baseline
            shown[rows] = (ledger.pixels / torch.where(score == 0, torch.nan, score)).double().cpu()
    return torch.cat(parts), shown
