"""Compiled forward runs and walks: `--compile`.

A forward run and its walk are recorded as one graph of ATen operators. The graph is cut after the output, because the
target is chosen there, and torch.compile compiles both halves. It fuses the elementwise operations of the rules, which
cost most of a walk beside its convolutions, into one pass over memory.
"""

from __future__ import annotations

import logging
import operator
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from heatcli.engine.forward import forward
from heatcli.engine.ledger import Books
from heatcli.engine.record import recorded
from heatcli.engine.tape import Tape
from heatcli.engine.walk import walk
from heatcli.errors import UsageError, first_line
from heatcli.graph.operator import Graph
from heatcli.rules.rule import Table
from heatcli.system.torch_private import COMPILER_LOG, COMPILER_OPTIONS, pytree

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

Baseline = Tensor | Mapping[str, Tensor] | None
Ends = tuple[Tensor, Tensor] | None
Code = Callable[..., list[Tensor]]


@dataclass(frozen=True, eq=False)
class Halves:
    """A forward run and its walk, as functions of tensors in flat lists.

    `run(*inputs)` returns the output, then the baseline's output if computed, then the values that the walk needs.
    `back(seed, *inputs, *needed)` returns the leaves of `form`: the multiplier of the input, and the books.
    """

    run: Code
    back: Code
    outputs: int
    form: Any


@dataclass(eq=False, kw_only=True)
class CompiledTape(Tape):
    """A compiled forward run, without steps. It can be walked once, by the rules it was compiled for."""

    rules: Table

    def serves(self, rules: Table, keep: Collection[str]) -> bool:
        """Whether `rules` are the compiled rules. No values can be kept."""
        return rules == self.rules and not keep

    def values(self, names: Collection[str]) -> dict[str, Tensor]:
        """An empty dictionary, since no values are kept."""
        assert not names
        return {}


@dataclass(eq=False)
class Compiler:
    """Compiles a forward run and its walk on the second request, so that a single image costs no compilation.

    `say` is called before each compilation, which takes seconds to minutes.
    """

    say: Callable[[str], None] = lambda text: None  # noqa: ARG005
    _known: dict[tuple[Any, ...], Halves] = field(default_factory=dict, repr=False)
    _asked: Counter[tuple[Any, ...]] = field(default_factory=Counter, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    @property
    def made(self) -> int:
        """The number of compiled walks."""
        return len(self._known)

    def forward(
        self, graph: Graph, batch: Tensor, rules: Table, baseline: Baseline = None, ends: Ends = None
    ) -> CompiledTape | None:
        """Run `graph` on `batch` [N, …] for a walk by `rules`; None on the first request and while compiling.

        `baseline`: as in `forward`. `ends`: the lowest and highest input, for first layers. Raises `UsageError` if the
        compilation fails.
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
            flat = halves.run(*inputs)
        outputs, needed = flat[: halves.outputs], flat[halves.outputs :]

        def back(seed: Tensor, books: Books | None) -> Tensor:
            """Walk back and fill the books."""
            with torch.no_grad():
                walked = pytree.tree_unflatten(halves.back(seed, *inputs, *needed), halves.form)
            multiplier, direct, biases, absorbed, unexplained = walked
            if books is not None:
                books.direct, books.biases, books.absorbed = direct, biases, absorbed
                books.unexplained = {name: lost for name, lost in unexplained.items() if bool(lost.any())}
            return multiplier  # type: ignore[no-any-return]

        reference = baseline[graph.output] if isinstance(baseline, Mapping) else outputs[1] if given else None
        return CompiledTape(
            graph=graph,
            input=batch,
            steps=[],
            output=outputs[0],
            reference_output=reference,
            rules=rules,
            compiled=back,
        )


def _compiled(graph: Graph, inputs: list[Tensor], form: Any, rules: Table, ends: Ends) -> Halves:
    """The compiled halves, run once, since torch compiles at the first call."""
    try:
        with _quiet():
            halves = record(graph, inputs, form, rules, ends)
            code = replace(halves, run=_code(halves.run), back=_code(halves.back))
            with torch.no_grad():
                returned = code.run(*inputs)
                code.back(torch.zeros_like(returned[0]), *inputs, *returned[halves.outputs :])
    except Exception as error:  # whatever torch's compiler and the C++ compiler raise
        why = first_line(error, 160)
        raise UsageError(
            f"--compile fails here: {why}; install a C++ compiler such as g++, or leave --compile out"
        ) from error
    return code


def _code(function: Code) -> Code:
    return torch.compile(function, dynamic=False, options=dict(COMPILER_OPTIONS))


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress torch's compiler warnings about machines without a GPU."""
    log = logging.getLogger(COMPILER_LOG)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def record(graph: Graph, inputs: list[Tensor], form: Any, rules: Table, ends: Ends) -> Halves:
    """Record a forward run on `inputs` and its walk, cut into halves.

    `inputs`: the batch [N, …], then the tensors of the baseline, whose structure is `form`.
    """
    known: list[Any] = []

    def whole(seed: Tensor, batch: Tensor, *given: Tensor) -> list[Tensor | None]:
        """The forward run and the walk."""
        baseline = pytree.tree_unflatten(given, form) if given else None
        tape = forward(graph, batch, baseline, rules=rules, fixed=True)
        if ends is not None:
            tape.bound(*ends)
        outputs = [tape.output, *([tape.reference_output] if isinstance(baseline, Tensor) else [])]
        books = Books.open(graph, batch)
        multiplier = walk(tape, rules, seed, books)
        leaves, structure = pytree.tree_flatten(
            (multiplier, books.direct, books.biases, books.absorbed, books.unexplained)
        )
        known[:] = len(outputs), structure
        return [*outputs, *leaves]

    seed = torch.zeros(graph.output_shape, dtype=inputs[0].dtype, device=inputs[0].device)
    run, back = _cut(recorded(whole, [seed, *inputs]), known[0])
    return Halves(run, back, *known)


def _cut(whole: GraphModule, outputs: int) -> tuple[GraphModule, GraphModule]:
    """Two graphs: one computes the first `outputs` outputs, the other the rest from values of the first."""
    from torch.fx import Graph as Record
    from torch.fx import GraphModule

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
    for node in nodes:  # all outputs of an operator with several
        if node.target is operator.getitem and node.args[0] in before:
            before.add(node)
    behind = {node for node in nodes if node not in before}

    def handed_over(node: Node) -> bool:
        """Whether the walk reads a value that the forward run computes."""
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
