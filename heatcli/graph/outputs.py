"""How the explained output is interpreted: which axis is the batch, which the classes, and what a score means.

Layout operators are appended so that the graph's output is [N, classes, …], the only form that targets, methods and
the ledger handle.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from heatcli.errors import UsageError
from heatcli.graph.heads import APART, COLUMNS, DETECTIONS, ROWS
from heatcli.graph.kinds import classified, is_choice
from heatcli.graph.operator import Boxes, Graph, Operator, Reading, Ref

FINAL = ("_softmax", "_safe_softmax", "_log_softmax", "sigmoid")
CLASSES, LABELS, BINARY, REGRESSION = "classes", "labels", "binary", "regression"
SEGMENTATION, SEQUENCE, EMBEDDING = "segmentation", "sequence", "embedding"
UNLIKELY = (REGRESSION, EMBEDDING, DETECTIONS)  # kinds without probabilities
_ATEN = torch.ops.aten


@dataclass(frozen=True)
class Wanted:
    """What the user says about the output: `axis` of the classes, counted as the artifact returns them; `kind`.

    `labels`: the number of class names. `head`: which of the returned tensors, from 0.
    """

    axis: int | None = None
    kind: str | None = None
    labels: int = 0
    head: int = 0


# --- the final activation -----------------------------------------------------------------------------------------


def _last(graph: Graph) -> Operator | None:
    """The last operator that computes something: what the output picks its values from; None for the image itself."""
    by_name = {op.name: op for op in graph.operators}
    last = by_name.get(graph.output)
    while last is not None and is_choice(last):
        last = by_name.get(last.sources[0])
    return last


def final_activation(graph: Graph) -> Operator | None:
    """The softmax, log-softmax or sigmoid that the graph ends in, ignoring layouts after it."""
    last = _last(graph)
    return last if last is not None and last.title in FINAL else None


def is_whole(graph: Graph, last: Operator) -> bool:
    """Whether all values of the activation `last` reach the output, through layouts only.

    If the artifact returns only a part of a softmax, such as P(b), the logit of b is another function: P(b) also
    depends on the logits that are not returned.
    """
    return last.title == "sigmoid" or math.prod(last.shape) == math.prod(graph.output_shape)


def softmax_axes(graph: Graph) -> tuple[int, ...]:
    """The axes of the output that its final softmax normalises over; () without a softmax.

    Each softmax of a batch gets a number, and the numbers go through the same layouts as the probabilities. The softmax
    runs over the axes along which the number is constant. So views and permutes in between need no special case
    (ONNX before opset 13 flattens the axes of a softmax).
    """
    last = graph.final or final_activation(graph)
    if last is None or last.title == "sigmoid":
        return ()
    over = last.arg(1) % len(last.shape)
    rows = [1 if axis == over else size for axis, size in enumerate(last.shape)]
    number = torch.arange(math.prod(rows), device=_device(graph)).reshape(rows).expand(last.shape)
    if graph.final is None:
        start = last.name
    else:
        start = last.sources[0]
        if last.source_shapes[0] != last.shape:
            return ()
    for op in _layouts(graph, start):
        number = op.run({}, [number])
    same = [bool((number == number.narrow(axis, 0, 1)).all()) for axis in range(number.dim())]
    return tuple(axis for axis, size in enumerate(number.shape) if size > 1 and same[axis])


def _device(graph: Graph) -> torch.device:
    return next((c.value.device for op in graph.operators for c in op.constants), torch.device("cpu"))


def _layouts(graph: Graph, start: str) -> Sequence[Operator]:
    """The layout operators between the value `start` and the output, in forward order; () if there are others."""
    by_name = {op.name: op for op in graph.operators}
    layouts: list[Operator] = []
    name = graph.output
    while name != start and name in by_name and is_choice(by_name[name]):
        layouts.append(by_name[name])
        name = by_name[name].sources[0]
    return layouts[::-1] if name == start else ()


# --- which axis is which ------------------------------------------------------------------------------------------


def batch_axis(shape: Sequence[int], n: int, one: Sequence[int] | None = None) -> int | None:
    """The axis of an output that holds the `n` images, or None.

    `one`: the output's shape for one image. If several axes have size n, the one of size 1 in `one` is chosen.
    """
    candidates = [axis for axis, size in enumerate(shape) if size == n]
    if len(candidates) > 1 and one is not None and len(one) == len(shape):
        candidates = [axis for axis in candidates if one[axis] == 1] or candidates
    return candidates[0] if candidates else None


def read(graph: Graph, wanted: Wanted, one: Sequence[int] | None = None) -> Graph:
    """The graph with its output as [N, classes, …] and its `reading`.

    Ambiguous outputs are not refused here. They stay as they are, and `settled` refuses them when a class is requested.
    `one`: the output's shape for one image.
    """
    if graph.boxes is not None:
        return replace(graph, reading=_of_boxes(graph.boxes))
    n, shape = graph.input_shape[0], graph.output_shape
    batch = batch_axis(shape, n, one)
    if batch is None and n == 1:  # the batch axis was squeezed
        graph, batch = _appended(graph, "unsqueeze", _ATEN.unsqueeze.default, [0], (1, *shape)), 0
        wanted = replace(wanted, axis=wanted.axis + 1 if wanted.axis is not None and wanted.axis >= 0 else wanted.axis)
    if batch is None:
        return replace(graph, reading=Reading(unclear="has no axis for the images of a batch"))
    axis, why, unclear = _class_axis(graph, batch, wanted)
    last = graph.final or final_activation(graph)
    over = softmax_axes(graph)
    order = [batch, *([] if axis is None else [axis])]
    order += [other for other in range(len(graph.output_shape)) if other not in order]
    if order != sorted(order):
        permuted = tuple(graph.output_shape[a] for a in order)
        graph = _appended(graph, "permute", _ATEN.permute.default, [order], permuted)
    classes = graph.output_shape[1] if axis is not None else 1
    kind = wanted.kind or ("embedding" if is_of_unit_length(graph) else _kind(graph, classes, last, wanted.labels))
    reading = Reading(
        axis=axis, batch=batch, classes=classes, why=why, kind=kind, ends="" if last is None else last.title,
        over=tuple(order.index(a) for a in over), unclear=unclear,
    )  # fmt: skip
    graph = replace(graph, reading=reading)
    two = classes == 1 and kind == BINARY and (wanted.labels == 2 or wanted.kind == BINARY)
    return _with_negative(graph) if two else graph


def _of_boxes(boxes: Boxes) -> Reading:
    """The reading of a detector's output, which is [N, classes and more, places] already."""
    axis = 1 if boxes.layout == ROWS else 2
    return Reading(axis=axis, classes=boxes.classes, why=_WHY[boxes.layout], kind=DETECTIONS, ends=boxes.ends)


