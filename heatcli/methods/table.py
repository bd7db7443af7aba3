"""The catalogue of methods, assembled here.

`heatcli methods`, the tests and the documentation read these records; another method is made by replacing entries of
a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heatcli.errors import unknown_name
from heatcli.methods.backward import BACKWARD
from heatcli.methods.cam import CAM
from heatcli.methods.difference import DIFFERENCE
from heatcli.methods.method import Method
from heatcli.methods.path import PATH
from heatcli.methods.perturbation import PERTURBATION
from heatcli.methods.smooth import SMOOTH
from heatcli.methods.superpixels import SUPERPIXELS

__all__ = ["METHODS", "Method", "method"]


def _by_name(*groups: tuple[Method, ...]) -> Mapping[str, Method]:
    found: dict[str, Method] = {}
    for each in (method for group in groups for method in group):
        if each.name in found:
            raise ValueError(f"two methods are called {each.name}")
        found[each.name] = each
    return found


METHODS: Mapping[str, Method] = _by_name(BACKWARD, CAM, PATH, SMOOTH, PERTURBATION, DIFFERENCE, SUPERPIXELS)


def method(name: str | Method, **parameters: Any) -> Method:
    """The method of that name with those parameters. Raises `UsageError` for an unknown name or parameter."""
    if isinstance(name, str):
        if name not in METHODS:
            raise unknown_name("method", name, METHODS)
        name = METHODS[name]
    return name.configured(parameters)
