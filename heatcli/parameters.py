"""Parameters of rules and methods: dataclass fields that know their range, checked when one is made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from heatcli.errors import UsageError


def number(default: float, low: float = -math.inf, high: float = math.inf, *, above: bool = False) -> Any:
    """A field for a number from `low` to `high`; `above`: larger than `low`. Whole if `default` is."""
    sign = ">" if above else "≥"
    whole = "a whole number" if isinstance(default, int) else "a number"
    if high < math.inf:
        said = f"{whole} {'above' if above else 'from'} {low:g} {'up ' if above else ''}to {high:g}"
    else:
        said = whole if low == -math.inf else f"{whole} {sign} {low:g}"

    def allowed(value: Any) -> bool:
        return math.isfinite(value) and (low < value if above else low <= value) and value <= high

    return field(default=default, metadata={"range": said, "allowed": allowed, "must": f"it must be {said}"})


def choice(default: str, names: Sequence[str]) -> Any:
    """A field for one of some words."""
    said = " or ".join(names)
    return field(default=default, metadata={"range": said, "allowed": lambda v: v in names, "must": f"use {said}"})


def text(default: str, meaning: str) -> Any:
    """A field for a word that means something only with the model at hand, such as a layer's name."""
    return field(default=default, metadata={"range": meaning, "allowed": lambda _: True, "must": ""})


@dataclass(frozen=True)
class Parameters:
    """Base of whatever has parameters: frozen dataclasses. Raises `UsageError` for a value out of its range."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if not f.metadata["allowed"](value):
                shown = f"{value:g}" if isinstance(value, float) else value
                raise UsageError(f"{f.name}={shown} is not allowed; {f.metadata['must']}")
