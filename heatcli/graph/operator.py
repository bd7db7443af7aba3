"""The graph: a flat list of ATen operators, each with one tensor as its output.

Every format (TorchScript, ONNX, torch.export) becomes this graph. An operator records which of its arguments carry the
image (its *sources*), its kind, and its output when all sources are zero (its *offsets*, the biases).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from heatcli.graph.nested import leaves, mapped
from heatcli.system.torch_private import name_of, schema_of


@dataclass(frozen=True, slots=True)
class Ref:
    """An argument: the output of the operator (or the input) of that name."""

    name: str


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Constant:
    """An argument: a tensor of the artifact, under its name there."""

    name: str
    value: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Offset:
    """An operator's output at zero input, or a part of it, under the artifact's name for it.

    `value` broadcasts against the operator's output [N, …]. Contributions are booked per element of `value`.
    `batched`: `value` has a row for each image, as in an artifact with a fixed batch size. `place`: (dimension, start)
    of the part of the output that `value` covers, such as a class token among tokens; None for the whole output.
    """

    name: str
    value: Tensor
    batched: bool = False
    place: tuple[int, int] | None = None

    @property
    def size(self) -> int:
        """The number of elements, without the batch dimension if `batched`."""
        return max(1, self.value.numel() // (len(self.value) if self.batched else 1))

    def collect(self, multiplier: Tensor) -> Tensor:
        """The operator's multiplier [N, …] summed over the positions that share an element of the offset."""
        if self.place is not None:
            dim, start = self.place
            multiplier = multiplier.narrow(dim, start, self.value.shape[dim])
        return collect(multiplier, self.value)

    def whole(self, shape: Sequence[int]) -> Tensor:
        """The offset as a value that broadcasts against the operator's output of `shape`."""
        if self.place is None:
            return self.value
        dim, start = self.place
        sizes = [*self.value.shape]
        sizes[dim] = shape[dim]
        zeros = self.value.new_zeros(sizes)
        zeros.narrow(dim, start, self.value.shape[dim]).copy_(self.value)
        return zeros

    def book(self, collected: Tensor, onto: Tensor) -> Tensor:
        """`onto` [N, size] plus the result of `collect` times the offset, summed over all rows of an image."""
        rows, value = collected.reshape(-1, self.size), self.value.reshape(-1, self.size)
        if len(rows) == len(onto):
            return torch.addcmul(onto, rows, value)
        return onto + (rows * value).reshape(len(onto), -1, self.size).sum(1)


def collect(multiplier: Tensor, bias: Tensor) -> Tensor:
    """A multiplier [N, …] summed over the positions that share an element of a bias that broadcasts against it."""
    shape = (1,) * (multiplier.dim() - bias.dim()) + tuple(bias.shape)
    reduced = [d for d in range(1, multiplier.dim()) if shape[d] == 1 and multiplier.shape[d] != 1]
    return multiplier.sum(reduced, keepdim=True) if reduced else multiplier


