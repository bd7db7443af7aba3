"""The values of parameters that rank the regions of some pictures best: `--param gamma=auto`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import product

from heatcli.errors import counted
from heatcli.evaluate.explainer import Explainer
from heatcli.evaluate.subjects import Subjects
from heatcli.evaluate.trial import tried
from heatcli.methods.method import Method

VALUES = {"epsilon": (0.001, 0.01, 0.1, 1.0), "gamma": (0.0, 0.05, 0.25, 1.0, 4.0)}
"""The values that are tried, beside the method's own."""
SHOWN = 2  # choices that are told beside the best one


@dataclass(frozen=True)
class Tuned:
    """A method with the values that were found, and the area between the orders of regions of each choice (`tried`).

    `areas`: values as text, such as "gamma=0.25" → the mean area over the pictures, in units of the score; the best
    first.
    """

    method: Method
    areas: dict[str, float]
    pictures: int

    @property
    def words(self) -> str:
        """What was chosen, and against what."""
        (best, area), *others = self.areas.items()
        beside = ", ".join(f"{text} {value:.3g}" for text, value in others[:SHOWN])
        return (
            f"{self.method.name}: of {counted(len(self.areas), 'choice')}, {best} ranks the regions of "
            f"{counted(self.pictures, 'picture')} best: area between the orders {area:.3g}, then {beside}"
        )


def tuned(
    subjects: Subjects, method: Method, names: Collection[str], baseline: str | None, say: Callable[[str], None]
) -> Tuned:
    """The method with the values of some parameters whose maps rank the regions of the pictures best.

    The measure is the area between the two orders of regions (Samek et al. 2015), the mean over pictures. Each
    combination of values is tried. `names`: parameters in `VALUES`. `say`: called with each choice before it is tried.
    Raises `UsageError` as `tried` does.
    """
    areas, methods = dict[str, float](), dict[str, Method]()
    for values in _combinations(method, names):
        text = ",".join(f"{name}={value:g}" for name, value in values.items())
        say(f"{method.name}: {text}")
        methods[text] = method.configured(values)
        own = Explainer(f"{method.name}:{text}", methods[text], baseline if method.baseline is not None else None)
        areas[text] = tried(subjects, own).area
    ranked = dict(sorted(areas.items(), key=lambda item: -item[1]))
    return Tuned(methods[next(iter(ranked))], ranked, len(subjects))


def _combinations(method: Method, names: Collection[str]) -> Iterator[dict[str, float]]:
    """Each choice of values for the parameters, the method's own value first."""
    own = method.parameters
    each = [tuple(dict.fromkeys((float(own[name]), *VALUES[name]))) for name in names]
    for values in product(*each):
        yield dict(zip(names, values, strict=True))
