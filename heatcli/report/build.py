"""The reports of an explanation, one per image."""

from __future__ import annotations

import math
from pathlib import PurePath
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heatcli.artifact.layout import PICTURE, SIGNAL, TABLE, TOKENS, VOLUME
from heatcli.explanation import Explanation
from heatcli.graph.heads import COORDINATES
from heatcli.images.overlay import Scale
from heatcli.images.preprocess import Fit, seen_box
from heatcli.methods.composite import written
from heatcli.methods.targets import PATH
from heatcli.model.model import Model
from heatcli.report import schema
from heatcli.system.compress import npy, npz
from heatcli.version import __version__

STRONGEST = 10  # the number of channels of a layer in a report
ALL, TOTALS, NONE = BIASES = ("all", "totals", "none")


class Reports:
    """The reports on the images of an explanation. The parts that all images share are made once."""

    def __init__(self, model: Model, explanation: Explanation) -> None:
        self.explanation, target = explanation, explanation.target
        self._model, self._labels = _model_part(model, explanation), model.label
        self._unit = model.settings.output.unit
        self._named, self._others = model.settings.inputs, model.capture.others
        method = explanation.method
        table = {key: written(rule) for key, rule in method.rules.items()} if method.changed else msgspec.UNSET
        self._method = schema.MethodPart(
            name=method.name, parameters=method.parameters, rules=table, divides=method.divides
        )
        self._baseline = schema.BaselinePart(name=explanation.reference.name, **explanation.reference.details)
        self._relevance, self._probabilities = _array(explanation.relevance), _array(explanation.probabilities)
        self._pixels = self._relevance.sum(1, dtype=np.float64)
        layout = model.pictures.layout_of(explanation.relevance)
        if layout.kind != PICTURE and not model.pictures.alphabet:
            self._relevance = _array(layout.first(explanation.relevance).contiguous())
            whole = layout.kind in (SIGNAL, TABLE, TOKENS)
            self._pixels = self._relevance.astype(np.float64) if whole else self._relevance.sum(1, dtype=np.float64)
        self._banded = layout.kind == PICTURE
        self._channels: tuple[Any, ...] = model.input.names or ()
        self._index = target.index.tolist()
        self._minus = None if target.minus is None else target.minus.tolist()
        columns = {name: getattr(explanation.ledger, name).tolist() for name in schema.LedgerPart.__struct_fields__}
        self._ledger = [
            schema.LedgerPart(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)
        ]
        concept = explanation.concept
        self._scores = (explanation.ledger.output if concept is None else concept.score).tolist()
        self._sums = _sums(self._pixels.reshape(len(self._pixels), -1), np.zeros(1, np.intp))
        self._biases = _Biases(explanation) if explanation.biases else None
        self.pair = None if explanation.pair is None else Reports(model, explanation.pair)

    def pixels(self, i: int) -> NDArray[np.float64]:
        """The relevance of each pixel of image `i`, summed over channels: float64 [H, W]; [1, L] for a sequence.

        For other inputs the shape is that of `heatcli.report.schema.PixelsPart`.
        """
        return np.atleast_2d(self._pixels[i])

    def array(self, i: int, suffix: str = ".npz") -> bytes:
        """The relevance of image `i`, float32 [C, H, W], as an `.npy` file, or as `relevance` in an `.npz`."""
        relevance = self._relevance[i].astype(np.float32, copy=False)
        return npy(relevance) if suffix == ".npy" else npz({"relevance": relevance})

    def report(
        self, i: int, image: schema.ImagePart, files: schema.FilesPart, seconds: schema.SecondsPart, inline: bool,
        biases: str = ALL, other: schema.ImagePart | None = None,
    ) -> schema.Report:  # fmt: skip
        """The report on image `i` of the batch.

        `inline`: whether the report holds the relevance of every pixel. `biases`: `all` for every element of every
        bias, `totals` for the sums of each bias, `none` to leave them out. `other`: the other picture of a
        pair.
        """
        return schema.Report(
            schema=schema.NAME,
            version=__version__,
            image=image,
            model=self._model,
            method=self._method,
            baseline=self._baseline,
            target=self._target(i, image, other),
            ledger=self._ledger[i],
            biases=self._bias_parts(i, biases),
            pixels=self._pixels_part(i, inline, files.pixels),
            files=files,
            seconds=seconds,
            concept=self._concept(i),
            pair=self._pair(i, other, files, inline, biases),
            inputs=self._inputs(i),
        )

    def _inputs(self, i: int) -> list[schema.InputPart] | msgspec.UnsetType:
        """The values of inputs that the sidecar names, and their relevance."""
        found = []
        for name, named in self._named.items():
            relevance = self.explanation.biases.get(name)
            values = self._others[name].reshape(len(self._others[name]), -1)
            if relevance is not None:
                row = values[i if len(values) > 1 else 0].tolist(), relevance[i].tolist()
                names = named.names or tuple(str(number) for number in range(len(row[0])))
                parts = [schema.ValuePart(name=n, value=v, relevance=r) for n, v, r in zip(names, *row, strict=True)]
                found.append(schema.InputPart(name=name, values=parts))
        return found or msgspec.UNSET

    def _bias_parts(self, i: int, biases: str) -> list[schema.BiasPart]:
        """The parts on the biases; [] for `none`."""
        return [] if self._biases is None or biases == NONE else self._biases.parts(i, biases == ALL)

    def _pixels_part(self, i: int, inline: bool, file: str | msgspec.UnsetType) -> schema.PixelsPart:
        """The part on the pixels. `inline`: with the relevance of each. `file`: the name of their file."""
        pixels = self.pixels(i)
        values: Any = pixels.astype(self._relevance.dtype) if inline else msgspec.UNSET
        total, positive, negative = (part[i][0] for part in self._sums)
        return schema.PixelsPart(
            shape=pixels.shape, values=values, file=file, total=total, positive=positive, negative=negative,
            bands=self._bands(i),
        )  # fmt: skip

    def _bands(self, i: int) -> list[schema.BandPart] | msgspec.UnsetType:
        """What each band of a picture with other channels than one or three gave, the largest first."""
        relevance = self._relevance[i]
        if not self._banded or len(relevance) in (1, 3):
            return msgspec.UNSET
        names = self._channels if len(self._channels) == len(relevance) else (msgspec.UNSET,) * len(relevance)
        sums = _sums(relevance.reshape(1, -1).astype(np.float64), np.arange(len(relevance)) * relevance[0].size)
        found = [
            schema.BandPart(band=band + 1, name=names[band], total=total, positive=positive, negative=negative)
            for band, (total, positive, negative) in enumerate(zip(*(part[0] for part in sums), strict=True))
        ]
        return sorted(found, key=lambda one: -abs(one.total))

    def _pair(
        self, i: int, other: schema.ImagePart | None, files: schema.FilesPart, inline: bool, biases: str
    ) -> schema.PairPart | msgspec.UnsetType:
        """The part on the other picture of a pair, if there is one."""
        if self.pair is None or other is None:
            return msgspec.UNSET
        own = self.pair.explanation.ledger is not self.explanation.ledger
        return schema.PairPart(
            image=other, pixels=self.pair._pixels_part(i, inline, files.pair_pixels),
            ledger=self.pair._ledger[i] if own else msgspec.UNSET,
            biases=self.pair._bias_parts(i, biases) if own else msgspec.UNSET,
        )  # fmt: skip

    def _concept(self, i: int) -> schema.ConceptPart | msgspec.UnsetType:
        """The part on the channels of a concept, if the map is restricted to one."""
        found = self.explanation.concept
        if found is None:
            return msgspec.UNSET
        shares, names = found.relevance[i].tolist(), found.names.get
        order = sorted(range(len(shares)), key=lambda c: -abs(shares[c]))[:STRONGEST]
        return schema.ConceptPart(
            layer=found.layer, channels=list(found.chosen), layer_relevance=sum(shares),
            strongest=[schema.ChannelPart(channel=c, relevance=shares[c], name=names(c, msgspec.UNSET)) for c in order],
        )  # fmt: skip

    def _target(self, i: int, image: schema.ImagePart, pair: schema.ImagePart | None) -> schema.TargetPart:
        """The part on the explained score."""
        probability, index = self._probabilities[i], self._index[i]
        label, chance = self._labels(index), float(probability[index])
        minus: int | msgspec.UnsetType = msgspec.UNSET
        if self._minus is not None:
            minus = other = self._minus[i]
            chance -= float(probability[other])
            label = f"{label or index}-{self._labels(other) or other}"
        target = self.explanation.target
        if target.box is not None and target.label_of is not None:
            label, chance = self._of_box(i, int(target.box[i]), int(target.label_of[i]))
        path = target.path is not None
        if path:
            label, chance = PATH, math.nan
        if target.weights is not None:
            label, chance = "a pair" if pair is None else f"with {PurePath(pair.path).name}", math.nan
        return schema.TargetPart(
            index=index, label=label, score=self._scores[i],
            probability=None if math.isnan(chance) else chance,
            quantity=self.explanation.quantity,  # type: ignore[arg-type]
            minus=minus,
            path=path or msgspec.UNSET,
            unit=self._unit or msgspec.UNSET,
            box=msgspec.UNSET if target.box is None else int(target.box[i]),
            boxes=self._boxes(i, image),
            nowhere=(target.nowhere is not None and bool(target.nowhere[i])) or msgspec.UNSET,
        )  # fmt: skip

    def _of_box(self, i: int, number: int, of: int) -> tuple[str, float]:
        """The name of an explained box, and its probability: that of its class; NaN if a coordinate is explained."""
        name, index, boxes = self._labels(of) or f"class {of}", self._index[i], self.explanation.boxes
        if index == of or boxes is None:
            return name, float(self._probabilities[i, index])
        coordinate = COORDINATES[boxes.form][index - self._probabilities.shape[1]]
        return f"{coordinate} of box {number} ({name})", math.nan

    def _boxes(self, i: int, image: schema.ImagePart) -> list[schema.BoxPart] | msgspec.UnsetType:
        """The explained boxes, in the picture's pixels."""
        target = self.explanation.target
        if target.corners is None:
            return msgspec.UNSET
        left, top, right, bottom = image.seen if isinstance(image.seen, tuple) else (0, 0, image.width, image.height)
        height, width = self._relevance.shape[-2:]
        corners = target.corners[i][target.region[i]].double().cpu().numpy()
        x, y = (right - left) / width, (bottom - top) / height
        pixels = corners * [x, y, x, y] + [left, top, left, top]
        return [schema.BoxPart(left=a, top=b, right=c, bottom=d) for a, b, c, d in pixels.tolist()]


