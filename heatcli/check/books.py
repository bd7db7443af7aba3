"""Checks of what the model says and of the books: prediction, finite, ledger, bias-share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from heatcli.check.result import Result, Status, at_least, at_most
from heatcli.check.work import Check, Work
from heatcli.errors import ModelError, UsageError
from heatcli.images.dataset import Sample
from heatcli.images.expected import read_labels
from heatcli.methods.targets import parse


class Prediction(Check, frozen=True):
    """Every image gets the label expected of it: from a CSV or JSON file, or from the name of its folder.

    A CSV has the columns image and label (or none named so: the first two); JSON maps image to label. An image is
    named by its path from the file's folder, or by its file name.
    """

    name = "prediction"

    labels: str | None = None
    least: float = 1.0

    def __call__(self, work: Work) -> Iterator[Result]:
        """One result an image, and the share that is right."""
        expected = self._expected(work)
        if not expected:
            if work.asked:
                raise UsageError("[prediction]: no image has an expected label; give labels = FILE, or sort the images "
                                 "into folders named after the classes")  # fmt: skip
            yield self.skipped("no expected labels")
            return
        scores = work.subject.outputs().sum(2)
        model, hits = work.subject.model, []
        for i, wanted in expected.items():
            index = parse(wanted, scores.shape[1], model.labels)[0]
            said = int(scores[i].argmax())
            hits.append(float(said == index))
            status: Status = "passed" if said == index else "reported" if self.least < 1 else "failed"
            yield Result(check=self.name, quantity="predicted", status=status, image=work.subject.names[i],
                         measured=model.label(said) or str(said), required=wanted)  # fmt: skip
        yield at_least(self.name, "share predicted as expected", sum(hits) / len(hits), self.least)

    def _expected(self, work: Work) -> dict[int, str]:
        if self.labels is None:
            return {i: s.folder_label for i, s in enumerate(work.samples) if s.folder_label is not None}
        file = work.folder / self.labels
        table = read_labels(file)
        return {i: label for i, s in enumerate(work.samples) if (label := _looked_up(table, s, file)) is not None}


def _looked_up(table: Mapping[str, str], sample: Sample, file: Path) -> str | None:
    path = sample.path.absolute()
    near = path.relative_to(file.parent.absolute()).as_posix() if path.is_relative_to(file.parent.absolute()) else ""
    return next((table[key] for key in (near, sample.path.as_posix(), sample.path.name) if key in table), None)


class Finite(Check, frozen=True):
    """Output and heatmap of every image are finite numbers."""

    name = "finite"

    def __call__(self, work: Work) -> Iterator[Result]:
        """One result an image and method; of the output alone where that is not finite."""
        subject = work.subject
        sound = subject.outputs().isfinite().flatten(1).all(1)
        for i in torch.nonzero(~sound).flatten().tolist():
            yield self._result(subject.names[i], None, "output", False)
        rows = torch.nonzero(sound).flatten()
        own = subject.rows(rows)
        for explainer in self.explainers(work) if len(rows) else ():
            fine = _finite_maps(own, explainer)
            for name, holds in zip(own.names, fine, strict=True):
                yield self._result(name, explainer.name, "heatmap", holds)

    def _result(self, image: str, method: str | None, quantity: str, holds: bool) -> Result:
        return Result(check=self.name, quantity=quantity, status="passed" if holds else "failed", image=image,
                      method=method, measured="finite" if holds else "not finite", required="finite")  # fmt: skip


def _finite_maps(subject: Any, explainer: Any) -> list[bool]:
    """Whether each heatmap is finite; one by one where `heatcli.explain` refuses the batch."""
    try:
        return [bool(x) for x in subject.heatmaps(explainer).isfinite().flatten(1).all(1)]
    except ModelError as error:
        if "not finite" not in str(error):
            raise
        if len(subject) == 1:
            return [False]
        return [_finite_maps(subject.rows(torch.tensor([i])), explainer)[0] for i in range(len(subject))]


class Ledger(Check, frozen=True):
    """The ledger of every conserving method balances."""

    name = "ledger"

    most: float = 1e-4

    def __call__(self, work: Work) -> Iterator[Result]:
        """The relative error of each image."""
        for explainer in self.explainers(work):
            if explainer.method is None or not explainer.method.conserves:
                yield self.skipped(f"{explainer.name} does not claim to conserve")
                continue
            for rows, found in work.subject.explained(explainer):
                for i, error in zip(rows.tolist(), found.ledger.relative_error.tolist(), strict=True):
                    yield at_most(self.name, "relative error", error, self.most, image=work.subject.names[i],
                                  method=explainer.name)  # fmt: skip


class BiasShare(Check, frozen=True):
    """How much of what is booked comes from biases rather than from the picture: whole, and layer by layer.

    share = Σ|bias total| / (|pixel total| + Σ|bias total|), summed over the biases of the network; a layer's own is one
    term of the sum. Measured without a baseline, against which biases would cancel.
    """

    name = "bias-share"

    methods: tuple[str, ...] = ("lrp-eps@none",)
    most: float | None = None
    most_layer: float | None = None

    def __call__(self, work: Work) -> Iterator[Result]:
        """Each image's whole share, and the mean share of each layer."""
        for explainer in self.explainers(work):
            layers: dict[str, list[Tensor]] = {}
            for rows, found in work.subject.explained(explainer):
                if not found.biases:
                    yield self.skipped(f"{work.subject.model.path} has no biases")
                    return
                whole, own = shares(found.biases, found.ledger.pixels)
                for i, share in zip(rows.tolist(), whole.tolist(), strict=True):
                    yield at_most(self.name, "share of the biases", share, self.most, image=work.subject.names[i],
                                  method=explainer.name)  # fmt: skip
                for name, value in own.items():
                    layers.setdefault(name, []).append(value)
            for name, values in layers.items():
                mean = float(torch.cat(values).mean())
                yield at_most(self.name, f"share of {name}", mean, self.most_layer, method=explainer.name)


def shares(biases: Mapping[str, Tensor], pixels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The share of all biases [N] and of each, 0..1, from biases [N, size] and the pixels' total [N]."""
    totals = {name: values.double().sum(1).abs() for name, values in biases.items()}
    every = pixels.double().abs() + torch.stack(list(totals.values())).sum(0)
    every = every.where(every > 0, 1)
    own = {name: value / every for name, value in totals.items()}
    return torch.stack(list(own.values())).sum(0), own
