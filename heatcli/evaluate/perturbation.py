"""Metrics that change the picture and measure the score. All use `curve`; they differ in the order and the fill."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from heatcli.evaluate.subject import Subject
from heatcli.images.baselines import gaussian_blur


def curve(subject: Subject, when: Tensor, steps: int, start: Tensor, end: Tensor, chance: bool = False) -> Tensor:
    """The score after each step, float64 [N, steps + 1].

    `when`: the step, from 0, in which a pixel changes from `start` to `end`, int64 [N, H, W]. `start`, `end`:
    [N, C, H, W]. For sequences a single dimension replaces H, W. `chance`: the probability instead of the score.
    """
    n = len(subject)
    found = []
    for rows in torch.split(torch.arange(n * (steps + 1)), subject.batch_size):
        image, step = rows // (steps + 1), rows % (steps + 1)
        gone = (when[image] < step.reshape(-1, *[1] * (when.dim() - 1)).to(when.device))[:, None]
        found.append(subject.scores(torch.where(gone, end[image], start[image]), image, chance))
    return torch.cat(found).reshape(n, steps + 1)


def by_pixel(heatmaps: Tensor, steps: int) -> Tensor:
    """`when` of `curve`, int64 [N, H, W]: the most relevant pixels of [N, H, W] first, equally many in each step."""
    return places(heatmaps) * steps // heatmaps[0].numel()


def by_region(heatmaps: Tensor, size: int, least_first: bool = False) -> tuple[Tensor, int]:
    """`when` of `curve` for a region of `size` × `size` pixels per step, and the number of regions.

    `heatmaps`: [N, H, W]. Regions lie on a grid (Samek et al. 2015, sec. III-B). They are ordered by mean relevance,
    not by the sum, because regions at the right and lower edges can be smaller.
    """
    height, width = heatmaps.shape[1:]
    mean = functional.avg_pool2d(heatmaps[:, None].double(), size, ceil_mode=True)[:, 0]
    place = places(-mean if least_first else mean)
    when = place.repeat_interleave(size, 1).repeat_interleave(size, 2)[:, :height, :width]
    return when, mean[0].numel()


def places(values: Tensor) -> Tensor:
    """The rank of each value of [N, H, W] in descending order, int64 from 0. Equal values rank by position."""
    flat = values.flatten(1)
    order = flat.argsort(dim=1, descending=True, stable=True)
    position = torch.arange(flat.shape[1], device=values.device).expand_as(order)
    return torch.zeros_like(order).scatter(1, order, position).reshape(values.shape)


def noise(subject: Subject) -> Tensor:
    """Pixels drawn uniformly from 0..1 and normalised as the network's input, [N, C, H, W]."""
    drawn = torch.rand(subject.batch.shape, generator=subject.generator(3))
    return subject.model.pictures.normalise(drawn.to(subject.batch.device)).to(subject.batch)


def black(subject: Subject) -> Tensor:
    """Pixels of value 0, normalised as the network's input, [N, C, H, W]."""
    return subject.model.pictures.normalise(torch.zeros_like(subject.batch)).to(subject.batch)


def blurred(subject: Subject) -> Tensor:
    """The pictures blurred with σ = (longer side)/16, [N, C, H, W]."""
    return gaussian_blur(subject.batch, max(subject.batch.shape[-2:]) / 16)


def aopc(scores: Tensor) -> Tensor:
    """The area over the curve [N, L + 1]: 1/(L + 1) Σ_k f(x⁰) − f(xᵏ) (Samek et al. 2015, eq. 12), [N]."""
    return (scores[:, :1] - scores).mean(1)


def area(scores: Tensor) -> Tensor:
    """The area under the curve [N, L + 1] over 0..1 by the trapezoidal rule, [N]."""
    return (scores[:, 1:] + scores[:, :-1]).mean(1) / 2


def pixel_flipping(
    subject: Subject, heatmaps: Tensor, region: int = 9, steps: int = 100, least_first: bool = False
) -> Tensor:
    """The score as regions are replaced by uniform noise, float64 [N, steps + 1] (Samek et al. 2015).

    `heatmaps`: [N, H, W]. `region`: the side of a region in pixels. There are at most as many steps as regions.
    """
    when, regions = by_region(heatmaps, region, least_first)
    return curve(subject, when, min(steps, regions), subject.batch, noise(subject))


def of_samek(height: int, width: int, points: int) -> tuple[int, int]:
    """The experiment of Samek et al. 2015 for pictures of any size.

    Returns the side of a region in pixels, and the number of regions per step if there are `points` steps. The paper
    uses regions of 9 × 9 in 227 × 227 pixels and 100 steps, so that 16 % of the picture is replaced.
    """
    side = max(1, round(min(height, width) * 9 / 227))
    regions = -(-height // side) * -(-width // side)
    return side, max(1, round(regions * 100 * 81 / 227**2 / points))


def falls(subject: Subject, heatmaps: Tensor, points: int = 5) -> tuple[Tensor, Tensor]:
    """The mean fall of the score with the most relevant regions first, and with the least relevant first: float64 [N].

    An AOPC with the sizes of `of_samek`. The score is computed at `points` points of the curve and interpolated
    linearly between them, which takes a tenth of the time.
    """
    height, width = heatmaps.shape[1:]
    side, each = of_samek(height, width, points)
    unchanged, fill, found = subject.scores()[:, None], noise(subject), []
    for least_first in (False, True):
        when, regions = by_region(heatmaps, side, least_first)
        steps = min(points, -(-regions // each))
        later = curve(subject, when // each - 1, steps - 1, subject.batch, fill)  # without the unchanged pictures
        found.append(fall(torch.cat([unchanged, later], 1)))
    return found[0], found[1]


def fall(scores: Tensor) -> Tensor:
    """The first score less the mean of the curve [N, L + 1] by the trapezoidal rule, [N]."""
    return scores[:, 0] - area(scores)


def deletion(subject: Subject, heatmaps: Tensor, steps: int = 32) -> Tensor:
    """The probability as pixels turn black, most relevant first (Petsiuk et al. 2018): [N, steps + 1]."""
    return curve(subject, by_pixel(heatmaps, steps), steps, subject.batch, black(subject), chance=True)


def insertion(subject: Subject, heatmaps: Tensor, steps: int = 32) -> Tensor:
    """The probability as pixels return to the blurred picture, most relevant first: [N, steps + 1] (ibid.)."""
    return curve(subject, by_pixel(heatmaps, steps), steps, blurred(subject), subject.batch, chance=True)


def morph(subject: Subject, difference: Tensor, share: float = 0.2) -> Tensor:
    """The fall of the score when the most relevant pixels turn black, float64 [N] (Shrikumar et al. 2017, sec. 4.1).

    `subject`: explains the difference of the logits of two classes, their log-odds. `difference` [N, H, W]: the
    relevance for the first class less that for the second. At most `share` of the pixels are erased, and only pixels
    with a positive difference.
    """
    first = places(difference) < int(share * difference[0].numel())
    when = torch.where(first & (difference > 0), 0, 1)
    scores = curve(subject, when, 1, subject.batch, black(subject))
    return scores[:, 0] - scores[:, 1]
