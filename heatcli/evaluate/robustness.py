"""How much heatmaps change with the picture, and how well they predict changes of the score (Yeh et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from heatcli.evaluate.explainer import Explainer
from heatcli.evaluate.subject import Subject


def max_sensitivity(subject: Subject, explainer: Explainer, radius: float = 0.02, draws: int = 10) -> Tensor:
    """The largest ‖Φ(x + δ) − Φ(x)‖ / ‖Φ(x)‖ in `draws` of uniform noise, float64 [N] (def. 2).

    |δ| ≤ `radius` times the range of pixels.
    """
    generator = subject.generator(4)
    original = subject.relevance(explainer).double().flatten(1)
    worst = original.new_zeros(len(original))
    for _ in range(draws):
        drawn = torch.rand(subject.batch.shape, generator=generator).to(subject.batch.device)
        moved = subject.batch + radius * (2 * drawn - 1).to(subject.batch) * subject.pixel_range
        change = subject.relevance(explainer, moved).double().flatten(1) - original
        worst = torch.maximum(worst, change.norm(dim=1))
    size: Tensor = original.norm(dim=1)
    return worst / size.where(size > 0, 1)


def squares(subject: Subject, draws: int, least: float = 0.1, most: float = 0.4) -> Tensor:
    """Random squares, bool [draws, N, 1, H, W]. Their sides are `least` to `most` times the picture's shorter side.

    Of signals, tables and tokens they are intervals, bool [draws, N, 1, L], of volumes cubes.
    """
    n, sides = len(subject), subject.layout.first(subject.batch).shape[2:]
    generator, short = subject.generator(5), min(sides)

    def drawn(low: Tensor | float, high: Tensor | float) -> Tensor:
        """A random number between the two for each square, [draws, N, 1]."""
        return low + (high - low) * torch.rand(draws, n, 1, generator=generator)

    side = drawn(least * short, most * short).round().clamp(min=1)
    inside = torch.ones((draws, n, *(1,) * len(sides)), dtype=torch.bool)
    starts = [drawn(0, length - side).round() for length in sides]
    for axis, (length, start) in enumerate(zip(sides, starts, strict=True)):
        at = torch.arange(length)
        own = (at >= start) & (at < start + side)
        inside = inside & own.reshape(draws, n, *(length if k == axis else 1 for k in range(len(sides))))
    return inside[:, :, None].to(subject.batch.device)


def infidelity(subject: Subject, explainer: Explainer, removed: Tensor) -> tuple[Tensor, Tensor]:
    """E (IᵀΦ − (f(x) − f(x − I)))² (def. 1), and its minimum over scales of Φ, divided by E (f(x) − f(x − I))²: [N].

    `removed`, bool [K, N, 1, H, W], of other inputs [K, N, 1, positions …]: the pixels that each of K perturbations
    sets to the explainer's reference. The second value has no unit: 0 for a perfect map, 1 for a map that predicts
    nothing.
    """
    reference = explainer.reference(subject.model, subject.batch)
    relevance = subject.relevance(explainer).double()
    before = subject.scores()
    foretold, happened = [], []
    for gone in map(subject.layout.back, removed):
        changed = torch.where(gone, reference, subject.batch)
        weight = gone if explainer.multiplies else subject.batch - changed
        foretold.append((weight * relevance).flatten(1).sum(1))
        happened.append(before - subject.scores(changed))
    said, seen = torch.stack(foretold), torch.stack(happened)
    square = said.square().mean(0)
    scale = (said * seen).mean(0) / square.where(square > 0, 1)
    size = seen.square().mean(0)
    raw, scaled = (said - seen).square().mean(0), (scale * said - seen).square().mean(0)
    return raw, scaled / size.where(size > 0, 1)
