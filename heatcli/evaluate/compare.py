"""Comparison of two artifacts, or two methods, on the same images: outputs, heatmaps and biases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor
from torch.nn import functional

from heatcli.errors import UsageError
from heatcli.evaluate.explainer import Explainer
from heatcli.evaluate.similarity import correlation, rank_correlation, ssim
from heatcli.evaluate.subject import NoBoxError, Subject, subject
from heatcli.evaluate.subjects import alike
from heatcli.images.dataset import Sample
from heatcli.methods.detections import at_same_boxes
from heatcli.methods.perturbation import SMOOTH
from heatcli.methods.targets import Target
from heatcli.model.model import Model
from heatcli.version import __version__

NAME: Literal["heatcli.comparison/1"] = "heatcli.comparison/1"


@dataclass(frozen=True, eq=False)
class Side:
    """A model and the method that explains it."""

    model: Model
    explainer: Explainer

    @property
    def title(self) -> str:
        """The model's path and the method's name."""
        return f"{self.model.path} [{self.explainer.name}]"


class Both(msgspec.Struct, frozen=True):
    """The same quantity on both sides; None if a side does not have it."""

    a: float | None
    b: float | None


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """An image on both sides. Both explain the class that A predicts, or the target.

    `output_difference`: the largest |a − b| of the class scores, over A's largest |score|. `heatmap_difference`: the
    same of the pixels. `biases`: name → total relevance on both sides. `ok`: whether no bound is exceeded.
    """

    image: str
    label_a: str
    label_b: str
    score: Both
    output_difference: float
    heatmap_difference: float
    rank_correlation: float
    correlation: float
    ssim: float
    pixels: Both
    biases: dict[str, Both]
    ok: bool


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a comparison. `pairs`: the worst first. `biases`: the mean totals over the images.

    `without`: images that were left out because they have no such box, name → why.
    """

    schema: Literal["heatcli.comparison/1"] = NAME
    version: str
    a: str
    b: str
    most_difference: float | None
    least_correlation: float | None
    pairs: list[Pair]
    biases: dict[str, Both]
    without: dict[str, str] = {}


def compare(
    a: Side, b: Side, samples: Sequence[Sample], target: str | None = None,
    most_difference: float | None = None, least_correlation: float | None = None, batch_size: int | None = None,
) -> Comparison:  # fmt: skip
    """Compare the outputs and the heatmaps of both sides on the samples.

    A pair is not ok if the difference of outputs or of heatmaps exceeds `most_difference`, or the rank correlation of
    the heatmaps is below `least_correlation`; None sets no bound. `target`: as `heatcli.explain` takes it. Raises
    `UsageError` if the classes or positions of the two models do not correspond, `ModelError`.
    """
    kinds = [side.model.pictures.layout for side in (a, b)]
    if kinds[0].kind != kinds[1].kind:
        raise UsageError(
            f"{a.model.path} takes {kinds[0].one}, {b.model.path} {kinds[1].one}; if that is wrong, "
            "say what the axes are with --axes"
        )
    groups = alike(samples, a.model, b.model)
    if not groups:
        raise UsageError("no image is left to work on")
    bounds = most_difference, least_correlation
    pairs, without = list[Pair](), dict[str, str]()
    for some in ([samples[i] for i in group] for group in groups):
        try:
            left = subject(a.model, some, target, batch_size)
        except NoBoxError as error:
            without.update(error.without)
            continue
        without.update(left.without)
        pairs += _compared(a, b, left, some, target, bounds)
    if not pairs:
        raise NoBoxError(a.model.thresholds.confidence, without)
    pairs.sort(key=lambda p: (p.ok, p.label_a == p.label_b, -max(p.output_difference, p.heatmap_difference)))
    names = dict.fromkeys(name for pair in pairs for name in pair.biases)
    mean = {name: _mean([pair.biases[name] for pair in pairs if name in pair.biases]) for name in names}
    return Comparison(
        version=__version__, a=a.title, b=b.title, most_difference=most_difference,
        least_correlation=least_correlation, pairs=pairs, biases=mean, without=without,
    )  # fmt: skip


