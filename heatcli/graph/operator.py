"""The graph: a flat list of ATen operators, each with one tensor as its output.

Every format (TorchScript, ONNX, torch.export) ends here. An operator knows which of its arguments carry the image
(its *sources*), which kind it is of, and what it adds when all its sources are zero (its *offsets*, the biases).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


@dataclass(frozen=True, slots=True)
class Ref:
    """Stands, among an operator's arguments, for the output of the operator (or input) of that name."""

    name: str


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Constant:
    """Stands, among an operator's arguments, for a tensor of the artifact, under the name it has there."""

    name: str
    value: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Offset:
    """What an operator adds at zero input, under the name that the artifact gives it.

    `value` broadcasts against the operator's output [N, …]; it is booked per element of `value`. `batched`: it has
    a row for each image, as an artifact with its batch size baked in may have.
    """

    name: str
    value: Tensor
    batched: bool = False

    @property
    def size(self) -> int:
        """How many elements it has: a batch dimension in front counts as one."""
        return max(1, self.value.numel() // (len(self.value) if self.batched else 1))

    def collect(self, multiplier: Tensor) -> Tensor:
        """The operator's multiplier [N, …] summed over the positions that share an element of the offset."""
        return collect(multiplier, self.value)

    def book(self, collected: Tensor, onto: Tensor) -> Tensor:
        """`onto` [N, size] and what `collect` returned times the offset, of all rows that an image has there."""
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
    """One call of an ATen operator, `target(*args, **kwargs)`, or of one of its outputs (`index`).

    Tensors of the artifact sit among the arguments as `Constant`, what depends on the input as `Ref`.
    `sources` names the floating-point inputs through which the image reaches this operator, one for each
    occurrence; other `Ref`s (masks, indices) are values that a walk takes as given.
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
    role: str = ""  # a finer name within its kind, or "": see heatcli.graph.kinds.ROLES
    first: bool = False  # layers with weights that see the image itself
    near: bool = False  # operators between the image and its first layers
    nonnegative: bool = False  # its output is nowhere below 0, whatever the image
    offsets: tuple[Offset, ...] = ()
    vanishes: bool = True  # its value at zero input is finite, so "blame the bias" has a reference
    refs: tuple[str, ...] = field(init=False)  # names of all values it reads, in order, sources and others
    title: str = field(init=False)  # its ATen name, such as `convolution`
    _plain: tuple[tuple[Any, ...], Mapping[str, Any]] = field(init=False, repr=False)  # constants as their tensors
    _open: tuple[int | str, ...] = field(init=False, repr=False)  # which arguments hold a `Ref`

    def __post_init__(self) -> None:
        plain = pytree.tree_map(lambda x: x.value if isinstance(x, Constant) else x, (self.args, dict(self.kwargs)))
        object.__setattr__(self, "_plain", plain)
        refs = tuple(x.name for x in pytree.tree_leaves(plain) if isinstance(x, Ref))
        object.__setattr__(self, "refs", refs)
        arguments = [*enumerate(plain[0]), *plain[1].items()]
        held = tuple(at for at, x in arguments if any(isinstance(leaf, Ref) for leaf in pytree.tree_leaves(x)))
        object.__setattr__(self, "_open", held)
        packet = getattr(self.target, "overloadpacket", self.target)
        object.__setattr__(self, "title", str(getattr(packet, "__name__", packet)))

    def reads(self, position: int) -> bool:
        """Whether the top-level argument at `position` carries the image."""
        if position >= len(self.args):
            return False
        return any(isinstance(x, Ref) and x.name in self.sources for x in pytree.tree_leaves(self.args[position]))

    def arg(self, position: int, default: Any = None) -> Any:
        """The top-level argument at `position`, or `default` where the call leaves it out."""
        return self.args[position] if position < len(self.args) else default

    def argument(self, name: str) -> Any:
        """The argument of that name in the operator's schema, or its default where the call leaves it out.

        None where the operator has none of that name.
        """
        if name in self.kwargs:
            return self.kwargs[name]
        declared = enumerate(self.target._schema.arguments)  # type: ignore[attr-defined]
        position, argument = next(((i, a) for i, a in declared if a.name == name), (len(self.args), None))
        return self.arg(position, None if argument is None else argument.default_value)

    def constant(self, position: int) -> Constant | None:
        """The constant at `position`, or None where something else is there."""
        found = self.arg(position)
        return found if isinstance(found, Constant) else None

    @property
    def bias(self) -> Tensor | None:
        """The sum of its offsets, which broadcasts against its output; None where it has none."""
        return sum((o.value for o in self.offsets[1:]), self.offsets[0].value) if self.offsets else None

    @property
    def constants(self) -> list[Constant]:
        """All constants among the arguments, in order."""
        return [x for x in pytree.tree_leaves((self.args, dict(self.kwargs))) if isinstance(x, Constant)]

    def run(self, values: Mapping[str, Tensor], inputs: Sequence[Tensor] | None = None) -> Tensor:
        """Call it; `inputs`, one for each source, stand in for the values of the sources."""
        stand_in = iter(inputs) if inputs is not None else None
        args, kwargs = list(self._plain[0]), dict(self._plain[1])
        for at in self._open:
            held: Any = args if isinstance(at, int) else kwargs
            held[at] = self._given(held[at], values, stand_in)
        returned = self.target(*args, **kwargs)
        output: Tensor = returned if self.index is None else returned[self.index]
        return output

    def _given(self, x: Any, values: Mapping[str, Tensor], stand_in: Iterator[Tensor] | None) -> Any:
        """An argument with its values in place. No closure: one that calls itself would hold them until collected."""
        if isinstance(x, Ref):
            return next(stand_in) if stand_in is not None and x.name in self.sources else values[x.name]
        return [self._given(y, values, stand_in) for y in x] if isinstance(x, list | tuple) else x


def renamed(op: Operator, names: Mapping[str, str]) -> Operator:
    """The same operator, reading other values under the names that `names` maps its own to."""
    if not any(name in names for name in op.refs):
        return op

    def swap(x: object) -> object:
        return Ref(names[x.name]) if isinstance(x, Ref) and x.name in names else x

    args, kwargs = pytree.tree_map(swap, (op.args, dict(op.kwargs)))
    return replace(op, args=args, kwargs=kwargs, sources=tuple(names.get(s, s) for s in op.sources))


@dataclass(frozen=True, slots=True)
class Verified:
    """How a graph compares with its artifact on the artifact's own runtime, `against`, such as `onnxruntime 1.20.0`.

    `error`: the largest difference of an output, as a share of the largest output. `agrees`: whether that is rounding.
    """

    against: str
    error: float
    agrees: bool


@dataclass(frozen=True)
class Returned:
    """One of the floating-point tensors that an artifact returns; `name`: its key, where it returns a dictionary."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    name: str = ""


@dataclass(frozen=True)
class Reading:
    """How the explained output is read (`heatcli.graph.outputs`).

    `axis` of the classes and `batch` of the images, as the artifact returns them; `axis` is None for one number an
    image. `why` it is that axis. `kind`: classes, binary, regression, embedding, detections. `ends`: the title of its
    final activation, or "". `over`: the axes of [N, classes, …] that a final softmax runs over. `unclear`: what is
    wrong with it, or "".
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

    `final` is the activation that was taken off the end (softmax, log_softmax, sigmoid), if there was one:
    the logit before it is explained, and it turns the logits into what the artifact itself returns. `centred`: the
    mean over classes is subtracted. `channels_last`: its convolutions are faster with inputs that lie so in memory.
    `guards`: graphs of numbers that the artifact computes from the image and decides by (a branch, a size), each with
    what it was when this graph was captured; on images where one is another number, the artifact is another graph.
    `verified`: how it compares with the artifact, None where it was not compared.
    `returned`: all floating-point tensors that the artifact returns. `remarks`: what its user should know of it.
    `reading`: how the output is read, once that is decided.
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
    verified: Verified | None = None
    returned: tuple[Returned, ...] = ()
    remarks: tuple[str, ...] = ()
    reading: Reading | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of its output."""
        return next((op.dtype for op in self.operators if op.name == self.output), torch.float32)

    @property
    def reads_memory(self) -> bool:
        """Whether some operator reads memory as it lies, so that every copy and layout counts."""
        return any(op.title == "as_strided" for op in self.operators)

    @property
    def keeps_images_apart(self) -> bool:
        """Whether every value that carries the image has one row an image, so that books can be kept an image."""
        n = self.input_shape[:1]
        return self.output_shape[:1] == n and all(op.shape[:1] == n for op in self.operators if op.sources)

    @cached_property
    def offsets(self) -> dict[str, tuple[str, int]]:
        """Every bias of the network in forward order: name → (ATen operator, size)."""
        found: dict[str, tuple[str, int]] = {}
        for operator in self.operators:
            for offset in operator.offsets:
                found.setdefault(offset.name, (operator.title, offset.size))
        return found


def bypassed(graph: Graph, idle: Callable[[Operator, Operator | None], bool]) -> Graph:
    """The graph without operators of one source that are `idle`: what read them reads their source.

    `idle` is asked with the operator and the one that its source came from, None for the image.
    """
    names: dict[str, str] = {}
    kept: dict[str, Operator] = {}
    for operator in graph.operators:
        op = renamed(operator, names)
        if len(op.sources) == 1 and idle(op, kept.get(op.sources[0])):
            names[op.name] = op.sources[0]
        else:
            kept[op.name] = op
    return replace(graph, operators=tuple(kept.values()), output=names.get(graph.output, graph.output))
