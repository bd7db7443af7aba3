"""`heatcli show`: figures from reports, without the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heatcli.cli import drawing, say

if TYPE_CHECKING:
    from heatcli.figures.view import View


def command(
    reports: Annotated[
        list[Path], typer.Argument(metavar="REPORT|DIR...", help="Reports of heatcli explain, or folders of them.")
    ],
    figure: drawing.Kind = None,
    scale: drawing.ScaleOf = None,
    output: drawing.File = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where figures go; default: beside their reports.")
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the pictures are now, if not where they were.")
    ] = None,
    show: drawing.Show = False,
    size: drawing.Size = None,
    clip: drawing.Clip = 98.5,
    top: drawing.Top = 5.0,
    cmap: drawing.Cmap = "bwr",
    opacity: drawing.Opacity = 0.9,
    backdrop: drawing.Backdrop = "grey",
) -> None:
    """Draw explanations again from their reports and pictures: another figure, one scale, another format."""
    from heatcli.errors import HeatcliError, UsageError
    from heatcli.figures.draw import MOST, NONE, RUN, common, draw
    from heatcli.figures.reading import reports_in, view_of
    from heatcli.system.files import is_folder

    paths = [path for given in reports for path in (reports_in(given) if is_folder(given) else [given])]
    kind = figure or ("panel" if len(paths) == 1 else "overlay")
    style = drawing.style(kind, size, scale, clip, cmap, opacity, backdrop, top)
    target = drawing.file(output)
    if kind == NONE and not show:
        raise UsageError("--figure none draws nothing; leave it out")
    if target is not None and out is not None:
        raise UsageError("-o FILE and --out DIR name two places; give one")
    if kind == "grid":
        if len(paths) > MOST:
            raise UsageError(f"a grid has at most {MOST} maps, and these are {len(paths)}; name fewer reports")
        views = [view_of(path, pictures) for path in paths]
        made = draw(views, style)
        place = target or (out or paths[0].parent) / "grid.png"
        _write(made.save(place) if target or out or not show else None)
        if show:
            drawing.in_terminal(made.image)
        return
    if target is not None and len(paths) != 1:
        raise UsageError(f"{target}: is one figure, and these are {len(paths)} reports; --figure grid, or --out DIR")
    shared = None
    if style.scale == RUN:
        own = [style.of(view) for view in _views(paths, pictures)]
        shared = common(own) if own else None
    failed = 0
    for path in paths:
        try:
            view = view_of(path, pictures)
        except HeatcliError as error:
            if len(paths) == 1:
                raise
            failed += 1
            say.error(error)
            continue
        made = draw([replace(view, scale=shared)], style)
        if target or out or not show:
            _write(made.save(target or (out or path.parent) / f"{path.stem}.{kind}.png"))
        if show:
            drawing.in_terminal(made.image)
    if failed:
        raise typer.Exit(1)


def _views(paths: list[Path], pictures: Path | None) -> Iterator[View]:
    """The views of the reports that can be read. Errors of the others are printed later, when they are drawn."""
    from heatcli.errors import HeatcliError
    from heatcli.figures.reading import view_of

    for path in paths:
        with suppress(HeatcliError):
            yield view_of(path, pictures)


def _write(path: Path | None) -> None:
    if path is not None:
        say.line(f"wrote {path}")
