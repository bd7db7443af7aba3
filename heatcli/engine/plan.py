"""The plan of a walk, made before it starts: each operator's rule, vector-Jacobian product and use of memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from heatcli.graph.adjoints import Product, closed_form
from heatcli.graph.kinds import FIRST, KINDS, ROLES
from heatcli.graph.layers import stands_for
from heatcli.graph.operator import Graph, Operator
from heatcli.rules.elementwise import Slope
from heatcli.rules.registry import serves
from heatcli.rules.rule import Booked, Rule, Table

try:  # fast equivalents of rules are optional
    from heatcli.engine.fast import fast
    from heatcli.engine.fast.in_place import overwritten, relu_product, written_in_place
except ImportError:
    fast = None  # type: ignore[assignment]

_FALLBACK = Booked()
_LOOKUP = Slope()
_KEYS = frozenset((*KINDS, *ROLES, FIRST))  # table keys that are not names of layers


@dataclass(frozen=True, eq=False, kw_only=True)
class PlannedStep:
    """One operator of a forward run and of the walk back.

    `rule`: walks back through the operator; None if the operator does not carry the image. `product`: its
    vector-Jacobian product in closed form, or None. `taped`: the output gets an autograd tape. `write`: runs the
    operator and overwrites its input.
    """

    operator: Operator
    rule: Rule | None
    product: Product | None
    taped: bool
    write: Callable[[Operator, Any], Any] | None = None


@dataclass(frozen=True, eq=False)
class Plan:
    """A walk of a graph by a table of rules: one step an operator, in forward order.

    `overwritten`: overwritten values: name of the value → name of the operator that overwrites it.
    """

    steps: tuple[PlannedStep, ...]
    overwritten: Mapping[str, str]


_KNOWN: WeakKeyDictionary[Graph, dict[Any, Plan]] = WeakKeyDictionary()


def plan(
    graph: Graph, rules: Table, keep: Collection[str] = (), compared: bool = False, differentiable: bool = False
) -> Plan:
    """The plan of a walk of `graph` by the method's table `rules`, cached.

    `keep`: names of values that are read after the walk. `compared`: there is a reference. `differentiable`: the walk
    is differentiated; then only formulas run, and every operator has a tape.
    """
    known = _KNOWN.setdefault(graph, {})
    key = tuple(rules.items()), frozenset(keep), compared, differentiable
    if key not in known:
        known[key] = _planned(graph, rules, keep, compared, differentiable)
    return known[key]


def rule_for(operator: Operator, rules: Table) -> Rule:
    """The rule that a table has for an operator: for its layer, for first layers, for its role, or for its kind.

    Among several entries that name its layer, the last that can serve it wins. An operator without an entry is walked
    by its exact adjoint, and the imbalance is booked. A lookup has no gradient: its tokens get what their rows got.
    """
    if operator.is_lookup:
        return _LOOKUP
    others = ((key, rule) for key, rule in rules.items() if key not in _KEYS)
    named = [rule for key, rule in others if stands_for(key, operator) and serves(rule, operator)]
    if named:
        return named[-1]
    names = (FIRST if operator.first else "", operator.role, operator.kind)
    return next((rules[name] for name in names if name in rules), _FALLBACK)


def _planned(graph: Graph, rules: Table, keep: Collection[str], compared: bool, differentiable: bool) -> Plan:
    """As `plan`, not cached."""
    carrying = [op for op in graph.operators if op.sources]
    chosen = {op.name: rule_for(op, rules) for op in carrying}
    written: Mapping[str, str] = {}
    if fast is not None and not differentiable:
        chosen = {name: fast(rule) for name, rule in chosen.items()}
        written = overwritten(graph, chosen, keep, compared)
    in_place = set(written.values())

    def step(op: Operator) -> PlannedStep:
        """The step of an operator."""
        write = written_in_place if op.name in in_place else None
        product = relu_product if write and op.title == "relu" else closed_form(op, differentiable)
        taped = bool(op.sources) and (differentiable or product is None)
        return PlannedStep(operator=op, rule=chosen.get(op.name), product=product, taped=taped, write=write)

    return Plan(tuple(map(step, graph.operators)), written)
