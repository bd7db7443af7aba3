"""From an explanation to reports, one an image."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

import heatcli
from heatcli.artifact.model import Model
from heatcli.explanation import Explanation
from heatcli.report import schema

DIGITS = 9  # significant ones in the file: float32 has 7 to 8


def pixel_values(explanation: Explanation, i: int) -> NDArray[np.float64]:
    """Relevance of image `i` a pixel, summed over channels: float64 [H, W], [1, L] for a sequence."""
    own = explanation.relevance[i].detach().cpu()
    relevance = (own if own.dtype.itemsize > 2 else own.float()).numpy()  # whose sum starts no threads
    return np.atleast_2d(relevance.sum(0, dtype=np.float64))


def build(
    model: Model,
    explanation: Explanation,
    i: int,
    image: schema.ImagePart,
    files: schema.FilesPart,
    seconds: schema.SecondsPart,
    inline: bool,
) -> schema.Report:
    """The report on image `i` of the batch; `inline`: with every pixel's relevance in it."""
    pixels = pixel_values(explanation, i)
    values = rounded(pixels).tolist() if inline else msgspec.UNSET
    return schema.Report(
        schema=schema.NAME,
        version=heatcli.__version__,
        image=image,
        model=schema.ModelPart(
            path=str(model.path),
            sha256=model.sha256,
            format=model.format,
            input=msgspec.to_builtins(model.input),
            passes=[*model.artifact.rewrites, *model.passes],
        ),
        method=schema.MethodPart(name=explanation.method.name, parameters=explanation.method.parameters),
        baseline=schema.BaselinePart(name=explanation.reference.name, **explanation.reference.details),
        target=_target(model, explanation, i),
        ledger=_ledger(explanation, i),
        biases=_biases(explanation, i),
        pixels=schema.PixelsPart(shape=pixels.shape, values=values, file=files.pixels, **_sums(pixels)),
        files=files,
        seconds=seconds,
    )


def npz_bytes(explanation: Explanation, i: int) -> bytes:
    """An `.npz` with `relevance`, float32 [C, H, W], of image `i`."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, relevance=explanation.relevance[i].float().cpu().numpy())
    return buffer.getvalue()


def _target(model: Model, explanation: Explanation, i: int) -> schema.TargetPart:
    target, probability = explanation.target, explanation.probabilities[i]
    index = int(target.index[i])
    label, chance = model.label(index), float(probability[index])
    minus: int | msgspec.UnsetType = msgspec.UNSET
    if target.minus is not None:
        other = int(target.minus[i])
        minus, chance = other, chance - float(probability[other])
        label = f"{label or index}-{model.label(other) or other}"
    return schema.TargetPart(
        index=index, label=label, score=float(explanation.ledger.output[i]),
        probability=None if math.isnan(chance) else chance,
        quantity=explanation.quantity,  # type: ignore[arg-type]
 minus=minus,
    )  # fmt: skip


def _ledger(explanation: Explanation, i: int) -> schema.LedgerPart:
    ledger = explanation.ledger
    return schema.LedgerPart(**{name: float(getattr(ledger, name)[i]) for name in schema.LedgerPart.__struct_fields__})


def _biases(explanation: Explanation, i: int) -> list[schema.BiasPart]:
    parts = []
    for name, values in explanation.biases.items():
        own = values[i].double().cpu().numpy()
        operator = explanation.operators[name]
        parts.append(
            schema.BiasPart(name=name, operator=operator, size=own.size, values=rounded(own).tolist(), **_sums(own))
        )
    return parts


def _sums(values: NDArray[np.float64]) -> Mapping[str, Any]:
    return {
        "total": float(values.sum()),
        "positive": float(values[values > 0].sum()),
        "negative": float(values[values < 0].sum()),
    }


def rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """`values` to nine significant digits, to keep files small."""
    size = np.abs(values)
    scale = 10.0 ** (DIGITS - 1 - np.floor(np.log10(np.where(size == 0, 1, size))).clip(-280, 280))
    return np.rint(values * scale) / scale