_WHY = {
    ROWS: "rows of one tensor: box, classes",
    COLUMNS: "columns of one tensor: box, objectness, classes",
    APART: "boxes and scores in two tensors",
}


def _class_axis(graph: Graph, batch: int, wanted: Wanted) -> tuple[int | None, str, str]:
    """The axis of the classes (None: one number an image), the reason, and the ambiguity if there is one."""
    shape = graph.output_shape
    others = [axis for axis in range(len(shape)) if axis != batch]
    if wanted.axis is not None:
        axis = wanted.axis + len(shape) if wanted.axis < 0 else wanted.axis
        if axis in others:
            return axis, "as --class-axis or the sidecar says", ""
        where = " or ".join(map(str, others))
        return (
            None,
            "",
            f"returns {_text(shape, batch)}, which has no class axis {wanted.axis}; --class-axis takes {where}",
        )
    over = [axis for axis in softmax_axes(graph) if axis != batch]
    if len(over) == 1:
        return over[0], "its softmax runs over it", ""
    if not others:
        return None, "one number an image", ""
    long = [axis for axis in others if shape[axis] > 1]
    if len(long) < 2:
        return (long or others)[0], "the only axis besides the batch", ""
    named = [axis for axis in others if wanted.labels > 1 and shape[axis] == wanted.labels]
    if len(named) == 1:
        return named[0], f"as long as there are labels ({wanted.labels})", ""
    if len(others) == 3:
        axis = _off_plane(graph, others)
        return axis, "by convention" if axis == others[0] else "the other two are the picture's plane", ""
    if len(others) == 2 and len(graph.input_shape) == 3:  # a sequence: the other axis has the sequence's length
        free = [axis for axis in others if shape[axis] != graph.input_shape[2]]
        if len(free) == 1:
            return free[0], "the other one is the sequence", ""
    ways = ", ".join(f"--class-axis {axis} ({shape[axis]:,} classes)" for axis in others)
    return (
        others[0],
        "unclear",
        f"returns {_text(shape, batch)}, and nothing says which axis holds classes; give {ways}",
    )


