"""Metrics that change the picture and measure the score. All use `curve`; they differ in the order and the fill."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from heatcli.artifact.layout import PICTURE, TABLE, Layout
from heatcli.errors import UsageError
from heatcli.evaluate.subject import Subject
from heatcli.images import baselines

REGION = 9  # pixels of a side (Samek et al. 2015)


def curve(subject: Subject, when: Tensor, steps: int, start: Tensor, end: Tensor, chance: bool = False) -> Tensor:
    """The score after each step, float64 [N, steps + 1].

    `when`: the step, from 0, in which a pixel changes from `start` to `end`, int64 [N, H, W]. `start`, `end`:
    [N, C, H, W]; of other inputs with their own axes, and the positions' axes replace H, W. `chance`: the probability
    instead of the score.
    """
    n, layout = len(subject), subject.layout
    found = []
    for rows in torch.split(torch.arange(n * (steps + 1)), subject.batch_size):
        image, step = rows // (steps + 1), rows % (steps + 1)
        gone = layout.back((when[image] < step.reshape(-1, *[1] * (when.dim() - 1)).to(when.device))[:, None])
        found.append(subject.scores(torch.where(gone, end[image], start[image]), image, chance))
    return torch.cat(found).reshape(n, steps + 1)


def by_pixel(heatmaps: Tensor, steps: int) -> Tensor:
    """`when` of `curve`, int64 [N, H, W]: the most relevant pixels of [N, H, W] first, equally many in each step."""
    return places(heatmaps) * steps // heatmaps[0].numel()


def by_region(heatmaps: Tensor, size: int, least_first: bool = False) -> tuple[Tensor, int]:
    """`when` of `curve` for a region of `size` × `size` pixels per step, and the number of regions.

    `heatmaps`: [N, H, W]; of signals [N, L], with intervals as regions, of volumes [N, D, H, W], with cubes. Regions
    lie on a grid (Samek et al. 2015, sec. III-B). They are ordered by mean relevance, not by the sum, because regions
    at the right and lower edges can be smaller.
    """
    sides = heatmaps.shape[1:]
    pool = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[len(sides) - 1]
    mean = pool(heatmaps[:, None].double(), [min(size, side) for side in sides], ceil_mode=True)[:, 0]
    when = places(-mean if least_first else mean)
    for axis, side in enumerate(sides, 1):
        when = when.repeat_interleave(size, axis).narrow(axis, 0, side)
    return when, mean[0].numel()


def places(values: Tensor) -> Tensor:
    """The rank of each value of [N, H, W] in descending order, int64 from 0. Equal values rank by position."""
    flat = values.flatten(1)
    order = flat.argsort(dim=1, descending=True, stable=True)
    position = torch.arange(flat.shape[1], device=values.device).expand_as(order)
    return torch.zeros_like(order).scatter(1, order, position).reshape(values.shape)


def noise(subject: Subject) -> Tensor:
    """Pixels drawn uniformly from 0..1 and normalised as the network's input, [N, C, H, W].

    Of other inputs, values drawn from those of the same channel in all inputs, of tables from those of the same
    feature, and of tokens from all. Raises `UsageError` if that changes nothing.
    """
    layout, generator = subject.layout, subject.generator(3)
    if layout.kind == PICTURE:
        drawn = torch.rand(subject.batch.shape, generator=generator)
        return subject.model.pictures.normalise(drawn.to(subject.batch.device)).to(subject.batch)
    axis, values = (2 if layout.kind == TABLE else 1), subject.values
    alike = layout.first(subject.batch).movedim(axis, 0)
    chosen = torch.randint(values.shape[1], (len(values), alike[0].numel()), generator=generator).to(values.device)
    filled = values.gather(1, chosen).reshape(alike.shape)
    fill = layout.back(filled.movedim(0, axis)).contiguous()
    if torch.equal(fill, subject.batch):
        raise UsageError(
            f"{subject.model.path}: {layout.element}s are replaced by those of the other inputs, which are all alike; "
            "give more inputs"
        )
    return fill


def black(subject: Subject) -> Tensor:
    """Pixels of value 0, normalised as the network's input, [N, C, H, W]; token 0."""
    return _baseline(subject, "black")


def blurred(subject: Subject) -> Tensor:
    """The pictures blurred with σ = (longest side)/16, [N, C, H, W]. Raises `UsageError` for tables and tokens."""
    return _baseline(subject, "blur")


def _baseline(subject: Subject, name: str) -> Tensor:
    reference = baselines.read(name, subject.model.pictures, subject.batch)
    whole = baselines.fitted(reference, subject.batch).batch
    assert whole is not None
    return whole


def aopc(scores: Tensor) -> Tensor:
    """The area over the curve [N, L + 1]: 1/(L + 1) Σ_k f(x⁰) − f(xᵏ) (Samek et al. 2015, eq. 12), [N]."""
    return (scores[:, :1] - scores).mean(1)


def area(scores: Tensor) -> Tensor:
    """The area under the curve [N, L + 1] over 0..1 by the trapezoidal rule, [N]."""
    return (scores[:, 1:] + scores[:, :-1]).mean(1) / 2


def pixel_flipping(
    subject: Subject, heatmaps: Tensor, region: int | None = None, steps: int = 100, least_first: bool = False
) -> Tensor:
    """The score as regions are replaced by uniform noise, float64 [N, steps + 1] (Samek et al. 2015).

    `heatmaps`: [N, H, W]. `region`: the side of a region in pixels, by default that of `region_of`. There are at most
    as many steps as regions.
    """
    when, regions = by_region(heatmaps, region or region_of(subject.layout), least_first)
    return curve(subject, when, min(steps, regions), subject.batch, noise(subject))


def region_of(layout: Layout) -> int:
    """The side of a region: 9, and 1 of tables and tokens, whose neighbours have nothing in common."""
    return 1 if layout.separate else REGION


def of_samek(sides: Sequence[int], points: int, separate: bool = False) -> tuple[int, int]:
    """The experiment of Samek et al. 2015 for pictures of any size, such as `sides` (height, width).

    Returns the side of a region in pixels, and the number of regions per step if there are `points` steps. The paper
    uses regions of 9 × 9 in 227 × 227 pixels and 100 steps, so that 16 % of the picture is replaced. `separate`: each
    position is a region.
    """
    side = 1 if separate else max(1, round(min(sides) * 9 / 227))
    regions = math.prod(-(-length // side) for length in sides)
    return side, max(1, round(regions * 100 * 81 / 227**2 / points))


def falls(subject: Subject, heatmaps: Tensor, points: int = 5) -> tuple[Tensor, Tensor]:
    """The mean fall of the score with the most relevant regions first, and with the least relevant first: float64 [N].

    An AOPC with the sizes of `of_samek`. The score is computed at `points` points of the curve and interpolated
    linearly between them, which takes a tenth of the time.
    """
    side, each = of_samek(heatmaps.shape[1:], points, subject.layout.separate)
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
