"""`heatcli gallery`: one page of all explanations in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heatcli.cli import options, say
from heatcli.errors import counted


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that heatcli explain wrote to.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The page; default: DIR/report.html.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A run on the same pictures, to show side by side.")
    ] = None,
    expected: Annotated[
        str | None,
        typer.Option(
            metavar="LABEL|CSV", help="The right label of all pictures, or a CSV file with a line image,label for each."
        ),
    ] = None,
    masks: options.Masks = None,
    max_mb: Annotated[
        float,
        typer.Option(
            help="The largest page in megabytes. Above it, the small pictures go to a folder beside the page."
        ),
    ] = 50.0,
) -> None:
    """Make one HTML page to look through all explanations in a folder; it works offline."""
    from heatcli.gallery.build import MEGABYTE, GalleryRequest, build

    request = GalleryRequest(folder, output, against, expected, masks, max_mb)
    with say.progress("pictures") as advance:
        built = build(request, say.note, advance)
    size = f"{counted(built.explanations, 'explanation')}, {built.bytes / MEGABYTE:.1f} MB"
    say.line(f"wrote {built.path}: {size}")
    if built.beside is not None:
        say.note(f"the small pictures are in {built.beside}, which the page needs beside it (--max-mb {max_mb:g})")
