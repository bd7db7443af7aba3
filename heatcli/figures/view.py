"""`View`: what a figure is drawn from. And the sentences in a figure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import UNSET
from msgspec.structs import replace
from numpy.typing import NDArray
from PIL import Image

from heatcli.artifact.layout import Layout
from heatcli.images.overlay import SHARE, Scale
from heatcli.images.preprocess import Box
from heatcli.images.read import Picture
from heatcli.images.volumes import chosen, grey_sheet, onto_volume, sheet_of, upright
from heatcli.report.schema import ConceptPart, FilesPart, LedgerPart, PairPart, Report, named

UNVERIFIED = "UNVERIFIED: not the model's own function"


@dataclass(frozen=True, eq=False)
class View:
    """A picture, its map, and their report.

    `relevance`: float64 [H, W]. `scale`: the colour scale; None if the figure's style decides. For signals, tables and
    tokens `picture` holds numbers [C, L], and the map has their shape. A volume is shown as a picture of its `slices`.
    `pair`: the other picture of a pair, with its map.
    """

    picture: Image.Image | Picture
    relevance: NDArray[np.float64]
    report: Report
    scale: Scale | None = None
    slices: tuple[int, ...] = ()
    pair: View | None = None

    @property
    def box(self) -> Box:
        """The part of the picture that the network saw: left, top, right, bottom in pixels."""
        seen = self.report.image.seen
        return seen if isinstance(seen, tuple) else (0.0, 0.0, float(self.image.width), float(self.image.height))

    @property
    def image(self) -> Image.Image:
        """The picture, for views that have one (not signals and tables)."""
        assert isinstance(self.picture, Image.Image)
        return self.picture

    @property
    def element(self) -> str:
        """The name of an element of the map, such as pixel, sample or feature."""
        return element(self.report)

    @property
    def divides(self) -> str:
        """`MethodPart.divides`; for older reports without it, `whole` if the ledger balances, else `no`."""
        stated = self.report.method.divides
        return stated if isinstance(stated, str) else "whole" if self.report.ledger.relative_error < 1e-3 else "no"

    @property
    def divided(self) -> float | None:
        """output − output_baseline, which the method divides; None if the method does not divide the score."""
        ledger = self.report.ledger
        return None if self.divides == "no" else ledger.output - ledger.output_baseline


def element(report: Report) -> str:
    """The name of an element of a report's map: pixel, sample, voxel, feature."""
    axes = report.model.input.get("axes")
    return Layout(axes).element if axes else "pixel"


def view_on(shown: Image.Image | Picture, relevance: NDArray[np.float64], report: Report) -> View:
    """A view. `relevance`: float64, in the report's shape. A volume is shown as slices side by side."""
    if isinstance(shown, Image.Image) or relevance.ndim == 2:
        return View(shown, relevance, report)
    assert isinstance(shown.pixels, np.ndarray)
    scanner = shown.numbers is not None and shown.numbers.affine is not None
    own = upright(shown.pixels.mean(0, dtype=np.float64), scanner)
    share = upright(onto_volume(relevance, shown.pixels.shape[1:]).astype(np.float64), scanner)
    slices = chosen(share)
    return View(grey_sheet(own[slices], slices), sheet_of(share[slices]), report, None, tuple(slices))


def of_other(report: Report) -> Report:
    """The report of a pair as seen from the other picture."""
    part = report.pair
    assert isinstance(part, PairPart)
    files = FilesPart(pixels=report.files.pair_pixels, arrays=report.files.pair_arrays)
    seen = replace(report, image=part.image, pixels=part.pixels, files=files, pair=UNSET)
    if not isinstance(part.ledger, LedgerPart):
        return seen
    target = replace(report.target, label=f"with {Path(report.image.path).name}")
    return replace(seen, biases=part.biases or [], ledger=part.ledger, target=target)


