"""Boxes of a detector: found by heatcli's own suppression, and chosen as targets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from heatcli.errors import ImageError, UsageError
from heatcli.graph.heads import CENTRE, COORDINATES, Thresholds
from heatcli.graph.operator import Boxes, Graph
from heatcli.graph.outputs import box_chances, present_above
from heatcli.methods.targets import TOP, Contrast, Target, choose, class_of, parse

if TYPE_CHECKING:
    from heatcli.model.model import Model

MOST = 300  # boxes of one image, before suppression 10 times as many
SAME = 0.5  # overlap of boxes of two networks that are of one place
ALL, ONE = "detections", "box"
_ONE = re.compile(r"box:(\d+)(?:\.(.+))?")


@dataclass(frozen=True, eq=False)
class Found:
    """The boxes of one image, the best first.

    `places`, `classes`, int64 [K]; `chances` [K]; `corners` [K, 4]: x1, y1, x2, y2 in the input's pixels. `best`: the
    highest probability of any box and its class, above the threshold or not.
    """

    places: Tensor
    classes: Tensor
    chances: Tensor
    corners: Tensor
    best: tuple[float, int]


def is_of_boxes(target: object) -> bool:
    """Whether a target names boxes: `detections`, `detections:K`, `box:N`, `box:N.x`, `box:N.LABEL`."""
    return _first_word(target) in (ALL, ONE)


def is_of_all_boxes(target: object) -> bool:
    """Whether a target names all boxes of an image, or the best K: `detections`, `detections:K`."""
    return _first_word(target) == ALL


def _first_word(target: object) -> str:
    return target.partition(":")[0] if isinstance(target, str) else ""


def corners(output: Tensor, boxes: Boxes) -> Tensor:
    """The boxes of an output [N, rows, A] as x1, y1, x2, y2 in the input's pixels: [N, A, 4]."""
    box = output[:, -4:].detach().float().transpose(1, 2)
    if boxes.form == CENTRE:
        centre, half = box[..., :2], box[..., 2:] / 2
        box = torch.cat([centre - half, centre + half], 2)
    height, width = boxes.size
    if boxes.unit:
        return box * box.new_tensor([width, height, width, height])
    if not boxes.offsets:
        return box
    return torch.stack([x.clamp(0, side) for x, side in zip(box.unbind(2), (width, height) * 2, strict=True)], 2)


def find(output: Tensor, boxes: Boxes, limits: Thresholds = Thresholds()) -> list[Found]:  # noqa: B008  (frozen)
    """The boxes in each image of an output [N, rows, A], after suppression within each class."""
    chances = box_chances(boxes, output)[:, : boxes.classes].float()
    if boxes.background is not None:
        chances[:, boxes.background] = 0
    return [_in_image(one, box, limits) for one, box in zip(chances, corners(output, boxes), strict=True)]


def most_likely(output: Tensor, boxes: Boxes) -> Tensor:
    """The class of the best box of each image of an output [N, rows, A], however low: int64 [N]."""
    chances = box_chances(boxes, output)[:, : boxes.classes].clone()
    if boxes.background is not None:
        chances[:, boxes.background] = 0
    return chances.amax(2).argmax(1)


def _in_image(chances: Tensor, box: Tensor, limits: Thresholds) -> Found:
    """Boxes by chances [C, A] and corners [A, 4] of one image."""
    best, classes = chances.max(0)
    order = best.argsort(descending=True, stable=True)
    top = float(best[order[0]]), int(classes[order[0]])
    order = order[best[order] >= limits.confidence][: 10 * MOST]
    kept: list[int] = []
    for place in order.tolist():
        same = [other for other in kept if classes[other] == classes[place]]
        if not same or float(overlaps(box[place], box[same]).max()) <= limits.overlap:
            kept.append(place)
        if len(kept) == MOST:
            break
    places = torch.tensor(kept, dtype=torch.int64, device=box.device)
    return Found(places=places, classes=classes[places], chances=best[places], corners=box[places], best=top)


