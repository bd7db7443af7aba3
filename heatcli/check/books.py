"""Checks of the model's predictions and of the ledger: prediction, found, finite, ledger, bias-share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from heatcli.check.result import Result, Status, at_least, at_most
from heatcli.check.work import Check, Work
from heatcli.errors import ModelError
from heatcli.evaluate.explainer import Explainer
from heatcli.evaluate.subject import Subject
from heatcli.images.dataset import Sample
from heatcli.images.expected import read_labels
from heatcli.methods.targets import parse


class Prediction(Check, frozen=True):
    """Every image gets its expected label, which a CSV or JSON file, or the name of the image's folder gives.

    `labels`: the file. A CSV has the columns `image` and `label`; without these names the first two columns count.
    JSON maps image to label. An image is named by its path relative to the file's folder, or by its file name.
    `least`: the least share of right predictions.
    """

    name = "prediction"

    labels: str | None = None
    least: float = 1.0

    def __call__(self, work: Work) -> Iterator[Result]:
        """A result per image, and the share of right predictions. Raises `UsageError` if no image has a label."""
        expected = self._expected(work)
        if not expected:
            missing = "no image has an expected label; give labels = FILE, or sort the images into folders named after"
            yield self.lacking(work, "no expected labels", f"{missing} the classes")
            return
        model, hits = work.subjects.model, []
        classes, every = work.subjects.parts[0].outputs().shape[1], work.subjects.predicted().tolist()
        for i, wanted in expected.items():
            index = parse(wanted, classes, model.labels)[0]
            predicted = every[i]
            hits.append(float(predicted == index))
            status: Status = "passed" if predicted == index else "reported" if self.least < 1 else "failed"
            yield Result(check=self.name, quantity="predicted", status=status, image=work.subjects.names[i],
                         measured=model.called(predicted), required=wanted)  # fmt: skip
        yield at_least(self.name, "share predicted as expected", sum(hits) / len(hits), self.least)

    def _expected(self, work: Work) -> dict[int, str]:
        """The expected label of each image that has one, by number; of several boxes of an image by the first one's."""
        samples: dict[int, Sample] = {}
        every = work.subjects.samples
        for i, sample in enumerate(every):
            if i == 0 or sample is not every[i - 1]:
                samples[i] = sample
        if self.labels is None:
            return {i: s.folder_label for i, s in samples.items() if s.folder_label is not None}
        file = work.folder / self.labels
        table = read_labels(file)
        return {i: label for i, s in samples.items() if (label := _looked_up(table, s, file)) is not None}


def _looked_up(table: Mapping[str, str], sample: Sample, file: Path) -> str | None:
    """The label of an image in a table, by its path below the table's folder, its path, or its name."""
    path = sample.path.absolute()
    near = path.relative_to(file.parent.absolute()).as_posix() if path.is_relative_to(file.parent.absolute()) else ""
    return next((table[key] for key in (near, sample.path.as_posix(), sample.path.name) if key in table), None)


class Found(Check, frozen=True):
    """The picture has the box that the target names. Runs by itself where the target names boxes.

    The other checks measure only pictures that have one. `least`: the least share of them.
    """

    name = "found"

    least: float | None = None

    def __call__(self, work: Work) -> Iterator[Result]:
        """A result per picture that is left out, and the share of the others. Raises `UsageError` without boxes."""
        found, without = len({sample.path for sample in work.subjects.samples}), work.subjects.without
        if not work.subjects.boxes:
            yield self.lacking(work, "the target names no box")
            return
        yield from self.share(found, without)

    def share(self, found: int, without: Mapping[str, str]) -> Iterator[Result]:
        """The results where `found` pictures have the box. `without`: the others, name → why."""
        for name, why in without.items():
            yield Result(check=self.name, quantity="not measured", status="skipped", image=name, measured=why)
        every = found + len(without)
        quantity = f"share of the pictures that have the box ({found} of {every})"
        yield at_least(self.name, quantity, found / every, self.least)