def heading(view: View) -> str:
    """Label, score and probability."""
    target = view.report.target
    name = named(target.index, target.label, target.quantity, target.probability)
    if target.expected:
        same = target.expected == target.predicted
        name = f"{name}, as expected" if same else f"{target.predicted} instead of {target.expected}"
    if isinstance(target.box, int):
        name = name if target.quantity == "coordinate" else f"box {target.box}: {name}"
    of = "probability difference" if isinstance(target.minus, int) else "probability"
    chance = "" if target.probability is None else f", {of} {number(target.probability, 3)}"
    return f"{name}, {unit(view)} {number(target.score, 4)}{chance}{through(view.report)}"


def through(report: Report) -> str:
    """The channels of `--concept` and their share of the score; empty if the map divides the whole score."""
    name = concept(report)
    return f"; {name} gave {number(report.ledger.output, 4)}" if name else ""


def concept(report: Report) -> str:
    """The layer and channels as in `--concept`, names before numbers; empty if the map divides the whole score."""
    part = report.concept
    if not isinstance(part, ConceptPart):
        return ""
    names = {one.channel: one.name for one in part.strongest if isinstance(one.name, str)}
    return f"{part.layer}:{','.join(names.get(c, str(c)) for c in part.channels)}" if part.channels else part.layer


def unit(view: View) -> str:
    """The name of the score's quantity, such as logit."""
    target = view.report.target
    quantity: str = target.quantity
    if isinstance(target.unit, str) and quantity == "output":
        quantity = target.unit
    return f"{quantity} difference" if isinstance(view.report.target.minus, int) else quantity


def means(view: View) -> str:
    """The method, its parameters and the baseline."""
    method, baseline = view.report.method, view.report.baseline
    values = ", ".join(f"{name}={_short(value)}" for name, value in method.parameters.items())
    against = "no baseline" if baseline.name == "none" else f"against {baseline.name}"
    if isinstance(baseline.token, int):
        against += f" {baseline.token}"
    if isinstance(baseline.sigma, float):
        against += f" (sigma {baseline.sigma:g})"
    return f"{method.name}{f' ({values})' if values else ''}, {against}"


