"""Options of the commands that draw figures."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heatcli.cli import say

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.text import Text

    from heatcli.figures.draw import Style

Kind = Annotated[
    str | None,
    typer.Option(
        "--figure",
        metavar="overlay|panel|grid|heatmap|parts|contour|none",
        help="What is drawn; see `heatcli help figures`. Default: panel for one image, grid for several methods, "
        "overlay for many images.",
    ),
]
Size = Annotated[
    int | None,
    typer.Option("--figure-size", metavar="N", help="About how many pixels the longer side of each picture gets."),
]
ScaleOf = Annotated[
    str | None,
    typer.Option(
        "--scale",
        metavar="image|run|VALUE",
        help="Which relevance gets the full colour: each image's own, one for the whole run, or this value.",
    ),
]
Clip = Annotated[
    float, typer.Option(metavar="PERCENT", help="The percentile of |relevance| that gets the full colour.")
]
Top = Annotated[float, typer.Option(metavar="PERCENT", help="How much of the picture --figure contour outlines.")]
Cmap = Annotated[str, typer.Option(help="The colours: a diverging colour map of matplotlib.")]
Opacity = Annotated[float, typer.Option(help="How much of the picture the strongest relevance covers, 0 to 1.")]
Backdrop = Annotated[str, typer.Option(metavar="grey|colour", help="The picture under the map.")]
Bands = Annotated[
    str | None,
    typer.Option(
        metavar="N|R,G,B",
        help="Of a picture with several bands: which one is shown in grey, or which three as red, green and blue; from "
        "1. Default: the mean of all.",
    ),
]
File = Annotated[
    Path | None,
    typer.Option(
        "-o",
        metavar="FILE",
        help="The file of the figure. The suffix chooses the format: .png, .jpg, .webp, .svg, .pdf.",
    ),
]
Show = Annotated[bool, typer.Option("--show", help="Draw in the terminal, too.")]


def style(
    kind: str, size: int | None, scale: str | None, clip: float, cmap: str, opacity: float, backdrop: str, top: float,
    bands: str | None = None,
) -> Style:  # fmt: skip
    """The style for the options. Raises `UsageError`."""
    from heatcli.errors import UsageError
    from heatcli.figures.draw import IMAGE, RUN, Style

    chosen: str | float = scale if scale is not None else RUN if kind == "grid" else IMAGE
    if chosen not in (IMAGE, RUN):
        try:
            chosen = float(chosen)
        except ValueError as error:
            raise UsageError(f"--scale {scale} is not known; use image, run or a number") from error
    try:
        shown = tuple(map(int, bands.split(","))) if bands else ()
    except ValueError:
        shown = (0,)
    return Style(kind, size, chosen, clip, cmap, opacity, backdrop, top, shown)


def file(given: Path | None) -> Path | None:
    """The value of `-o FILE`. Raises `UsageError` if it is a folder, or its suffix is not one of a figure."""
    from heatcli.errors import UsageError
    from heatcli.images.drawing import checked_suffix
    from heatcli.system.files import is_folder

    if given is not None:
        if is_folder(given):
            raise UsageError(f"{given}: is a folder; -o takes a file, --out a folder")
        try:
            checked_suffix(given.suffix)
        except UsageError as error:
            raise UsageError(f"{given}: {error}") from error
    return given


def in_terminal(picture: Image) -> None:
    """Draw a picture in the terminal on stdout: with the terminal's graphics (kitty, Sixel), else with characters."""
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False)
    width = max(20, min(console.width - 1, picture.width // 8))
    if not console.is_terminal:
        say.error("--show draws in a terminal, and stdout is not a terminal")
        return
    if sys.stdin.isatty() and sys.stdout.isatty():  # a query for the graphics is answered on stdin
        logging.getLogger("textual_image").addHandler(logging.NullHandler())
        with suppress(Exception):  # for example, a terminal without a known size; characters still work
            from textual_image.renderable import Image as Graphics

            console.print(Graphics(picture, width))
            return
    console.print(half_blocks(picture, width))


def half_blocks(picture: Image, width: int) -> Text:
    """A picture as lines of `▀`: each shows two pixels, the upper in the text colour, the lower in the background's."""
    from rich.text import Text

    height = 2 * max(1, round(width * picture.height / picture.width / 2))
    small = picture.convert("RGB").resize((width, height))
    text = Text(no_wrap=True, end="")
    for y in range(0, height, 2):
        for x in range(width):
            upper, lower = (small.getpixel((x, row)) for row in (y, y + 1))
            text.append("▀", f"rgb{upper} on rgb{lower}".replace(" ", "").replace("on", " on "))
        text.append("\n")
    return text