def _off_plane(graph: Graph, others: Sequence[int]) -> int:
    """The class axis among three: the axis left when two are proportional to the image's height and width.

    The first axis, as in [N, C, H, W], unless only the first two axes fit the plane.
    """
    if len(graph.input_shape) != 4:
        return others[0]
    height, width = graph.input_shape[2:]

    def is_plane(rows: int, columns: int) -> bool:
        """Whether both sides are scaled by the same factor, to within a pixel, and not 1 long."""
        return abs(rows / height - columns / width) <= 1 / min(height, width) and rows > 1

    sizes = [graph.output_shape[axis] for axis in others]
    return others[2] if is_plane(*sizes[:2]) and not is_plane(*sizes[1:]) else others[0]


def is_of_unit_length(graph: Graph) -> bool:
    """Whether the output is a vector divided by its own norm, as embeddings are."""
    last, by_name = _last(graph), {op.name: op for op in graph.operators}
    if last is None or last.title != "div" or len(last.sources) != 2:
        return False
    vector, length = last.sources[0], by_name.get(last.sources[1])
    while length is not None and len(length.sources) == 1 and "norm" not in length.title:  # clamp, expand
        length = by_name.get(length.sources[0])
    return length is not None and "norm" in length.title and length.sources == (vector,)


def _kind(graph: Graph, classes: int, last: Operator | None, labels: int) -> str:
    """The kind of an output [N, classes, …]: by its positions, its final activation, and how many classes it has."""
    if classes > 1:
        positions = [size for size in graph.output_shape[2:] if size > 1]
        if len(positions) > 1:
            return SEGMENTATION
        if positions:
            return SEQUENCE
        return LABELS if last is not None and last.title == "sigmoid" else CLASSES
    return BINARY if labels == 2 or (last is not None and last.title == "sigmoid") else REGRESSION


def _text(shape: Sequence[int], batch: int) -> str:
    """A shape as text, with N for the images."""
    return f"[{', '.join('N' if axis == batch else str(size) for axis, size in enumerate(shape))}]"


def settled(graph: Graph, where: object) -> Graph:
    """The graph, if its class axis is clear. Raises `UsageError`, naming `where` and the flag, if not."""
    if graph.reading is not None and graph.reading.unclear:
        raise UsageError(f"{where}: {graph.reading.unclear}")
    return graph


# --- operators that are appended ----------------------------------------------------------------------------------


def _appended(graph: Graph, name: str, target: Any, args: list[Any], shape: tuple[int, ...]) -> Graph:
    """The graph with `target(output, *args)` as its output."""
    dtype = graph.operators[-1].dtype if graph.operators else torch.get_default_dtype()
    op = Operator(
        name=_unused_name(graph, name), target=target, args=(Ref(graph.output), *args), kwargs={}, index=None,
        shape=shape, dtype=dtype, sources=(graph.output,), source_shapes=(graph.output_shape,),
    )  # fmt: skip
    return replace(graph, operators=(*graph.operators, classified(op)), output=op.name, output_shape=shape)


def _unused_name(graph: Graph, name: str) -> str:
    """A name for an appended operator that no other operator has."""
    taken = {op.name for op in graph.operators}
    return next(x for x in _names_to_try(name) if x not in taken)


def _names_to_try(name: str) -> Iterator[str]:
    """Names to try: `output_…`, `output_…_2`, `output_…_3`."""
    yield f"output_{name}"
    i = 1
    while True:
        i += 1
        yield f"output_{name}_{i}"


