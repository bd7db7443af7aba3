"""Checks of the heatmaps: inside-mask, randomisation, stability, faithfulness."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from heatcli.check.result import Result, at_least, at_most
from heatcli.check.work import Check, Work
from heatcli.errors import UsageError
from heatcli.evaluate.explainer import Explainer
from heatcli.evaluate.layers import randomisation
from heatcli.evaluate.location import inside_share, pointing
from heatcli.evaluate.perturbation import aopc, pixel_flipping
from heatcli.evaluate.similarity import rank_correlation
from heatcli.evaluate.subject import Subject

NO_MASKS = "no image has a mask (--masks DIR, or NAME.mask.png beside the image)"


class InsideMask(Check, frozen=True):
    """The positive relevance lies inside the mask: each image's share, their median, and the pointing game's score."""

    name = "inside-mask"

    least: float | None = 0.1
    median: float | None = 0.45
    pointing: float | None = 0.5

    def __call__(self, work: Work) -> Iterator[Result]:
        """Of the images that have a mask."""
        rows = work.subject.masked
        if not len(rows):
            if work.asked:
                raise UsageError(f"[inside-mask]: {NO_MASKS}")
            yield self.skipped(NO_MASKS)
            return
        subject = work.subject.rows(rows)
        for explainer in self.explainers(work):
            heatmaps = subject.heatmaps(explainer)
            inside = inside_share(heatmaps, subject.mask)
            for name, share in zip(subject.names, inside.tolist(), strict=True):
                yield at_least(self.name, "share inside", share, self.least, image=name, method=explainer.name)
            middle, hits = float(inside.quantile(0.5)), float(pointing(heatmaps, subject.mask).mean())
            yield at_least(self.name, "median share inside", middle, self.median, method=explainer.name)
            yield at_least(self.name, "pointing game", hits, self.pointing, method=explainer.name)


class Randomisation(Check, frozen=True):
    """A heatmap of what was learned must change when that is lost.

    Layers are randomised from the top, one after the other (cascading) and each alone (independent), and the same
    scores are explained again. |rank correlation| with the original map, its mean over images and layers: at most
    `rank` cascading, `independent` alone; SSIM cascading: at most `ssim`, which only a map of the picture alone
    exceeds, as SSIM does not tell other maps apart (tests/measure/experiments/DEFAULT.md). The mean over layers, for at
    the bottom every map changes; |…|, for a map whose sign alone turns is the same picture (Sixt et al. 2020).
    """

    name = "randomisation"

    rank: float | None = 0.4
    independent: float | None = 0.6
    ssim: float | None = 0.95

    def __call__(self, work: Work) -> Iterator[Result]:
        """Means over images and layers; each layer's own are reported. Skipped where the model explains itself."""
        if work.subject.model.explained is not None:
            yield self.skipped(f"{work.subject.model.path} explains itself, with weights that cannot be randomised")
            return
        for explainer in self.explainers(work):
            every = randomisation(work.subject, explainer, cascading=True, seed=work.subject.seed)
            alone = randomisation(work.subject, explainer, cascading=False, seed=work.subject.seed)
            for title, values, bound in (
                ("cascading, |rank correlation|", every.rank.abs(), self.rank),
                ("cascading, SSIM", every.ssim, self.ssim),
                ("independent, |rank correlation|", alone.rank.abs(), self.independent),
            ):
                for layer, mean in zip(every.layers, values.mean(0).tolist(), strict=True):
                    yield at_most(self.name, f"{title} at {layer}", mean, None, method=explainer.name)
                yield at_most(self.name, title, float(values.mean()), bound, method=explainer.name)