def _compared(
    a: Side, b: Side, left: Subject, samples: Sequence[Sample], target: str | None,
    bounds: tuple[float | None, float | None],
) -> Iterator[Pair]:  # fmt: skip
    """Pairs of samples that have one size as input of both models, in their order. `left`: the subject of `a`."""
    first = b.model.pictures.fitted([samples[0].pixels])
    classes = _same_classes(a.model, b.model, left.outputs().shape[1], b.model.graph(first.shape).output_shape)
    samples, boxed = [samples[i] for i in left.numbers], left.target.corners is not None
    right = subject(b.model, samples, None if boxed else classes[left.target.index], left.batch_size)
    known = left.target
    if boxed and any(own.graph.chosen_on is not None for own in (left, right)):  # boxes without an order in common
        known = _at_same_boxes(left, right)
    if boxed or left.target.path is not None or (target is not None and "@" in target):
        right = right.with_target(_same_positions(known, classes, right.target))
    elif left.target.minus is not None:
        right = right.with_target(f"{int(classes[left.target.index[0]])}-{int(classes[left.target.minus[0]])}")
    out_a, out_b = left.outputs().sum(2).double(), right.outputs().sum(2).double()[:, classes]
    says_a, says_b = left.predicted(), out_b.argmax(1)
    if boxed:
        says_b = (right.predicted()[:, None] == classes).int().argmax(1)
    maps_a, books_a = _explained(left, a.explainer)
    maps_b, books_b = _explained(right, b.explainer)
    maps_b = _at_size(maps_b, maps_a)
    columns = {
        "output_difference": _relative_difference(out_a, out_b),
        "heatmap_difference": _relative_difference(maps_a, maps_b),
        "rank_correlation": rank_correlation(maps_a, maps_b),
        "correlation": correlation(maps_a, maps_b),
        "ssim": ssim(maps_a, maps_b),
    }
    scores, pixels = (left.scores(), right.scores()), (maps_a.flatten(1).sum(1), maps_b.flatten(1).sum(1))
    books_b = _paired(books_a, books_b)
    names = list(dict.fromkeys([*books_a, *books_b]))
    for i, image in enumerate(left.names):
        row = {name: float(values[i]) for name, values in columns.items()}
        yield Pair(
            image=image,
            label_a=a.model.called(int(says_a[i])),
            label_b=a.model.called(int(says_b[i])),
            score=_both(scores[0][i], scores[1][i]),
            pixels=_both(pixels[0][i], pixels[1][i]),
            biases={name: _totals(books_a, books_b, name, i) for name in names},
            ok=_within_bounds(row, *bounds),
            **row,
        )


def _same_classes(a: Model, b: Model, count: int, outputs_b: Sequence[int]) -> Tensor:
    """For each class of A its index in B, int64 [classes]: by label if both models have labels, else the same index.

    `count`: of A's classes. `outputs_b`: the shape of B's output. Raises `UsageError`.
    """
    if a.labels and b.labels and a.labels != b.labels:
        missing = [label for label in a.labels if label not in b.labels]
        if missing:
            raise UsageError(f"{b.path}: has no class {missing[0]!r}, which {a.path} has")
        return torch.tensor([*(b.labels.index(label) for label in a.labels), *range(len(a.labels), count)])
    if len(outputs_b) > 1 and outputs_b[1] != count:
        raise UsageError(f"{a.path} has {count} classes, {b.path} has {outputs_b[1]}; they cannot be compared")
    return torch.arange(count)


def _at_same_boxes(left: Subject, right: Subject) -> Target:
    """A's target at the boxes of B in the same places. Raises `UsageError`."""
    boxes, others = left.graph.boxes, right.graph.boxes
    if boxes is None or others is None:
        return left.target
    return at_same_boxes(left.target, boxes, right.outputs(), others)


