"""The golden check: reports agree with stored reports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from heatcli.check.result import Result, at_most
from heatcli.check.work import Check, Work
from heatcli.errors import UsageError
from heatcli.explanation import Explanation
from heatcli.images.dataset import Sample
from heatcli.report.build import Reports, image_part
from heatcli.report.schema import FilesPart, Report, SecondsPart, encode
from heatcli.system.files import is_folder, is_there, make_folder, read_regular, reading, write_atomically


class Golden(Check, frozen=True):
    """The report on an image equals the stored report: target, score, ledger, biases and pixels.

    `folder`: of the stored reports, relative to the spec. `most`: the largest allowed difference, relative to the
    largest stored value of its kind. `check --update-golden` stores the reports anew.
    """

    name = "golden"

    folder: str = "golden"
    most: float = 1e-3

    def __call__(self, work: Work) -> Iterator[Result]:
        """A result per image and method. Skipped if there is no folder and the check was not asked for."""
        folder = work.folder / self.folder
        if not is_folder(folder) and not work.asked and not work.update_golden:
            yield self.skipped(f"no stored reports in {folder}")
            return
        if work.update_golden:
            make_folder(folder)
        for explainer in self.explainers(work):
            files = _files(folder, work, explainer.name)
            for rows, found in work.subjects.explained(explainer):
                for i, row in enumerate(rows.tolist()):
                    report = _report(work, found, i, work.subjects.samples[row])
                    yield self._compared(files[row], report, work, row, explainer.name)

    def _compared(self, file: Path, report: Report, work: Work, row: int, method: str) -> Result:
        """The result for an image; with `update_golden`, the report is stored."""
        where: dict[str, Any] = {"image": work.subjects.names[row], "method": method}
        if work.update_golden:
            write_atomically(file, encode(report))
            return Result(check=self.name, quantity="stored anew", status="reported", measured=str(file), **where)
        if not is_there(file):
            return Result(check=self.name, quantity="no stored report", status="failed", measured=str(file),
                          required="one; check --update-golden stores it", **where)  # fmt: skip
        with reading(file, "report", "check --update-golden writes one"):
            stored = json.loads(read_regular(file))
            quantity, measured = largest_difference(stored, json.loads(encode(report)))
        return at_most(self.name, f"largest relative difference, in {quantity}", measured, self.most, **where)


def largest_difference(stored: Mapping[str, Any], fresh: Mapping[str, Any]) -> tuple[str, float]:
    """The part in which two reports (as JSON) differ most, and that difference over the part's largest stored value.

    The difference is infinite if target, biases or shape are different ones.
    """
    if stored["target"]["index"] != fresh["target"]["index"]:
        return "the target", float("inf")
    old, new = ({b["name"]: b for b in report["biases"]} for report in (stored, fresh))
    if list(old) != list(new) or any(old[name]["size"] != new[name]["size"] for name in old):
        return "the names or sizes of the biases", float("inf")
    if stored["pixels"]["shape"] != fresh["pixels"]["shape"]:
        return "the shape of the pixels", float("inf")
    books = ("output", "output_baseline", "pixels", "biases")
    kinds: dict[str, tuple[Any, Any]] = {
        "the ledger": ([stored["ledger"][key] for key in books], [fresh["ledger"][key] for key in books]),
        "the biases": ([x for b in old.values() for x in b["values"]], [x for b in new.values() for x in b["values"]]),
        "the pixels": (stored["pixels"]["values"], fresh["pixels"]["values"]),
    }
    found = {kind: _relative_difference(a, b) for kind, (a, b) in kinds.items()}
    worst = max(found, key=lambda kind: found[kind])
    return worst, found[worst]


def _relative_difference(stored: Any, fresh: Any) -> float:
    """The largest difference of two lists of numbers, over the largest stored one."""
    a, b = np.asarray(stored, dtype=np.float64), np.asarray(fresh, dtype=np.float64)
    scale = np.abs(a).max() if a.size else 0.0
    apart = np.abs(a - b).max() if a.size else 0.0
    return float(apart / scale if scale else apart)


def _files(folder: Path, work: Work, method: str) -> list[Path]:
    """The file of each image's report. Raises `UsageError` if two images would have the same file."""
    taken: dict[Path, str] = {}
    files = []
    for sample, name in zip(work.subjects.samples, work.subjects.names, strict=True):
        box = name.removeprefix(str(sample.path)).replace(" box ", ".box")
        file = folder / f"{sample.path.stem}.{re.sub('[^A-Za-z0-9.=-]+', '-', method)}{box}.json"
        if taken.setdefault(file, name) != name:
            raise UsageError(f"[golden]: {taken[file]} and {name} would both be stored as {file}; rename one")
        files.append(file)
    return files


def _report(work: Work, found: Explanation, i: int, sample: Sample) -> Report:
    """The report on an image, without times and figures, which change from run to run."""
    model = work.subjects.model
    image = image_part(model, sample.path.name, sample.sha256, sample.size)
    seconds = SecondsPart(load=0, forward=0, backward=0, write=0)
    return Reports(model, found).report(i, image, FilesPart(overlay=""), seconds, inline=True)
