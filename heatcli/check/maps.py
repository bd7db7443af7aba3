"""Checks of heatmaps: inside-mask, randomisation, stability, faithfulness."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from heatcli.artifact.layout import PICTURE, TABLE, Layout
from heatcli.check.result import Result, at_least, at_most
from heatcli.check.work import Check, Work
from heatcli.errors import UsageError, counted
from heatcli.evaluate.explainer import Explainer
from heatcli.evaluate.layers import randomisation
from heatcli.evaluate.location import inside_share, pointing
from heatcli.evaluate.perturbation import aopc, noise, pixel_flipping
from heatcli.evaluate.similarity import rank_correlation
from heatcli.evaluate.subject import Subject
from heatcli.evaluate.subjects import Subjects


def no_masks(subjects: Subjects) -> str:
    """Why no image has a mask."""
    if subjects.layout.kind != PICTURE:
        return f"masks are of pictures, and {subjects.model.path} takes {subjects.layout.one}"
    return "no image has a mask (--masks DIR, or NAME.mask.png beside the image)"


class InsideMask(Check, frozen=True):
    """The positive relevance lies inside the mask.

    `least`: the least share inside, of each image. `median`: the least median share. `pointing`: the least share of
    images whose most relevant pixel lies inside (Zhang et al. 2018).
    """

    name = "inside-mask"

    least: float | None = 0.1
    median: float | None = 0.45
    pointing: float | None = 0.5

    def __call__(self, work: Work) -> Iterator[Result]:
        """Check the images that have a mask. Raises `UsageError` if there are none and the spec has this check."""
        rows = work.subjects.masked
        if not len(rows):
            yield self.lacking(work, no_masks(work.subjects))
            return
        some = work.subjects.rows(rows)
        for explainer in self.explainers(work):
            inside = some.joined([inside_share(own.heatmaps(explainer), own.mask) for own in some.parts])
            hit = some.joined([pointing(own.heatmaps(explainer), own.mask) for own in some.parts])
            for name, share in zip(some.names, inside.tolist(), strict=True):
                yield at_least(self.name, "share inside", share, self.least, image=name, method=explainer.name)
            middle, hits = float(inside.quantile(0.5)), float(hit.mean())
            yield at_least(self.name, "median share inside", middle, self.median, method=explainer.name)
            yield at_least(self.name, "pointing game", hits, self.pointing, method=explainer.name)


class Randomisation(Check, frozen=True):
    """Heatmaps change when the network's weights are randomised (Adebayo et al. 2018).

    Layers are randomised from the output's end, one after the other (cascading) and each alone (independent), and the
    same scores are explained again. The mean over images and layers of |rank correlation| with the original map must
    not exceed `rank` (cascading) and `independent`; the mean SSIM (cascading) must not exceed `ssim`. Layers that a
    score does not depend on do not count for it. The mean over layers counts, because randomising the layers next to
    the image changes every map. The absolute value counts, because a map with the opposite sign shows the same picture
    (Sixt et al. 2020). The bound on SSIM is high: only maps that show the picture alone exceed it, and SSIM separates
    no others (tests/measure/experiments/DEFAULT.md).
    """

    name = "randomisation"

    rank: float | None = 0.4
    independent: float | None = 0.6
    ssim: float | None = 0.95

    def __call__(self, work: Work) -> Iterator[Result]:
        """Check the means over images and layers; report the mean of each layer.

        Skipped for a model that explains itself.
        """
        subjects = work.subjects
        if subjects.model.explained is not None:
            yield self.skipped(f"{subjects.model.path} explains itself, with weights that cannot be randomised")
            return
        for explainer in self.explainers(work):
            every, alone = (
                [randomisation(own, explainer, cascading, subjects.seed) for own in subjects.parts]
                for cascading in (True, False)
            )
            alike = [
                ("cascading, |rank correlation|", every, [one.rank.abs() for one in every], self.rank),
                ("cascading, SSIM", every, [one.ssim for one in every], self.ssim),
                ("independent, |rank correlation|", alone, [one.rank.abs() for one in alone], self.independent),
            ]
            if subjects.layout.kind == TABLE:
                yield self.skipped("SSIM is of neighbours, and the features of a table are none")
                del alike[1]
            for title, found, values, bound in alike:
                means = subjects.joined(values).mean(0).tolist()
                matters = subjects.joined([one.matters for one in found]).any(0).tolist()
                for layer, mean, counts in zip(every[0].layers, means, matters, strict=True):
                    if counts:
                        yield at_most(self.name, f"{title} at {layer}", mean, None, method=explainer.name)
                each = subjects.joined([one.mean(value) for one, value in zip(found, values, strict=True)])
                yield at_most(self.name, title, float(each.mean()), bound, method=explainer.name)


class Stability(Check, frozen=True):
    """Small changes of a picture change its heatmap little.

    The least rank correlation of |relevance| with that of the original, under each change. `shift`: by one pixel in
    each direction, the map shifted back, the mean of the four; along each axis of signals, volumes and tokens. `jpeg`:
    of pictures, encoded at `quality`. `noise`: Gaussian, with a standard deviation of `sigma` times the range of
    pixels, or the span of each channel. A change that there is not for the kind of input is skipped.
    """

    name = "stability"

    shift: float | None = 0.3
    jpeg: float | None = 0.3
    noise: float | None = 0.3
    quality: int = 90
    sigma: float = 0.01

    def __call__(self, work: Work) -> Iterator[Result]:
        """A result per image, method and change."""
        subjects, changed = work.subjects, dict[str, list[Tensor]]()
        for change, made in (("noise", self._noisy), ("jpeg", self._encoded)):
            try:
                changed[change] = [made(own) for own in subjects.parts]
            except UsageError as error:
                yield self.skipped(f"{change}: {error}")
        layout = subjects.layout
        if not shifts_of(layout):
            yield self.skipped(f"shift: {subjects.model.path}: takes {layout.one}, which has no neighbours")
        for explainer in self.explainers(work):
            each = [
                self._alike(own, explainer, {change: batches[i] for change, batches in changed.items()})
                for i, own in enumerate(subjects.parts)
            ]
            for change in each[0]:
                values = subjects.joined([alike[change] for alike in each])
                for name, value in zip(subjects.names, values.tolist(), strict=True):
                    yield at_least(self.name, f"rank correlation under {change}", value, getattr(self, change),
                                   image=name, method=explainer.name)  # fmt: skip

    def _alike(self, subject: Subject, explainer: Explainer, changed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By change, the rank correlation [N] with the original map: of shifts the mean, and of `changed` inputs."""
        shifts = shifts_of(subject.layout)
        if not shifts and not changed:
            return {}
        original = subject.heatmaps(explainer).abs()
        each = [self._shifted(subject, explainer, original, by) for by in shifts]
        found = {"shift": torch.stack(each).mean(0)} if shifts else {}
        for change, batch in changed.items():
            found[change] = rank_correlation(original, subject.heatmaps(explainer, batch).abs())
        return found

    def _noisy(self, subject: Subject) -> Tensor:
        """The inputs with noise. Raises `UsageError` where they have no range."""
        drawn = torch.randn(subject.batch.shape, generator=subject.generator(6)).to(subject.batch)
        return subject.batch + self.sigma * subject.pixel_range * drawn

    def _encoded(self, subject: Subject) -> Tensor:
        """The pictures as JPEG makes them. Raises `UsageError` for other inputs."""
        return jpeg(subject, self.quality)

    @staticmethod
    def _shifted(subject: Subject, explainer: Explainer, original: Tensor, by: tuple[int, ...]) -> Tensor:
        """The rank correlation [N] with the map of the picture shifted, shifted back; without the edges."""
        layout = subject.layout
        shifted = layout.back(moved(layout.first(subject.batch), *by)).contiguous()
        found = subject.heatmaps(explainer, shifted).abs()
        back = moved(found[:, None], *(-step for step in by))[:, 0]
        inner = (slice(None), *(slice(1, -1) if side > EDGES else slice(None) for side in original.shape[1:]))
        return rank_correlation(original[inner], back[inner])


