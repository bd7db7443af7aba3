"""Which score is explained: `top`, a class index, a label, or the difference `A-B` of two.

Outputs are seen as [N, classes, positions]; a classifier has one position. Where there are more (segmentation), the
class's scores are summed over a region: the one given, or where the class wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from heatcli.errors import UsageError, unknown_name


@dataclass(frozen=True, eq=False)
class Target:
    """For each image the index explained, the one subtracted from it (None: none), both int64 [N], and the region.

    `region` [N, positions] is 1 at the positions summed over, else 0.
    """

    index: Tensor
    minus: Tensor | None
    region: Tensor

    def rows(self, index: Tensor) -> Target:
        """The targets of some of the images, int64 [M], each as often as it is named."""
        return Target(self.index[index], None if self.minus is None else self.minus[index], self.region[index])

    @staticmethod
    def joined(parts: Sequence[tuple[Target, int]]) -> Target:
        """The targets of the first images of each part, as many as stand beside it."""
        targets, counts = zip(*parts, strict=True)
        index, region = (joined([getattr(t, name) for t in targets], counts) for name in ("index", "region"))
        minus = None if targets[0].minus is None else joined([t.minus for t in targets], counts)
        return Target(index, minus, region)

    def first(self) -> Target:
        """The same, but for the first image alone: the others have no score."""
        region = torch.zeros_like(self.region)
        region[:1] = self.region[:1]
        return Target(self.index, self.minus, region)

    def seed(self, output: Tensor) -> Tensor:
        """The multiplier of the output [N, classes, positions] that picks the score."""
        n, _, positions = output.shape
        at = self.region.to(output)[:, None]
        seed = torch.zeros_like(output).scatter_(1, self.index[:, None, None].expand(n, 1, positions), at)
        if self.minus is None:
            return seed
        return seed.scatter_add(1, self.minus[:, None, None].expand(n, 1, positions), -at)


def joined(values: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """The first rows of each value, as many as `counts` says, one after the other."""
    return torch.cat([value[:n] for value, n in zip(values, counts, strict=True)])


def choose(
    target: str | int | Sequence[int] | Tensor | None,
    output: Tensor,
    labels: Sequence[str],
    region: Tensor | None = None,
) -> Target:
    """The target that `target` names for an output [N, classes, positions]. Raises `UsageError` for an unknown one.

    `region` [N, positions] says where to sum; None is where the class wins (with a single class: where it is positive).
    """
    n, classes, positions = output.shape
    minus = None
    if target is None or target == "top":
        index = _top(output, region)
    elif isinstance(target, str):
        first, second = parse(target, classes, labels)
        index = torch.full((n,), first, device=output.device)
        minus = None if second is None else torch.full((n,), second, device=output.device)
    else:
        index = torch.as_tensor(target, dtype=torch.int64, device=output.device).reshape(-1).expand(n)
        if bool(((index < 0) | (index >= classes)).any()):
            raise UsageError(f"target {target!r} is out of range: the model has classes 0 to {classes - 1}")
    if region is None:
        wins = output.argmax(1) == index[:, None] if classes > 1 else output[:, 0] > 0
        region = wins if positions > 1 else torch.ones_like(wins)
    return Target(index, minus, region)


def _top(output: Tensor, region: Tensor | None) -> Tensor:
    """The class that wins at most positions (of the region)."""
    wins = torch.nn.functional.one_hot(output.argmax(1), output.shape[1])
    return (wins if region is None else wins * region[..., None]).sum(1).argmax(1)


def parse(target: str, classes: int, labels: Sequence[str]) -> tuple[int, int | None]:
    """`A` or `A-B`, each an index or a label, as class indices. A label may itself contain a hyphen."""
    whole = _class(target, classes, labels)
    if whole is not None:
        return whole, None
    for i, character in enumerate(target):
        if character == "-":
            pair = _class(target[:i], classes, labels), _class(target[i + 1 :], classes, labels)
            if pair[0] is not None and pair[1] is not None:
                return pair[0], pair[1]
    if target.lstrip("-").isdecimal() or not labels:
        raise UsageError(
            f"target {target!r} is out of range: the model has classes 0 to {classes - 1}"
            + ("" if labels else " and no labels")
        )
    raise unknown_name("label", target, labels, ways="; an index, top and A-B work too")


def _class(name: str, classes: int, labels: Sequence[str]) -> int | None:
    if name in labels:
        return list(labels).index(name)
    folded = [label.lower() for label in labels]
    if folded.count(name.lower()) == 1:
        return folded.index(name.lower())
    return int(name) if name.isdecimal() and int(name) < classes else None
