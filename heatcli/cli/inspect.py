"""`heatcli inspect`: what an artifact contains."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from heatcli.cli import options


def command(
    model: Annotated[Path | None, typer.Argument(help="The artifact; default: the embedded animals model.")] = None,
    json: options.Json = False,
    size: options.Size = None,
    channels: options.Channels = None,
    debug: options.Debug = False,
) -> None:
    """Show what an artifact contains: its input, its operators and which have rules, its biases, its parameters."""
    flags = options.model_flags(size, channels, None, None, None, None)
    from heatcli.artifact.model import load
    from heatcli.inspection import inspect

    found = inspect(load(model, **flags))
    if json:
        import msgspec

        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    else:
        _print(found)


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    dims = "×".join("N" if d is None else str(d) for d in found["input"]["shape"])
    final = found["output"]["final"]
    console.print(f"[bold]{found['path']}[/]: {found['format']}, input {dims}, {found['parameters']:,} parameters")
    console.print(f"sha256 {found['sha256']}", highlight=False)
    console.print(
        f"{found['output']['classes']} classes" + (f", ends in {final} (logits are explained)" if final else "")
    )
    operators = Table("kind", "operator", "count", "rule", title="operators")
    for row in found["operators"]:
        operators.add_row(row["kind"], row["operator"], str(row["count"]), "yes" if row["rule"] else "no: booked")
    console.print(operators)
    biases = Table("bias", "operator", "size", title="biases")
    for row in found["biases"]:
        biases.add_row(row["name"], row["operator"], str(row["size"]))
    console.print(biases)