class Finite(Check, frozen=True):
    """The output and the heatmap of every image hold finite numbers only."""

    name = "finite"

    def __call__(self, work: Work) -> Iterator[Result]:
        """A result per image and method; for an image with an output that is not finite, a result on the output."""
        sound = work.subjects.each(lambda own: own.outputs().isfinite().flatten(1).all(1))
        for i in torch.nonzero(~sound).flatten().tolist():
            yield self._result(work.subjects.names[i], None, "output", False)
        some = work.subjects.rows(torch.nonzero(sound).flatten())
        for explainer in self.explainers(work) if len(some) else ():
            fine = some.joined([torch.tensor(_finite_maps(own, explainer)) for own in some.parts])
            for name, holds in zip(some.names, fine.tolist(), strict=True):
                yield self._result(name, explainer.name, "heatmap", holds)

    def _result(self, image: str, method: str | None, quantity: str, holds: bool) -> Result:
        return Result(check=self.name, quantity=quantity, status="passed" if holds else "failed", image=image,
                      method=method, measured="finite" if holds else "not finite", required="finite")  # fmt: skip


def _finite_maps(subject: Subject, explainer: Explainer) -> list[bool]:
    """Whether each heatmap is finite. If `heatcli.explain` fails on the batch, the images are tried one by one."""
    try:
        return [bool(x) for x in subject.heatmaps(explainer).isfinite().flatten(1).all(1)]
    except ModelError as error:
        if "not finite" not in str(error):
            raise
        if len(subject) == 1:
            return [False]
        return [_finite_maps(subject.rows(torch.tensor([i])), explainer)[0] for i in range(len(subject))]


class Ledger(Check, frozen=True):
    """The ledger of every conserving method balances, up to a relative error of `most`."""

    name = "ledger"

    most: float = 1e-4

    def __call__(self, work: Work) -> Iterator[Result]:
        """The relative error of each image."""
        for explainer in self.explainers(work):
            if explainer.method is None or not explainer.method.conserves:
                yield self.skipped(f"{explainer.name} does not claim to conserve")
                continue
            for rows, found in work.subjects.explained(explainer):
                for i, error in zip(rows.tolist(), found.ledger.relative_error.tolist(), strict=True):
                    yield at_most(self.name, "relative error", error, self.most, image=work.subjects.names[i],
                                  method=explainer.name)  # fmt: skip


class BiasShare(Check, frozen=True):
    """The share of the score that goes to biases instead of the picture: in total, and per layer.

    share = Σ|bias total| / (|pixel total| + Σ|bias total|), summed over the biases of the network; the share of a layer
    is one term of the sum. Measured without a baseline, because biases cancel in differences. `most`: the largest
    allowed share in total; `most_layer`: of a layer.
    """

    name = "bias-share"

    methods: tuple[str, ...] = ("lrp-eps@none",)
    most: float | None = None
    most_layer: float | None = None

    def __call__(self, work: Work) -> Iterator[Result]:
        """The total share of each image, and the mean share of each layer."""
        for explainer in self.explainers(work):
            layers: dict[str, list[Tensor]] = {}
            for rows, found in work.subjects.explained(explainer):
                if not found.biases:
                    yield self.skipped(f"{work.subjects.model.path} has no biases")
                    return
                whole, own = shares(found.biases, found.ledger.pixels)
                for i, share in zip(rows.tolist(), whole.tolist(), strict=True):
                    yield at_most(self.name, "share of the biases", share, self.most, image=work.subjects.names[i],
                                  method=explainer.name)  # fmt: skip
                for name, value in own.items():
                    layers.setdefault(name, []).append(value)
            for name, values in layers.items():
                mean = float(torch.cat(values).mean())
                yield at_most(self.name, f"share of {name}", mean, self.most_layer, method=explainer.name)


def shares(biases: Mapping[str, Tensor], pixels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The share of all biases, and of each bias by name: float64 [N] in 0..1.

    `biases`: name → relevance [N, size]. `pixels`: the total relevance of the pixels, [N].
    """
    totals = {name: values.double().sum(1).abs() for name, values in biases.items()}
    every = pixels.double().abs() + torch.stack(list(totals.values())).sum(0)
    every = every.where(every > 0, 1)
    own = {name: value / every for name, value in totals.items()}
    return torch.stack(list(own.values())).sum(0), own
