"""The metrics. The fields of a metric are its options; calling it measures every image of a subject."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import msgspec
import torch
from torch import Tensor

from heatcli.artifact.layout import PICTURE, Layout
from heatcli.errors import UsageError, first_line, unknown_name
from heatcli.evaluate import complexity, location, perturbation, robustness
from heatcli.evaluate.explainer import Explainer
from heatcli.evaluate.layers import Likeness, randomisation
from heatcli.evaluate.subject import Subject
from heatcli.rules.parameters import Named


@dataclass(frozen=True, eq=False)
class Curve:
    """The curves of M images: `y` [M, S] over `x`, S numbers or names."""

    x: tuple[float | str, ...]
    y: Tensor
    x_label: str
    y_label: str

    def until(self, x: tuple[float | str, ...]) -> Tensor:
        """`y` over more points [M, len(x)]: a curve that ends earlier, where nothing is left to replace, stays."""
        return torch.cat([self.y, self.y[:, -1:].expand(-1, len(x) - len(self.x))], 1)


@dataclass(frozen=True, eq=False)
class Measured:
    """The result of a metric. `values`: column → float64 [M], a value per image. `curves`: by name."""

    values: dict[str, Tensor]
    curves: dict[str, Curve] = field(default_factory=dict)


class Metric(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base class of metrics.

    `source`: paper and equation. `better`: column → `higher`, `lower`, or empty if neither is better. `nothing`: the
    error if a column has no image.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    better: ClassVar[dict[str, str]]
    nothing: ClassVar[str] = "no image takes part in {!r}"

    def settled(self, layout: Layout) -> Self:  # noqa: ARG002
        """The metric with the options that depend on the kind of input."""
        return self

    @abstractmethod
    def __call__(self, subject: Subject, explainer: Explainer) -> Measured:
        """Measure the heatmaps that `explainer` makes of `subject`."""


class PixelFlipping(Metric, frozen=True):
    """The fall of the score as regions are replaced by uniform noise.

    AOPC with the most relevant region first, with the least relevant first, and their difference. `region`: the side of
    a region in pixels, by default 9, and 1 of tables and tokens. `steps`: the number of regions replaced.
    """

    name = "pixel-flipping"
    source = "Samek et al. 2015, eq. 12"
    better = {"AOPC": "higher", "AOPC least first": "lower", "area between": "higher"}

    region: int | None = None
    steps: int = 100

    def settled(self, layout: Layout) -> Self:
        """With the side of a region."""
        return msgspec.structs.replace(self, region=self.region or perturbation.region_of(layout))

    def __call__(self, subject: Subject, explainer: Explainer) -> Measured:
        """The values are in units of the score. Raises `UsageError`, `ModelError`, as all metrics do."""
        heatmaps = subject.heatmaps(explainer)
        most = perturbation.pixel_flipping(subject, heatmaps, self.region, self.steps)
        least = perturbation.pixel_flipping(subject, heatmaps, self.region, self.steps, least_first=True)
        up, down = perturbation.aopc(most), perturbation.aopc(least)
        x = tuple(range(most.shape[1]))
        curves = {
            "most relevant first": Curve(x, most, "regions replaced", "score"),
            "least relevant first": Curve(x, least, "regions replaced", "score"),
        }
        return Measured({"AOPC": up, "AOPC least first": down, "area between": up - down}, curves)


class Deletion(Metric, frozen=True):
    """The area under the probability as pixels turn black, most relevant first, in `steps` steps."""

    name = "deletion"
    source = "Petsiuk et al. 2018, sec. 4.1"
    better = {"deletion AUC": "lower"}

    steps: int = 32

    def __call__(self, subject: Subject, explainer: Explainer) -> Measured:
        """The area is in 0..1."""
        y = perturbation.deletion(subject, subject.heatmaps(explainer), self.steps)
        x = tuple(i / self.steps for i in range(self.steps + 1))
        curves = {"deletion": Curve(x, y, "share of pixels deleted", "probability")}
        return Measured({"deletion AUC": perturbation.area(y)}, curves)


class Insertion(Metric, frozen=True):
    """The area under the probability as pixels return to the blurred picture, most relevant first, in `steps` steps."""

    name = "insertion"
    source = "Petsiuk et al. 2018, sec. 4.1"
    better = {"insertion AUC": "higher"}

    steps: int = 32

    def __call__(self, subject: Subject, explainer: Explainer) -> Measured:
        """The area is in 0..1."""
        y = perturbation.insertion(subject, subject.heatmaps(explainer), self.steps)
        x = tuple(i / self.steps for i in range(self.steps + 1))
        curves = {"insertion": Curve(x, y, "share of pixels inserted", "probability")}
        return Measured({"insertion AUC": perturbation.area(y)}, curves)


class Morph(Metric, frozen=True):
    """The fall of the log-odds of A over B when pixels with relevance for A rather than B are erased, on images of A.

    `pairs`: A-B each. `share`: at most this share of the pixels is erased.
    """

    name = "morph"
    source = "Shrikumar et al. 2017, sec. 4.1"
    better: ClassVar[dict[str, str]] = {}
    nothing = "no image is predicted to be of the first class of {!r}"

    pairs: tuple[str, ...] = ("8-3", "8-6", "9-1", "4-1")
    share: float = 0.2

    def __call__(self, subject: Subject, explainer: Explainer) -> Measured:
        """A column per pair, over the images predicted as A. Raises `UsageError` for what is no pair."""
        values = {}
        top = subject.predicted()
        for pair in self.pairs:
            both = subject.with_target(pair).target
            if both.minus is None:
                raise UsageError(f"morph: {pair!r} is not a pair of classes; give A-B")
            rows, column = torch.nonzero(top == both.index).flatten(), pair.replace("-", "→")
            if not len(rows):
                values[column] = torch.zeros(0, dtype=torch.float64)
                continue
            own = subject.rows(rows)
            difference = own.with_target(both.index[rows]).heatmaps(explainer)
            if explainer.method is not None:  # the map of a control is the same for both classes
                difference = difference - own.with_target(both.minus[rows]).heatmaps(explainer)
            values[column] = perturbation.morph(own.with_target(pair), difference, self.share)
        return Measured(values)


class InsideMask(Metric, frozen=True):
    """The share of the positive relevance inside the mask."""

    name = "inside-mask"
    source = "Arras et al. 2022, eq. 5"
    better = {"inside mask": "higher"}

    def __call__(self, subject: Subject, explainer: Explainer) -> Measured:
        """Values in 0..1, of the images that have a mask."""
        own = _masked(subject, self.name)
        return Measured({"inside mask": location.inside_share(own.heatmaps(explainer), own.mask)})


class PointingGame(Metric, frozen=True):
    """Whether the most relevant pixel lies inside the mask."""

    name = "pointing-game"
    source = "Zhang et al. 2018, sec. 4.2"
    better = {"pointing game": "higher"}

    def __call__(self, subject: Subject, explainer: Explainer) -> Measured:
        """0 or 1, for the images that have a mask."""
        own = _masked(subject, self.name)
        return Measured({"pointing game": location.pointing(own.heatmaps(explainer), own.mask)})


class Randomisation(Metric, frozen=True):
    """The similarity to the original map as layers are randomised: low if the map shows what the network learned."""

    name = "randomisation"
    source = "Adebayo et al. 2018, sec. 3"
    better = dict.fromkeys(("cascading", "cascading, SSIM", "independent", "independent, SSIM", "all random"), "lower")

    def __call__(self, subject: Subject, explainer: Explainer) -> Measured:
        """|rank correlation| and SSIM: means over the layers, values with all layers random, and curves over layers."""
        cascading = randomisation(subject, explainer, cascading=True, seed=subject.seed)
        alone = randomisation(subject, explainer, cascading=False, seed=subject.seed)
        curves = {**_curves("cascading", cascading), **_curves("independent", alone)}
        both = [found.mean(x) for found in (cascading, alone) for x in (found.rank.abs(), found.ssim)]
        return Measured(dict(zip(self.better, [*both, cascading.rank[:, -1].abs()], strict=True)), curves)


class Complexity(Metric, frozen=True):
    """How concentrated the map is: Gini index and entropy."""

    name = "complexity"
    source = "Chalasani et al. 2020, sec. 3; Bhatt et al. 2020, eq. 1"
    better = {"sparseness": "higher", "entropy": "lower"}

    def __call__(self, subject: Subject, explainer: Explainer) -> Measured:
        """The sparseness is in 0..1, the entropy in nats."""
        heatmaps = subject.heatmaps(explainer)
        return Measured({"sparseness": complexity.sparseness(heatmaps), "entropy": complexity.entropy(heatmaps)})


class MaxSensitivity(Metric, frozen=True):
    """The largest relative change of the map under noise of at most `radius` times the pixels' range, in `draws`."""

    name = "max-sensitivity"
    source = "Yeh et al. 2019, def. 2"
    better = {"max sensitivity": "lower"}

    radius: float = 0.02
    draws: int = 10

    def __call__(self, subject: Subject, explainer: Explainer) -> Measured:
        """The values are at least 0."""
        return Measured({"max sensitivity": robustness.max_sensitivity(subject, explainer, self.radius, self.draws)})


