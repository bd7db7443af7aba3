"""`heatcli merge`: several indexes merged into one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heatcli.cli import say
from heatcli.errors import counted


def command(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders that heatcli explain wrote to.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The index to write.")] = Path(
        "index.jsonl"
    ),
    index: Annotated[str, typer.Option(metavar="jsonl|parquet", help="parquet: write FILE.parquet, too.")] = "jsonl",
) -> None:
    """Join the indexes of several folders, or of the shards of one run, into one."""
    from heatcli.errors import UsageError
    from heatcli.run.index.merge import merge
    from heatcli.run.index.parquet import write_parquet
    from heatcli.run.work.request import INDEXES

    if index not in INDEXES:
        raise UsageError(f"--index {index} is not known; use {', '.join(INDEXES)}")
    count = merge(folders, output, say.note)
    say.line(f"wrote {output}: {counted(count, 'image')}")
    if index == "parquet":
        say.line(f"wrote {write_parquet(output)}")