def overlaps(one: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of a box [4] with boxes [K, 4], as corners: [K]."""
    sides = (torch.minimum(one[2:], others[:, 2:]) - torch.maximum(one[:2], others[:, :2])).clamp(min=0)
    both, areas = sides.prod(1), (others[:, 2:] - others[:, :2]).clamp(min=0).prod(1)
    return both / ((one[2:] - one[:2]).clamp(min=0).prod() + areas - both).clamp(min=1e-12)


@dataclass(frozen=True, eq=False)
class Asked:
    """What a target asks of one image: boxes by number, and of each a coordinate, or the score of a class.

    `index`: the class, None for the best one of the box.
    """

    numbers: tuple[int, ...]
    coordinate: str | None = None
    index: int | None = None

    @property
    def each(self) -> list[Asked]:
        """The same of each box by itself."""
        return [replace(self, numbers=(number,)) for number in self.numbers]


def asked(target: str, found: Found, boxes: Boxes, labels: Sequence[str] = ()) -> Asked:
    """The boxes that a target (`is_of_boxes`) names among those found in an image.

    Raises `UsageError` for a target that names no box, `ImageError` for a box that was not found.
    """
    count = len(found.places)
    name, colon, most = target.partition(":")
    if name == ALL:
        if colon and not (most.isdecimal() and int(most)):
            raise UsageError(f"target {target!r} is out of range: detections:K takes K from 1, the best K boxes")
        return Asked(tuple(range(min(count, int(most)) if colon else count)))
    match = _ONE.fullmatch(target)
    names, coordinate, index = COORDINATES[boxes.form], None, None
    if match is not None and match[2] in names:
        coordinate = match[2]
    elif match is not None and match[2]:
        index = class_of(match[2], boxes.classes, labels)
    if match is None or (match[2] and coordinate is None and index is None):
        ways = ", ".join(f"box:N.{n}" for n in names)
        raise UsageError(
            f"target {target!r} is not known; use box:N, the N-th box from 0, box:N.LABEL, its score of another class, "
            f"or a coordinate: {ways}"
        )
    number = int(match[1])
    if number >= count:
        there = f"has boxes 0 to {count - 1}" if count > 1 else "has box 0 alone" if count else "has no box"
        raise ImageError(f"{there}, so there is no {target}; --confidence finds more")
    return Asked((number,), coordinate, index)


def goal(output: Tensor, boxes: Boxes, rows: Sequence[int], found: Sequence[Found], wanted: Sequence[Asked]) -> Target:
    """One target for each box asked for: of image `rows[i]` of `output` [N, rows, A], among `found[i]`."""
    n = len(rows)
    number = torch.tensor([one.numbers[0] for one in wanted], device=output.device)
    place = torch.stack([f.places[k] for f, k in zip(found, number.tolist(), strict=True)])
    index = torch.stack([f.classes[k] for f, k in zip(found, number.tolist(), strict=True)])
    for i, one in enumerate(wanted):
        if one.index is not None:
            index[i] = one.index
    coordinate = torch.full((n,), -1, device=output.device)
    for i, one in enumerate(wanted):
        if one.coordinate is not None:
            coordinate[i] = COORDINATES[boxes.form].index(one.coordinate)
    row = torch.where(coordinate < 0, index, output.shape[1] - 4 + coordinate)
    region = torch.nn.functional.one_hot(place, output.shape[2]).bool()
    return Target(
        index=row, minus=None, region=region, box=number, label_of=index,
        corners=corners(output, boxes)[torch.tensor(list(rows), device=output.device)],
    )  # fmt: skip


def at_same_boxes(target: Target, boxes: Boxes, output: Tensor, others: Boxes) -> Target:
    """A target at the boxes of another output [N, rows, A] that overlap most with the boxes it has in its own.

    `boxes`: of its own output; `others`: of the other. Raises `UsageError` where none covers the same place.
    """
    assert target.corners is not None
    known = corners(output, others)
    own, other = (x / x.new_tensor(b.size).flip(0).repeat(2) for x, b in ((target.corners, boxes), (known, others)))
    region = torch.zeros_like(output[:, 0], dtype=torch.bool)
    for i, chosen in enumerate(target.region):
        for box in own[i, chosen]:
            share, place = overlaps(box, other[i]).max(0)
            if share < SAME:
                at = ", ".join(f"{x:.2f}" for x in box.tolist())
                raise UsageError(f"the other network has no box at {at} (shares of the picture); compare other boxes")
            region[i, place] = True
    return replace(target, region=region, corners=known)


def choose_for(model: Model, graph: Graph, target: Any, output: Tensor, region: Tensor | None = None) -> Target:
    """The target that `target` names for the output [N, rows, positions] of a model's graph, whatever its head is.

    Raises `UsageError`, `ImageError`.
    """
    if graph.boxes is not None and not isinstance(target, Target | Contrast):
        return choose_boxes(target, output, model.labels, graph.boxes, model.thresholds)
    if is_of_boxes(target) and target not in model.labels:
        raise no_detector(model, target)
    return choose(target, output, model.labels, region, present_above(graph))


def no_detector(model: Model, target: object) -> UsageError:
    """The error for a target of boxes if the model's outputs are not boxes."""
    return UsageError(
        f"{model.path}: is no detector as far as its outputs tell, so it has no {target}; --kind detections says it is "
        "one"
    )


def choose_boxes(target: object, output: Tensor, labels: Sequence[str], boxes: Boxes, limits: Thresholds) -> Target:
    """The target that `target` names for a detector's output [N, rows, A]: a box of each image, or a class.

    None and `top`: the best box. A class (an index or a label, or A-B): the boxes of that class together; if none is
    found, the place of its highest score. Raises `UsageError`, `ImageError`.
    """
    best = target is None or target == TOP  # the best box, above the threshold or not
    every = find(output, boxes, Thresholds(0.0, limits.overlap) if best else limits)
    if best or is_of_boxes(target):
        text = f"{ONE}:0" if best else str(target)
        wanted = [asked(text, one, boxes, labels) for one in every]
        if any(len(one.numbers) != 1 for one in wanted):
            raise UsageError(f"target {target!r} is several boxes of an image; box:N names one")
        return goal(output, boxes, range(len(output)), every, wanted)
    n = len(output)
    if isinstance(target, str):
        first, second = parse(target, boxes.classes, labels)
        index = torch.full((n,), first, device=output.device)
        minus = None if second is None else torch.full((n,), second, device=output.device)
    else:
        index = torch.as_tensor(target, dtype=torch.int64, device=output.device).reshape(-1).expand(n)
        minus = None
        if bool(((index < 0) | (index >= boxes.classes)).any()):
            raise UsageError(f"target {target!r} is out of range: the model has classes 0 to {boxes.classes - 1}")
    region = torch.zeros_like(output[:, 0], dtype=torch.bool)
    for i, one in enumerate(every):
        region[i, one.places[one.classes == index[i]]] = True
    nowhere = ~region.any(1)
    scores = output.gather(1, index[:, None, None].expand(-1, 1, output.shape[2]))[:, 0]
    highest = torch.nn.functional.one_hot(scores.argmax(1), output.shape[2]).bool()
    return Target(
        index=index, minus=minus, region=torch.where(nowhere[:, None], highest, region), nowhere=nowhere,
        corners=corners(output, boxes),
    )  # fmt: skip
