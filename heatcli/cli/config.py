"""`heatcli config`: the settings in force, and where each comes from."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from heatcli.cli import completion, options, results, say, settings


def command(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[COMMAND]",
            autocompletion=completion.commands,
            help="Show every option of this command. Default: what is set, of all commands.",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Show the settings in force, and where each comes from: a file, an environment variable, or the default."""
    from heatcli.errors import unknown_name

    parent: Any = context.parent
    commands = parent.command.commands
    if name is not None and name not in commands:
        raise unknown_name("command", name, commands)
    file = settings.find()
    rows = [row for one in ([name] if name else commands) for row in _rows(parent, one, file, whole=name is not None)]
    warnings = settings.unknown_variables(commands)
    if json:
        results.print_json(
            {"file": None if file is None else file.name, "settings": rows, "unknown": warnings}
        )  # fmt: skip
        return
    for text in warnings:
        say.note(text)
    print(f"file: {file.name if file else 'none; heatcli.toml, or [tool.heatcli] of pyproject.toml, would be read'}")
    if not rows:
        print("nothing is set; heatcli config COMMAND lists the options of a command and their defaults")
        return
    _print(rows, name is None)


def _rows(parent: Any, name: str, file: settings.File | None, whole: bool) -> list[dict[str, Any]]:
    """The options of a command with value and origin: all of them if `whole`, else those that are set."""
    command = parent.command.commands[name]
    known = settings.keys(command)
    context = command.make_context(name, [], parent=parent, resilient_parsing=True)
    if file is not None:
        settings.values(file, parent.command.commands, name)  # raises if the file is wrong; resilient parsing does not
    rows = []
    for key in known.values():
        where = settings.origin(context, key, file)
        if whole or where:
            value = _plain(context.params.get(key.name))
            rows.append({"command": name, "setting": key.key, "value": value, "from": where or "default"})
    return rows


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path | os.PathLike) else value


def _print(rows: list[dict[str, Any]], all_commands: bool) -> None:
    """Print the settings as a table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*(["command"] if all_commands else []), "setting", "value", "from")
    for row in rows:
        value = row["value"]
        shown = "" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        shown = shown.lower() if isinstance(value, bool) else shown
        table.add_row(
            *([row["command"]] if all_commands else []), row["setting"], Text(shown, overflow="fold"), row["from"]
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 100).print(table)
