"""`heatcli methods`: a list of all methods."""

from __future__ import annotations

import sys
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heatcli.cli import completion, options, results, say

if TYPE_CHECKING:
    from heatcli.methods.method import Method


def command(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME|PATTERN...]", autocompletion=completion.methods,
            help="Which methods, such as lrp-eps or 'lrp-*'. Default: all.",
        ),
    ] = None,
    json: options.Json = False,
) -> None:  # fmt: skip
    """List the methods: what each one does, its source, its parameters, its cost, and whether it divides the score."""
    rows = [_row(method) for method in _chosen(names or ["*"])]
    if json:
        sys.stdout.buffer.write(results.as_json(rows))
    elif sys.stdout.isatty():
        _table(rows)
    else:
        for row in rows:
            conserves = "yes" if row["conserves"] else "no"
            print(f"{row['name']} ({row['kind']})\n  {row['summary']}\n  {row['source']}")
            print(f"  conserves: {conserves}; baseline: {_baseline(row)}; cost: {row['cost']}")
            for line in _parameters(row):
                print(f"  {line}")
    if not names:
        say.line("which one to start with: heatcli help choosing")


def _chosen(names: list[str]) -> list[Method]:
    """The methods that one of the names or patterns fits, in the order of the table. Raises `UsageError`."""
    from heatcli.errors import unknown_name
    from heatcli.methods.table import ELSEWHERE, METHODS

    for name in names:
        if not any(fnmatchcase(known, name) for known in METHODS):
            raise unknown_name("method", name, METHODS, also=ELSEWHERE)
    return [method for known, method in METHODS.items() if any(fnmatchcase(known, name) for name in names)]


def _row(method: Method) -> dict[str, Any]:
    """What is listed of a method."""
    return {
        "name": method.name,
        "kind": method.kind,
        "summary": method.summary,
        "source": method.source,
        "conserves": method.conserves,
        "baseline": method.baseline,
        "takes": method.takes,
        "parameters": method.parameters,
        "ranges": {name: f.metadata["range"] for name, f in method.fields.items()},
        "cost": method.procedure.cost,
        "rules": {kind: repr(rule) for kind, rule in method.rules.items()},
    }


def _baseline(row: dict[str, Any]) -> str:
    """How a method uses a baseline, in words."""
    if row["baseline"] is None:
        return "refused"
    default = "must be given" if row["baseline"] == "given" else f"by default {row['baseline']}"
    return f"{row['takes']}, {default}"


def _parameters(row: dict[str, Any]) -> list[str]:
    """`name=default: range` for each parameter."""

    def shown(value: Any) -> str:
        return f"{value:g}" if isinstance(value, float) else str(value)

    return [f"{name}={shown(value)}: {row['ranges'][name]}" for name, value in row["parameters"].items()]


def _table(rows: list[dict[str, Any]]) -> None:
    """Print the methods as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "method", "what it is, and its source", "conserves", "baseline", "parameters", "cost", show_lines=True
    )
    kind = ""
    for row in rows:
        if row["kind"] != kind:
            kind = row["kind"]
            table.add_section()
        table.add_row(
            f"[bold]{row['name']}[/]\n{kind}", f"{row['summary']}\n[dim]{row['source']}[/]",
            "yes" if row["conserves"] else "no", _baseline(row), "\n".join(_parameters(row)), row["cost"],
        )  # fmt: skip
    Console().print(table)
