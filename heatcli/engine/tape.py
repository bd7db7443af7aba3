"""The tape: what a forward run keeps for the walk back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from heatcli.engine.ledger import Books
from heatcli.engine.plan import plan
from heatcli.graph.operator import Graph
from heatcli.rules.rule import Rule, Step, Table


@dataclass(eq=False, kw_only=True)
class Tape:
    """A forward run: its input, its steps in order, and its output.

    `overwritten`: overwritten values: name of the value → name of the operator that overwrote it.
    """

    graph: Graph
    input: Tensor
    steps: list[Step]
    output: Tensor
    reference: Tensor | None = None
    reference_output: Tensor | None = None
    overwritten: Mapping[str, str] = field(default_factory=dict)
    differentiable: bool = False
    fixed: bool = False
    compiled: Callable[[Tensor, Books | None], Tensor] | None = None  # the compiled walk, usable once

    def serves(self, rules: Table, keep: Collection[str]) -> bool:
        """Whether these rules can walk the tape with the values called `keep` kept."""
        planned = plan(self.graph, rules, keep, self.reference is not None)
        return self.overwritten.items() <= planned.overwritten.items()

    def choose(self, rules: Mapping[str, Rule | None]) -> None:
        """Set every step's rule, by the name of its operator."""
        for step in self.steps:
            step.rule = rules[step.operator.name]

    def values(self, names: Collection[str]) -> dict[str, Tensor]:
        """The values of those names, [N, …]."""
        return {s.operator.name: s.output.detach() for s in self.steps if s.operator.name in names}

    def bound(self, low: Tensor, high: Tensor) -> None:
        """Set the input range of each first layer, from the range of the input: `low` and `high` [1 or N, …]."""
        ranges = {self.graph.input: (low.expand_as(self.input), high.expand_as(self.input))}
        for step in self.steps:
            operator = step.operator
            if operator.before_first:
                with torch.no_grad():
                    ends = [operator.run(step.others, [ranges[s][end] for s in operator.sources]) for end in (0, 1)]
                ranges[operator.name] = torch.minimum(*ends), torch.maximum(*ends)
            elif operator.first:
                step.bounds = ranges[operator.sources[0]]
