"""Arguments and results of operators: values in nested lists, tuples and dictionaries.

torch's own `tree_leaves` and `tree_map` take several times as long, which counts in a network of many steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


def leaves(x: Any) -> list[Any]:
    """All values in nested lists, tuples and dictionaries, in order."""
    found: list[Any] = []
    _collect(x, found)
    return found


def _collect(x: Any, found: list[Any]) -> None:
    if isinstance(x, list | tuple):
        for y in x:
            _collect(y, found)
    elif isinstance(x, dict):
        for y in x.values():
            _collect(y, found)
    else:
        found.append(x)


def mapped(change: Callable[[Any], Any], x: Any) -> Any:
    """The same nested lists, tuples and dictionaries with each value changed."""
    if isinstance(x, tuple):
        return tuple([mapped(change, y) for y in x])
    if isinstance(x, list):
        return [mapped(change, y) for y in x]
    if isinstance(x, dict):
        return {key: mapped(change, y) for key, y in x.items()}
    return change(x)


def tensors_mapped(change: Callable[[Tensor], Any], x: Any) -> Any:
    """The same with each tensor changed."""
    return mapped(lambda y: change(y) if isinstance(y, Tensor) else y, x)
