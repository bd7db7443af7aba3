"""What is known of a walk before it starts: the rule of each operator, and which values need not be kept for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from heatcli.graph.facts import facts_of
from heatcli.graph.in_place import writes_over
from heatcli.graph.kinds import FIRST, LAYOUT
from heatcli.graph.operator import Graph, Operator
from heatcli.rules.base import Adjoint, Booked, Passed, Rule, Table
from heatcli.rules.elementwise import Slope

_FALLBACK = Booked()


@dataclass(frozen=True, eq=False)
class Plan:
    """A walk of a graph by a table of rules.

    `rules`: that of each operator that carries the image, by its name. `overwritten`: values that nothing reads but an
    operator that can write in their place: name of the value → of the operator.
    """

    rules: Mapping[str, Rule]
    overwritten: Mapping[str, str]


_KNOWN: WeakKeyDictionary[Graph, dict[Any, Plan]] = WeakKeyDictionary()


def plan(graph: Graph, rules: Table, keep: Collection[str] = (), compared: bool = False) -> Plan:
    """The plan of a walk: made once for a graph, a table, the values to keep, and whether there is a reference."""
    known = _KNOWN.setdefault(graph, {})
    key = tuple(rules.items()), frozenset(keep), compared
    if key not in known:
        chosen = {op.name: _rule_for(op, rules) for op in graph.operators if op.sources}
        known[key] = Plan(chosen, _overwritten(graph, chosen, keep, compared))
    return known[key]


def _rule_for(operator: Operator, rules: Table) -> Rule:
    """The rule that a method's table has for an operator: for first layers, else for its role, else for its kind.

    An operator whose kind is not in the table goes by its exact adjoint, and what that leaves is booked.
    """
    names = (FIRST if operator.first else "", operator.role, operator.kind)
    return next((rules[name] for name in names if name in rules), _FALLBACK)


def _overwritten(graph: Graph, rules: Mapping[str, Rule], keep: Collection[str], compared: bool) -> dict[str, str]:
    """Values that nothing reads but an operator that can write in their place: name of the value → of the operator.

    A walk by `rules` does not read them either; `compared` with a reference, only those of ReLUs, whose rule at most
    makes them once more. Nor is that operator's output read behind the walk, which may write over it in its turn.
    """
    held = _held(graph, keep)
    uses = Counter([*(name for op in graph.operators for name in op.refs), graph.output, *keep])
    producers = {op.name: op for op in graph.operators if facts_of(op).spare_output and uses[op.name] == 1}
    found = {}
    for taker in graph.operators:
        producer = producers.get(taker.sources[0]) if writes_over(taker) and taker.sources else None
        if producer is None or not producer.sources or taker.name in held:
            continue
        rule, after = rules[producer.name], rules[taker.name]
        if isinstance(after, Slope) and taker.title != "relu":  # it reads both ends of what is not a ReLU
            continue
        again = facts_of(producer).diagonal and isinstance(rule, Adjoint) and isinstance(after, Slope)
        if again if compared else _blind(rule, after):
            found[producer.name] = taker.name
    return found


def _held(graph: Graph, keep: Collection[str]) -> set[str]:
    """Values whose memory outlives a walk: the output, those to be kept, and what they may be views of."""
    held = {graph.output, *keep}
    for operator in reversed(graph.operators):
        if operator.name in held and operator.kind == LAYOUT:
            held.update(operator.sources)
    return held


def _blind(rule: Rule, after: Rule) -> bool:
    """Whether neither a value's rule reads it nor that of the operator after it.

    One that can take what a ReLU passed on would read it if it were given a multiplier.
    """
    passed = isinstance(after, Slope) or Passed not in getattr(rule, "takes", ())
    return passed and not getattr(rule, "reads_output", True) and not getattr(after, "reads_input", True)