def image_part(model: Model, path: str, sha256: str, size: tuple[int, ...]) -> schema.ImagePart:
    """The report's part on the image. `size`: (width, height), (width, height, depth) of a volume, or (length,)."""
    fit = model.pictures.fit
    if isinstance(fit, Fit):
        return schema.ImagePart(path=path, sha256=sha256, width=size[0], height=size[1], seen=seen_box(size, fit))
    width, height, depth = (*size, 1, 1)[:3]
    kind: Any = model.pictures.layout.kind
    return schema.ImagePart(
        path=path, sha256=sha256, width=width, height=height, kind=kind,
        depth=depth if kind == VOLUME else msgspec.UNSET,
    )  # fmt: skip


def figure_part(kind: str, scale: Scale, bands: tuple[int, ...] = ()) -> schema.FigurePart:
    """The report's part on the figure: its kind, its colour scale, and the bands that it shows."""
    shown = bands or msgspec.UNSET
    return schema.FigurePart(kind=kind, full=scale.full, cut=scale.cut, by=scale.by, clip=scale.clip, bands=shown)


def _model_part(model: Model, explanation: Explanation) -> schema.ModelPart:
    """The part on the model."""
    found, verified = explanation.verified, None
    if found is not None:
        error = found.error if math.isfinite(found.error) else None
        verified = schema.VerifiedPart(against=found.against, error=error, agrees=found.agrees)
    return schema.ModelPart(
        path=model.path.name,
        sha256=model.sha256,
        format=model.format,
        input=msgspec.to_builtins(model.input),
        passes=[*model.artifact.rewrites, *model.capture.passes],
        verified=verified,
    )