def _same_positions(target: Target, classes: Tensor, other: Target) -> Target:
    """A's target with the class indices of B. Raises `UsageError` if the outputs have different positions."""
    if target.region.shape != other.region.shape:
        counts = " and ".join(str(t.region.shape[1]) for t in (target, other))
        raise UsageError(f"the two outputs have {counts} positions, so a target at positions cannot be compared")
    minus, path, label = (
        None if value is None else classes[value] for value in (target.minus, target.path, target.label_of)
    )
    return replace(target, index=classes[target.index], minus=minus, path=path, label_of=label)


def _explained(own: Subject, explainer: Explainer) -> tuple[Tensor, dict[str, Tensor]]:
    """Heatmaps [N, H, W], or [N, positions …], and the total relevance of each bias, float64 [N]."""
    maps, books = [], []
    for _, found in own.explained(explainer):
        maps.append(own.summed(found.relevance))
        books.append({name: values.double().sum(1) for name, values in found.biases.items()})
    return torch.cat(maps), {name: torch.cat([book[name] for book in books]) for name in books[0]}


def _paired(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Tensor]:
    """B's biases under A's names. Biases with different names are matched by their order.

    The names differ between formats (`onnx::Conv_194`, `bn1.bias`), the order does not. Names that both sides have
    divide the biases into sections; within a section of equal length on both sides, the biases match in order. In other
    sections B's biases keep their names.
    """
    shared = [name for name in a if name in b]
    if shared != [name for name in b if name in a]:
        return b
    own, other = _between(list(a), shared), _between(list(b), shared)
    renamed = {
        y: x for xs, ys in zip(own, other, strict=True) if len(xs) == len(ys) for x, y in zip(xs, ys, strict=True)
    }
    return {renamed.get(name, name): total for name, total in b.items()}


def _between(names: list[str], common: list[str]) -> list[list[str]]:
    """The names before, between and after the `common` ones: a list per section."""
    found: list[list[str]] = [[]]
    for name in names:
        if name in common:
            found.append([])
        else:
            found[-1].append(name)
    return found


def _at_size(maps: Tensor, like: Tensor) -> Tensor:
    """Heatmaps [N, h, w] resized to those of `like` [N, H, W]; the totals stay. Of volumes with three sides."""
    if maps.shape == like.shape:
        return maps
    how: dict[str, Any] = {"mode": SMOOTH[maps.dim() - 1], **({"antialias": True} if maps.dim() == 3 else {})}
    scaled = functional.interpolate(maps[:, None], like.shape[1:], **how)[:, 0]
    return scaled * (maps[0].numel() / like[0].numel())


def _relative_difference(a: Tensor, b: Tensor) -> Tensor:
    """The largest difference of each row of [N, …], over the largest |a|: float64 [N]."""
    a, b = a.flatten(1).double(), b.flatten(1).double()
    scale = a.abs().amax(1)
    return (a - b).abs().amax(1) / scale.where(scale > 0, 1)


def _within_bounds(row: dict[str, float], most: float | None, least: float | None) -> bool:
    near = most is None or max(row["output_difference"], row["heatmap_difference"]) <= most
    return near and (least is None or row["rank_correlation"] >= least)


def _both(a: Tensor, b: Tensor) -> Both:
    return Both(float(a), float(b))


def _totals(a: dict[str, Tensor], b: dict[str, Tensor], name: str, i: int) -> Both:
    return Both(*(None if (total := book.get(name)) is None else float(total[i]) for book in (a, b)))


def _mean(each: Sequence[Both]) -> Both:
    """The mean on each side, over what has it."""
    sides = ([value for value in side if value is not None] for side in zip(*((o.a, o.b) for o in each), strict=True))
    return Both(*(fmean(side) if side else None for side in sides))