@dataclass(frozen=True, eq=False)
class Operator:
    """One call of an ATen operator, `target(*args, **kwargs)`; `index` selects one of several outputs.

    Among the arguments, a tensor of the artifact is a `Constant` and a value that depends on the input is a `Ref`.
    `sources` names the floating-point inputs through which the image reaches this operator, one for each
    occurrence. Other `Ref`s (masks, indices) are values that a walk holds fixed.
    """

    name: str
    target: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    index: int | None
    shape: tuple[int, ...]
    dtype: torch.dtype
    sources: tuple[str, ...] = ()
    source_shapes: tuple[tuple[int, ...], ...] = ()
    kind: str = ""
    role: str = ""  # a role within the kind (heatcli.graph.kinds.ROLES), or ""
    first: bool = False  # a layer with weights that reads the image
    before_first: bool = False  # between the image and the first layers
    nonnegative: bool = False  # the output is ≥ 0 for every image
    offsets: tuple[Offset, ...] = ()
    finite_at_zero: bool = True  # the output at zero input is finite, so 0 can be the reference
    node: str = ""  # the artifact's name of the node that the operator comes from, if nodes have names
    refs: tuple[str, ...] = field(init=False)  # names of all values the operator reads, in order
    is_lookup: bool = field(
        init=False
    )  # real numbers from whole ones, the tokens of its source (heatcli.graph.lookups)
    title: str = field(init=False)  # the ATen name, such as `convolution`

    def __post_init__(self) -> None:
        refs = tuple([x.name for x in leaves((self.args, self.kwargs)) if isinstance(x, Ref)])
        lookup = bool(self.sources) and not any(name in refs for name in self.sources)
        object.__setattr__(self, "refs", (*refs, *self.sources) if lookup else refs)
        object.__setattr__(self, "is_lookup", lookup)
        object.__setattr__(self, "title", name_of(self.target))

    @cached_property
    def _plain(self) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """The arguments, constants as tensors."""
        plain = mapped(lambda x: x.value if isinstance(x, Constant) else x, (self.args, self.kwargs))
        return plain  # type: ignore[no-any-return]

    @cached_property
    def _open(self) -> tuple[int | str, ...]:
        """The positions and names of arguments that hold a `Ref`."""
        arguments: list[tuple[int | str, Any]] = [*enumerate(self.args), *self.kwargs.items()]
        return tuple(key for key, x in arguments if any(isinstance(leaf, Ref) for leaf in leaves(x)))

    def reads(self, position: int) -> bool:
        """Whether the top-level argument at `position` carries the image."""
        if position >= len(self.args):
            return False
        return any(isinstance(x, Ref) and x.name in self.sources for x in leaves(self.args[position]))

    def arg(self, position: int, default: Any = None) -> Any:
        """The top-level argument at `position`, or `default` where the call leaves it out."""
        return self.args[position] if position < len(self.args) else default

    def argument(self, name: str) -> Any:
        """The argument of that name in the operator's schema, or its default where the call leaves it out.

        None if the operator has no argument of that name.
        """
        if name in self.kwargs:
            return self.kwargs[name]
        declared = enumerate(schema_of(self.target).arguments)
        position, argument = next(((i, a) for i, a in declared if a.name == name), (len(self.args), None))
        return self.arg(position, None if argument is None else argument.default_value)

    def constant(self, position: int) -> Constant | None:
        """The constant at `position`, or None if the argument is something else."""
        argument = self.arg(position)
        return argument if isinstance(argument, Constant) else None

    @property
    def bias(self) -> Tensor | None:
        """The sum of the offsets, which broadcasts against the output; None without offsets."""
        parts = [o.whole(self.shape) for o in self.offsets]
        return sum(parts[1:], parts[0]) if parts else None

    @property
    def constants(self) -> list[Constant]:
        """All constants among the arguments, in order."""
        return [x for x in leaves((self.args, self.kwargs)) if isinstance(x, Constant)]

    def run(self, values: Mapping[str, Tensor], inputs: Sequence[Tensor] | None = None) -> Tensor:
        """Call the operator on `values`, name → tensor, of the shapes at capture but for the number of images.

        `inputs`, a tensor for each source, replace the values of the sources.
        """
        stand_in = iter(inputs) if inputs is not None else None
        args, kwargs = list(self._plain[0]), dict(self._plain[1])
        for key in self._open:
            held: Any = args if isinstance(key, int) else kwargs
            held[key] = self._given(held[key], values, stand_in)
        returned = self.target(*args, **kwargs)
        output: Tensor = returned if self.index is None else returned[self.index]
        return output

    def _given(self, x: Any, values: Mapping[str, Tensor], stand_in: Iterator[Tensor] | None) -> Any:
        """An argument with its values filled in. No closure, since a recursive one keeps values until collected."""
        if isinstance(x, Ref):
            return next(stand_in) if stand_in is not None and x.name in self.sources else values[x.name]
        return [self._given(y, values, stand_in) for y in x] if isinstance(x, list | tuple) else x


def renamed(op: Operator, names: Mapping[str, str]) -> Operator:
    """The same operator with the values it reads renamed by `names`."""
    if not any(name in names for name in op.refs):
        return op

    def swap(x: object) -> object:
        return Ref(names[x.name]) if isinstance(x, Ref) and x.name in names else x

    args, kwargs = mapped(swap, (op.args, op.kwargs))
    return replace(op, args=args, kwargs=kwargs, sources=tuple(names.get(s, s) for s in op.sources))


@dataclass(frozen=True, slots=True)
class Verified:
    """Comparison of a graph with its artifact in the artifact's own runtime, `against`, such as `onnxruntime 1.20.0`.

    `error`: the largest difference of outputs, relative to the largest output. `agrees`: the error is rounding.
    `elsewhere`: the share of positions that the runtime chose elsewhere, which are not compared.
    """

    against: str
    error: float
    agrees: bool
    elsewhere: float = 0.0


