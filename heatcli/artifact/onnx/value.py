"""The values between nodes of an ONNX graph, how operators receive them, and the errors of nodes."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable
from enum import Enum
from typing import Any

# A tensor, a `Quantised`, a list of values (a sequence), or None (an absent optional value).
Value = Any
Scope = ChainMap[str, Value]
Operator = Callable[..., Any]


class Takes(Enum):
    """How an operator receives quantised values: as integers, as real numbers, or as `Quantised` objects."""

    WHOLE, REAL, QUANTISED = range(3)


class NodeError(RuntimeError):
    """A node cannot be run. The text names it."""


class RefusedError(ValueError):
    """heatcli refuses an operator or an option. The text says why."""
