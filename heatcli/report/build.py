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
    return npz({"relevance": explanation.relevance[i].float().cpu().numpy()})


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
    """Every bias of image `i`; all of them rounded at once, since most networks have many small ones."""
    if not explanation.biases:
        return []
    own = [values[i].reshape(-1) for values in explanation.biases.values()]
    whole = torch.cat(own).double().cpu().numpy()
    ends = np.cumsum([len(values) for values in own])
    starts, values = ends - [len(values) for values in own], rounded(whole).tolist()
    sums = (np.add.reduceat(part, starts).tolist() for part in (whole, np.maximum(whole, 0), np.minimum(whole, 0)))
    return [
        schema.BiasPart(
            name=name, operator=explanation.operators[name], size=end - start, values=values[start:end],
            total=total, positive=positive, negative=negative,
        )
        for name, start, end, total, positive, negative in zip(
            explanation.biases, starts.tolist(), ends.tolist(), *sums, strict=True
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
