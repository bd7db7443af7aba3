"""Which score is explained: `top`, a class index, a label, or the difference `A-B` of two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from heatcli.errors import UsageError, unknown_name


@dataclass(frozen=True, eq=False)
class Target:
    """For each image the index explained, and the one subtracted from it (None: none). Int64 [N]."""

    index: Tensor
    minus: Tensor | None = None

    def seed(self, output: Tensor) -> Tensor:
        """The multiplier of the output [N, classes] that picks the score: one-hot, minus one-hot."""
        seed = torch.zeros_like(output).scatter_(1, self.index[:, None], 1.0)
        return seed if self.minus is None else seed.scatter_add(1, self.minus[:, None], -torch.ones_like(output[:, :1]))


def choose(target: str | int | Sequence[int] | Tensor | None, output: Tensor, labels: Sequence[str]) -> Target:
    """The target that `target` names for scores `output` [N, classes]. Raises `UsageError` for an unknown one."""
    n, classes = output.shape
    if target is None or target == "top":
        return Target(output.argmax(1))
    if isinstance(target, str):
        first, second = parse(target, classes, labels)
        fill = torch.full((n,), first, device=output.device)
        return Target(fill, None if second is None else torch.full((n,), second, device=output.device))
    index = torch.as_tensor(target, dtype=torch.int64, device=output.device).reshape(-1).expand(n)
    if bool(((index < 0) | (index >= classes)).any()):
        raise UsageError(f"target {target!r} is out of range: the model has classes 0 to {classes - 1}")
    return Target(index)


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