def _with_negative(graph: Graph) -> Graph:
    """A single output z as two classes, negative and positive: [−z, z], or [1 − p, p] for a probability p."""
    shape, reading = graph.output_shape, graph.reading
    assert reading is not None
    if len(shape) == 1:
        graph = _appended(graph, "unsqueeze", _ATEN.unsqueeze.default, [1], (*shape, 1))
    positive, shape = graph.output, graph.output_shape
    is_probability = graph.final is None and reading.ends == "sigmoid"
    other = (_ATEN.rsub.Scalar, [1]) if is_probability else (_ATEN.neg.default, [])
    graph = _appended(graph, "negative", *other, shape)
    both = (shape[0], 2, *shape[2:])
    joined = Operator(
        name=_unused_name(graph, "both"), target=_ATEN.cat.default, args=([Ref(graph.output), Ref(positive)], 1),
        kwargs={}, index=None, shape=both, dtype=graph.operators[-1].dtype, sources=(graph.output, positive),
        source_shapes=(shape, shape),
    )  # fmt: skip
    return replace(
        graph, operators=(*graph.operators, classified(joined)), output=joined.name, output_shape=both,
        reading=replace(reading, classes=2),
    )  # fmt: skip


# --- what the numbers are -----------------------------------------------------------------------------------------


def quantity(graph: Graph) -> str:
    """What the explained score is: `logit`, `centred-logit`, `probability`, or the artifact's own `output`."""
    if graph.boxes is not None:
        return "logit" if graph.boxes.logits else "probability"
    if graph.centred:
        return "centred-logit"
    if graph.final is not None:
        return "logit"
    ends = _final_title(graph)
    return "probability" if ends and ends != "_log_softmax" else "output"


def probabilities(graph: Graph, output: Tensor) -> Tensor:
    """The explained output [N, classes, …] as probabilities: by the graph's own final activation, else softmax.

    NaN if the output has no probabilities (regression, embedding).
    """
    if graph.boxes is not None:
        return box_chances(graph.boxes, output)
    ends, reading = _final_title(graph), graph.reading
    with torch.no_grad():
        if ends and graph.final is None:  # the activation is still in the graph
            return output.exp() if ends == "_log_softmax" else output
        if is_sigmoid(graph):
            return output.sigmoid()
        if ends:
            return _softmax(output, softmax_axes(graph) if reading is None else reading.over)
        likely = (reading is None or reading.kind not in UNLIKELY) and output.dim() > 1 and output.shape[1] > 1
        return output.softmax(1) if likely else torch.full_like(output, float("nan"))


def box_chances(boxes: Boxes, output: Tensor) -> Tensor:
    """Probabilities of the classes of each box, in [N, C + (1) + 4, A]; NaN for the rows of the box itself."""
    with torch.no_grad():
        scores, rest = output[:, : boxes.classes], torch.full_like(output[:, boxes.classes :], float("nan"))
        if boxes.logits:
            objects = output[:, boxes.classes : boxes.classes + 1] if boxes.objectness else None
            scores = scores if objects is None else scores - objects
            scores = scores.softmax(1) if boxes.ends == "softmax" else scores.sigmoid()
            scores = scores if objects is None else scores * objects.sigmoid()
        scores = scores if boxes.power == 1 else scores**boxes.power
        return torch.cat([scores, rest], 1)


def is_sigmoid(graph: Graph) -> bool:
    """Whether the probability of a score is its sigmoid."""
    return _final_title(graph) == "sigmoid" or (graph.reading is not None and graph.reading.kind in (BINARY, LABELS))


def present_above(graph: Graph) -> float | None:
    """The score above which a label is there at a position, where each has a sigmoid; None where one class wins."""
    if graph.boxes is not None or not is_sigmoid(graph):
        return None
    return 0.5 if _final_title(graph) and graph.final is None else 0.0


def _final_title(graph: Graph) -> str:
    """The title of the final activation, whether removed or in the graph; "" without one."""
    if graph.reading is not None:
        return graph.reading.ends
    last = graph.final or final_activation(graph)
    return "" if last is None else last.title


def _softmax(output: Tensor, over: Sequence[int]) -> Tensor:
    """Softmax over several axes jointly."""
    if len(over) == 1:
        return output.softmax(over[0])
    if not over:  # a softmax over one number
        return torch.ones_like(output)
    shifted = (output - output.amax(tuple(over), keepdim=True)).exp()
    return shifted / shifted.sum(tuple(over), keepdim=True)
