"""The sequence logo: the height of each letter is its relevance."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROW = 100  # letters in a row
COLOURS = {"A": "#109648", "C": "#255c99", "G": "#f7b32b", "T": "#d62839", "U": "#d62839"}
OTHER = "#555555"


def logo(letters: str, relevance: NDArray[np.float64], title: str) -> bytes:
    """A PNG of `letters` with heights `relevance`, float64 [L]. Negative letters are below the line, upside down.

    All rows have one scale.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import PathPatch

    rows = -(-len(letters) // ROW)
    figure = Figure(figsize=(13, 0.5 + 1.35 * rows), dpi=110, layout="constrained")
    high, low = max(float(relevance.max()), 0.0), min(float(relevance.min()), 0.0)
    margin = 0.05 * (high - low) or 1.0
    axes = figure.subplots(rows, 1, squeeze=False)[:, 0]
    for row, at in enumerate(axes):
        part = slice(row * ROW, (row + 1) * ROW)
        for letter in sorted(set(letters[part])):
            path = _letters(letter, letters[part], relevance[part], row * ROW)
            if path is not None:
                at.add_patch(PathPatch(path, facecolor=COLOURS.get(letter, OTHER), linewidth=0))
        at.axhline(0, color="#808080", linewidth=0.6)
        at.set_xlim(row * ROW - 0.5, row * ROW + min(ROW, len(letters)) - 0.5)
        at.set_ylim(low - margin, high + margin)
        at.tick_params(labelsize=7)
        at.spines[["top", "right"]].set_visible(False)
    axes[0].set_title(title, fontsize=9, loc="left")
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def _letters(letter: str, letters: str, relevance: NDArray[np.float64], first: int) -> Any:
    """All positions of `letter` in a row as one path; None if its relevance is 0 everywhere."""
    from matplotlib.path import Path

    shape = _glyph(letter)
    found = []
    for i, (own, height) in enumerate(zip(letters, relevance.tolist(), strict=True)):
        if own == letter and height:
            found.append(Path(shape.vertices * (0.94, height) + (first + i - 0.47, 0), shape.codes))
    return Path.make_compound_path(*found) if found else None


@cache
def _glyph(letter: str) -> Any:
    """The outline of a letter, scaled to the unit square."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.path import Path
    from matplotlib.textpath import TextPath

    path = TextPath((0, 0), letter, size=1, prop=FontProperties(family="DejaVu Sans", weight="bold"))
    box = path.get_extents()
    return Path((np.asarray(path.vertices) - box.min) / box.size, path.codes)