class Stability(Check, frozen=True):
    """Pictures that look the same have heatmaps that look the same.

    The mean rank correlation of |relevance| with the original's under each change: `shift`, by a pixel each way (and
    back); `jpeg`, encoded at `quality`; `noise`, of a standard deviation of `sigma` of the pixels' range.
    """

    name = "stability"

    shift: float | None = 0.3
    jpeg: float | None = 0.3
    noise: float | None = 0.3
    quality: int = 90
    sigma: float = 0.01

    def __call__(self, work: Work) -> Iterator[Result]:
        """Each image, by each method."""
        subject = work.subject
        shifts = ((0, 1), (0, -1), (1, 0), (-1, 0))
        noisy = subject.batch + self.sigma * subject.pixel_range * torch.randn(
            subject.batch.shape, generator=subject.generator(6)
        ).to(subject.batch)
        encoded = jpeg(subject, self.quality)
        for explainer in self.explainers(work):
            original = subject.heatmaps(explainer).abs()
            alike = {
                "shift": torch.stack([self._shifted(subject, explainer, original, *by) for by in shifts]).mean(0),
                "noise": rank_correlation(original, subject.heatmaps(explainer, noisy).abs()),
            }
            if encoded is not None:
                alike["jpeg"] = rank_correlation(original, subject.heatmaps(explainer, encoded).abs())
            for change, values in alike.items():
                for name, value in zip(subject.names, values.tolist(), strict=True):
                    yield at_least(self.name, f"rank correlation under {change}", value, getattr(self, change),
                                   image=name, method=explainer.name)  # fmt: skip

    @staticmethod
    def _shifted(subject: Subject, explainer: Explainer, original: Tensor, down: int, right: int) -> Tensor:
        found = subject.heatmaps(explainer, moved(subject.batch, down, right)).abs()
        return rank_correlation(original[:, 1:-1, 1:-1], moved(found[:, None], -down, -right)[:, 0, 1:-1, 1:-1])


def moved(batch: Tensor, down: int, right: int) -> Tensor:
    """[N, C, H, W] shifted by some pixels, the edge continued."""
    reach = max(abs(down), abs(right))
    wide = functional.pad(batch, (reach,) * 4, mode="replicate")
    height, width = batch.shape[-2:]
    return wide[..., reach - down : reach - down + height, reach - right : reach - right + width]


def jpeg(subject: Subject, quality: int) -> Tensor | None:
    """The batch encoded as JPEG and decoded, as the network sees it; None where its channels are no colours."""
    channels = subject.batch.shape[1]
    if channels not in (1, 3):
        return None
    low, _ = subject.model.pictures.pixel_range(subject.batch)
    pixels = ((subject.batch - low) / subject.pixel_range).clamp(0, 1)
    decoded = []
    for picture in (pixels.permute(0, 2, 3, 1).cpu().double().numpy() * 255).round().astype(np.uint8):
        buffer = io.BytesIO()
        Image.fromarray(picture[..., 0] if channels == 1 else picture).save(buffer, "JPEG", quality=quality)
        with Image.open(buffer) as again:
            decoded.append(torch.from_numpy(np.array(again)).reshape(*picture.shape))
    found = torch.stack(decoded).permute(0, 3, 1, 2).to(subject.batch.device).float() / 255
    return subject.model.pictures.normalise(found).to(subject.batch)


class Faithfulness(Check, frozen=True):
    """Replacing what the map calls relevant lowers the score more than replacing regions at random does.

    AOPC (Samek et al. 2015) less the mean AOPC of three random orders, over the mean |score|: at least `margin`.
    """

    name = "faithfulness"

    margin: float = 0.0
    region: int = 9
    steps: int = 100

    def __call__(self, work: Work) -> Iterator[Result]:
        """The mean over the images."""
        subject = work.subject

        def area(heatmaps: Tensor) -> float:
            """The mean area over the perturbation curve."""
            return float(aopc(pixel_flipping(subject, heatmaps, self.region, self.steps)).mean())

        generator = subject.generator(7)
        orders = [torch.rand(subject.batch[:, 0].shape, generator=generator).to(subject.batch) for _ in range(3)]
        chance = sum(area(order) for order in orders) / len(orders)
        scale = float(subject.scores().abs().mean()) or 1.0
        for explainer in self.explainers(work):
            gain = (area(subject.heatmaps(explainer)) - chance) / scale
            yield at_least(self.name, "AOPC above random, of the score", gain, self.margin, method=explainer.name)
