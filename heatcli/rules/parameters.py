"""Parameters of rules and methods: their notation, and dataclass fields with a range."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from heatcli.errors import UsageError, unknown_name

_ASSIGNED = re.compile(r"[\w-]+=")
_BETWEEN = re.compile("[:,]")


@dataclass(frozen=True)
class Named:
    """`NAME[:KEY=VALUE,KEY=VALUE…]`: a method, rule or metric with parameters. Colons also separate parameters."""

    name: str
    parameters: Mapping[str, str]

    @classmethod
    def parse(cls, text: str, form: str) -> Named:
        """Parse `text`. Raises `UsageError`, which shows the expected `form`."""
        name, colon, given = text.partition(":")
        return cls(name, assigned(_BETWEEN.split(given), lambda _: f"{text}:", form) if colon else {})

    def __str__(self) -> str:
        given = ",".join(f"{key}={value}" for key, value in self.parameters.items())
        return f"{self.name}:{given}" if given else self.name


def assigned(items: Iterable[str], where: Callable[[str], str], form: str) -> dict[str, str]:
    """`KEY=VALUE` items as a dictionary. Raises `UsageError`, with `where(item)` and the expected `form`."""
    values: dict[str, str] = {}
    for item in items:
        key, _, value = item.partition("=")
        if not (key and value):
            raise UsageError(f"{where(item)} is not of the form {form}")
        if key in values:
            raise UsageError(f"{where(item)} gives {key} twice; give it once")
        values[key] = value
    return values


def listed(text: str) -> list[str]:
    """The items of `A,B:KEY=VALUE,KEY=VALUE,C`, each with its parameters."""
    items: list[str] = []
    for part in text.split(","):
        if items and ":" in items[-1] and _ASSIGNED.match(part):
            items[-1] += f",{part}"
        elif part:
            items.append(part)
    return items


def typed(given: Mapping[str, Any], defaults: Mapping[str, Any], kind: str, name: str) -> dict[str, Any]:
    """The given values, converted to the types of their defaults, for the method or rule (`kind`) called `name`.

    Raises `UsageError` for an unknown parameter or a value of another type.
    """
    for key in given:
        if key not in defaults:
            if not defaults:
                raise UsageError(f"{kind} {name} takes no parameters, {key!r} is one too many")
            raise unknown_name(f"parameter of {kind} {name}".replace("method ", ""), key, defaults)
    return {key: _as_type(key, value, type(defaults[key])) for key, value in given.items()}


def _as_type(name: str, value: Any, kind: type) -> Any:
    """The value as an int, float or text. Raises `UsageError`."""
    try:
        return kind(value)
    except (TypeError, ValueError) as error:
        words = {float: "a number", int: "a whole number"}
        raise UsageError(f"{name}={value!r} is not {words.get(kind, f'a {kind.__name__}')}") from error


def number(default: float, low: float = -math.inf, high: float = math.inf, *, above: bool = False) -> Any:
    """A field for a number from `low` to `high`, or `above` `low`. A whole number if `default` is an int."""
    sign = ">" if above else "≥"
    whole = "a whole number" if isinstance(default, int) else "a number"
    if high < math.inf:
        said = f"{whole} {'above' if above else 'from'} {low:g} {'up ' if above else ''}to {high:g}"
    else:
        said = whole if low == -math.inf else f"{whole} {sign} {low:g}"

    def allowed(value: Any) -> bool:
        """Whether the value is in the range."""
        return math.isfinite(value) and (low < value if above else low <= value) and value <= high

    return field(default=default, metadata={"range": said, "allowed": allowed, "must": f"it must be {said}"})


def choice(default: str, names: Sequence[str]) -> Any:
    """A field for one of `names`."""
    said = " or ".join(names)
    return field(default=default, metadata={"range": said, "allowed": lambda v: v in names, "must": f"use {said}"})


def text(default: str, meaning: str) -> Any:
    """A field for a word that only the model can check, such as a layer's name. `meaning` describes the word."""
    return field(default=default, metadata={"range": meaning, "allowed": lambda _: True, "must": ""})


@dataclass(frozen=True)
class Parameters:
    """Base class for frozen dataclasses of parameters. Raises `UsageError` for a value outside its range."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if not f.metadata["allowed"](value):
                shown = f"{value:g}" if isinstance(value, float) else value
                raise UsageError(f"{f.name}={shown} is not allowed; {f.metadata['must']}")
