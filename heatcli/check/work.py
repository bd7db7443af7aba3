"""What a check is given: the subject, the samples, the methods, and where files of the spec lie."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import msgspec

from heatcli.check.result import Result
from heatcli.evaluate.explainer import Explainer
from heatcli.evaluate.subject import Subject
from heatcli.images.dataset import Sample


@dataclass(frozen=True, eq=False)
class Work:
    """`folder`: what paths in the spec are relative to. `asked`: somebody wrote the spec, so nothing is skipped."""

    subject: Subject
    samples: Sequence[Sample]
    explainers: tuple[Explainer, ...]
    baseline: str | None
    folder: Path
    asked: bool
    update_golden: bool = False


class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """One table of the spec: its thresholds are its fields, calling it checks all images.

    A threshold of None requires nothing: what was measured is only reported. `methods` stand in for the spec's.
    """

    name: ClassVar[str]

    methods: tuple[str, ...] = ()

    @abstractmethod
    def __call__(self, work: Work) -> Iterator[Result]:
        """Everything it finds. Raises `UsageError` where what it needs is not there and the check was asked for."""

    def explainers(self, work: Work) -> tuple[Explainer, ...]:
        """Its own methods, or the spec's; without a spec a model that explains itself has one method."""
        alone = work.subject.model.explained is not None and not work.asked
        if not self.methods or alone:
            return work.explainers
        return tuple(Explainer.parse(text, work.baseline) for text in self.methods)

    def skipped(self, why: str) -> Result:
        """Not checked, and why."""
        return Result(check=self.name, quantity="not checked", status="skipped", measured=why)
