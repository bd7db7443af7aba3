"""Detector heads: outputs that are boxes with scores, joined into one form [N, rows, places].

A detector returns boxes before suppression: one tensor [N, 4 + C, A] or [N, A, 5 + C] (YOLO), or boxes and scores apart
(SSD, RetinaNet, DETR), of all places or of each level of a pyramid, or a distribution of each side of a box
(PicoDet). `found` recognises them; `joined` makes
[N, C + (1) + 4, A] of them: the scores of the classes, the objectness where there is one, and the four numbers of the
box. So each box is a place and each score a row, as in any dense output. Numbers that are relative to anchors
(`heatcli.graph.anchors`) become boxes there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from heatcli.errors import UsageError
from heatcli.graph.anchors import FCOS, Anchors, cells, expected
from heatcli.graph.operator import Boxes

DETECTIONS = "detections"
ROWS, COLUMNS, APART = "rows", "columns", "apart"
CENTRE, CORNERS = "centre", "corners"
COORDINATES = {CENTRE: ("x", "y", "w", "h"), CORNERS: ("x1", "y1", "x2", "y2")}
_STRIDES = (8, 16, 32, 64)
_LEVELS = 3  # grids of a detector, at least
_BINS = 8  # distances of a distribution, at least
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


@dataclass(frozen=True, eq=False)
class Stated:
    """What the user says of a detector's outputs, or what is known of them without their values.

    `kind`: the kind of output; `detections` accepts any number of places. `background`: the class that stands for no
    object. `labels`: how many class names there are, 0 if unknown. `form`: centre or corners. `anchors`: what the boxes
    are relative to. `ordered`: of two outputs or three, the first are boxes and scores, in this order.
    """

    kind: str | None = None
    background: int | None = None
    labels: int = 0
    form: str | None = None
    anchors: Anchors | None = None
    ordered: bool = False


def found(returned: Sequence[Tensor], shape: Sequence[int], stated: Stated = Stated()) -> Boxes | None:
    """The boxes that the floating-point outputs `returned` are, for an input of `shape` [N, C, H, W]; else None.

    The values decide between logits and probabilities, between centre and corners, and whether coordinates are shares
    of the input's size, as far as `stated` does not. Raises `UsageError` for anchors that do not fit the outputs, and
    for numbers that are relative to anchors that nobody named.
    """
    anchors = stated.anchors
    if stated.kind not in (None, DETECTIONS) or len(shape) != 4:
        return None
    size = int(shape[2]), int(shape[3])
    if (stated.ordered and len(returned) > 1) or apart(returned, shape[0], anchors) is not None:
        rough = Boxes(layout=APART, at=0, objectness=False, classes=0, size=size)
    elif anchors is not None:
        raise UsageError(_no_anchors(returned, anchors))
    elif (spread := _of_distributions(returned, shape[0], size)) is not None:
        rough, anchors = spread, _grid_anchors(returned, spread)
    else:
        where = _one_tensor(returned, shape, stated.kind == DETECTIONS, stated.labels)
        if where is None:
            return None
        layout, at, objectness = where
        rough = Boxes(layout=layout, at=at, objectness=objectness, classes=0, size=size)
    with torch.no_grad():
        scores, objects, box = _scores_and_boxes(returned, rough, anchors)
        in_unit = all(bool((x >= 0).all() and (x <= 1).all()) for x in (scores, objects) if x is not None)
        sums = in_unit and scores.shape[1] > 1 and bool(((scores.sum(1) - 1).abs() < _SUM).all())
        ordered = bool((box[:, 2] >= box[:, 0]).all() and (box[:, 3] >= box[:, 1]).all())
    background, form = stated.background, stated.form or (CORNERS if ordered else CENTRE)
    if anchors is not None:
        form = stated.form or (CORNERS if anchors.offsets == FCOS else CENTRE)
    elif rough.layout == APART and stated.form is None and form == CENTRE and _are_relative(box, size):
        if stated.ordered:
            return None
        raise UsageError(_OFFSETS.format(places=box.shape[2]))
    if background is None and ((sums and stated.labels == scores.shape[1] - 1) or (anchors and anchors.is_softmax)):
        background = 0 if rough.layout == APART else None
    return replace(
        rough, objectness=objects is not None, classes=scores.shape[1], form=form,
        unit=anchors is None and bool(box.abs().max() <= 2),
        ends="softmax" if sums or background is not None else "sigmoid", logits=not in_unit, background=background,
        offsets="" if anchors is None else anchors.offsets,
        power=0.5 if objects is not None and anchors is not None and anchors.offsets == FCOS else 1.0,
    )  # fmt: skip


_OFFSETS = (
    "returns four numbers of {places:,} boxes that are no boxes of this input, so they are relative to anchors, which "
    'it does not hold; anchors = "FILE.npy" and offsets of [output] in its sidecar name them (heatcli help detectors), '
    "and --head K explains one output alone"
)


def _are_relative(box: Tensor, size: tuple[int, int]) -> bool:
    """Whether the numbers [N, 4, A] cannot be centres and sides in pixels or shares of an input of that size.

    Some sides are below zero, or no centre in pixels lies in the input's right or lower half.
    """
    height, width = size
    in_pixels = bool(box.abs().max() > 2)
    gathered = bool(box[:, 0].max() < width / 2 and box[:, 1].max() < height / 2)
    return bool((box[:, 2:] < 0).any()) or (in_pixels and gathered)


def _no_anchors(returned: Sequence[Tensor], anchors: Anchors) -> str:
    shapes = ", ".join(str(list(x.shape)) for x in returned)
    return (
        f"returns {shapes}, which are no boxes and scores for the {len(anchors.boxes):,} anchors of its sidecar: boxes "
        "[N, A, 4] and scores [N, A, C], or maps [N, K·4, H, W] and [N, K·C, H, W] of each level"
    )


def joined(returned: Sequence[Tensor], boxes: Boxes, anchors: Anchors | None = None) -> Tensor:
    """The outputs as one tensor [N, C + (1) + 4, A]: class scores (times objectness), objectness, box.

    `anchors`: those that the boxes are relative to.
    """
    scores, objects, box = _scores_and_boxes(returned, boxes, anchors)
    if boxes.bins:
        anchors = _grid_anchors(returned, boxes)
    if anchors is not None:
        box = anchors.decoded(box, boxes.size, boxes.form == CORNERS)
    if objects is None:
        return torch.cat([scores, box], 1)
    return torch.cat([scores + objects if boxes.logits else scores * objects, objects, box], 1)


def _scores_and_boxes(
    returned: Sequence[Tensor], boxes: Boxes, anchors: Anchors | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Class scores [N, C, A], objectness [N, 1, A] or None, boxes [N, 4, A] as they are returned."""
    if boxes.bins:
        _, groups = _in_grids(returned, len(returned[0]), boxes.size)
        groups.sort(key=lambda own: own[0].shape[2] == 4 * boxes.bins)
        scores, sides = (torch.cat(own, 1) for own in groups)
        return scores.transpose(1, 2), None, expected(sides, boxes.bins).transpose(1, 2)
    if boxes.layout == APART:
        box, scores, *objects = apart(returned, len(returned[0]), anchors) or returned
        return scores.transpose(1, 2), objects[0].transpose(1, 2) if objects else None, box.transpose(1, 2)
    whole = returned[boxes.at]
    if boxes.layout == COLUMNS:
        whole = whole.transpose(1, 2)
    if boxes.objectness:
        return whole[:, 5:], whole[:, 4:5], whole[:, :4]
    return whole[:, 4:], None, whole[:, :4]


