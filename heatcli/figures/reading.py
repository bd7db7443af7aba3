"""Reading reports from files, with their picture and map, so that figures can be drawn again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePath

import msgspec
import numpy as np
from numpy.typing import NDArray

from heatcli.artifact.layout import PICTURES
from heatcli.artifact.sidecar import Input
from heatcli.errors import ImageError, UsageError, boundary
from heatcli.figures.view import View, of_other, view_on
from heatcli.images.overlay import Scale
from heatcli.images.preprocess import Fit, seen_box
from heatcli.images.read import Picture, Reader
from heatcli.report.schema import NAME, FigurePart, Report
from heatcli.system.compress import read_array
from heatcli.system.files import is_url, read_regular

LONGEST = 1 << 30  # bytes of a report
_decode = msgspec.json.Decoder(Report).decode


class _Named(msgspec.Struct, frozen=True):
    """The field that reports of every version have."""

    schema: str = ""


def read_report(path: Path | str) -> Report:
    """The report in a file. Raises `ImageError` if the file is not a report."""
    with boundary(path, ImageError, f"is no {NAME} that this version reads"):
        try:
            return _decode(read_regular(path, LONGEST))
        except FileNotFoundError as error:
            raise ImageError(f"{path}: no such report") from error


def reports_in(folder: Path) -> Iterator[Path]:
    """The paths of the reports in a folder and below it, by name. Raises `UsageError` if there are none."""
    count = 0
    for path in sorted(folder.rglob("*.json")):
        try:
            named = msgspec.json.decode(read_regular(path, LONGEST), type=_Named).schema == NAME
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        if named:
            count += 1
            yield path
    if not count:
        raise UsageError(f"{folder}: no reports of heatcli explain are in this folder")


def view_of(path: Path | str, pictures: Path | None = None, picture: str | None = None) -> View:
    """The view of the report in a file, from which figures are drawn.

    `pictures`: a folder that holds the picture; None looks where the report says. `picture`: the path of the picture,
    if the caller knows it. Raises `ImageError` if the report, its map or its picture cannot be read.
    """
    report = read_report(path)
    if report.image.sequence is not msgspec.UNSET:
        raise ImageError(f"{path}: is on a sequence; figures are of pictures")
    view = _view(Path(path), report, pictures, picture)
    if report.pair is msgspec.UNSET:
        return view
    return replace(view, pair=_view(Path(path), of_other(report), pictures, None))


def _view(path: Path, report: Report, pictures: Path | None, picture: str | None) -> View:
    """One picture of a report, with its map."""
    found = _picture(path, report, pictures, picture)
    relevance = map_of(path, report)
    if found.numbers is not None:
        return view_on(found, relevance, report)
    figure = report.figure
    bands = figure.bands if isinstance(figure, FigurePart) and isinstance(figure.bands, tuple) else ()
    with boundary(report.image.path, ImageError, "cannot be shown"):
        shown = found.shown(bands)
    if shown.size != (report.image.width, report.image.height):
        raise ImageError(f"{path}: its picture is {shown.width}×{shown.height}, the report says otherwise")
    return View(shown, relevance, with_seen(report))


def scale_of(report: Report) -> Scale | None:
    """The colour scale of a report's figure; None if the report has no figure."""
    figure = report.figure
    return Scale(figure.full, figure.cut, figure.by, figure.clip) if isinstance(figure, FigurePart) else None


def map_of(path: Path | str, report: Report) -> NDArray[np.float64]:
    """The relevance of each pixel, float64 [H, W], from the report or the array beside it. Raises `ImageError`."""
    values, shape = report.pixels.values, report.pixels.shape
    if isinstance(values, list):
        with boundary(path, ImageError, "its pixels are no map"):
            found = np.array(values, np.float64)
    else:
        files = report.files
        name = next((name for name in (files.pixels, files.arrays) if isinstance(name, str)), None)
        if name is None:
            raise ImageError(f"{path}: holds no pixels; explain again with --pixels json or npz")
        if PurePath(name).name != name:
            raise ImageError(f"{path}: names the file {name}, which is not beside it")
        file = Path(path).with_name(name)
        with boundary(file, ImageError, "is not the map that the report names"):
            array = read_array(read_regular(file, LONGEST))
            whole = np.asarray(array, np.float64)
            found = whole if whole.shape == shape else np.atleast_2d(whole.sum(0))
    if found.shape != shape or not np.isfinite(found).all():
        raise ImageError(f"{path}: its pixels are no map of {'×'.join(map(str, shape))} finite numbers")
    return found


def _picture(path: Path, report: Report, pictures: Path | None, known: str | None) -> Picture:
    """The picture of a report: in `pictures`, else at `known`, else where the report says. Raises `ImageError`."""
    image, channels = report.image, report.model.input.get("channels") or 3
    name = PurePath(image.path).name
    if pictures is not None:
        places = [pictures / image.path, pictures / name]
    elif known is not None and not is_url(known):
        places = [Path(known)]
    elif is_url(image.path):
        raise ImageError(f"{path}: its picture is at {image.path}; give a folder that has it with --pictures")
    else:
        places = places_of(path, image.path)
    there = next((place for place in places if os.path.isfile(place)), None)  # noqa: PTH113  (no name is refused)
    if there is None:
        raise ImageError(f"{path}: its picture {image.path} is not there; --pictures names the folder that has it")
    given = msgspec.convert(report.model.input, Input, strict=False)
    if given.layout != PICTURES:
        channels = None if given.layout.channel is not None else 1
    found = Reader(channels, given.range or "", None, layout=given.layout).picture(there)
    if found.sha256 != image.sha256:
        raise ImageError(f"{path}: {there} is not the picture that was explained; its hash is another")
    return found


def places_of(path: Path, name: str) -> list[Path]:
    """Where the file that a report at `path` names by `name` may be, the likeliest place first.

    Reports name files relative to themselves, older ones relative to the folder that the command ran in.
    """
    return [path.parent / name, Path(name), path.parent / PurePath(name).name]


def with_seen(report: Report) -> Report:
    """The report with the part of the picture that the network saw, which older reports lack."""
    if report.image.seen is not msgspec.UNSET:
        return report
    given = msgspec.convert(report.model.input, Input, strict=False)
    fit = Fit(given.channels or 3, report.pixels.shape[0], report.pixels.shape[1], given.resize_to, given.interpolation)
    seen = seen_box((report.image.width, report.image.height), fit)
    return msgspec.structs.replace(report, image=msgspec.structs.replace(report.image, seen=seen))