@dataclass(frozen=True)
class Returned:
    """One floating-point tensor that an artifact returns. `name`: its key, if the artifact returns a dictionary."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    name: str = ""


@dataclass(frozen=True, slots=True)
class Boxes:
    """How the outputs are boxes with scores before suppression (`heatcli.graph.heads`).

    `layout`: rows [N, 4 + C, A], columns [N, A, 4 + C], or apart. `at`: the number of the output that holds both, or
    the first sides. `objectness`: whether a box has a score of its own besides its classes. `classes`: C. `size`:
    (height, width) of the input. `form`: of four numbers, `centre` (x, y, w, h) or `corners` (x1, y1, x2, y2). `unit`:
    whether they are shares of the size, else pixels. `ends`: sigmoid or softmax. `logits`: whether the scores are those
    before it. `power`: the probability of a box is this power of that of its class (times its objectness).
    `background`: the class that stands for no object, or None. `offsets`: how the outputs are relative to anchors
    (`heatcli.graph.anchors`), "" if they are boxes. `bins`: how many numbers each distance has, whose softmax weighs
    the distances 0, 1, …; 0 for other boxes.
    """

    layout: str
    at: int
    objectness: bool
    classes: int
    size: tuple[int, int]
    form: str = "centre"
    unit: bool = False
    ends: str = "sigmoid"
    logits: bool = True
    power: float = 1.0
    background: int | None = None
    offsets: str = ""
    bins: int = 0


@dataclass(frozen=True)
class Reading:
    """How the explained output is interpreted (`heatcli.graph.outputs`).

    `axis` of the classes and `batch` axis of the images, as the artifact returns them; `axis` is None for one number an
    image. `why`: the reason for that axis. `kind`: classes, binary, regression, embedding, detections. `ends`: title
    of the final activation, or "". `over`: the axes of [N, classes, …] that a final softmax normalises. `unclear`: the
    problem with the output, or "".
    """

    axis: int | None = None
    batch: int = 0
    classes: int = 1
    why: str = ""
    kind: str = "classes"
    ends: str = ""
    over: tuple[int, ...] = ()
    unclear: str = ""


@dataclass(frozen=True, eq=False)
class Graph:
    """Operators in forward order, from the image called `input` to the value called `output`.

    `final`: the activation removed from the end (softmax, log_softmax, sigmoid), if any. The logit before it is
    explained, and `final` turns logits into the artifact's output. `centred`: the mean over classes is subtracted.
    `channels_last`: convolutions are faster with inputs in that memory format.
    `guards`: graphs of numbers that the artifact computes from the image to decide a branch or a size, each with its
    value at capture. For images with another value, the artifact is another graph. `chosen_on`: the images [N, …] by
    which the artifact chose the positions that the graph holds (`heatcli.graph.positions`); None: it chooses none, or
    they are held for every image.
    `verified`: comparison with the artifact, or None. `returned`: all floating-point tensors that the artifact returns.
    `remarks`: notes for the user. `reading`: how the output is interpreted, once decided. `copies`: how many copies of
    the image the operators work on (`heatcli.graph.passes.single`). `boxes`: how the output is boxes, or None.
    `before`: titles of the operators by which the artifact chooses among these scores, which are left out
    (`heatcli.graph.suppression`); `raw`: the artifact's nodes that what goes in is computed from, () without names.
    """

    input: str
    input_shape: tuple[int, ...]
    operators: tuple[Operator, ...]
    output: str
    output_shape: tuple[int, ...]
    final: Operator | None = None
    centred: bool = False
    channels_last: bool = False
    guards: tuple[tuple[Graph, float], ...] = ()
    chosen_on: Tensor | None = None
    verified: Verified | None = None
    returned: tuple[Returned, ...] = ()
    remarks: tuple[str, ...] = ()
    reading: Reading | None = None
    copies: int = 1
    boxes: Boxes | None = None
    before: tuple[str, ...] = ()
    raw: tuple[str, ...] = ()

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the output."""
        return next((op.dtype for op in self.operators if op.name == self.output), torch.float32)

    @property
    def is_of_every_image(self) -> bool:
        """Whether the artifact is this graph for every image of the shape."""
        return not self.guards and self.chosen_on is None

    @cached_property
    def with_positions_held(self) -> Graph:
        """The graph as a function of any image at these positions, such as a baseline of the image captured."""
        return replace(self, chosen_on=None)

    @property
    def reads_memory(self) -> bool:
        """Whether some operator reads memory by strides, so that every copy and memory format matters."""
        return any(op.title == "as_strided" for op in self.operators)

    @property
    def keeps_images_apart(self) -> bool:
        """Whether every value that carries the image has one row an image, so that books can be kept an image."""
        n = self.input_shape[:1]
        return self.output_shape[:1] == n and all(op.shape[:1] == n for op in self.operators if op.sources)

    @cached_property
    def offsets(self) -> dict[str, tuple[str, int]]:
        """Every bias of the network in forward order: name → (ATen operator, size)."""
        biases: dict[str, tuple[str, int]] = {}
        for operator in self.operators:
            for offset in operator.offsets:
                biases.setdefault(offset.name, (operator.title, offset.size))
        return biases


def needed_for(output: str, operators: Iterable[Operator]) -> tuple[Operator, ...]:
    """The operators, from `operators` in forward order, that the value `output` depends on."""
    needed, kept = {output}, []
    for op in reversed(list(operators)):
        if op.name in needed:
            needed.update(op.refs)
            kept.append(op)
    return tuple(reversed(kept))


def bypassed(graph: Graph, idle: Callable[[Operator, Operator | None], bool]) -> Graph:
    """The graph without the one-source operators that are `idle`; their readers read their source instead.

    `idle` is called with the operator and the operator that computes its source, None for the image.
    """
    names: dict[str, str] = {}
    kept: dict[str, Operator] = {}
    for operator in graph.operators:
        op = renamed(operator, names)
        if len(op.sources) == 1 and not op.is_lookup and idle(op, kept.get(op.sources[0])):
            names[op.name] = op.sources[0]
        else:
            kept[op.name] = op
    return replace(graph, operators=tuple(kept.values()), output=names.get(graph.output, graph.output))
