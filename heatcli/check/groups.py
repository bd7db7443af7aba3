"""The check of unexpected clusters: a model, and pictures, beside a stored result of `heatcli discover`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from heatcli.artifact.layout import PICTURE
from heatcli.check.maps import no_masks
from heatcli.check.result import Result, at_most
from heatcli.check.work import Check, Work
from heatcli.discover.asking import KINDS, Asked, Question
from heatcli.discover.background import Masked, asked_of
from heatcli.discover.features import Columns, Known, Maps, pooled
from heatcli.discover.job import Cluster, Found, clustered, told_of, too_few
from heatcli.discover.patterns import Details
from heatcli.discover.rows import Rows
from heatcli.discover.treated import Key, Numbers, Treated, treated_of
from heatcli.discover.treatments import View
from heatcli.discover.write import TABLE, read_found
from heatcli.errors import UsageError, unknown_name
from heatcli.evaluate.explainer import Explainer
from heatcli.evaluate.subject import Subject
from heatcli.images.baselines import BASELINES
from heatcli.methods.table import METHODS
from heatcli.system.files import is_there


class UnexpectedClusters(Check, frozen=True):
    """No group of pictures has something of its own that no stored group had, and no stored group has grown.

    A group is a cluster of maps of a class whose suspicion is above 0 (`heatcli.discover`); a stored group is found
    again if a new one of its class has half of its cells, or the reverse. Backgrounds are compared if the stored run
    and the check have masks, treatments if the stored run asked the model. `clusters`: the file of the stored groups,
    relative to the spec. `suspicion`: the largest allowed suspicion of a new group. `growth`: by how much the share
    of a stored group in its class may grow. `gone`: names of stored groups that must not be found again. `methods`: at
    most one; by default the method and baseline of the stored run.
    """

    name = "unexpected-clusters"

    clusters: str = TABLE
    suspicion: float = 0.0
    growth: float = 0.1
    gone: tuple[str, ...] = ()

    def __call__(self, work: Work) -> Iterator[Result]:
        """A result per group. Skipped if there is no file of clusters and the check was not asked for."""
        layout = work.subjects.layout
        if layout.kind != PICTURE:
            yield self.lacking(work, f"groups are of pictures, and {work.subjects.model.path} takes {layout.one}")
            return
        if len(work.subjects.parts) > 1:
            yield self.lacking(work, "groups are of pictures of one size; --size gives these one")
            return
        file = work.folder / self.clusters
        if not is_there(file):
            yield self.lacking(work, f"no stored clusters in {file}; heatcli discover stores them")
            return
        stored = read_found(file)
        asked, lacking = _asked(work, stored, file)
        for question, why in lacking.items():
            if named := [one.name for one in stored.clusters if one.by in KINDS[question] and one.name in self.gone]:
                raise UsageError(f"[{self.name}]: {named[0]} cannot be checked: {why}")
            yield self.skipped(f"{question}s: {why}")
        known = {"places", "pattern", *chain.from_iterable(KINDS[one.question] for one in asked)}
        old = [one for one in stored.clusters if one.suspicion and one.by in known]
        for name in self.gone:
            if name not in [cluster.name for cluster in old]:
                raise unknown_name(f"group in {file}", name, [cluster.name for cluster in old])
        maps = maps_of(work, self._explainer(work, stored, file))
        for text in told_of(too_few(maps)):
            yield self.skipped(text)
        found = clustered(f"[{self.name}]", maps, seed=stored.seed, asked=asked)
        new = [shown.cluster for shown in found if shown.cluster.suspicion]
        again = {cluster.name: _again(cluster, new) for cluster in old}
        for cluster in old:
            yield self._old(cluster, again[cluster.name])
        yield from self._new([one for one in new if one not in again.values()])

    def _explainer(self, work: Work, stored: Found, file: Path) -> Explainer:
        """The method of the check, or else that of the stored run. Raises `UsageError`."""
        if self.methods:
            if len(self.methods) > 1:
                raise UsageError(f"[{self.name}]: takes one method, not {len(self.methods)}")
            return self.explainers(work)[0]
        method, baseline = stored.method, stored.baseline
        unknown = (method.rules, baseline.frequencies, baseline.count, baseline.images)
        if method.name not in METHODS or any(part is not msgspec.UNSET for part in unknown):
            raise UsageError(
                f"[{self.name}]: {file} was made by {method.name} with rules or a baseline of its own, which are not "
                "known here; give a method with methods"
            )
        own = METHODS[method.name].configured(method.parameters)
        given = [str(part) for part in (baseline.sigma, baseline.file) if part is not msgspec.UNSET]
        text = ":".join([baseline.name, *given] if baseline.name in BASELINES else given)
        return Explainer(method.name, own, None if baseline.name == "none" else text)

    def _old(self, cluster: Cluster, again: Cluster | None) -> Result:
        """The result of a stored group, and of what it is now."""
        share = 0.0 if again is None else again.share
        what = f"share of {cluster.name} in its class, {cluster.place}, which was {cluster.share:.0%}"
        return at_most(self.name, what, share, 0.0 if cluster.name in self.gone else cluster.share + self.growth)

    def _new(self, groups: Sequence[Cluster]) -> Iterator[Result]:
        """A result per group with new places or a new pattern, or one that there is none."""
        for cluster in groups:
            what = f"suspicion of a new group, {cluster.size} pictures of {cluster.label}, {cluster.place}"
            yield at_most(self.name, what, cluster.suspicion, self.suspicion)
        if not groups:
            yield at_most(self.name, "groups with new places", 0.0, 0.0)


def maps_of(work: Work, explainer: Explainer) -> list[Maps]:
    """The maps of all pictures by explained class, in the order of names."""
    subject = work.subjects.one
    kept, details, found = Rows(np.float32), Details(), dict[str, Columns]()
    labels = [subject.model.called(i) for i in subject.target.index.tolist()]
    pixels = subject.heatmaps(explainer).double().cpu().numpy()
    for name, sample, one, label in zip(subject.names, work.subjects.samples, pixels, labels, strict=True):
        details.add(one)
        found.setdefault(label, Columns()).add(Known(name, str(sample.path), kept.add(pooled(one))))
    return [columns.maps(label, kept, details) for label, columns in sorted(found.items())]


def _asked(work: Work, stored: Found, file: Path) -> tuple[list[Asked], dict[Question, str]]:
    """What the model says of backgrounds and treatments; and why one of them cannot be compared with stored ones.

    There is no reason if neither the stored run nor the check has masks, or if the stored run did not treat pictures.
    """
    model, rows = work.subjects.model, work.subjects.masked
    before = {"background": stored.backgrounds, "treatment": stored.treatments}
    found: list[Asked] = []
    lacking: dict[Question, str] = {}
    if not before["background"] and len(rows):
        lacking["background"] = f"{file} knows none; heatcli discover finds them with --masks and --model"
    elif before["background"] and not len(rows):
        lacking["background"] = no_masks(work.subjects)
    elif before["background"] and (masked := asked_of(model, _masked(work.subjects.one, rows))) is not None:
        found.append(masked)
    if before["treatment"] and (answers := _treated(work, stored.seed, lacking)) is not None:
        found.append(answers)
    return found, lacking


def _treated(work: Work, seed: int, lacking: dict[Question, str]) -> Treated | None:
    """What the model says of treated pictures; None where it cannot be asked, with the reason in `lacking`."""
    subject, samples = work.subjects.one, work.subjects.samples
    goals = subject.target.index.tolist()
    labels = [subject.model.called(goal) for goal in goals]

    def look(numbers: Numbers) -> Iterator[tuple[Key, View]]:
        for i in numbers.tolist():
            yield (subject.names[i], labels[i]), View(samples[i].pixels, subject.model.pictures.picture_fit)

    classes = {label: np.flatnonzero(np.array(labels) == label) for label in dict.fromkeys(labels)}
    index = dict(zip(labels, goals, strict=True))
    return treated_of(subject.model, classes, index, look, partial(lacking.__setitem__, "treatment"), seed=seed)


def _masked(subject: Subject, rows: Tensor) -> Iterator[Masked]:
    """The pictures `rows` of a subject with their masks, in batches."""
    for part in torch.split(rows, subject.batch_size):
        index = subject.target.index[part].tolist()
        names = [(subject.names[i], subject.model.called(goal)) for i, goal in zip(part.tolist(), index, strict=True)]
        yield Masked(names, index, subject.batch[part], subject.mask[part])


def _again(cluster: Cluster, groups: Sequence[Cluster]) -> Cluster | None:
    """The group of the same class that has most cells in common, if it has half of the cells of either.

    Else, of a group that the model told of, the one that it tells the same of: a class has one background, or one blur.
    """
    own, same = set(cluster.cells), [one for one in groups if one.label == cluster.label]
    most, best = max(
        ((len(own.intersection(one.cells)), one) for one in same), key=lambda pair: pair[0], default=(0, None)
    )
    if best is not None and most and 2 * most >= min(len(own), len(best.cells)):
        return best
    told = set(cluster.kinds).intersection(chain.from_iterable(KINDS.values()))
    return next((one for one in same if told.intersection(one.kinds)), None)
