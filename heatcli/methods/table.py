"""The methods: each a frozen record, above all a table from kind of operator to rule.

`heatcli methods`, the tests and the documentation read these records; another method is made by replacing entries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from heatcli.errors import UsageError, unknown_name
from heatcli.graph.kinds import AFFINE, ELEMENTWISE, KINDS, LAYOUT, MAXIMUM, NORMALISER, PRODUCT, SUM
from heatcli.rules.affine import Epsilon
from heatcli.rules.base import Adjoint, Rule
from heatcli.rules.elementwise import Slope
from heatcli.rules.maximum import Winner
from heatcli.rules.normaliser import HeldStatistics
from heatcli.rules.product import Share

Table = Mapping[str, Rule]


@dataclass(frozen=True)
class Method:
    """What is done with each kind of operator on the way back, and what the result claims.

    `baseline` is the default reference: `none` (blame the bias), another baseline's name, or None where a baseline
    has no meaning and is refused. `times_difference`: relevance is multiplier × (input − reference), else the
    multiplier itself. `conserves`: the ledger balances, every offset is booked to its bias.
    """

    name: str
    summary: str
    source: str
    rules: Table
    baseline: str | None = "none"
    times_difference: bool = True
    conserves: bool = True

    @property
    def parameters(self) -> dict[str, Any]:
        """Its parameters and their values: the fields of its rules."""
        found: dict[str, Any] = {}
        for rule in self.rules.values():
            found.update({f.name: getattr(rule, f.name) for f in fields(rule)})  # type: ignore[arg-type]
        return found

    def configured(self, parameters: Mapping[str, Any]) -> Method:
        """The same method with other parameters. Raises `UsageError` for a name or value that it does not take."""
        known = self.parameters
        for name in parameters:
            if name not in known:
                if not known:
                    raise UsageError(f"method {self.name} takes no parameters, {name!r} is one too many")
                raise unknown_name(f"parameter of {self.name}", name, known)
        values = {name: _as_type(name, value, type(known[name])) for name, value in parameters.items()}
        rules = {}
        for kind, rule in self.rules.items():
            taken = {f.name: values[f.name] for f in fields(rule) if f.name in values}  # type: ignore[arg-type]
            rules[kind] = replace(rule, **taken) if taken else rule  # type: ignore[type-var]
        return replace(self, rules=rules)


def _as_type(name: str, value: Any, kind: type) -> Any:
    try:
        return kind(value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}={value!r} is not a {kind.__name__}") from error


_GRADIENT: Table = dict.fromkeys(KINDS, Adjoint())
_LRP_0: Table = {
    AFFINE: Adjoint(),
    ELEMENTWISE: Slope(),
    MAXIMUM: Winner(),
    SUM: Adjoint(),
    PRODUCT: Share(),
    NORMALISER: HeldStatistics(),
    LAYOUT: Adjoint(),
}

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="gradient",
            summary="gradient of the score with respect to the input",
            source="Simonyan et al. 2013, sec. 3",
            rules=_GRADIENT,
            baseline=None,
            times_difference=False,
            conserves=False,
        ),
        Method(
            name="input-x-gradient",
            summary="input (minus baseline) times gradient",
            source="Shrikumar et al. 2016, arXiv 1605.01713, sec. 4",
            rules=_GRADIENT,
            conserves=False,
        ),
        Method(
            name="lrp-0",
            summary="layer-wise relevance propagation, biases booked, no stabiliser",
            source="Bach et al. 2015, eq. 56",
            rules=_LRP_0,
        ),
        Method(
            name="lrp-eps",
            summary="layer-wise relevance propagation with the stabiliser ε on affine operators",
            source="Bach et al. 2015, eq. 58",
            rules={**_LRP_0, AFFINE: Epsilon()},
        ),
        Method(
            name="deeplift-rescale",
            summary="difference from a baseline, nonlinearities by their slope",
            source="Shrikumar et al. 2017, sec. 3.5.1",
            rules=_LRP_0,
            baseline="zero",
        ),
    )
}


def method(name: str | Method, **parameters: Any) -> Method:
    """The method of that name with those parameters. Raises `UsageError` for an unknown name or parameter."""
    if isinstance(name, str):
        if name not in METHODS:
            raise unknown_name("method", name, METHODS)
        name = METHODS[name]
    return name.configured(parameters)
