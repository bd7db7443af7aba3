"""Faster equivalents of rules: equal results up to rounding, with fewer passes over memory.

A fast rule subclasses the rule it replaces. `heatcli.engine.plan` uses fast rules unless the walk is differentiated.
Nothing depends on this folder: without it the formulas in `heatcli.rules` run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from heatcli.engine.fast.epsilon import FastEpsilon
from heatcli.engine.fast.secants import FastRevealCancel, FastSlope
from heatcli.engine.fast.weighted import FastAlphaBeta, FastGamma, FastParts, FastZPlus
from heatcli.engine.fast.winners import FastWinner
from heatcli.rules.affine import AlphaBeta, Epsilon, Gamma, ZPlus
from heatcli.rules.elementwise import Slope
from heatcli.rules.maximum import Winner
from heatcli.rules.reveal_cancel import Parts, RevealCancel
from heatcli.rules.rule import Rule

FAST: Mapping[type[Rule], type[Rule]] = {
    AlphaBeta: FastAlphaBeta, Epsilon: FastEpsilon, Gamma: FastGamma, Parts: FastParts,
    RevealCancel: FastRevealCancel, Slope: FastSlope, Winner: FastWinner, ZPlus: FastZPlus,
}  # fmt: skip


def fast(rule: Rule) -> Rule:
    """The fast equivalent of a rule, with the same parameters; the rule itself if there is none."""
    equivalent = FAST.get(type(rule))
    return rule if equivalent is None else equivalent(**{f.name: getattr(rule, f.name) for f in fields(rule)})
