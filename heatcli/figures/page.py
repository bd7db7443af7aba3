"""The layout of a figure: pictures, colour bars, ledger and text. All sizes are in pixels; pictures are not scaled."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from heatcli.errors import printable
from heatcli.figures.plots import Plot
from heatcli.figures.view import View, concept, number, percent, unit
from heatcli.images.drawing import DPI
from heatcli.images.overlay import Scale, colour_map


@dataclass(frozen=True, eq=False)
class Cell:
    """A picture or a plot in a figure, with its title.

    `bar`: the scale and view of a colour bar at its right. `lines`: values [H, W] and the level of contour lines on it.
    """

    picture: Image.Image | Plot
    title: str
    bar: tuple[Scale, View] | None = None
    lines: tuple[NDArray[np.float32], float] | None = None


MARGIN, GAP, BAR, LINE = 18, 20, 106, 16
_BARS = {"biases": "#9a9a9a", "losses": "#404040"}
_INK, _PALE, _EDGE, _PAPER = "#202020", "#707070", "#b8b8b8", "white"
_LEAST = 560  # the least width in pixels, for the text


def figure_of(
    title: str, below: str, cells: Sequence[Cell], sentences: Sequence[str], ledger: View | None, cmap: str,
    columns: int,
) -> Any:  # fmt: skip
    """A matplotlib figure: a title, a line `below` it, rows of `columns` cells, the ledger of a view, sentences."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    wide = [sum(cell.picture.width + GAP + (BAR if cell.bar else 0) for cell in row) - GAP for row in rows]
    width = max(_LEAST, *wide) + 2 * MARGIN
    title_lines = _wrapped(title, width - 2 * MARGIN, 12)
    small = [line for text in ([below] if below else []) for line in _wrapped(text, width - 2 * MARGIN, 9)]
    notes = [line for text in sentences for line in _wrapped(text, width - 2 * MARGIN, 9)]
    heads = [[_fitting(cell) for cell in row] for row in rows]
    tops = [max(len(head) for head in row) * LINE + 4 for row in heads]
    highs = [max(cell.picture.height for cell in row) for row in rows]
    start = MARGIN + 20 * len(title_lines) + LINE * len(small) + 6
    body = sum(tops) + sum(highs) + GAP * len(rows)
    strip = 0 if ledger is None else _strip_height(ledger) + GAP // 2
    height = start + body + strip + LINE * len(notes) + MARGIN
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=_PAPER)
    FigureCanvasAgg(figure)
    page = Page(figure, width, height)
    y = MARGIN
    for line in title_lines:
        page.write(MARGIN, y, line, 12, weight="bold")
        y += 20
    for line in small:
        page.write(MARGIN, y, line, 9, color=_PALE)
        y += LINE
    y = start
    for row, head, top, high in zip(rows, heads, tops, highs, strict=True):
        x = MARGIN
        for cell, texts in zip(row, head, strict=True):
            for i, text in enumerate(texts):
                page.write(x, y + i * LINE, text, 9)
            page.place(cell, x, y + top, cmap)
            x += cell.picture.width + GAP + (BAR if cell.bar else 0)
        y += top + high + GAP
    if ledger is not None:
        page.strip(ledger, y, cmap)
        y += strip
    for line in notes:
        page.write(MARGIN, y, line, 9, color=_INK)
        y += LINE
    return figure