EDGES = 2  # positions of a side that a shift by one fills anew


def shifts_of(layout: Layout) -> list[tuple[int, ...]]:
    """Steps along each axis of the positions: by one, forth and back, along one axis at a time; none of tables."""
    axes = range(0 if layout.kind == TABLE else layout.dims)
    return [tuple(step if k == axis else 0 for k in axes) for axis in reversed(axes) for step in (1, -1)]


def moved(batch: Tensor, *by: int) -> Tensor:
    """A batch [N, C, H, W] shifted by some pixels along each axis of positions; pixels of the edge are repeated."""
    for axis, step in enumerate(by, 2):
        length = batch.shape[axis]
        at = (torch.arange(length, device=batch.device) - step).clamp(0, length - 1)
        batch = batch.index_select(axis, at)
    return batch


def jpeg(subject: Subject, quality: int) -> Tensor:
    """The batch [N, C, H, W] encoded as JPEG and decoded. Raises `UsageError` unless it has 1 or 3 channels."""
    channels = subject.layout.first(subject.batch).shape[1]
    if subject.layout.kind != PICTURE or channels not in (1, 3):
        raise UsageError(
            f"{subject.model.path}: takes {subject.layout.one} of {counted(channels, 'channel')}, and JPEG holds "
            "pictures of 1 or 3"
        )
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
    """Replacing the relevant regions of a picture lowers the score more than replacing random regions.

    (AOPC − mean AOPC of three random orders) / mean |score| is at least `margin` (Samek et al. 2015). `region`: the
    side of a region in pixels, by default 9, and 1 of tables and tokens. `steps`: the number of regions replaced.
    """

    name = "faithfulness"

    margin: float = 0.0
    region: int | None = None
    steps: int = 100

    def __call__(self, work: Work) -> Iterator[Result]:
        """A result per method, the mean over the images."""
        subjects = work.subjects
        try:
            for own in subjects.parts:
                noise(own)
        except UsageError as error:
            yield self.lacking(work, str(error))
            return
        chance = float(subjects.each(self._by_chance).mean())
        scale = float(subjects.each(Subject.scores).abs().mean()) or 1.0
        for explainer in self.explainers(work):
            area = subjects.each(lambda own, by=explainer: self._area(own, own.heatmaps(by)))  # type: ignore[misc]
            gain = (float(area.mean()) - chance) / scale
            yield at_least(self.name, "AOPC above random, of the score", gain, self.margin, method=explainer.name)

    def _area(self, subject: Subject, heatmaps: Tensor) -> Tensor:
        """The AOPC [N] when regions are replaced in the order of the heatmaps [N, H, W]."""
        return aopc(pixel_flipping(subject, heatmaps, self.region, self.steps))

    def _by_chance(self, subject: Subject) -> Tensor:
        """The mean AOPC [N] of three random orders."""
        generator, sides = subject.generator(7), subject.layout.first(subject.batch)[:, 0].shape
        orders = [torch.rand(sides, generator=generator).to(subject.batch) for _ in range(3)]
        return torch.stack([self._area(subject, order) for order in orders]).mean(0)
