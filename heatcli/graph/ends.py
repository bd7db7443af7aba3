"""Where an artifact ends: what goes into its choice among its own scores, as boxes or as one value.

`heatcli.graph.suppression` finds the choice and the ways to read what goes in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from heatcli.errors import ModelError
from heatcli.graph import suppression
from heatcli.graph.operator import Boxes
from heatcli.graph.recorder import Recorder

# (outputs, shape of the input, whether two outputs are boxes and scores in this order) → how they are boxes, or None.
FindBoxes = Callable[[Sequence[Tensor], Sequence[int], bool], Boxes | None]


@dataclass(frozen=True, eq=False)
class End:
    """A choice at the end of an artifact, and what goes in: raw outputs, which are boxes or one value."""

    choice: suppression.Choice
    raw: list[Tensor]
    boxes: Boxes | None


def end_of(
    recorder: Recorder, example: Tensor, returned: Sequence[Tensor], boxes: FindBoxes | None, where: str
) -> End | None:
    """The choice that `returned` depend on; None if there is none.

    A detector may return more of each box that it found, which other layers compute (masks, keypoints). Its boxes come
    first, so these are looked for with ever fewer outputs. Raises `ModelError` if the choice suppresses boxes that
    heatcli cannot read.
    """
    choices = list[suppression.Choice]()
    for count in range(len(returned), 0, -1) if boxes is not None else [len(returned)]:
        choice = suppression.found(recorder.calls, example, returned[:count])
        if choice is None:
            continue
        choices.append(choice)
        end = None if boxes is None else _boxes_before(recorder, choice, example, returned[:count], boxes)
        if end is not None:
            return end
    if not choices:
        return None
    choice = choices[0]
    if choice.suppresses:
        shapes = ", ".join(str(list(x.shape)) for x in choice.roots[:4])
        raise ModelError(
            f"{where}: ends in {' and '.join(choice.operators)}, and what goes in ({shapes}) is no boxes and scores "
            "that heatcli reads; export it without"
        )
    return End(choice, [choice.roots[0]], None)


def _boxes_before(
    recorder: Recorder, choice: suppression.Choice, example: Tensor, returned: Sequence[Tensor], boxes: FindBoxes
) -> End | None:
    """The boxes that go into a choice; None where what goes in cannot be read as boxes."""
    with torch.no_grad(), recorder:
        ways = list(suppression.forms(list(recorder.calls), choice, returned, len(example)))
    for raw in ways:
        detected = boxes(raw, example.shape, True)
        if detected is None:
            continue
        if detected.ends == "softmax" and detected.background is None:
            background = suppression.left_out(choice, raw[-1])
            if background is None and choice.suppresses:
                background = 0  # as torchvision's detectors have it
            detected = replace(detected, background=background)
        return End(choice, raw, detected)
    return None
