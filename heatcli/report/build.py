"""From an explanation to reports, one an image."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import heatcli
from heatcli.arrays import npz
from heatcli.artifact.model import Model
from heatcli.explanation import Explanation
from heatcli.report import schema
from heatcli.targets import PATH


class Reports:
    """The reports on the images of one explanation; what they have in common is made once."""

    def __init__(self, model: Model, explanation: Explanation) -> None:
        self.explanation, target = explanation, explanation.target
        self._model, self._labels = _model_part(model, explanation), model.label
        self._method = schema.MethodPart(name=explanation.method.name, parameters=explanation.method.parameters)
        self._baseline = schema.BaselinePart(name=explanation.reference.name, **explanation.reference.details)
        self._relevance, self._probabilities = _array(explanation.relevance), _array(explanation.probabilities)
        self._pixels = self._relevance.sum(1, dtype=np.float64)
        self._index = target.index.tolist()
        self._minus = None if target.minus is None else target.minus.tolist()
        columns = {name: getattr(explanation.ledger, name).tolist() for name in schema.LedgerPart.__struct_fields__}
        self._ledger = [
            schema.LedgerPart(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)
        ]
        self._sums = _sums(self._pixels.reshape(len(self._pixels), -1), np.zeros(1, np.intp))
        self._biases = _Biases(explanation) if explanation.biases else None

    @property
    def unverified(self) -> bool:
        """Whether the explained graph is known to be another function than the artifact."""
        found = self.explanation.verified
        return found is not None and not found.agrees

    def pixels(self, i: int) -> NDArray[np.float64]:
        """Relevance of image `i` a pixel, summed over channels: float64 [H, W], [1, L] for a sequence."""
        return np.atleast_2d(self._pixels[i])

    def npz(self, i: int) -> bytes:
        """An `.npz` with `relevance`, float32 [C, H, W], of image `i`."""
        return npz({"relevance": self._relevance[i].astype(np.float32, copy=False)})

    def report(
        self, i: int, image: schema.ImagePart, files: schema.FilesPart, seconds: schema.SecondsPart, inline: bool
    ) -> schema.Report:
        """The report on image `i` of the batch; `inline`: with every pixel's relevance in it."""
        pixels = self.pixels(i)
        values: Any = pixels.astype(self._relevance.dtype) if inline else msgspec.UNSET
        total, positive, negative = (part[i][0] for part in self._sums)
        return schema.Report(
            schema=schema.NAME,
            version=heatcli.__version__,
            image=image,
            model=self._model,
            method=self._method,
            baseline=self._baseline,
            target=self._target(i),
            ledger=self._ledger[i],
            biases=[] if self._biases is None else self._biases.parts(i),
            pixels=schema.PixelsPart(
                shape=pixels.shape, values=values, file=files.pixels, total=total, positive=positive, negative=negative
            ),
            files=files,
            seconds=seconds,
        )

    def _target(self, i: int) -> schema.TargetPart:
        probability, index = self._probabilities[i], self._index[i]
        label, chance = self._labels(index), float(probability[index])
        minus: int | msgspec.UnsetType = msgspec.UNSET
        if self._minus is not None:
            minus = other = self._minus[i]
            chance -= float(probability[other])
            label = f"{label or index}-{self._labels(other) or other}"
        target = self.explanation.target
        path = target.path is not None
        if path:
            label, chance = PATH, math.nan
        return schema.TargetPart(
            index=index, label=label, score=self._ledger[i].output,
            probability=None if math.isnan(chance) else chance,
            quantity=self.explanation.quantity,  # type: ignore[arg-type]
            minus=minus,
            path=path or msgspec.UNSET,
            nowhere=(target.nowhere is not None and bool(target.nowhere[i])) or msgspec.UNSET,
        )  # fmt: skip


def _model_part(model: Model, explanation: Explanation) -> schema.ModelPart:
    found, verified = explanation.verified, None
    if found is not None:
        error = found.error if math.isfinite(found.error) else None
        verified = schema.VerifiedPart(against=found.against, error=error, agrees=found.agrees)
    return schema.ModelPart(
        path=str(model.path),
        sha256=model.sha256,
        format=model.format,
        input=msgspec.to_builtins(model.input),
        passes=[*model.artifact.rewrites, *model.passes],
        verified=verified,
    )


class _Biases:
    """Every bias of a batch, side by side: most networks have many small ones."""

    def __init__(self, explanation: Explanation) -> None:
        self._named = [(name, explanation.operators[name]) for name in explanation.biases]
        own = [values.reshape(len(values), -1) for values in explanation.biases.values()]
        self._values = _array(torch.cat(own, 1))
        ends = np.cumsum([values.shape[1] for values in own])
        starts = np.concatenate([[0], ends[:-1]])
        self._spans = list(zip(starts.tolist(), ends.tolist(), strict=True))
        self._sums = _sums(self._values.astype(np.float64), starts)

    def parts(self, i: int) -> list[schema.BiasPart]:
        """Those of image `i`."""
        values: Any = self._values[i]
        return [
            schema.BiasPart(
                name=name, operator=operator, size=end - start, values=values[start:end],
                total=total, positive=positive, negative=negative,
            )
            for (name, operator), (start, end), total, positive, negative in zip(
                self._named, self._spans, *(part[i] for part in self._sums), strict=True
            )
        ]  # fmt: skip


def _array(values: Tensor) -> NDArray[Any]:
    """As numpy has it, whose sums start no threads: half precision as float32."""
    own = values.detach().cpu()
    return (own if own.dtype.itemsize > 2 else own.float()).numpy()


def _sums(values: NDArray[np.float64], starts: NDArray[np.intp]) -> list[list[list[float]]]:
    """Total, positive and negative sum of each image of [N, size], of each stretch that starts there."""
    parts = (values, np.maximum(values, 0), np.minimum(values, 0))
    return [np.add.reduceat(part, starts, axis=1).tolist() for part in parts]