def _one_tensor(
    returned: Sequence[Tensor], shape: Sequence[int], stated: bool, labels: int
) -> tuple[str, int, bool] | None:
    """One tensor of boxes and scores: its layout, its number, and whether there is an objectness.

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
            return layout, at, objectness
    return None


def _anchors(places: int, size: Sequence[int]) -> int | None:
    """How many places each cell of the grids has, 1 or 3; None if the number of places is not that of such grids."""
    for levels in (3, 4):
        cells = sum(-(-size[0] // s) * -(-size[1] // s) for s in _STRIDES[:levels])
        for anchors in (1, 3):
            if places == anchors * cells:
                return anchors
    return None


def apart(returned: Sequence[Tensor], n: int, anchors: Anchors | None = None) -> list[Tensor] | None:
    """Boxes [N, A, 4], scores [N, A, C], and perhaps objectness [N, A, 1], that are returned apart; else None.

    They may come in levels, [N, A_i, …] each, which are joined in order. With anchors, whose number says how many each
    cell has, they may be maps [N, K·4, H, W] and [N, K·C, H, W].
    """
    rows = [x.squeeze(2) if x.dim() == 4 and x.shape[2] == 1 else x for x in returned]
    rows = [x for x in rows if x.dim() == 3 and len(x) == n]
    if not any(x.shape[2] == 4 for x in rows) and anchors is not None:
        rows = _rows_of_maps([x for x in returned if x.dim() == 4 and len(x) == n], len(anchors.boxes))
    boxes = [x for x in rows if x.shape[2] == 4]
    places = [x.shape[1] for x in boxes]
    if sum(places) < _FEWEST or (anchors is not None and sum(places) != len(anchors.boxes)):
        return None
    widths = dict.fromkeys(x.shape[2] for x in rows)
    others = [[x for x in rows if x.shape[2] == width] for width in widths if width != 4]
    levels = [some for some in others if [x.shape[1] for x in some] == places]
    levels.sort(key=lambda some: some[0].shape[2] == 1)
    if not levels or len(levels) > 2 or (len(levels) == 2 and levels[1][0].shape[2] != 1):
        return None
    return [torch.cat(some, 1) if len(some) > 1 else some[0] for some in (boxes, *levels)]


def _in_grids(returned: Sequence[Tensor], n: int, size: tuple[int, int]) -> tuple[tuple[int, ...], list[list[Tensor]]]:
    """Strides 8, 16, 32 (64), and two lists of outputs [N, A_i, …], one of each grid in both; else nothing."""
    rows = [x for x in returned if x.dim() == 3 and len(x) == n]
    strides = _STRIDES[: len(rows) // 2]
    places = [-(-size[0] // s) * -(-size[1] // s) for s in strides]
    groups = [[x for x in rows if x.shape[2] == width] for width in dict.fromkeys(x.shape[2] for x in rows)]
    if len(strides) < _LEVELS or len(groups) != 2 or any([x.shape[1] for x in own] != places for own in groups):
        return (), []
    return strides, groups


def _grid_anchors(returned: Sequence[Tensor], boxes: Boxes) -> Anchors:
    """The cells that distances are counted from."""
    return cells(boxes.size, _in_grids(returned, len(returned[boxes.at]), boxes.size)[0])


def _of_distributions(returned: Sequence[Tensor], n: int, size: tuple[int, int]) -> Boxes | None:
    """Boxes whose sides are distributions over B distances, at least 8: 4·B numbers a place; the others are scores.

    Where both may be, scores are those in 0..1.
    """
    _, groups = _in_grids(returned, n, size)
    sides = [own for own in groups if own[0].shape[2] % 4 == 0 and own[0].shape[2] >= 4 * _BINS]
    if len(sides) == 2:
        sides = [own for own in sides if any(bool((x.detach().abs() > 1).any()) for x in own)]
    if len(sides) != 1:
        return None
    at = next(i for i, x in enumerate(returned) if x is sides[0][0])
    bins = sides[0][0].shape[2] // 4
    return Boxes(layout=APART, at=at, objectness=False, classes=0, size=size, bins=bins)


def _rows_of_maps(maps: Sequence[Tensor], anchors: int) -> list[Tensor]:
    """Maps [N, K·D, H, W] as rows [N, H·W·K, D], the K anchors of each cell one after the other; [] if none fit."""
    planes = {tuple(x.shape[2:]) for x in maps}
    cells = sum(rows * columns for rows, columns in planes)
    if not cells or anchors % cells:
        return []
    each = anchors // cells
    return [x.permute(0, 2, 3, 1).reshape(len(x), -1, x.shape[1] // each) for x in maps if not x.shape[1] % each]
