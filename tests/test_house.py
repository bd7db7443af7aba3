"""The house: which room may import which, computed from the imports. A room is a folder of heatcli, or a file in it."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

HOUSE = ROOT / "heatcli"  # the checkout's: an installed package has no tests beside it
INNER = ("engine.fast", "graph.passes", "run.index", "run.work")  # folders that are rooms of their own
# From the ground up: a room imports rooms before it alone.
ORDER = """
    version errors system graph graph.passes rules artifact images engine.fast engine model methods explanation
    report figures export evaluate run.index discover check inside prototype sequences run.work run gallery cli __main__
""".split()
FRONT = "heatcli"  # the package itself hands out names of any room, on first use; no room imports the package


def modules() -> dict[str, Path]:
    """Every module of heatcli, by name."""
    paths = {path: ".".join(path.relative_to(HOUSE.parent).with_suffix("").parts) for path in HOUSE.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for path, name in paths.items()}


def imported(path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """The modules of heatcli that a file imports anywhere in it, for type checkers alone included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module


def room(module: str) -> str:
    """The room of a module: `graph`, `run.index`, `errors`."""
    _, *parts = module.split(".")
    nested = ".".join(parts[:2])
    return nested if nested in INNER else parts[0] if parts else FRONT


@cache
def arrows() -> dict[str, set[str]]:
    """Module → the modules that it imports."""
    known = modules()
    return {name: {other for other in imported(path, known) if other != name} for name, path in known.items()}


def between_rooms() -> dict[str, dict[str, str]]:
    """Room → each room that it imports → one import that shows it."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for name, others in arrows().items():
        for other in sorted(others):
            if room(name) != room(other) and name != FRONT:
                found[room(name)].setdefault(room(other), f"{name} imports {other}")
    return found


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """A circle in the graph; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert sorted(set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}))) == ["a", "b", "c"]


def test_no_file_imports_itself_by_way_of_others() -> None:
    assert circle(arrows()) == []


def test_every_room_stands_in_the_order() -> None:
    assert {room(name) for name in modules()} - {FRONT} == set(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_a_room_imports_rooms_below_it_alone(name: str) -> None:
    above = [how for other, how in between_rooms()[name].items() if other not in ORDER[: ORDER.index(name)]]
    assert not above


def test_the_page_for_engineers_names_every_room() -> None:
    """`heatcli/README.md` draws the house: each folder stands in its table, and it names no file that is not there."""
    page = (HOUSE / "README.md").read_text(encoding="utf-8")
    table = page[page.index("## Rooms") :]
    folders = {path.name for path in HOUSE.iterdir() if path.is_dir() and path.name not in ("__pycache__", "models")}
    assert {name for name in folders if f"`{name}/`" not in table} == set()
    for name in re.findall(r"`([\w/]+(?:/|\.py))`", page):
        assert (HOUSE / name).exists() or (HOUSE.parent / name).exists() or list(HOUSE.glob(f"*/{name}")), name


def test_the_page_on_extending_names_files_that_are_there() -> None:
    page = (HOUSE / "help" / "extend.md").read_text(encoding="utf-8")
    for name in re.findall(r"`((?:heatcli|tests)/[\w./]*)`", page):
        assert "FORMAT" in name or (HOUSE.parent / name).exists(), name
