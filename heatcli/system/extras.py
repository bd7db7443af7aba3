"""Modules of optional dependencies, imported where they are used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from heatcli.errors import UsageError


def optional(module: str, needs: str, extra: str) -> Any:
    """A module of the extra called `extra`. Raises `UsageError` where it is not installed.

    `needs`: who needs what, such as "NIfTI needs nibabel".
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise UsageError(f"{needs}, which is not installed; pip install 'heatcli[{extra}]'") from error
