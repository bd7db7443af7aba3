"""Forward runs and walks as machine code: `--compile`.

A forward run and the walk after it are recorded as one graph of ATen operators. That is cut where the output is known,
since a target is chosen there, and torch.compile makes code of both halves: what rules do element by element, which is
most of what a walk costs beside its convolutions, goes through memory once.
"""

from __future__ import annotations

import logging
import operator
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from heatcli.errors import UsageError, first_line
from heatcli.graph.facts import facts_of
from heatcli.graph.operator import Graph
from heatcli.ledger import Books
from heatcli.rules.base import Table, recording
from heatcli.walk import forward, walk

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

Baseline = Tensor | Mapping[str, Tensor] | None
Ends = tuple[Tensor, Tensor] | None
Code = Callable[..., list[Tensor]]


@dataclass(frozen=True, eq=False)
class Halves:
    """A forward run and its walk, as functions of tensors in flat lists.

    `run(*inputs)` returns the output, then that of the baseline where it is computed too, then what the walk needs;
    `back(seed, *inputs, *needed)` what `form` is the structure of: the multiplier of the input, and the books.
    """

    run: Code
    back: Code
    outputs: int
    form: Any


@dataclass(eq=False)
class CompiledTape:
    """A forward run by machine code: what `heatcli.walk.Tape` is, without steps. It can be walked once."""

    graph: Graph
    input: Tensor
    output: Tensor
    reference_output: Tensor | None
    rules: Table
    _back: Callable[[Tensor], Any] | None

    def serves(self, rules: Table, keep: Collection[str]) -> bool:
        """Only for the rules that it was compiled for, and nothing can be kept."""
        return rules == self.rules and not keep

    def values(self, names: Collection[str]) -> dict[str, Tensor]:
        """None: they are not kept."""
        assert not names
        return {}

    def walk(
        self, rules: Table, seed: Tensor, books: Books | None, keep: MutableMapping[str, Tensor] | None = None
    ) -> Tensor:
        """As `heatcli.walk.walk` says."""
        assert self._back is not None
        assert self.serves(rules, keep or ())
        back, self._back = self._back, None
        multiplier, direct, biases, absorbed, unexplained = back(seed)
        if books is not None:
            books.direct, books.biases, books.absorbed = direct, biases, absorbed
            books.unexplained = {name: lost for name, lost in unexplained.items() if bool(lost.any())}
        return multiplier  # type: ignore[no-any-return]


