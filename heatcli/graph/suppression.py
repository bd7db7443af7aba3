"""Where an artifact chooses among its own scores: suppression of boxes, the best K, the best class.

No relevance passes such a choice, and the number of boxes that remain depends on the picture. So what goes into the
first choice is explained instead of what the artifact returns: `found` finds these values in the recorded calls,
`forms` tells how boxes and scores may be read from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from heatcli.graph import everywhere
from heatcli.graph.facts import LAYOUT, TABLE
from heatcli.graph.nested import leaves
from heatcli.graph.positions import SUPPRESSING, calls_before, is_free
from heatcli.graph.recorder import Call
from heatcli.system.torch_private import name_of

# Operators that choose by the order of values, whose places are their last output.
_CHOOSING = frozenset("topk sort argmax argmin argsort max min".split())
_WEIGHTED = frozenset("convolution _convolution addmm mm linear native_batch_norm".split())
# What makes a fixed shape of any number of values.
_SUMMING = frozenset("mean sum prod amax amin max min var std norm linalg_vector_norm logsumexp".split())
# What a tensor of places is read by, so that the output holds values, not places.
_READING = frozenset("gather index index_select scatter embedding take take_along_dim index_put masked_select".split())


@dataclass(frozen=True, eq=False)
class Choice:
    """`operators`: titles of the operators that choose. `roots`: the values that go in, or are read at what was chosen.

    `after`: the calls that depend on the choice. `suppresses`: whether boxes are suppressed.
    """

    operators: tuple[str, ...]
    roots: tuple[Tensor, ...]
    after: frozenset[int]
    suppresses: bool


def found(calls: Sequence[Call], image: Tensor, returned: Sequence[Tensor]) -> Choice | None:
    """The choice that the tensors `returned` depend on; None if there is none.

    A choice that layers with weights follow is a part of the network. Some tensor returned must be of no fixed shape,
    or hold places: the number of a class, of a box. What the artifact computes for other outputs does not count.
    """
    of_image, after, places, free = {id(image)}, set[int](), set[int](), set[int]()
    roots, titles, later = dict[int, Tensor](), list[str](), set[int]()
    asked = calls_before(returned, calls)
    within = _before_weights([call for call in calls if id(call) in asked])
    for call in calls:
        title, inputs = name_of(call.target), [x for x in leaves((call.args, call.kwargs)) if _is_tensor(x)]
        if not any(id(x) in of_image for x in inputs):
            continue
        outputs = [x for x in leaves(call.output) if _is_tensor(x)]
        of_image.update(map(id, outputs))
        chosen = any(id(x) in after for x in inputs)
        chooses = _chooses(call, title, outputs) and not any(id(x) in within for x in outputs)
        if not chosen and not chooses:
            continue
        if chooses and title not in titles and id(call) in asked:
            titles.append(title)
        later.add(id(call))
        after.update(map(id, outputs))
        if id(call) not in asked:
            continue
        roots |= {id(x): x for x in inputs if _is_value(x) and id(x) in of_image and id(x) not in after}
        if title in _CHOOSING and chooses:
            places.update(id(x) for x in outputs if not x.is_floating_point())
        elif any(id(x) in places for x in (inputs[:1] if title in _READING else inputs)):
            places.update(id(x) for x in outputs if _holds_places(x, title))
        if (chooses and title not in _CHOOSING) or (title not in _SUMMING and any(id(x) in free for x in inputs)):
            free.update(map(id, outputs))
    if not roots or not any(id(x) in places or id(x) in free for x in returned):
        return None
    suppresses = any(title in SUPPRESSING for title in titles)
    return Choice(tuple(titles), tuple(roots.values()), frozenset(later), suppresses)


def _is_tensor(x: object) -> bool:
    return isinstance(x, Tensor)


def _is_value(x: Tensor) -> bool:
    return x.is_floating_point() and x.numel() > 1


def _holds_places(x: Tensor, title: str) -> bool:
    """Whether the output of an operator on indices still holds indices: whole numbers, alone or joined with others."""
    whole = not x.is_floating_point() and x.dtype != torch.bool
    return whole or title in ("cat", "stack", "_to_copy") or _is_layout(title)


def _before_weights(calls: Sequence[Call]) -> set[int]:
    """The values that a layer with weights depends on."""
    found = set[int]()
    for call in reversed(calls):
        inputs, outputs = leaves((call.args, call.kwargs)), leaves(call.output)
        if name_of(call.target) in _WEIGHTED or any(id(x) in found for x in outputs if _is_tensor(x)):
            found.update(id(x) for x in inputs if _is_tensor(x))
    return found


def _chooses(call: Call, title: str, outputs: Sequence[Tensor]) -> bool:
    """Whether the call chooses among values and tells their places."""
    tells = title in _CHOOSING and not outputs[-1].is_floating_point()
    return title in SUPPRESSING or tells or is_free(call)


def _is_layout(title: str) -> bool:
    """Whether an operator of that title only moves values."""
    return title in TABLE and TABLE[title].kind == LAYOUT


# --- what the values are ------------------------------------------------------------------------------------------


def forms(calls: Sequence[Call], choice: Choice, returned: Sequence[Tensor], n: int) -> Iterator[list[Tensor]]:
    """The ways to read the roots of a choice as raw outputs for `n` images: one tensor of all, or boxes and scores.

    A root may be a part of a larger value, through layouts: boxes and scores of one tensor, one class of all scores.
    Boxes that the artifact makes, or scales, behind the choice are those of all places (`heatcli.graph.everywhere`):
    what it would return without the choice. The tensors are new: call this while a recorder is on.
    """
    made = {id(x): call for call in calls for x in leaves(call.output) if isinstance(x, Tensor)}
    chains = [list(_upwards(root, made)) for root in choice.roots]
    every = {id(x): x for chain in chains for x in chain}
    returns = everywhere.of_boxes(returned)
    for rows, sources in everywhere.boxes(calls, choice.after, returned):
        yield from _of_each_class(rows.parts, chains, n)
        if all(any(x is y for y in sources) for x in rows.parts):  # returned as they go in
            returns = []
        else:
            yield from _with_scores(rows.parts, sources, chains, made, n)
    shared = [x for x in every.values() if sum(any(x is y for y in chain) for chain in chains) > 1]
    yield from ([x] for x in sorted(shared, key=lambda x: -x.numel()) if x.dim() == 3)
    boxes = [x for x in every.values() if 4 in x.shape[-2:] and _rank(x, n) == 3]
    scores = sorted((x for x in every.values() if _rank(x, n) == 3), key=lambda x: -x.numel())
    for box in boxes:
        for score in scores:
            if score is not box:
                yield from (
                    [a, b]
                    for a in _turned(box, n)
                    for b in _turned(score, n)
                    if a.shape[2] == 4 != b.shape[2] and a.shape[:2] == b.shape[:2] and _are_returned(a, returns)
                )


def _are_returned(boxes: Tensor, returned: Sequence[Tensor]) -> bool:
    """Whether boxes before a choice are those that are returned behind it, where boxes are: not offsets, nor shares."""
    return not returned or any(len(x) and everywhere.holds([boxes], x) for x in returned)


def _with_scores(
    parts: Sequence[Tensor],
    sources: Sequence[Tensor],
    chains: Sequence[Sequence[Tensor]],
    made: dict[int, Call],
    n: int,
) -> Iterator[list[Tensor]]:
    """Boxes in parts [A_i, 4] or [N, A_i, 4], such as the levels of a pyramid, with the scores of their places.

    The scores of a part are a value [A_i, C] that goes into the choice, or that a value that goes in is a part of; of
    several parts of one length they are taken in order. `sources`: what the boxes are made from, which are no scores.
    """
    boxes = [x if x.dim() == 3 else x[None] for x in parts]
    of_boxes = {id(x) for source in sources for x in _upwards(source, made)}
    left = [[x for x in chain if id(x) not in of_boxes] for chain in chains]
    found: list[list[Tensor]] = []
    for box in boxes:
        fits = [[y for x in chain if _rank(x, n) == 3 for y in _turned(x, n) if _fits(y, box, found)] for chain in left]
        at = next((i for i, ways in enumerate(fits) if ways), None)
        if at is None:
            return
        found.append([max(fits[at], key=lambda x: x.numel())])
        if len(boxes) > 1:
            del left[at]
    if all(len(box) == n for box in boxes):
        every = boxes, [scores for (scores,) in found]
        yield [torch.cat(x, 1) if len(x) > 1 else x[0] for x in every]


def _of_each_class(parts: Sequence[Tensor], chains: Sequence[Sequence[Tensor]], n: int) -> Iterator[list[Tensor]]:
    """Boxes [A·C, 4], one for each class of each of A places, as the box [1, A, 4] of each place's best class.

    With the scores [1, A, C] or, of a class more for no object, the first, [1, A, 1 + C].
    """
    if n != 1 or len(parts) != 1:
        return
    boxes = parts[0].reshape(-1, 4)
    wide = {id(x): x for chain in chains for x in chain if x.dim() == 2 and x.shape[1] > 1}
    for scores in sorted(wide.values(), key=lambda x: -x.numel()):
        places, classes = scores.shape
        for first in (1, 0):
            if places * (classes - first) == len(boxes) and classes > 1:
                best = scores[:, first:].argmax(1)
                each = boxes.reshape(places, classes - first, 4)
                own = each.gather(1, best[:, None, None].expand(-1, 1, 4))
                yield [own.reshape(1, places, 4), scores[None]]


def _fits(scores: Tensor, box: Tensor, others: Sequence[Sequence[Tensor]]) -> bool:
    """Whether [N, A, C] has a row for each box, and as many classes as the parts before."""
    return scores.shape[:2] == box.shape[:2] and all(one[0].shape[2] == scores.shape[2] for one in others)


def _upwards(x: Tensor, made: dict[int, Call]) -> Iterator[Tensor]:
    """A value, and the values that it is a part of."""
    while True:
        yield x
        call = made.get(id(x))
        if call is None or not _is_layout(name_of(call.target)):
            return
        inputs = [y for y in leaves((call.args, call.kwargs)) if isinstance(y, Tensor)]
        if len(inputs) != 1 or not inputs[0].is_floating_point():
            return
        x = inputs[0]


def _rank(x: Tensor, n: int) -> int:
    """The number of axes, with one for the images: a single image may have none."""
    return x.dim() + (n == 1 and x.dim() == 2)


def _turned(x: Tensor, n: int) -> list[Tensor]:
    """A value [N, A, …] or [A, …] as [N, A, …], and with the last two axes swapped; [] if it is not of `n` images."""
    whole = x if x.dim() == 3 else x.unsqueeze(0)
    return [whole, whole.transpose(1, 2)] if len(whole) == n else []


def left_out(choice: Choice, scores: Tensor) -> int | None:
    """The class of scores [1, A, C] that alone does not go into the choice: the first or the last; else None."""
    classes = scores.shape[-1]
    ways = {0: scores[..., 1:], classes - 1: scores[..., :-1]}
    for index, others in ways.items():
        if any(x.numel() == others.numel() and torch.equal(x.flatten(), others.flatten()) for x in choice.roots):
            return index
    return None


def nodes_of(calls: Sequence[Call], raw: Sequence[Tensor]) -> tuple[str, ...]:
    """The artifact's nodes that the raw outputs are computed from, the last ones on each way; () without names.

    What heatcli computes itself, such as boxes at all places, comes from what the artifact's nodes make.
    """
    made = {id(x): call for call in calls for x in leaves(call.output) if _is_tensor(x)}
    last = {call.node: call for call in calls}
    names, seen, left = dict[str, None](), set[int](), list(raw)
    while left:
        x = left.pop()
        call = made.get(id(x))
        if call is None or id(x) in seen:
            continue
        seen.add(id(x))
        if call.node and last[call.node] is call and isinstance(call.output, Tensor):
            names[call.node] = None
        else:
            left += [y for y in leaves((call.args, call.kwargs)) if _is_tensor(y)]
    return tuple(names)
