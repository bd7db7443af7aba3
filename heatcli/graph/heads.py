"""Detector heads: outputs that are boxes with scores, joined into one form [N, rows, places].

A detector returns boxes before suppression: one tensor [N, 4 + C, A] or [N, A, 5 + C] (YOLO), or boxes and scores apart
(SSD, RetinaNet, DETR). `found` recognises them; `joined` makes [N, C + (1) + 4, A] of them: the scores of the classes,
the objectness where there is one, and the four numbers of the box. So each box is a place and each score a row, as in
any dense output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from heatcli.errors import UsageError
from heatcli.graph.operator import Boxes

DETECTIONS = "detections"
ROWS, COLUMNS, APART = "rows", "columns", "apart"
CENTRE, CORNERS = "centre", "corners"
COORDINATES = {CENTRE: ("x", "y", "w", "h"), CORNERS: ("x1", "y1", "x2", "y2")}
_STRIDES = (8, 16, 32, 64)
_FEWEST = 10  # places of a detector with boxes and scores apart
_SUM = 1e-3  # tolerance of a sum of probabilities


@dataclass(frozen=True)
class Thresholds:
    """What counts as a box: a probability of at least `confidence`, and at most `overlap` with a better box.

    `overlap`: intersection over union with a better box of the same class. Raises `UsageError`.
    """

    confidence: float = 0.25
    overlap: float = 0.45

    def __post_init__(self) -> None:
        for name, value in (("confidence", self.confidence), ("overlap", self.overlap)):
            if not 0 <= value <= 1:
                raise UsageError(f"--{name} {value:g} is not allowed; it is a number from 0 to 1")


def found(
    returned: Sequence[Tensor], shape: Sequence[int], kind: str | None = None, background: int | None = None,
    labels: int = 0, form: str | None = None, ordered: bool = False,
) -> Boxes | None:  # fmt: skip
    """The boxes that the floating-point outputs `returned` are, for an input of `shape` [N, C, H, W]; else None.

    `kind`: what the user says the output is; `detections` accepts any number of places. `background`: the class that
    stands for no object. `labels`: how many class names there are, 0 if unknown. `form`: centre or corners, if the user
    says so. `ordered`: two outputs are boxes and scores, in this order. The values decide between logits and
    probabilities, between centre and corners, and whether coordinates are shares of the input's size.
    """
    if kind not in (None, DETECTIONS) or len(shape) != 4:
        return None
    apart = (APART, 0, 1, False) if ordered and len(returned) == 2 else _two_tensors(returned, shape[0])
    where = apart or _one_tensor(returned, shape, kind == DETECTIONS, labels)
    if where is None:
        return None
    layout, boxes_at, scores_at, objectness = where
    size = int(shape[2]), int(shape[3])
    rough = Boxes(layout=layout, boxes_at=boxes_at, scores_at=scores_at, objectness=objectness, classes=0, size=size)
    with torch.no_grad():
        scores, objects, box = _scores_and_boxes(returned, rough)
        in_unit = bool((scores >= 0).all() and (scores <= 1).all())
        sums = in_unit and scores.shape[1] > 1 and bool(((scores.sum(1) - 1).abs() < _SUM).all())
        ordered = bool((box[:, 2] >= box[:, 0]).all() and (box[:, 3] >= box[:, 1]).all())
    if background is None and sums and labels == scores.shape[1] - 1:
        background = 0 if layout == APART else None
    return Boxes(
        layout=layout, boxes_at=boxes_at, scores_at=scores_at, objectness=objects is not None,
        classes=scores.shape[1], size=size, form=form or (CORNERS if ordered else CENTRE),
        unit=bool(box.abs().max() <= 2), ends="softmax" if sums or background is not None else "sigmoid",
        logits=not in_unit, background=background,
    )  # fmt: skip


def joined(returned: Sequence[Tensor], boxes: Boxes) -> Tensor:
    """The outputs as one tensor [N, C + (1) + 4, A]: class scores (times objectness), objectness, box."""
    scores, objects, box = _scores_and_boxes(returned, boxes)
    if objects is None:
        return torch.cat([scores, box], 1)
    return torch.cat([scores + objects if boxes.logits else scores * objects, objects, box], 1)


def _scores_and_boxes(returned: Sequence[Tensor], boxes: Boxes) -> tuple[Tensor, Tensor | None, Tensor]:
    """Class scores [N, C, A], objectness [N, 1, A] or None, boxes [N, 4, A]."""
    if boxes.layout == APART:
        box, scores = returned[boxes.boxes_at], returned[boxes.scores_at]
        box, scores = (x.squeeze(2) if x.dim() == 4 and x.shape[2] == 1 else x for x in (box, scores))
        return scores.transpose(1, 2), None, box.transpose(1, 2)
    whole = returned[boxes.boxes_at]
    if boxes.layout == COLUMNS:
        whole = whole.transpose(1, 2)
    if boxes.objectness:
        return whole[:, 5:], whole[:, 4:5], whole[:, :4]
    return whole[:, 4:], None, whole[:, :4]


def _one_tensor(
    returned: Sequence[Tensor], shape: Sequence[int], stated: bool, labels: int
) -> tuple[str, int, int, bool] | None:
    """One tensor of boxes and scores: its layout, its number (twice), and whether there is an objectness.

    Unless the user says that the output is boxes (`stated`), the number of places must be that of a grid of strides 8,
    16, 32 (64): once for heads without anchors, three times for heads with three anchors.
    """
    for at, one in enumerate(returned):
        if one.dim() != 3 or one.shape[0] != shape[0] or min(one.shape[1:]) < 5:
            continue
        layout = ROWS if one.shape[1] < one.shape[2] else COLUMNS
        rows, places = sorted(one.shape[1:])
        per_cell = _anchors(places, shape[2:])
        if per_cell is None and not stated:
            continue
        objectness = layout == COLUMNS and per_cell is not None
        if labels and rows - labels in (4, 5):
            objectness = rows - labels == 5
        if rows > 4 + objectness:
            return layout, at, at, objectness
    return None


def _anchors(places: int, size: Sequence[int]) -> int | None:
    """How many places each cell of the grids has, 1 or 3; None if the number of places is not that of such grids."""
    for levels in (3, 4):
        cells = sum(-(-size[0] // s) * -(-size[1] // s) for s in _STRIDES[:levels])
        for anchors in (1, 3):
            if places == anchors * cells:
                return anchors
    return None


def _two_tensors(returned: Sequence[Tensor], n: int) -> tuple[str, int, int, bool] | None:
    """Two tensors [N, A, 4] and [N, A, C]: their numbers. None if there are none such, or if C is 4, too."""
    flat = [x.squeeze(2) if x.dim() == 4 and x.shape[2] == 1 else x for x in returned]
    boxes = [i for i, x in enumerate(flat) if x.dim() == 3 and x.shape[0] == n and x.shape[2] == 4]
    if len(boxes) != 1 or flat[boxes[0]].shape[1] < _FEWEST:
        return None
    places = flat[boxes[0]].shape[1]
    scores = [i for i, x in enumerate(flat) if i != boxes[0] and x.dim() == 3 and x.shape[:2] == (n, places)]
    return (APART, boxes[0], scores[0], False) if len(scores) == 1 else None