@dataclass(frozen=True, eq=False)
class Page:
    """A matplotlib figure with coordinates in pixels from the upper left corner."""

    figure: Any
    width: int
    height: int

    def write(self, x: float, y: float, text: str, size: float, **how: Any) -> None:
        """Write a line of text with its upper left corner at (x, y). `$` is not read as mathematics."""
        options: dict[str, Any] = {"color": _INK, "va": "top", "ha": "left", "parse_math": False, **how}
        self.figure.text(x / self.width, 1 - y / self.height, text, fontsize=size * 72 / DPI * 1.35, **options)

    def axes(self, x: float, y: float, width: float, height: float) -> Any:
        """Axes with their upper left corner at (x, y)."""
        place = (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(place)

    def place(self, cell: Cell, x: float, y: float, cmap: str) -> None:
        """Draw a cell with its contour lines and its colour bar."""
        width, height = cell.picture.width, cell.picture.height
        if isinstance(cell.picture, Plot):
            cell.picture.draw(self.axes, x, y)
            if cell.bar is not None:
                self._bar(cell.bar, x + width + 8, y, height, cmap)
            return
        axes = self.axes(x, y, width, height)
        axes.imshow(np.asarray(cell.picture), interpolation="none", aspect="auto", extent=(0, width, height, 0))
        if cell.lines is not None:
            values, level = cell.lines
            grid = np.arange(width) + 0.5, np.arange(height) + 0.5
            for threshold, shade, dash in ((level, 1.0, "solid"), (-level, 0.0, "dashed")):
                if values.min() < threshold < values.max():
                    axes.contour(*grid, values, [threshold], colors="white", linewidths=3.4)
                    colour = [colour_map(cmap)(shade)]
                    axes.contour(*grid, values, [threshold], colors=colour, linewidths=1.8, linestyles=dash)
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        self.frame(x - 1, y - 1, width + 2, height + 2)
        axes.set_axis_off()
        if cell.bar is not None:
            self._bar(cell.bar, x + width + 8, y, height, cmap)

    def _bar(self, bar: tuple[Scale, View], x: float, y: float, height: int, cmap: str) -> None:
        """Draw a colour bar."""
        from matplotlib.cm import ScalarMappable
        from matplotlib.colorbar import Colorbar
        from matplotlib.colors import Normalize

        scale, view = bar
        axes = self.axes(x, y, 13, height)
        colours, reach = colour_map(cmap), scale.cut / scale.full / 2
        colours = colours.with_extremes(under=colours(0.5 - reach), over=colours(0.5 + reach))
        mappable = ScalarMappable(Normalize(-scale.full, scale.full), colours)
        past = float(np.abs(view.relevance).max()) > scale.cut
        made = Colorbar(axes, mappable, extend="both" if past else "neither", extendfrac=0.03)
        axes.set_ylim(-scale.cut, scale.cut)
        made.set_ticks([-scale.cut, 0, scale.cut], labels=[f"−{scale.cut:.2g}", "0", f"+{scale.cut:.2g}"])
        axes.tick_params(labelsize=8, color=_PALE)
        name = "no unit" if view.divided is None else f"{unit(view)} a {view.element}"
        made.set_label(name, fontsize=8.5, labelpad=1, parse_math=False)

    def frame(self, x: float, y: float, width: float, height: float) -> None:
        """Draw a thin frame, so that a white map is visible on the white page."""
        from matplotlib.patches import Rectangle

        corner = (x / self.width, 1 - (y + height) / self.height)
        size = (width / self.width, height / self.height)
        line = Rectangle(corner, *size, fill=False, color=_EDGE, linewidth=0.7, transform=self.figure.transFigure)
        self.figure.add_artist(line)

    def strip(self, view: View, y: float, cmap: str) -> None:
        """Draw the ledger as bars from 0: the shares of the input, biases and losses in the score."""
        score, found = view.divided or 0.0, entries(view)
        values = [value for _, value in found]
        low, high = min(0.0, score, *values), max(0.0, score, *values)
        left, right = MARGIN + 62, 186
        axes = self.axes(left, y, self.width - left - MARGIN - right, 18 * len(found))
        ends = colour_map(cmap)
        for i, (name, value) in enumerate(found):
            colour = _BARS.get(name) or ends(1.0 if value >= 0 else 0.0)
            axes.barh(i, value, height=0.7, color=colour, linewidth=0)
            self.write(MARGIN, y + 18 * i + 2, name, 9)
            share = f" ({percent(value / score)})" if score else ""
            self.write(self.width - MARGIN - right + 8, y + 18 * i + 2, f"{number(value, 3, '+')}{share}", 9)
        axes.axvline(0, color=_INK, linewidth=0.8)
        axes.axvline(score, color=_INK, linewidth=1.2, linestyle=(0, (3, 2)))
        axes.set_xlim(low - 0.01 * (high - low), high + 0.01 * (high - low) or 1)
        axes.set_ylim(len(found) - 0.5, -0.5)
        axes.set_axis_off()
        name = f"the share of {concept(view.report)}" if concept(view.report) else "score"
        name = name if not view.report.ledger.output_baseline else f"{name} less the baseline's"
        self.write(MARGIN, y + 18 * len(found) + 2, f"dashed: {name}, {number(score, 4)}", 8, color=_PALE)


def entries(view: View) -> list[tuple[str, float]]:
    """The entries of the ledger to draw. Losses are left out if they are too small to see."""
    ledger = view.report.ledger
    found = [(f"{view.element}s", ledger.pixels), ("biases", ledger.biases)]
    lost = ledger.absorbed + ledger.unexplained
    if abs(lost) > 1e-3 * max(abs(ledger.output - ledger.output_baseline), abs(ledger.pixels), abs(ledger.biases)):
        found.append(("losses", lost))
    return found


def _strip_height(view: View) -> int:
    """The height of the ledger in pixels."""
    return 18 * len(entries(view)) + LINE + 4


def _fitting(cell: Cell) -> list[str]:
    """The lines of a cell's title, wrapped to its width."""
    return [line for part in cell.title.split("\n") for line in _wrapped(part, cell.picture.width + GAP // 2, 9)]


def _wrapped(text: str, width: int, size: float) -> list[str]:
    """A text in lines of at most `width` pixels; characters that the font lacks become `□`."""
    text = "".join(c if _has(c) else "□" for c in printable(text))
    mean = 0.80 * size  # approximate width of a character in pixels
    return textwrap.wrap(text, max(8, int(width / mean)), break_on_hyphens=False) or [""]


@cache
def _font() -> Any:
    """matplotlib's default font."""
    from matplotlib import get_data_path
    from matplotlib.ft2font import FT2Font

    return FT2Font(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf")


@cache
def _has(character: str) -> bool:
    """Whether matplotlib's default font has a character."""
    return bool(_font().get_char_index(ord(character)))
