"""Metrics that change the picture and watch the score: one mechanism, `curve`; only the order and the fill differ."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from heatcli.evaluate.subject import Subject
from heatcli.images.baselines import gaussian_blur


def curve(subject: Subject, when: Tensor, steps: int, start: Tensor, end: Tensor, chance: bool = False) -> Tensor:
    """The score after each step, float64 [N, steps + 1].

    `when` [N, H, W], int64: the step, from 0, in which a pixel goes from `start` to `end` (both [N, C, H, W]). A
    sequence has one dimension of places instead of H, W.
    """
    n = len(subject)
    found = []
    for rows in torch.split(torch.arange(n * (steps + 1)), subject.batch_size):
        image, step = rows // (steps + 1), rows % (steps + 1)
        gone = (when[image] < step.reshape(-1, *[1] * (when.dim() - 1)).to(when.device))[:, None]
        found.append(subject.scores(torch.where(gone, end[image], start[image]), image, chance))
    return torch.cat(found).reshape(n, steps + 1)


def by_pixel(heatmaps: Tensor, steps: int) -> Tensor:
    """Most relevant pixel first, equally many a step: `when` for `curve`."""
    return places(heatmaps) * steps // heatmaps[0].numel()


def by_region(heatmaps: Tensor, size: int, least_first: bool = False) -> tuple[Tensor, int]:
    """One region of size × size a step, the most relevant first; and how many regions there are.

    Regions lie on a grid (Samek et al. 2015, sec. III-B); those at the right and lower edge may be cut, so regions are
    compared by their mean relevance.
    """
    height, width = heatmaps.shape[1:]
    mean = functional.avg_pool2d(heatmaps[:, None].double(), size, ceil_mode=True)[:, 0]
    place = places(-mean if least_first else mean)
    when = place.repeat_interleave(size, 1).repeat_interleave(size, 2)[:, :height, :width]
    return when, mean[0].numel()


def places(values: Tensor) -> Tensor:
    """The place of each value of [N, H, W] in descending order, from 0, int64; of equal ones the first comes first."""
    flat = values.flatten(1)
    order = flat.argsort(dim=1, descending=True, stable=True)
    position = torch.arange(flat.shape[1], device=values.device).expand_as(order)
    return torch.zeros_like(order).scatter(1, order, position).reshape(values.shape)


def noise(subject: Subject) -> Tensor:
    """Pixels drawn uniformly from the range of pictures, 0..1, as the network sees them: [N, C, H, W]."""
    drawn = torch.rand(subject.batch.shape, generator=subject.generator(3))
    return subject.model.pictures.normalise(drawn.to(subject.batch.device)).to(subject.batch)


def black(subject: Subject) -> Tensor:
    """Pixels of value 0 before normalisation, [N, C, H, W]."""
    return subject.model.pictures.normalise(torch.zeros_like(subject.batch)).to(subject.batch)


def blurred(subject: Subject) -> Tensor:
    """The pictures blurred, σ a sixteenth of their longer side: [N, C, H, W]."""
    return gaussian_blur(subject.batch, max(subject.batch.shape[-2:]) / 16)


def aopc(scores: Tensor) -> Tensor:
    """Area over the perturbation curve [N, L + 1]: 1/(L + 1) Σ_k f(x⁰) − f(xᵏ) (Samek et al. 2015, eq. 12), [N]."""
    return (scores[:, :1] - scores).mean(1)


def area(scores: Tensor) -> Tensor:
    """Area under the curve [N, L + 1] over 0..1, by trapezoids: [N]."""
    return (scores[:, 1:] + scores[:, :-1]).mean(1) / 2


def pixel_flipping(
    subject: Subject, heatmaps: Tensor, region: int = 9, steps: int = 100, least_first: bool = False
) -> Tensor:
    """The score as regions are replaced by uniform noise (Samek et al. 2015), float64 [N, steps + 1]."""
    when, regions = by_region(heatmaps, region, least_first)
    return curve(subject, when, min(steps, regions), subject.batch, noise(subject))


def of_samek(height: int, width: int, points: int) -> tuple[int, int]:
    """Samek's experiment for pictures of any size: the side of a region, and the regions a step of `points` steps.

    Regions of 9 pixels in 227, and as many as 100 of them cover at 227 × 227: 16 % of the picture.
    """
    side = max(1, round(min(height, width) * 9 / 227))
    regions = -(-height // side) * -(-width // side)
    return side, max(1, round(regions * 100 * 81 / 227**2 / points))


def falls(subject: Subject, heatmaps: Tensor, points: int = 5) -> tuple[Tensor, Tensor]:
    """The mean fall of the score, most relevant regions first and least relevant first, each float64 [N].

    As AOPC with `of_samek`, but the score is taken at `points` places of the curve only, between which it is taken as
    straight: a tenth of the cost.
    """
    height, width = heatmaps.shape[1:]
    side, each = of_samek(height, width, points)
    unchanged, fill, found = subject.scores()[:, None], noise(subject), []
    for least_first in (False, True):
        when, regions = by_region(heatmaps, side, least_first)
        steps = min(points, -(-regions // each))
        later = curve(subject, when // each - 1, steps - 1, subject.batch, fill)  # from the first step on
        found.append(fall(torch.cat([unchanged, later], 1)))
    return found[0], found[1]


def fall(scores: Tensor) -> Tensor:
    """The first score less the mean of the curve [N, L + 1], by trapezoids: [N]."""
    return scores[:, 0] - area(scores)


def deletion(subject: Subject, heatmaps: Tensor, steps: int = 32) -> Tensor:
    """The probability as pixels turn black, most relevant first (Petsiuk et al. 2018): [N, steps + 1]."""
    return curve(subject, by_pixel(heatmaps, steps), steps, subject.batch, black(subject), chance=True)


def insertion(subject: Subject, heatmaps: Tensor, steps: int = 32) -> Tensor:
    """The probability as pixels come back into the blurred picture, most relevant first: [N, steps + 1]."""
    return curve(subject, by_pixel(heatmaps, steps), steps, blurred(subject), subject.batch, chance=True)


def morph(subject: Subject, difference: Tensor, share: float = 0.2) -> Tensor:
    """How much the score falls when the pixels that speak for it most turn black, float64 [N].

    `subject` explains the difference of two classes' logits, their log-odds; `difference` [N, H, W] is what speaks
    for the first class less what speaks for the second. At most `share` of the pixels are erased, and only those
    where it is positive (Shrikumar et al. 2017, sec. 4.1).
    """
    first = places(difference) < int(share * difference[0].numel())
    when = torch.where(first & (difference > 0), 0, 1)
    scores = curve(subject, when, 1, subject.batch, black(subject))
    return scores[:, 0] - scores[:, 1]