class Infidelity(Metric, frozen=True):
    """The error of the map as a prediction of the score's fall when a random square is removed, in `draws` squares."""

    name = "infidelity"
    source = "Yeh et al. 2019, def. 1 and sec. 2.1"
    better = {"infidelity": "lower", "infidelity, scaled": "lower"}

    draws: int = 64

    def __call__(self, subject: Subject, explainer: Explainer) -> Measured:
        """The error in squared units of the score; and with the map scaled as well as possible, in 0..1."""
        raw, scaled = robustness.infidelity(subject, explainer, robustness.squares(subject, self.draws))
        return Measured({"infidelity": raw, "infidelity, scaled": scaled})


METRICS: dict[str, type[Metric]] = {
    metric.name: metric
    for metric in (
        PixelFlipping, Deletion, Insertion, Morph, InsideMask, PointingGame, Randomisation, Complexity, MaxSensitivity,
        Infidelity,
    )
}  # fmt: skip


def metric(text: str) -> Metric:
    """The metric for `NAME[:OPTION=VALUE,…]`. Raises `UsageError` for unknown names and values."""
    named = Named.parse(text, "NAME[:OPTION=VALUE…]")
    name, options = named.name, dict[str, Any](named.parameters)
    if name not in METRICS:
        raise unknown_name("metric", name, METRICS)
    if "pairs" in options:
        options["pairs"] = options["pairs"].split("+")
    try:
        return msgspec.convert(options, METRICS[name], strict=False)
    except msgspec.ValidationError as error:
        known = ", ".join(METRICS[name].__struct_fields__) or "none"
        raise UsageError(f"metric {text}: {first_line(error)}; options: {known}") from error


def _masked(subject: Subject, name: str) -> Subject:
    """The images that have a mask. Raises `UsageError` if there are none."""
    rows = subject.masked
    if subject.layout.kind != PICTURE:
        raise UsageError(f"{name}: masks are of pictures, and {subject.model.path} takes {subject.layout.one}")
    if not len(rows):
        raise UsageError(f"{name}: no image has a mask; give --masks DIR, or put NAME.mask.png beside the image")
    return subject if len(rows) == len(subject) else subject.rows(rows)


def _curves(order: str, found: Likeness) -> dict[str, Curve]:
    """The likeness of maps over the randomised layers, as curves."""
    label = "randomised from the top to" if order == "cascading" else "randomised alone"
    columns = {"|rank correlation|": found.rank.abs(), "rank correlation of |map|": found.absolute_rank,
               "SSIM": found.ssim}  # fmt: skip
    return {f"{order}, {name}": Curve(found.layers, y, label, name) for name, y in columns.items()}
