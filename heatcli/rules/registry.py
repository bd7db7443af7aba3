"""The registry of rules: for each kind and role of operators, name in `--rule KIND=RULE` → rule."""

from __future__ import annotations

from collections.abc import Mapping

from heatcli.graph.kinds import (
    AFFINE,
    CONVOLUTION,
    DENSE,
    ELEMENTWISE,
    FIRST,
    MAXIMUM,
    NORMALISER,
    PRODUCT,
    RECTIFIER,
    SOFTMAX,
)
from heatcli.graph.operator import Operator
from heatcli.rules.affine import AlphaBeta, Epsilon, Gamma, ZPlus
from heatcli.rules.elementwise import Deconvnet, Guided, Pass, Repeat, Slope
from heatcli.rules.first_layer import Flat, WSquare, ZBox
from heatcli.rules.maximum import Proportional, Radial, Softmax, SoftmaxLimit, Telescoping, Winner
from heatcli.rules.normaliser import HeldStatistics, SoftmaxTaylor
from heatcli.rules.product import Share, SignalTakesAll
from heatcli.rules.reveal_cancel import RevealCancel
from heatcli.rules.rule import Adjoint, Maker, Rule

_ANY_AFFINE: dict[str, Maker] = {"gradient": Adjoint, "epsilon": Epsilon}
_WEIGHTED: dict[str, Maker] = {**_ANY_AFFINE, "gamma": Gamma, "alpha-beta": AlphaBeta, "z-plus": ZPlus}
_SMOOTH: dict[str, Maker] = {
    "gradient": Adjoint, "slope": Slope, "pass": Pass, "repeat": Repeat, "reveal-cancel": RevealCancel,
}  # fmt: skip

RULES: Mapping[str, Mapping[str, Maker]] = {
    AFFINE: _ANY_AFFINE,
    CONVOLUTION: _WEIGHTED,
    DENSE: _WEIGHTED,
    FIRST: {**_WEIGHTED, "w2": WSquare, "flat": Flat, "zb": ZBox},
    ELEMENTWISE: _SMOOTH,
    RECTIFIER: {**_SMOOTH, "deconvnet": Deconvnet, "guided": Guided},
    MAXIMUM: {
        "winner": Winner, "gradient": Adjoint, "radial": Radial, "proportional": Proportional,
        "softmax-limit": SoftmaxLimit, "softmax": Softmax, "telescoping": Telescoping,
    },
    PRODUCT: {"share": Share, "shapley": Share, "signal-takes-all": SignalTakesAll, "gradient": Adjoint},
    NORMALISER: {"held-statistics": HeldStatistics, "gradient": Adjoint},
    SOFTMAX: {"taylor": SoftmaxTaylor, "held-statistics": HeldStatistics, "gradient": Adjoint},
}  # fmt: skip


def serves(rule: Rule, operator: Operator) -> bool:
    """Whether the registry offers the rule for such an operator."""
    places = (FIRST if operator.first else "", operator.role, operator.kind)
    return any(type(rule) in RULES[place].values() for place in places if place in RULES)
