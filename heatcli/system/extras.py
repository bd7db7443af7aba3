"""Modules of optional dependencies, imported where they are used."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires
from typing import Any

from heatcli.errors import UsageError


def optional(module: str, needs: str, extra: str) -> Any:
    """A module of the extra called `extra`. Raises `UsageError` where it is not installed.

    `needs`: who needs what, such as "NIfTI needs nibabel".
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise UsageError(f"{needs}, which is not installed; {install(extra)}") from error


def install(extra: str) -> str:
    """The command that installs the packages of an extra.

    It names the packages rather than `heatcli[extra]`, because heatcli may have been installed from a folder.
    """
    try:
        lines = requires("heatcli") or []
    except PackageNotFoundError:  # run from its sources
        lines = []
    packages = [re.split(r"[<>=!~; ]", line)[0] for line in lines if re.search(rf"extra == ['\"]{extra}['\"]", line)]
    return f"pip install {shlex.join(packages or [f'heatcli[{extra}]'])}"