def _short(value: Any) -> str:
    """A parameter's value as text."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def percent(share: float) -> str:
    """A share as a percentage with two or three digits, never in powers of ten."""
    share = share or 0.0  # without the sign of −0
    if share and abs(share) < 1e-8:
        return "less than 0.000001 %"
    digits = 2 if abs(share) < 1 else 3
    text = np.format_float_positional(100 * share, digits, unique=False, fractional=False, trim="-")
    return text.replace("-", "−") + " %"


def number(value: float, digits: int, sign: str = "") -> str:
    """A number with that many digits and a typographic minus. `sign`: + to show the sign of positive numbers, too."""
    return f"{value:{sign}.{digits}g}".replace("-", "−")


def shown(view: View) -> str:
    """A sentence on the part of the score that the map shows."""
    report, score = view.report, view.divided
    pixels, name = report.pixels, report.method.name
    if score is None:
        return f"{name} does not divide the score: the map shows where, not how much."
    share = f" ({percent(pixels.total / score)})" if score else ""
    both = f"{pixels.positive:.3g} for and {-pixels.negative:.3g} against, together " if pixels.negative else ""
    text = f"The {view.element}s hold {both}{number(pixels.total, 3)} of {number(score, 4)}{share}."
    if view.divides == "part":
        text += f" {name} does not say where the rest is."
    return text


def biased(report: Report) -> float | None:
    """The share of the biases in the score if it is more than half and a baseline would avoid it; else None."""
    ledger = report.ledger
    if report.baseline.name != "none" or report.method.divides != "whole" or not ledger.output:
        return None
    share = ledger.biases / ledger.output
    return share if abs(share) > 0.5 else None


def warned(view: View) -> str:
    """A hint if the biases took most of the score; else empty."""
    share = biased(view.report)
    if share is None:
        return ""
    return (
        f"The network's biases took {percent(share)} of the score, and no picture shows them; --baseline blur "
        "compares with a blurred picture instead."
    )


MOST = 6  # values of inputs beside the picture that are named under a figure


def beside(report: Report) -> str:
    """What the values of inputs beside the picture gave, the largest first; empty where there are none."""
    values = [value for one in report.inputs or () for value in one.values]
    strongest = sorted(values, key=lambda value: -abs(value.relevance))[:MOST]
    listed = ", ".join(f"{value.name} {number(value.relevance, 3, '+')}" for value in strongest)
    return f"Beside the picture: {listed}." if listed else ""


def by_band(report: Report) -> str:
    """What the bands of a picture gave, the largest first; empty for pictures of one or three channels."""
    found = report.pixels.bands or []
    listed = ", ".join(f"{one.name or one.band} {number(one.total, 3, '+')}" for one in found[:MOST])
    rest = f" and {len(found) - MOST} more" if len(found) > MOST else ""
    return f"By band: {listed}{rest}." if found else ""


def contrasted(report: Report) -> str:
    """A sentence on a map of the predicted less the expected class; empty for other maps."""
    target = report.target
    if not target.expected or target.expected == target.predicted:
        return ""
    return f"Positive speaks for {target.predicted} rather than {target.expected}, which is expected; negative against."


def strongest(scale: Scale, view: View) -> str:
    """A sentence on the strongest colour of the scale."""
    own = f"percentile {scale.clip:g} of |relevance|"
    why = {"percentile": own, "share": own, "run": "one scale for all", "given": "as asked for"}[scale.by]
    text = f"Strongest colour: ±{scale.cut:.3g} a {view.element} ({why})"
    if scale.by == "share":
        text += (
            f"; it is pale, because |relevance| is only {percent(_mass_ratio(view))} of the score in all, and below "
            f"{percent(SHARE)} colours fade"
        )
    return f"{text}."


def _mass_ratio(view: View) -> float:
    """Σ|relevance| / |score|; more than 1 if positive and negative relevance cancel."""
    return float(np.abs(view.relevance).sum()) / abs(view.divided) if view.divided else 1.0


def hidden(view: View) -> str:
    """Sentences on the parts of the picture that the network did not see, on padding, and on slices; or empty."""
    if view.slices:
        return f"Shown are slices {', '.join(map(str, view.slices))}, counted from 0."
    if not isinstance(view.picture, Image.Image):
        return ""
    (left, top, right, bottom), (width, height) = view.box, view.picture.size
    text = ""
    if left > 0.5 or top > 0.5 or right < width - 0.5 or bottom < height - 0.5:
        text = "Hatched: what the network never saw."
    high, wide = view.relevance.shape
    y, x = (
        (top + (np.arange(high) + 0.5) * (bottom - top) / high),
        left + (np.arange(wide) + 0.5) * (right - left) / wide,
    )
    outside = (y < 0) | (y > height), (x < 0) | (x > width)
    beyond = view.relevance[outside[0][:, None] | outside[1]]
    if beyond.size:
        text += f" The network saw padding around the picture, which holds {number(beyond.sum(), 3)}."
    return text.strip()


def caption(view: View, scale: Scale) -> list[str]:
    """The sentences below a figure."""
    own = [shown(view)]
    if view.pair is not None:
        own = [f"{_name(each)}: {shown(each)}" for each in (view, view.pair)]
    report = view.report
    lines = [
        contrasted(report), *own, by_band(report), beside(report), warned(view), strongest(scale, view), hidden(view)
    ]  # fmt: skip
    verified = view.report.model.verified
    if verified is not None and not verified.agrees:
        lines.insert(0, UNVERIFIED + ".")
    return [line for line in lines if line]


def _name(view: View) -> str:
    """The name of the picture's file."""
    return Path(view.report.image.path).name


def text_of(view: View, scale: Scale) -> str:
    """The text of a figure as plain text, for readers who cannot see the figure."""
    return f"{_name(view)}: {heading(view)}; {means(view)}. {' '.join(caption(view, scale))}"
