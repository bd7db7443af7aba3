"""Tables of rules in the user's notation: `--rule KIND|LAYER=RULE[:KEY=VALUE,…]`, or a file, `--composite`.

A composite is a table of rules in the sense of Montavon et al. 2019, sec. 10.3: different rules for different layers.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path

from heatcli.errors import UsageError, boundary, unknown_name
from heatcli.graph.kinds import FIRST, KINDS, ROLES
from heatcli.graph.layers import layers_of, stands_for
from heatcli.graph.operator import Graph
from heatcli.rules.parameters import Named, typed
from heatcli.rules.registry import RULES, serves
from heatcli.rules.reveal_cancel import Parts, RevealCancel
from heatcli.rules.rule import Rule, Table
from heatcli.system.files import TEXT, read_regular

_FORM = "KIND|LAYER=RULE[:KEY=VALUE,KEY=VALUE…]"
_KEYS = frozenset((*KINDS, *ROLES, FIRST))


def with_entries(table: Table, given: Iterable[str]) -> dict[str, Rule]:
    """The table with entries replaced or added: `KIND=RULE`, `LAYER=RULE` or `…=RULE:KEY=VALUE,KEY=VALUE`.

    A rule for only some operators of a kind applies to those (z-plus for affine operators to convolutions and dense
    layers). LAYER is a name or glob as in `--layer`, or a block's name for all layers in the block. Layers take
    precedence over kinds, later entries over earlier ones. Raises `UsageError` for an unknown rule or parameter.
    """
    entries = dict(table)
    for item in given:
        for name, rule in _entry(item).items():
            for role in [role for role, kind in ROLES.items() if kind == name]:
                entries.pop(role, None)
            entries.pop(name, None)
            entries[name] = rule
    if any(isinstance(rule, RevealCancel) for rule in entries.values()):
        entries = {**entries, **dict.fromkeys(("affine", "sum", "layout"), Parts())}
    return entries


def read_composite(path: Path) -> list[str]:
    """The entries of a composite file in the form of `--rule`. Its table `[rules]` has KIND|LAYER = "RULE[:KEY=VALUE]".

    Raises `UsageError` for a missing file or other content.
    """
    with boundary(path, UsageError, "cannot be read as a composite in TOML"):
        content = tomllib.loads(read_regular(path, TEXT).decode())
    rules = content.get("rules")
    if set(content) != {"rules"} or not isinstance(rules, dict) or not rules:
        raise UsageError(f'{path}: must hold a table [rules] alone, such as "features.0" = "zb"')
    wrong = [key for key, rule in rules.items() if not isinstance(rule, str)]
    if wrong:
        key = wrong[0]
        raise UsageError(f'{path}: the rule of {key} must be text in quotes, such as "{key}" = "gamma:gamma=0.1"')
    return [f"{key}={rule}" for key, rule in rules.items()]


def check_layers(table: Table, graph: Graph) -> None:
    """Raise `UsageError` for an entry of an unknown layer, or of a rule that cannot serve its layer."""
    for key, rule in table.items():
        if key in _KEYS:
            continue
        named = [op for op in graph.operators if op.sources and stands_for(key, op)]
        if not named:
            weights = [layer.parameters[0] for layer in layers_of(graph) if layer.parameters]
            layers = dict.fromkeys(name.rpartition(".")[0] or name for name in weights)
            raise unknown_name("kind of operator or layer", key, [*RULES, *layers], "; globs work too")
        if not any(serves(rule, op) for op in named):
            kinds = ", ".join(sorted({op.role or op.kind for op in named}))
            raise UsageError(f"rule {written(rule)} has no place at {key}, which is {kinds}; it serves {_places(rule)}")


def written(rule: Rule) -> str:
    """A rule in the notation of `--rule`, or its class name if no option selects it."""
    names = [name for rules in RULES.values() for name, make in rules.items() if make is type(rule)]
    given = {f.name: str(getattr(rule, f.name)) for f in fields(rule)}
    return str(Named(names[0] if names else type(rule).__name__, given))


def _places(rule: Rule) -> str:
    """The kinds and roles that a rule serves, in words."""
    return ", ".join(key for key, rules in RULES.items() if type(rule) in rules.values())


def _entry(item: str) -> dict[str, Rule]:
    """`KIND|LAYER=RULE:KEY=VALUE` as entries of a table. Raises `UsageError`."""
    key, sign, rule = item.partition("=")
    named = Named.parse(rule, _FORM)
    if not (key and sign and named.name):
        raise UsageError(f"{item} is not of the form {_FORM}")
    if key not in _KEYS:
        places = [place for place in RULES if named.name in RULES[place]]
        if not places:
            raise unknown_name("rule", named.name, dict.fromkeys(name for rules in RULES.values() for name in rules))
        return {key: _made(places[0], named)}
    roles = [role for role in (key, *_roles(key)) if named.name in RULES.get(role, {})]
    if not roles:
        ways = "; ".join(f"{role}: {', '.join(RULES.get(role, ()))}" for role in (key, *_roles(key)))
        raise UsageError(f"{key} operators have no rule {named.name!r}; there are {ways}")
    chosen = roles[:1] if roles[0] == key else roles
    return {role: _made(role, named) for role in chosen}


def _roles(kind: str) -> list[str]:
    return [role for role, k in ROLES.items() if k == kind]


def _made(role: str, named: Named) -> Rule:
    """The rule of a role with its parameters. Raises `UsageError`."""
    rule = RULES[role][named.name]()
    defaults = {f.name: getattr(rule, f.name) for f in fields(rule)}
    return replace(rule, **typed(named.parameters, defaults, "rule", named.name))


def first_only(table: Mapping[str, Rule]) -> bool:
    """Whether some rule of the table returns relevance, as rules of first layers do."""
    return any(rule.first_only for rule in table.values())
