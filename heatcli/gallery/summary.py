"""The first screen of a page: what the model looks at, and whether its explanations can be trusted."""

from __future__ import annotations

import base64
import io
import os
import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from heatcli.check.books import Ledger
from heatcli.check.result import Result
from heatcli.errors import UsageError
from heatcli.figures.view import element
from heatcli.methods.table import method as find_method
from heatcli.report.schema import Report
from heatcli.run.index.folder import Folder

CLOSED = Ledger().most  # the largest relative error of a balanced ledger, as in `heatcli check`
WORST = 3

Mark = Literal["good", "bad", "open"]


@dataclass(frozen=True)
class Answer:
    """A line of "can I trust it?": a title, a short value and a sentence. `state`: a link that filters the page."""

    mark: Mark
    title: str
    value: str
    text: str
    state: str = ""


@dataclass(frozen=True)
class Facts:
    """Facts of a run.

    `explained`: a sentence on the target. `predicts`: whether the explained class is the predicted one; None if not
    known. `conserves`: whether the method divides the whole score. `command`: the command line of the run. `element`:
    what the inputs consist of, such as pixels or samples.
    """

    model: str
    method: str
    baseline: str
    explained: str
    predicts: bool | None
    conserves: bool
    command: str
    element: str


Columns = dict[str, list[Any]]


def facts(folder: Folder, report: Report | None, images: list[str], methods: list[str]) -> Facts:
    """The facts of a run, from its record and one of its reports. `images`, `methods`: the names in the index."""
    given = folder.record.parameters if folder.record is not None else {}
    name = str(given.get("method") or (report.method.name if report else methods[0] if methods else "?"))
    own = (given.get("param") if given else report.method.parameters if report else {}) or {}
    baseline = given.get("baseline")
    if baseline is None and report is not None:
        baseline = report.baseline.name
    baseline = str(baseline[0] if isinstance(baseline, list) else baseline or "none")
    target = str(given.get("target") or "")
    model = "" if report is None else Path(report.model.path).name
    command = ["heatcli", "explain", _inputs(images), *(["--model", model] if model else []), "--method", name]
    for parameter, value in own.items():
        if value != _default(name, parameter):
            command += ["--param", f"{parameter}={value}"]
    if baseline != _default(name, None):
        command += ["--baseline", baseline]
    if target not in ("", "top"):
        command += ["--target", target]
    expected = given.get("expected")
    if expected:
        command += ["--expected", str(expected[0] if isinstance(expected, list) else expected)]
    command += ["--recursive"] if given.get("recursive") else []
    command += ["--out", folder.path.name or "heatmaps"]
    return Facts(
        model=model or "unknown model",
        method=name if len(methods) < 2 else f"{len(methods)} methods",
        baseline=baseline,
        explained=_explained(target),
        predicts=None if not target else target == "top" or target.startswith("top:"),
        conserves=_conserves(name, report),
        command=shlex.join(command),
        element="pixels" if report is None else f"{element(report)}s",
    )


def _explained(target: str) -> str:
    """A sentence on the target."""
    if not target:
        return "Each report names the score it explains."
    if target == "top":
        return "Each map explains the class with the highest score."
    if target.startswith("top:"):
        return f"The maps explain the {target[4:]} classes with the highest scores."
    return f"Every map explains {target}."


def _inputs(images: list[str]) -> str:
    """The common folder of all images, or the only image."""
    if len(images) == 1:
        return images[0]
    try:
        common = os.path.commonpath([os.path.dirname(image) for image in images])  # noqa: PTH120
    except ValueError:
        common = ""
    shown = common or "."
    return shown if not Path(shown).is_absolute() else Path(shown).name or "FOLDER"


def _default(name: str, parameter: str | None) -> Any:
    """The default baseline of a method, or of one of its parameters; None for unknown methods."""
    try:
        found = find_method(name)
    except UsageError:
        return None
    return (found.baseline or "none") if parameter is None else found.parameters.get(parameter)


def _conserves(name: str, report: Report | None) -> bool:
    """Whether the method divides the whole score: from the report, else from the method of this name."""
    if report is not None and report.method.divides:
        return report.method.divides == "whole"
    try:
        return find_method(name).divides == "whole"
    except UsageError:
        return True


def answers(own: Facts, columns: Columns, report: Report | None, checks: list[Result], failed: int) -> list[Answer]:
    """The lines of "can I trust it?". `failed`: the number of pictures that were not explained."""
    found = [_ledger(own, columns)]
    if own.conserves:
        found.append(_shares(own, columns))
    found += [_verified(report), _predictions(own, columns), _checks(checks)]
    if failed:
        found.append(Answer("bad", "Failed", f"{failed:,}", "pictures were not explained; their reasons are below."))
    return found


def _ledger(own: Facts, columns: Columns) -> Answer:
    """Whether the ledgers balance."""
    errors = [error for error in columns["remainder"] if error is not None]
    if not own.conserves:
        return Answer("open", "Ledger", "none", f"{own.method} does not divide the score, so nothing can be added up.")
    closed, worst = sum(error <= CLOSED for error in errors), max(errors, default=0.0)
    value = f"closed in {closed:,} of {len(errors):,}"
    text = f"Pixels, biases and losses add up to the score; the worst remainder is {worst:.1e} of the score."
    if closed == len(errors):
        return Answer("good", "Ledger", value, text)
    text = f"The others leave up to {worst:.1e} of the score unexplained; more than {CLOSED:g} is too much."
    return Answer("bad", "Ledger", value, text, f"#remainder={CLOSED:g}..&sort=-remainder")


