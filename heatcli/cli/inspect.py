"""`heatcli inspect`: what an artifact contains."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from heatcli.cli import options


@options.loads("size", "channels", "preset", "no_cache", "unverified", device="cpu")
def command(
    model: Annotated[Path | None, typer.Argument(help="The artifact; default: the embedded animals model.")] = None,
    json: options.Json = False,
    write_sidecar: Annotated[
        bool, typer.Option("--write-sidecar", help="Draft the sidecar NAME.toml beside the model.")
    ] = False,
    *,
    load: options.Load,
) -> None:
    """Show what an artifact contains: its input, its operators and which have rules, its biases, its parameters."""
    from heatcli.inspection import draft_sidecar, inspect

    loaded = load(model)
    if write_sidecar:
        _write(loaded.path.with_suffix(".toml"), draft_sidecar(loaded))
        return
    found = inspect(loaded)
    if json:
        sys.stdout.buffer.write(options.as_json(found))
    else:
        _print(found)


def _write(path: Path, text: str) -> None:
    from heatcli.errors import UsageError
    from heatcli.files import write_atomically

    if path.exists():
        raise UsageError(f"{path}: is there already; correct it, or move it away first")
    write_atomically(path, text.encode())
    print(f"wrote {path}; correct what it does not know", file=sys.stderr)


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
