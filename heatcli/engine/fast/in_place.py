"""Operators that overwrite their input with their output, which saves memory traffic.

The input's values are lost, so this is done only if no rule, no later operator and no user reads them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from heatcli.engine.fast.passed import Passed
from heatcli.graph.facts import facts_of
from heatcli.graph.kinds import LAYOUT, has_fixed_statistics
from heatcli.graph.operator import Graph, Operator
from heatcli.rules.elementwise import Slope
from heatcli.rules.rule import Adjoint, Rule, Step
from heatcli.system.torch_private import relu_backward


def can_write_over(operator: Operator) -> bool:
    """Whether the operator can overwrite its input, and its vector-Jacobian product reads at most its output."""
    plain = has_fixed_statistics(operator) and not operator.kwargs and len(operator.refs) == 1
    return plain or facts_of(operator).overwrites


def written_in_place(operator: Operator, x: Tensor) -> Tensor:
    """The output of an operator that `can_write_over` its input x [N, …], in the memory of x."""
    x = x.detach()
    if operator.title == "relu":
        return x.relu_()
    if x.device.type != "cpu":
        return operator.run({}, [x])
    weights = [constant and constant.value for constant in map(operator.constant, range(1, 5))]
    momentum, eps = operator.args[-2:]
    unused = x.new_empty(0)
    torch.ops.aten.native_batch_norm.out(
        x, *weights, False, momentum, eps, out=x, save_mean=unused, save_invstd=unused
    )  # fmt: skip
    return x


def relu_product(operator: Operator, inputs: Sequence[Tensor], output: Tensor, m: Tensor) -> list[Tensor]:  # noqa: ARG001
    """The vector-Jacobian product of a ReLU that overwrote its input, in the memory of its output.

    All tensors have one shape. The output is free to overwrite: the walk has passed all operators that read it.
    """
    return [relu_backward(m, output, out=output)]


def remade(step: Step) -> Tensor:
    """The input of a ReLU that overwrote it, computed again."""
    (producer,) = step.producers
    assert producer is not None
    with torch.no_grad():
        return producer.operator.run(producer.others, producer.inputs)


def overwritten(graph: Graph, rules: Mapping[str, Rule], keep: Collection[str], compared: bool) -> dict[str, str]:
    """Values to overwrite: name of the value → name of its only reader, which can overwrite it.

    A walk by `rules` (by operator) does not read these values. `compared` with a reference, only the input of a ReLU is
    overwritten, and its rule can compute that input again. The overwriting operator's output is not read after the
    walk, so the walk may overwrite it too. `keep`: values read after the walk.
    """
    held = _held(graph, keep)
    uses = Counter([*(name for op in graph.operators for name in op.refs), graph.output, *keep])
    producers = {op.name: op for op in graph.operators if facts_of(op).spare_output and uses[op.name] == 1}
    chosen = {}
    for taker in graph.operators:
        producer = producers.get(taker.sources[0]) if can_write_over(taker) and taker.sources else None
        if producer is None or not producer.sources or taker.name in held:
            continue
        rule, after = rules[producer.name], rules[taker.name]
        if isinstance(after, Slope) and taker.title != "relu":  # the secant of other operators reads input and output
            continue
        again = facts_of(producer).diagonal and isinstance(rule, Adjoint) and isinstance(after, Slope)
        if again if compared else _blind(rule, after):
            chosen[producer.name] = taker.name
    return chosen


def _held(graph: Graph, keep: Collection[str]) -> set[str]:
    """Values whose memory is needed after a walk: the output, kept values, and values that these may be views of."""
    held = {graph.output, *keep}
    for operator in reversed(graph.operators):
        if operator.name in held and operator.kind == LAYOUT:
            held.update(operator.sources)
    return held


def _blind(rule: Rule, after: Rule) -> bool:
    """Whether neither the rule of a value nor the rule of its reader reads the value.

    A rule that accepts `Passed` reads the value if it gets a multiplier instead.
    """
    passed = isinstance(after, Slope) or Passed not in rule.accepts
    return passed and not rule.reads_output and not after.reads_input
