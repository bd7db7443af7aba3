"""The base class of checks, and their argument."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import msgspec

from heatcli.check.result import Result
from heatcli.errors import UsageError
from heatcli.evaluate.explainer import Explainer
from heatcli.evaluate.subjects import Subjects


@dataclass(frozen=True, eq=False)
class Work:
    """The argument of a check: a model with pictures, and the keys that the checks of a spec share.

    `subjects`: the pictures, of any sizes. `explainers`: the methods. `baseline`: for methods that name
    none. `folder`: paths in the spec are relative to it. `asked`: whether the user gave a spec; a check that cannot run
    is then an error, else it is skipped. `update_golden`: whether the golden check stores reports.
    """

    subjects: Subjects
    explainers: tuple[Explainer, ...]
    baseline: str | None
    folder: Path
    asked: bool
    update_golden: bool = False


class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """A check: a table of the spec. The fields are its thresholds; calling it checks all images.

    With a threshold of None the value is measured and reported, but nothing is required. `methods`: instead of the
    spec's.
    """

    name: ClassVar[str]

    methods: tuple[str, ...] = ()

    @abstractmethod
    def __call__(self, work: Work) -> Iterator[Result]:
        """The results. Raises `UsageError` if something that the check needs is missing and the user gave a spec."""

    def explainers(self, work: Work) -> tuple[Explainer, ...]:
        """The check's methods, or the spec's. Without a spec, a model that explains itself has only its own method."""
        alone = work.subjects.model.explained is not None and not work.asked
        if not self.methods or alone:
            return work.explainers
        return tuple(Explainer.parse(text, work.baseline) for text in self.methods)

    def lacking(self, work: Work, why: str, error: str = "") -> Result:
        """The result of a check that lacks something. With a spec, raises `UsageError`: `error`, or `why`."""
        if work.asked:
            raise UsageError(f"[{self.name}]: {error or why}")
        return self.skipped(why)

    def skipped(self, why: str) -> Result:
        """The result of a check that cannot run, with the reason."""
        return Result(check=self.name, quantity="not checked", status="skipped", measured=why)