class _Biases:
    """All biases of a batch in one array, because most networks have many small ones."""

    def __init__(self, explanation: Explanation) -> None:
        self._named = [(name, explanation.operators[name]) for name in explanation.biases]
        own = [values.reshape(len(values), -1) for values in explanation.biases.values()]
        self._values = _array(torch.cat(own, 1))
        ends = np.cumsum([values.shape[1] for values in own])
        starts = np.concatenate([[0], ends[:-1]])
        self._spans = list(zip(starts.tolist(), ends.tolist(), strict=True))
        self._sums = _sums(self._values.astype(np.float64), starts)

    def parts(self, i: int, each: bool) -> list[schema.BiasPart]:
        """The biases of image `i`; with `each`, the values of their elements."""
        values: Any = self._values[i]
        return [
            schema.BiasPart(
                name=name, operator=operator, size=end - start, values=values[start:end] if each else msgspec.UNSET,
                total=total, positive=positive, negative=negative,
            )
            for (name, operator), (start, end), total, positive, negative in zip(
                self._named, self._spans, *(part[i] for part in self._sums), strict=True
            )
        ]  # fmt: skip


def _array(values: Tensor) -> NDArray[Any]:
    """A tensor as a numpy array, half precision as float32. Sums in numpy do not start threads, unlike torch's."""
    own = values.detach().cpu()
    return (own if own.dtype.itemsize > 2 else own.float()).numpy()


def _sums(values: NDArray[np.float64], starts: NDArray[np.intp]) -> list[list[list[float]]]:
    """The total, positive and negative sums of each image of [N, size], over the spans that begin at `starts`."""
    parts = (values, np.maximum(values, 0), np.minimum(values, 0))
    return [np.add.reduceat(part, starts, axis=1).tolist() for part in parts]
