"""Search for the method, parameters and baseline that rank the regions of these pictures best for this model.

First all methods are tried, then other parameters and baselines of the two best. The same pictures choose and measure,
so the figure of the best is slightly too good. The differences from the best are paired by image, and their intervals
are widened for the number of comparisons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from heatcli.errors import ImageError, UsageError, first_line
from heatcli.evaluate.explainer import CONTROLS, Explainer, controls_of
from heatcli.evaluate.run import apart, resampled
from heatcli.evaluate.subjects import Subjects
from heatcli.evaluate.trial import Trial, tried
from heatcli.methods import table
from heatcli.rules.parameters import Named
from heatcli.version import __version__

NAME: Literal["heatcli.recommendation/1"] = "heatcli.recommendation/1"
DEFAULT = f"{table.DEFAULT}@{table.DEFAULT_BASELINE}"
VARIED = {"epsilon": ("0.01", "0.1"), "gamma": ("0.1", "1", "4")}
BASELINES = ("blur", "black", "zero", "mean")
BEST = 2  # methods whose parameters and baselines are tried
LEVEL = 0.95
_AREA = attrgetter("area")


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the ranking.

    `between`: the mean area between the two orders of regions, in units of the score, with its 95% interval `low`,
    `high`. `behind`: the mean difference from the best method, with an interval that accounts for all comparisons.
    `decided`: the interval lies above 0, and there are enough images for the sign test to exclude chance at this level
    (2^(1 − M) for M images that all agree). `inside`: the mean share of positive relevance inside the masks. `shown`:
    the median of the share of the score that the pixels hold. Both are None if not defined. `seconds`: processor time
    per image. `control`: whether this is a control instead of a method.
    """

    method: str
    between: float
    low: float
    high: float
    behind: float
    behind_low: float
    behind_high: float
    decided: bool
    inside: float | None
    shown: float | None
    seconds: float
    control: bool


