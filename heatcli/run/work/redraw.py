"""`--scale run`: all figures of a run are drawn again at its end, on one colour scale."""

from __future__ import annotations

import os
from dataclasses import replace as with_scale
from pathlib import Path, PurePath

from msgspec.structs import replace

from heatcli.errors import ImageError, UsageError
from heatcli.figures.draw import Style, common, draw
from heatcli.figures.reading import view_of
from heatcli.images.overlay import Scale
from heatcli.report.build import figure_part
from heatcli.report.schema import encode
from heatcli.run.index.index import INDEX, FileEntry, Row, images, line_of
from heatcli.system.files import joined, locked, write_atomically, writing


def redraw(folder: Path, lock: Path, style: Style, run: str | None) -> Scale:
    """Draw every figure of a run in `folder` on one scale, and write the scale into reports and index.

    `run`: the mark of the run's rows in the index. Returns the scale. Raises `UsageError` if there are no figures, or
    one cannot be drawn again; the figures before that one keep the new scale.
    """
    index = folder / INDEX
    with locked(lock):
        own = [row.cut for rows in images(index) for row, _ in rows if row.cut is not None and row.run == run]
        if not own:
            raise UsageError(f"{folder}: holds no figures, so there is no scale for them")
        scale = common([Scale(cut, cut, clip=style.clip) for cut in own])
        temporary = folder / f".{INDEX}.{os.getpid()}.tmp"
        try:
            with writing(index), temporary.open("wb") as lines:
                for rows in images(index):
                    lines.writelines(
                        line_of(_redrawn(folder, row, scale, style) if row.run == run else row) for row, _ in rows
                    )
                lines.flush()
                os.fsync(lines.fileno())
            temporary.replace(index)
        finally:
            temporary.unlink(missing_ok=True)
    return scale


def _redrawn(folder: Path, row: Row, scale: Scale, style: Style) -> Row:
    """Write an image's figure and report again; returns the image's new row."""
    if row.error is not None:
        return row
    names = {what: joined(str(folder), row.files[what].name) for what in ("report", "overlay")}
    try:
        view = view_of(names["report"], picture=row.image)
        drawing = draw([with_scale(view, scale=scale)], style)
    except ImageError as error:
        raise UsageError(f"{error}; so the run keeps the scales of its images") from error
    contents = {
        "overlay": drawing.content(PurePath(names["overlay"]).suffix),
        "report": encode(replace(view.report, figure=figure_part(style.kind, scale, style.bands))),
    }
    entries = dict(row.files)
    for what, content in contents.items():
        write_atomically(names[what], content)
        entries[what] = FileEntry.of(row.files[what].name, content)
    return replace(row, files=entries, cut=scale.cut)
