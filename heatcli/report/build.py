"""From an explanation to reports, one an image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

import heatcli
from heatcli.arrays import npz
from heatcli.artifact.model import Model
from heatcli.explanation import Explanation
from heatcli.report import schema

DIGITS = 9  # significant ones in the file: float32 has 7 to 8
_LARGEST = 288  # beyond it, a value times its power would overflow
_POWERS = 10.0 ** np.arange(-_LARGEST, _LARGEST + 1)


class Reports:
    """The reports on the images of one explanation; what they have in common is made once."""

    def __init__(self, model: Model, explanation: Explanation) -> None:
        self.explanation, target = explanation, explanation.target
        self._model, self._labels = _model_part(model), model.label
        self._method = schema.MethodPart(name=explanation.method.name, parameters=explanation.method.parameters)
        self._baseline = schema.BaselinePart(name=explanation.reference.name, **explanation.reference.details)
        own = explanation.relevance.detach().cpu()
        self._relevance = (own if own.dtype.itemsize > 2 else own.float()).numpy()  # whose sums start no threads
        self._index = target.index.tolist()
        self._minus = None if target.minus is None else target.minus.tolist()
        columns = {name: getattr(explanation.ledger, name).tolist() for name in schema.LedgerPart.__struct_fields__}
        self._ledger = [
            schema.LedgerPart(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)
        ]
        self._biases = _Biases(explanation) if explanation.biases else None

    def pixels(self, i: int) -> NDArray[np.float64]:
        """Relevance of image `i` a pixel, summed over channels: float64 [H, W], [1, L] for a sequence."""
        return np.atleast_2d(self._relevance[i].sum(0, dtype=np.float64))

    def npz(self, i: int) -> bytes:
        """An `.npz` with `relevance`, float32 [C, H, W], of image `i`."""
        return npz({"relevance": self._relevance[i].astype(np.float32, copy=False)})

    def report(
        self, i: int, image: schema.ImagePart, files: schema.FilesPart, seconds: schema.SecondsPart, inline: bool
    ) -> schema.Report:
        """The report on image `i` of the batch; `inline`: with every pixel's relevance in it."""
        pixels = self.pixels(i)
        values = rounded(pixels).tolist() if inline else msgspec.UNSET
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
            pixels=schema.PixelsPart(shape=pixels.shape, values=values, file=files.pixels, **_sums(pixels)),
            files=files,
            seconds=seconds,
        )

    def _target(self, i: int) -> schema.TargetPart:
        probability, index = self.explanation.probabilities[i], self._index[i]
        label, chance = self._labels(index), float(probability[index])
        minus: int | msgspec.UnsetType = msgspec.UNSET
        if self._minus is not None:
            minus = other = self._minus[i]
            chance -= float(probability[other])
            label = f"{label or index}-{self._labels(other) or other}"
        return schema.TargetPart(
            index=index, label=label, score=float(self.explanation.ledger.output[i]),
            probability=None if math.isnan(chance) else chance,
            quantity=self.explanation.quantity,  # type: ignore[arg-type]
            minus=minus,
        )  # fmt: skip


def _model_part(model: Model) -> schema.ModelPart:
    return schema.ModelPart(
        path=str(model.path),
        sha256=model.sha256,
        format=model.format,
        input=msgspec.to_builtins(model.input),
        passes=[*model.artifact.rewrites, *model.passes],
    )


class _Biases:
    """Every bias of a batch, side by side: most networks have many small ones."""

    def __init__(self, explanation: Explanation) -> None:
        self._named = [(name, explanation.operators[name]) for name in explanation.biases]
        own = [values.reshape(len(values), -1) for values in explanation.biases.values()]
        self._whole = torch.cat(own, 1).double().cpu().numpy()
        ends = np.cumsum([values.shape[1] for values in own])
        self._starts = np.concatenate([[0], ends[:-1]])
        self._spans = list(zip(self._starts.tolist(), ends.tolist(), strict=True))

    def parts(self, i: int) -> list[schema.BiasPart]:
        """Those of image `i`."""
        whole, starts = self._whole[i], self._starts
        values = rounded(whole).tolist()
        sums = (np.add.reduceat(part, starts).tolist() for part in (whole, np.maximum(whole, 0), np.minimum(whole, 0)))
        return [
            schema.BiasPart(
                name=name, operator=operator, size=end - start, values=values[start:end],
                total=total, positive=positive, negative=negative,
            )
            for (name, operator), (start, end), total, positive, negative in zip(
                self._named, self._spans, *sums, strict=True
            )
        ]  # fmt: skip


def _sums(values: NDArray[np.float64]) -> Mapping[str, Any]:
    positive, negative = np.maximum(values, 0).sum(), np.minimum(values, 0).sum()
    return {"total": float(values.sum()), "positive": float(positive), "negative": float(negative)}


def rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """`values` to nine significant digits, to keep files small."""
    scale = np.abs(values)
    scale[scale == 0] = 1
    np.log10(scale, out=scale)
    np.floor(scale, out=scale)
    scale = _POWERS.take((_LARGEST + DIGITS - 1 - scale).astype(np.intp), mode="clip")
    result = values * scale
    np.rint(result, out=result)
    result /= scale
    return result