class Recommendation(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a search.

    `best`: the method with the highest area. `recommended`: the best, or the default method if the two are undecided.
    `command`: the command line that explains with the recommended method. `undecided`: methods whose difference from
    the best is not decided. `chance`: whether this also holds for a random map. `words`: the result in sentences.
    `skipped`: method → why it could not be tried.
    """

    schema: Literal["heatcli.recommendation/1"] = NAME
    version: str
    model: str
    sha256: str
    images: int
    masks: int
    seed: int
    best: str
    recommended: str
    command: tuple[str, ...]
    undecided: tuple[str, ...]
    chance: bool
    words: tuple[str, ...]
    rows: list[Candidate]
    skipped: dict[str, str]


@dataclass(eq=False)
class Search:
    """A search over images of one model. `told`: called with the name of each method before it is tried."""

    subjects: Subjects
    told: Callable[[str], None] = lambda _: None
    found: dict[str, Trial] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def __call__(self, explainers: Sequence[Explainer], command: Sequence[str]) -> Recommendation:
        """Try `explainers` and variants of the best. Raises `UsageError` if no method can be tried.

        If the difference between the best and the default of `heatcli explain` is not decided, the default is
        recommended. `command`: the command line without the method.
        """
        for explainer in [*explainers, *map(Explainer.parse, controls_of(self.subjects.layout))]:
            self._try(explainer)
        tried_ones = [t for t in self.found.values() if t.explainer.method is not None]
        if not tried_ones:
            raise UsageError("no method could be tried: " + "; ".join(f"{n}: {why}" for n, why in self.skipped.items()))
        for trial in sorted(tried_ones, key=_AREA, reverse=True)[:BEST]:
            for variant in variants(trial.explainer):
                self._try(variant)
        return self._recommended(command)

    def _try(self, explainer: Explainer) -> None:
        """Measure a method; if it cannot be tried, note why."""
        if explainer.name in self.found or explainer.name in self.skipped:
            return
        self.told(explainer.name)
        try:
            self.found[explainer.name] = tried(self.subjects, explainer)
        except (UsageError, ImageError) as error:
            self.skipped[explainer.name] = first_line(error)

    def _recommended(self, command: Sequence[str]) -> Recommendation:
        """The ranking of all that was tried, and the recommendation."""
        methods = [t for t in self.found.values() if t.explainer.method is not None]
        best = max(methods, key=_AREA)
        level = 1 - (1 - LEVEL) / max(1, len(self.found) - 1)
        rows = [self._row(trial, best, level) for trial in sorted(self.found.values(), key=_AREA, reverse=True)]
        close = [row.method for row in rows if not row.decided]
        default = next((name for name in close if name == DEFAULT), None)
        chosen = self.found[default or best.explainer.name]
        undecided = tuple(name for name in close if name not in (*CONTROLS, best.explainer.name))
        found = Recommendation(
            version=__version__, model=self.subjects.model.named_in("."), sha256=self.subjects.model.sha256,
            images=len(self.subjects), masks=len(self.subjects.masked), seed=self.subjects.seed,
            best=best.explainer.name, recommended=chosen.explainer.name,
            command=(*command, *arguments(chosen.explainer)), undecided=undecided,
            chance="random" in close, words=(), rows=rows, skipped=self.skipped,
        )  # fmt: skip
        return msgspec.structs.replace(found, words=tuple(_words(found)))

    def _row(self, trial: Trial, best: Trial, level: float) -> Candidate:
        """A row of the ranking. `level`: of the intervals, widened for the number of comparisons."""
        area = _values(trial)
        low, high = resampled(area[:, None], self.subjects.seed)[:, 0]
        behind, least, most = apart(_values(best), area, self.subjects.seed, level)
        inside, shown = trial.inside.numpy(), trial.shown.abs().numpy()
        return Candidate(
            method=trial.explainer.name, between=float(area.mean()), low=float(low), high=float(high), behind=behind,
            behind_low=least, behind_high=most, decided=least > 0 and 2.0 ** (1 - len(area)) <= 1 - level,
            inside=None if np.isnan(inside).all() else float(np.nanmean(inside)),
            shown=None if np.isnan(shown).all() else float(np.nanmedian(shown)), seconds=trial.seconds,
            control=trial.explainer.method is None,
        )  # fmt: skip


def _words(found: Recommendation) -> Iterator[str]:
    """The result in sentences."""
    images = f"{found.images} image{'s' * (found.images != 1)}"
    if found.chance:
        yield f"On {images} no method is decided against a random map. Give more pictures, or other ones."
    if found.undecided:
        names = ", ".join(found.undecided)
        yield f"On {images} these are not decided against {found.best}, the first: {names}. More pictures would tell."
    else:
        yield f"On {images} {found.best} is decided against all others."
    if found.recommended != found.best:
        yield f"{found.recommended} is the default, and nothing here is decided against it, so it is recommended."
    else:
        yield f"Recommended: {found.recommended}."


def variants(explainer: Explainer) -> Iterator[Explainer]:
    """The method with other values of the parameters in `VARIED`, and with other baselines; one change at a time."""
    assert explainer.method is not None
    text, _, baseline = explainer.name.partition("@")
    named = Named.parse(text, "NAME[:PARAMETER=VALUE…][@BASELINE]")
    behind = f"@{baseline}" if baseline else ""
    for parameter, values in VARIED.items():
        if parameter in explainer.method.fields and parameter not in named.parameters:
            for value in values:
                yield Explainer.parse(f"{Named(named.name, {**named.parameters, parameter: value})}{behind}")
    if explainer.method.baseline is not None and explainer.baseline in (None, *BASELINES):
        for other in BASELINES:
            if other != baseline:
                yield Explainer.parse(f"{text}@{other}")


def arguments(explainer: Explainer) -> list[str]:
    """The options of `heatcli explain` for this method."""
    named = Named.parse(explainer.name.partition("@")[0], "NAME[:PARAMETER=VALUE…]")
    found = ["--method", named.name]
    for parameter, value in named.parameters.items():
        found += ["--param", f"{parameter}={value}"]
    return found if explainer.baseline is None else [*found, "--baseline", explainer.baseline]


def _values(trial: Trial) -> NDArray[np.float64]:
    values: NDArray[np.float64] = trial.between.double().numpy()
    return values