def _shares(own: Facts, columns: Columns) -> Answer:
    """How much biases take."""
    middle = median(columns["share"])
    if middle is None:
        return Answer("good", "Biases", "none", f"Everything that is booked is booked to {own.element}.")
    value = f"{middle:.0%} of what is booked"
    if middle < 0.5:
        return Answer("good", "Biases", value, f"Most of the score is booked to {own.element}, which the maps show.")
    text = f"More is booked to biases than to {own.element}, so the maps show the smaller part of the score."
    if own.baseline == "none":
        text += " A baseline cancels the biases: explain again with --baseline blur."
    return Answer("bad", "Biases", value, text, "#sort=-share")


def _verified(report: Report | None) -> Answer:
    """Whether the explained graph is the artifact's function."""
    found = None if report is None else report.model.verified
    if found is None:
        return Answer("open", "Model", "not compared", "Its own runtime could not run it where it was explained.")
    error = "without bound" if found.error is None else f"by {found.error:.1e}"
    if found.agrees:
        text = f"The explained graph computes what {found.against} computes, up to {found.error or 0:.1e}."
        return Answer("good", "Model", "as deployed", text)
    return Answer("bad", "Model", "another function", f"The explained graph and {found.against} differ {error}.")


def _predictions(own: Facts, columns: Columns) -> Answer:
    """Whether the predictions are as expected."""
    known = [right for right in columns["right"] if right is not None]
    if not known:
        if own.predicts is False:
            return Answer(
                "open", "Predictions", "not asked", "The maps explain a chosen score, whatever was predicted."
            )
        text = "Give the expected labels to see where it is wrong: --expected labels.csv."
        return Answer("open", "Predictions", "unknown", text)
    wrong = Counter(
        (expected, predicted)
        for right, expected, predicted in zip(*(columns[n] for n in ("right", "expected", "predicted")), strict=True)
        if right is False
    )
    value = f"{sum(known):,} of {len(known):,} as expected"
    if not wrong:
        return Answer("good", "Predictions", value, "Every picture with an expected label got it.")
    told = ", ".join(f"{a} as {b}" + (f" ({n}×)" if n > 1 else "") for (a, b), n in wrong.most_common(3))
    return Answer("bad", "Predictions", value, f"Most often wrong: {told}.", "#right=wrong")


def _checks(checks: list[Result]) -> Answer:
    """What `heatcli check` found."""
    if not checks:
        text = (
            "heatcli check MODEL FOLDER --junit FILE.xml tests the model and its maps; a FILE in this folder is read."
        )
        return Answer("open", "Checks", "none here", text)
    count = Counter(result.status for result in checks)
    value = f"{count['passed']:,} passed, {count['failed']:,} failed"
    failed = Counter(result.check for result in checks if result.status == "failed")
    if failed:
        return Answer("bad", "Checks", value, "Failed: " + ", ".join(f"{n} ({k}×)" for n, k in failed.items()) + ".")
    return Answer("good", "Checks", value, f"{count['skipped']:,} skipped.")


def median(values: list[float | None]) -> float | None:
    """The median of the values that are known; None if there are none."""
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def parts(own: Facts, columns: Columns) -> list[tuple[str, float]]:
    """The shares of the input, biases and losses in what is booked, means over the pictures; their sum is 1."""
    sizes = np.zeros(3)
    for pixels, share, *lost in zip(*(columns[n] for n in ("pixels", "share", "absorbed", "unexplained")), strict=True):
        if pixels is None or share is None:
            continue
        losses = sum(abs(x or 0) for x in lost) * (1 - share) / (abs(pixels) or 1)
        kinds = np.array([1 - share, share, losses])
        sizes += kinds / kinds.sum()
    whole = sizes.sum() or 1
    return list(zip((own.element, "biases", "losses"), (sizes / whole).tolist(), strict=True))


def worst(columns: Columns) -> list[tuple[int, str, float]]:
    """Index, name and relative error of the explanations with the largest errors of the ledger."""
    errors = [(-1.0 if e is None else e) for e in columns["remainder"]]
    order = sorted(range(len(errors)), key=errors.__getitem__, reverse=True)[:WORST]
    return [(i, columns["name"][i], errors[i]) for i in order if errors[i] >= 0]


def mean_map(mass: NDArray[np.float64]) -> str:
    """The mean distribution of |relevance|, float64 [GRID, GRID], as a picture in a `data:` URL."""
    top = float(mass.max()) or 1.0
    shade = np.sqrt(np.clip(mass / top, 0, 1))[..., None]
    low, high = np.array([244, 241, 236]), np.array([154, 32, 54])
    colours = np.uint8(np.rint(low + (high - low) * shade))
    buffer = io.BytesIO()
    Image.fromarray(colours).resize((192, 192), Image.Resampling.BICUBIC).save(buffer, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