@dataclass(eq=False)
class Compiler:
    """Compiles a forward run and its walk when they are asked for a second time: a single image never pays for it.

    `say` is told before, since it takes from seconds to minutes.
    """

    say: Callable[[str], None] = lambda text: None  # noqa: ARG005
    _known: dict[tuple[Any, ...], Halves] = field(default_factory=dict, repr=False)
    _asked: Counter[tuple[Any, ...]] = field(default_factory=Counter, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    @property
    def made(self) -> int:
        """How many walks it has compiled."""
        return len(self._known)

    def forward(
        self, graph: Graph, batch: Tensor, rules: Table, baseline: Baseline = None, ends: Ends = None
    ) -> CompiledTape | None:
        """Run `graph` on `batch` [N, …] for a walk by `rules`; None the first time, and while it is being compiled.

        `baseline` is as in `heatcli.walk.forward`; `ends` the lowest and highest input, for first layers. Raises
        `UsageError` where it cannot be compiled.
        """
        given, form = pytree.tree_flatten(() if baseline is None else baseline)
        inputs = [batch, *given]
        key = (graph, tuple(rules.items()), form, *(x.shape for x in inputs))
        with self._lock:
            self._asked[key] += 1
            times, halves = self._asked[key], self._known.get(key)
        if times == 2:
            size = "×".join(map(str, batch.shape))
            self.say(f"compiling a walk for batches of {size}; this can take minutes, and is kept for later runs")
            halves = self._known[key] = _compiled(graph, inputs, form, rules, ends)
        if halves is None:
            return None
        with torch.no_grad():
            found = halves.run(*inputs)
        outputs, needed = found[: halves.outputs], found[halves.outputs :]

        def back(seed: Tensor) -> Any:
            """The walk, and its books."""
            with torch.no_grad():
                return pytree.tree_unflatten(halves.back(seed, *inputs, *needed), halves.form)

        reference = baseline[graph.output] if isinstance(baseline, Mapping) else outputs[1] if given else None
        return CompiledTape(graph, batch, outputs[0], reference, rules, back)


def _compiled(graph: Graph, inputs: list[Tensor], form: Any, rules: Table, ends: Ends) -> Halves:
    """The code, once run, since torch compiles at the first call."""
    try:
        with _quiet():
            halves = record(graph, inputs, form, rules, ends)
            code = replace(halves, run=_code(halves.run), back=_code(halves.back))
            with torch.no_grad():
                found = code.run(*inputs)
                code.back(torch.zeros_like(found[0]), *inputs, *found[halves.outputs :])
    except Exception as error:  # whatever torch's compiler and the machine's raise
        why = first_line(error, 160)
        raise UsageError(
            f"--compile fails here: {why}; install a C++ compiler such as g++, or leave --compile out"
        ) from error
    return code


def _code(function: Code) -> Code:
    return torch.compile(function, dynamic=False, options={"cpp.dynamic_threads": True})


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's compiler says of machines that have no GPU."""
    log = logging.getLogger("torch.utils.cpp_extension")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def record(graph: Graph, inputs: list[Tensor], form: Any, rules: Table, ends: Ends) -> Halves:
    """A forward run on `inputs`, the batch and the tensors of the baseline that `form` is the structure of, cut."""
    from torch.func import functionalize
    from torch.fx.experimental.proxy_tensor import make_fx

    known: list[Any] = []

    def whole(seed: Tensor, batch: Tensor, *given: Tensor) -> list[Tensor | None]:
        """The run and the walk."""
        baseline = pytree.tree_unflatten(given, form) if given else None
        with recording():
            tape = forward(graph, batch, baseline, rules=rules)
            if ends is not None:
                tape.bound(*ends)
            outputs = [tape.output, *([tape.reference_output] if isinstance(baseline, Tensor) else [])]
            books = Books.open(graph, batch)
            multiplier = walk(tape, rules, seed, books)
        found, structure = pytree.tree_flatten(
            (multiplier, books.direct, books.biases, books.absorbed, books.unexplained)
        )
        known[:] = len(outputs), structure
        return [*outputs, *found]

    for op in graph.operators:
        facts_of(op)  # some look at constants, whose values cannot be read while it is being recorded
    seed = torch.zeros(graph.output_shape, dtype=inputs[0].dtype, device=inputs[0].device)
    recorded = make_fx(whole)(seed, *inputs)
    with torch.no_grad():  # in-place writes become values: only then it can be cut
        recorded = make_fx(functionalize(recorded))(seed, *inputs)
    run, back = _cut(recorded, known[0])
    return Halves(run, back, *known)


def _cut(whole: GraphModule, outputs: int) -> tuple[GraphModule, GraphModule]:
    """What the first `outputs` of the outputs are computed from; and the rest, which needs some of those values."""
    from torch.fx import Graph as Record
    from torch.fx import GraphModule

    aten = torch.ops.aten
    for node in list(whole.graph.nodes):
        if node.target in (aten.detach.default, aten.alias.default):
            node.replace_all_uses_with(node.args[0])
            whole.graph.erase_node(node)
    nodes = list(whole.graph.nodes)
    (returned,) = nodes.pop().args
    inputs = [node for node in nodes if node.op == "placeholder"]
    before = {*inputs}
    ahead: list[Node] = list(returned[:outputs])
    while ahead:
        node = ahead.pop()
        if node not in before:
            before.add(node)
            ahead += node.all_input_nodes
    for node in nodes:  # the other values of an operator that returns several
        if node.target is operator.getitem and node.args[0] in before:
            before.add(node)
    behind = {node for node in nodes if node not in before}

    def handed_over(node: Node) -> bool:
        """Whether the walk needs it."""
        used = node in returned[outputs:] or any(user in behind for user in node.users)
        return used and node in before and node.op not in ("placeholder", "get_attr")

    needed = [node for node in nodes if handed_over(node)]
    run, back = Record(), Record()
    there: dict[Node, Node] = {}
    for node in [*inputs[1:], *(node for node in nodes if node in before and node not in inputs)]:
        there[node] = run.node_copy(node, there.__getitem__)
    run.output([there[node] for node in [*returned[:outputs], *needed]])
    there = {node: back.placeholder(node.name) for node in [*inputs, *needed]}
    for node in nodes:
        if node not in there and (node in behind or node.op == "get_attr"):
            there[node] = back.node_copy(node, there.__getitem__)
    back.output([node and there[node] for node in returned[outputs:]])
    for half in (run, back):
        half.eliminate_dead_code()
    return GraphModule(whole, run), GraphModule(whole, back)
