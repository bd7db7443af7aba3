"""`heatcli discover`: groups of heatmaps within a class, ranked for a person to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heatcli.cli import options, say


def command(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that heatcli explain wrote to.")],
    classes: Annotated[
        list[str] | None, typer.Option("--class", metavar="LABEL", help="Cluster this class; default: every class.")
    ] = None,
    top: Annotated[int, typer.Option(help="How many clusters are listed.")] = 10,
    seed: options.Seed = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where clusters.json and clusters.png go. Default: DIR/discover.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Cluster the maps of each class, to find pictures that are recognised by something else than the others."""
    from heatcli.discover.job import discover
    from heatcli.discover.write import write

    options.at_least_one("--top", top)
    found, shown = discover(run, tuple(classes or ()), seed, say.note)
    table, picture = write(out or run / "discover", found, shown)
    if json:
        options.print_json(found)
    else:
        for cluster in found.clusters[:top]:
            print(
                f"{cluster.suspicion:6.1%}  {cluster.name}: {cluster.size} pictures, {cluster.share:.0%} of its class"
            )
            print(f"        {cluster.reasons[0]}")
        if not any(cluster.suspicion for cluster in found.clusters):
            print("no group has relevance at places of its own")
    say.line(f"wrote {table} and {picture}")
