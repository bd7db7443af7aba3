"""Which score is explained: `top`, a class index, a label, the difference `A-B` of two, or a box of a detector.

A *score* is one number an image, a weighted sum of the output [N, rows, positions] that `Target.seed` selects. What a
head needs besides, such as logits, products or boxes joined with scores, are operators of the graph
(`heatcli.graph.heads`, `heatcli.graph.outputs`), so that methods, ledger and checks see one output.

Outputs have shape [N, classes, positions], and a classifier has one position. With several positions (segmentation,
time steps), the class's scores are summed over a region: the given region, position T of `A@T`, or the positions where
the class wins, of several labels with a sigmoid each where the label is present. `path` sums the best score of each
position, of any class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from heatcli.errors import UsageError, unknown_name

TOP, PATH = "top", "path"


@dataclass(frozen=True, eq=False)
class Target:
    """For each image the explained class, the class subtracted from it (or None), both int64 [N], and the region.

    `region` [N, positions] is 1 at the positions to sum over, else 0. `path` int64 [N, positions]: the class of each
    position, if not `index` everywhere. `nowhere` bool [N]: the class wins at no position, so the region is the
    position of its highest score.
    Of a detector: `box` int64 [N], the number of the box; `label_of` int64 [N], its class, which `index` is not where a
    coordinate is explained; `corners` [N, positions, 4], every box in the input's pixels.
    `weights` [N, classes, positions]: the score is this weighted sum of the whole output, whatever the rest says, such
    as the similarity with another embedding (`heatcli.methods.pairs`).
    """

    index: Tensor
    minus: Tensor | None
    region: Tensor
    path: Tensor | None = None
    nowhere: Tensor | None = None
    box: Tensor | None = None
    label_of: Tensor | None = None
    corners: Tensor | None = None
    weights: Tensor | None = None

    def rows(self, index: Tensor) -> Target:
        """The targets of the images `index`, int64 [M], repeated as often as an image is named."""
        return replace(self, **{name: value[index] for name, value in self._tensors.items()})

    @property
    def _tensors(self) -> dict[str, Tensor]:
        """The fields that are set."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @staticmethod
    def joined(parts: Sequence[tuple[Target, int]]) -> Target:
        """The concatenated targets of the first images of each part; a part is (target, number of images)."""
        targets, counts = zip(*parts, strict=True)
        names = targets[0]._tensors
        found: Target = replace(
            targets[0], **{name: joined([getattr(t, name) for t in targets], counts) for name in names}
        )
        return found

    def seed(self, output: Tensor) -> Tensor:
        """The multiplier of the output [N, classes, positions] that selects the score."""
        n, _, positions = output.shape
        if self.weights is not None:
            return self.weights.to(output)
        region = self.region.to(output)[:, None]
        index = self.index[:, None].expand(n, positions) if self.path is None else self.path
        seed = torch.where(_one_hot(index, output.shape[1]).movedim(-1, 1), region, 0)
        if self.minus is None:
            return seed
        return seed - torch.where(_one_hot(self.minus, output.shape[1])[:, :, None], region, 0)


def _one_hot(index: Tensor, count: int) -> Tensor:
    """The one-hot of each index [N, …], bool [N, …, count], without reading the values of the indices."""
    return index[..., None] == torch.arange(count, device=index.device)


@dataclass(frozen=True, eq=False)
class Contrast:
    """For each image the difference of two classes' scores, `index` less `minus`, both int64 [N]."""

    index: Tensor
    minus: Tensor

    def rows(self, index: Tensor) -> Contrast:
        """Those of some of the images, int64 [M]."""
        return Contrast(self.index[index.to(self.index.device)], self.minus[index.to(self.minus.device)])


