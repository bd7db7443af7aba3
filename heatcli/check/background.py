"""The wolf-on-snow test: the same object in front of other backgrounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from heatcli.check.maps import no_masks
from heatcli.check.result import Result, at_least, at_most
from heatcli.check.work import Check, Work
from heatcli.errors import ImageError, UsageError
from heatcli.evaluate.location import inside_share
from heatcli.evaluate.subject import Subject
from heatcli.images.mean import images_in
from heatcli.images.painted import laid_on, painted_over
from heatcli.images.preprocess import to_pixels


class Background(Check, frozen=True):
    """An object keeps its class and its probability on other backgrounds, and the relevance lies on the object.

    `backgrounds`: pictures, or folders of them. Without any, the backgrounds come from the other images, `count` per
    image, with their objects painted over. `kept`: the least share of composites with the class of their image;
    `least_kept`: the same for each single image. `change`: the largest allowed median of |change of the probability|.
    `relevance`: the largest allowed median of the share of positive relevance on the background.
    """

    name = "background"

    backgrounds: tuple[str, ...] = ()
    count: int = 4
    kept: float | None = 0.75
    least_kept: float | None = None
    change: float | None = 0.35
    relevance: float | None = 0.55

    def __call__(self, work: Work) -> Iterator[Result]:
        """Check the images that have a mask. Raises `UsageError` if there are too few and the spec has this check."""
        rows = work.subjects.masked
        if not len(rows) or (len(rows) < 2 and not self.backgrounds):
            why = no_masks(work.subjects) if not len(rows) else "a single image with a mask, and no backgrounds given"
            yield self.lacking(work, why)
            return
        some = work.subjects.rows(rows)
        parts = [own for own in some.parts if len(own) > 1 or self.backgrounds]
        for own in some.parts:
            if own not in parts:
                yield self.skipped(f"{own.names[0]} has a size of its own, so no other picture is its background")
        every = [(own, composites(own, self._given(work, own), self.count)) for own in parts]
        if not every:
            return
        names = [name for own in parts for name in own.names]
        starts = [sum(map(len, parts[:k])) for k in range(len(parts))]
        of = torch.cat([start + made.of for start, (_, made) in zip(starts, every, strict=True)])
        called = torch.cat([made.subject.predicted() == own.predicted()[made.of] for own, made in every])
        change = torch.cat([_change(own, made) for own, made in every])
        for i, name in enumerate(names):
            share = float(called[of == i].double().mean())
            yield at_least(self.name, "keeps its class before other backgrounds", share, self.least_kept, image=name)
        yield at_least(self.name, "share that keeps its class", float(called.double().mean()), self.kept)
        yield at_most(self.name, "median change of the probability", float(change.quantile(0.5)), self.change)
        for explainer in self.explainers(work):
            inside = [inside_share(made.subject.heatmaps(explainer), made.subject.mask) for _, made in every]
            outside = 1 - torch.cat(inside)
            for i, name in enumerate(names):
                mean = float(outside[of == i].mean())
                yield at_most(self.name, "relevance on the background", mean, None, image=name, method=explainer.name)
            yield at_most(self.name, "median relevance on the background", float(outside.quantile(0.5)), self.relevance,
                          method=explainer.name)  # fmt: skip

    def _given(self, work: Work, subject: Subject) -> Tensor | None:
        """The backgrounds of the spec as the network's input [B, C, H, W] of the subject; None if there are none."""
        model = work.subjects.model
        paths = images_in(work.folder / text for text in self.backgrounds)
        try:
            pictures = [model.pictures.reader.picture(path) for path in paths]
        except ImageError as error:
            raise UsageError(f"[background]: {error}") from error
        if self.backgrounds and not pictures:
            raise UsageError(f"[background]: no images in {', '.join(self.backgrounds)}")
        if not pictures:
            return None
        height, width = subject.batch.shape[2:]
        fit = replace(model.pictures.picture_fit, height=height, width=width)
        return model.pictures.stack([to_pixels(picture.pixels, fit) for picture in pictures])


def _change(subject: Subject, made: Composites) -> Tensor:
    """How far the probability of each composite is from that of its image, [M]."""
    return (made.subject.scores(chance=True) - subject.scores(chance=True)[made.of]).abs()


@dataclass(frozen=True, eq=False)
class Composites:
    """M composites. `of`: the index of the image that each shows, int64 [M]."""

    subject: Subject
    of: Tensor


def composites(subject: Subject, backgrounds: Tensor | None, count: int) -> Composites:
    """Each image's object in front of all `backgrounds` [B, C, H, W], or in front of those of `count` other images."""
    n = len(subject)
    if backgrounds is None:
        backgrounds = painted_over(subject.batch, subject.mask)
        used = min(count, n - 1)
        # The other images are spread evenly over the list, because neighbours in the list are often of one kind.
        steps = [1 + k * (n - 1) // used for k in range(used)]
        pairs = [(i, (i + step) % n) for i in range(n) for step in steps]
    else:
        pairs = [(i, b) for i in range(n) for b in range(len(backgrounds))]
    of, behind = (torch.tensor(side) for side in zip(*pairs, strict=True))
    batch = laid_on(backgrounds[behind], subject.batch[of], subject.mask[of])
    rows = subject.rows(of)
    return Composites(Subject(subject.model, rows.names, batch, rows.target, rows.mask, subject.batch_size,
                              subject.seed), of)  # fmt: skip