def joined(values: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """The first `counts` rows of each value [n, …], concatenated."""
    return torch.cat([value[:n] for value, n in zip(values, counts, strict=True)])


def choose(
    target: str | int | Sequence[int] | Tensor | Target | Contrast | None,
    output: Tensor,
    labels: Sequence[str],
    region: Tensor | None = None,
    present: float | None = None,
) -> Target:
    """The target that `target` names for an output [N, classes, positions]. Raises `UsageError` for an unknown one.

    `region` [N, positions]: the positions to sum over. None: the positions where the class wins (with a single class,
    where its score is positive), or the position of its highest score if it wins nowhere. `present`: of several labels
    at a position, the score above which one is there; it need not win (`heatcli.graph.outputs.present_above`).
    """
    if isinstance(target, Target):
        return target
    n, classes, positions = output.shape
    minus = path = nowhere = None
    if isinstance(target, str):
        target, position = _split(target, labels)
        if position is not None:
            region = _position(target, position, output, region)
    if isinstance(target, Contrast):
        index, minus = target.index.to(output.device), target.minus.to(output.device)
    elif target is None or target == TOP:
        index = _top(output, region)
    elif target == PATH and PATH not in labels:
        if positions == 1:
            raise UsageError("target 'path' is the best class of each position, and this output has one position only")
        index, path = _top(output, region), output.argmax(1)
        region = torch.ones_like(output[:, 0], dtype=torch.bool) if region is None else region
    elif isinstance(target, str):
        first, second = parse(target, classes, labels)
        index = torch.full((n,), first, device=output.device)
        minus = None if second is None else torch.full((n,), second, device=output.device)
    else:
        index = torch.as_tensor(target, dtype=torch.int64, device=output.device).reshape(-1).expand(n)
        if bool(((index < 0) | (index >= classes)).any()):
            raise UsageError(f"target {target!r} is out of range: the model has classes 0 to {classes - 1}")
    if region is None:
        region, nowhere = _where_it_wins(output, index, present)
    return Target(index=index, minus=minus, region=region, path=path, nowhere=nowhere)


def _where_it_wins(output: Tensor, index: Tensor, present: float | None) -> tuple[Tensor, Tensor | None]:
    """Where class `index` [N] wins in [N, classes, positions], bool [N, positions]; and bool [N], whether nowhere.

    `present`: as in `choose`. If it wins nowhere, the position of its highest score is used.
    """
    _, classes, positions = output.shape
    if positions == 1:
        return torch.ones_like(output[:, 0], dtype=torch.bool), None
    scores = output.gather(1, index[:, None, None].expand(-1, 1, positions))[:, 0]
    alone = present is None and classes > 1
    wins = output.argmax(1) == index[:, None] if alone else scores > (present or 0)
    nowhere = ~wins.any(1)
    best = _one_hot(scores.argmax(1), positions)
    return torch.where(nowhere[:, None], best, wins), nowhere


def _split(target: str, labels: Sequence[str]) -> tuple[str, str | None]:
    """`A@T` as (A, T), else (target, None). Labels may contain an @."""
    name, found, at = target.rpartition("@")
    return (name, at) if found and at.isdecimal() and target not in labels else (target, None)


def _position(target: str, at: str, output: Tensor, region: Tensor | None) -> Tensor:
    """Position `at` of an output [N, classes, positions] as a region [N, positions]. Raises `UsageError`."""
    positions = output.shape[2]
    if region is not None:
        raise UsageError(f"target {target}@{at} names a position, so a region makes no sense")
    if int(at) >= positions:
        raise UsageError(f"target {target}@{at} is out of range: the output has positions 0 to {positions - 1}")
    chosen = torch.zeros_like(output[:, 0], dtype=torch.bool)
    chosen[:, int(at)] = True
    return chosen


def _top(output: Tensor, region: Tensor | None) -> Tensor:
    """The class that wins at most positions (of the region)."""
    wins = _one_hot(output.argmax(1), output.shape[1])
    return (wins if region is None else wins * region[..., None]).sum(1).argmax(1)


def parse(target: str, classes: int, labels: Sequence[str]) -> tuple[int, int | None]:
    """`A` or `A-B`, each an index or a label, as class indices. A label may contain a hyphen.

    Raises `UsageError` for an unknown class, and for a label of several classes.
    """
    whole = class_of(target, classes, labels)
    if whole is not None:
        return whole, None
    for i, character in enumerate(target):
        if character == "-":
            pair = class_of(target[:i], classes, labels), class_of(target[i + 1 :], classes, labels)
            if pair[0] is not None and pair[1] is not None:
                return pair[0], pair[1]
    if target.lstrip("-").isdecimal() or not labels:
        if classes == 1 and not labels:
            raise UsageError(
                f"target {target!r} is out of range: the model has one number, 0; --labels with two names makes it two "
                "classes"
            )
        raise UsageError(
            f"target {target!r} is out of range: the model has classes 0 to {classes - 1}"
            + ("" if labels else " and no labels")
        )
    if target.lower().startswith("top") and target[3:].strip(" -_").isdecimal():
        raise UsageError(f"target {target!r} is not known; did you mean 'top:{target[3:].strip(' -_')}'?")
    raise unknown_name("label", target, labels, ways="; an index, top and A-B work too")


def class_of(name: str, classes: int, labels: Sequence[str]) -> int | None:
    """The index of a class by label or number; None if it is neither. Raises `UsageError`."""
    same = [i for i, label in enumerate(labels) if label == name]
    same = same or [i for i, label in enumerate(labels) if label.lower() == name.lower()]
    if len(same) > 1 and labels[same[0]] == name:
        raise UsageError(f"target {name!r} is the label of classes {' and '.join(map(str, same))}; give the index")
    if len(same) == 1:
        if same[0] >= classes:
            raise UsageError(f"target {name!r} is label {same[0]}, and the model has classes 0 to {classes - 1}")
        return same[0]
    return int(name) if name.isdecimal() and int(name) < classes else None
