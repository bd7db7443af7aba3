"""Plots of signals, tables and tokens: traces coloured by relevance, and bars."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatcli.artifact.layout import TABLE, TOKENS
from heatcli.figures.view import View
from heatcli.images.overlay import Scale, colour_map
from heatcli.images.read import Picture

# In pixels: the width of a plot, the heights of a channel and of a feature, the width of the features' names.
WIDTH, LEAD, BAR, NAMES = 760, 90, 18, 200
LEADS, FEATURES, POINTS = 24, 24, 3000  # the most channels, features and samples that are drawn
NAMED = 60  # the most tokens that are named
_PALE, _INK = "#b8b8b8", "#202020"

Axes = Callable[[float, float, float, float], Any]  # left, top, width, height in pixels


@dataclass(frozen=True, eq=False)
class Plot:
    """A plot of this size in pixels. `draw`: called with the page's `axes` and the left and top of the plot."""

    width: int
    height: int
    draw: Callable[[Axes, float, float], None]


def plot(view: View, scale: Scale, cmap: str, size: int | None) -> Plot:
    """The plot of a signal [C, L], a table [1, F] or tokens [1, T]. `size`: the width in pixels, by default `WIDTH`."""
    picture, width = view.picture, size or WIDTH
    assert isinstance(picture, Picture)
    assert isinstance(picture.pixels, np.ndarray)
    if view.report.image.kind == TABLE:
        order = np.argsort(-np.abs(view.relevance[0]), kind="stable")[:FEATURES]
        high = BAR * len(order)
        return Plot(
            width, high + 24, lambda axes, x, y: _bars(view, order, cmap, axes(x + NAMES, y, width - NAMES, high))
        )
    if view.report.image.kind == TOKENS:
        return Plot(width, LEAD + 60, lambda axes, x, y: _strip(view, cmap, axes(x + 40, y, width - 40, LEAD), scale))
    shown = np.argsort(-np.abs(view.relevance).sum(1), kind="stable")[:LEADS]
    leads = sorted(shown.tolist())

    def draw(axes: Axes, x: float, y: float) -> None:
        """Draw the traces of a signal."""
        for row, lead in enumerate(leads):
            place = axes(x, y + row * LEAD, width, LEAD - 6)
            _trace(view, lead, scale, cmap, place, row == len(leads) - 1)

    return Plot(width, LEAD * len(leads) + 30, draw)


def names_of(view: View, count: int) -> list[str]:
    """The names of channels or features: from the file, else from the sidecar, else their numbers from 0."""
    picture = view.picture
    own = picture.numbers.names if isinstance(picture, Picture) and picture.numbers is not None else ()
    names = own or tuple(view.report.model.input.get("names") or ())
    return list(names) if len(names) == count else [str(i) for i in range(count)]


def _rate(view: View) -> float | None:
    """Samples a second: from the file, else from the sidecar; None if unknown."""
    picture = view.picture
    own = picture.numbers.rate if isinstance(picture, Picture) and picture.numbers is not None else None
    return own or view.report.model.input.get("rate")


def _trace(view: View, lead: int, scale: Scale, cmap: str, axes: Any, last: bool) -> None:
    """Draw a channel: a grey line, and over it coloured segments whose opacity is the relevance of their sample."""
    from matplotlib.collections import LineCollection

    assert isinstance(view.picture, Picture)
    values = np.asarray(view.picture.pixels)[lead].astype(np.float64)
    at = _thinned(values, view.relevance[lead])
    rate = _rate(view)
    x, y = at / (rate or 1.0), values[at]
    signed = scale.signed(view.relevance[lead])[at]
    axes.plot(x, y, color=_PALE, linewidth=0.8)
    middles = [np.concatenate([v[:1], (v[1:] + v[:-1]) / 2, v[-1:]]) for v in (x, y)]
    points = np.stack([np.stack([m[:-1], v, m[1:]], 1) for m, v in zip(middles, (x, y), strict=True)], 2)
    colours = colour_map(cmap)(0.5 + np.sign(signed) / 2)
    colours[:, 3] = np.minimum(1, np.abs(signed))
    axes.add_collection(LineCollection(list(points), colors=colours, linewidths=2.2))
    axes.margins(0.005, 0.08)
    name = names_of(view, len(view.relevance))[lead]
    axes.text(0.004, 0.96, name, fontsize=8, va="top", transform=axes.transAxes, parse_math=False)
    axes.set_yticks([])
    axes.tick_params(labelsize=8, labelbottom=last, color=_PALE)
    for side in axes.spines.values():
        side.set_color(_PALE)
    if last:
        axes.set_xlabel("seconds" if rate else "samples", fontsize=8, labelpad=1)


def _thinned(values: NDArray[np.float64], relevance: NDArray[np.float64]) -> NDArray[np.int64]:
    """The indices of the samples to draw: all, or the highest, lowest and most relevant one of each short section."""
    if len(values) <= POINTS:
        return np.arange(len(values))
    edges = np.linspace(0, len(values), POINTS // 3 + 1).astype(int)
    kept = [
        a + i
        for a, b in pairwise(edges)
        for i in (values[a:b].argmax(), values[a:b].argmin(), np.abs(relevance[a:b]).argmax())
    ]
    return np.unique(kept)


def _strip(view: View, cmap: str, axes: Any, scale: Scale) -> None:
    """Draw the relevance of each token at its position, as strong a colour as it has; few tokens are named."""
    assert isinstance(view.picture, Picture)
    tokens, relevance = np.asarray(view.picture.pixels)[0].astype(int), view.relevance[0]
    at = _thinned(relevance, relevance)
    colours = colour_map(cmap)(0.5 + np.sign(relevance[at]) / 2)
    colours[:, 3] = np.clip(np.abs(scale.signed(relevance[at])), 0.2, 1)
    axes.vlines(at, 0, relevance[at], colors=colours, linewidth=max(0.6, min(8.0, 500 / len(tokens))))
    axes.axhline(0, color=_INK, linewidth=0.6)
    axes.set_xlim(-0.6, len(tokens) - 0.4)
    axes.tick_params(labelsize=8, color=_PALE)
    if len(tokens) <= NAMED:
        words = view.report.model.input.get("names") or ()
        names = [str(words[token]) if token < len(words) else str(token) for token in tokens]
        axes.set_xticks(range(len(tokens)), names, rotation=90, fontsize=7, parse_math=False)
    else:
        axes.set_xlabel("position", fontsize=8, labelpad=1)
    for side in axes.spines.values():
        side.set_color(_PALE)


def _bars(view: View, order: NDArray[np.int64], cmap: str, axes: Any) -> None:
    """Draw the relevance of the features `order` as bars, with their names and values."""
    assert isinstance(view.picture, Picture)
    values, names = np.asarray(view.picture.pixels)[0], names_of(view, view.relevance.shape[1])
    relevance = view.relevance[0][order]
    ends = colour_map(cmap)
    axes.barh(np.arange(len(order)), relevance, height=0.7, color=[ends(1.0 if r >= 0 else 0.0) for r in relevance])
    axes.axvline(0, color=_INK, linewidth=0.8)
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.set_yticks(range(len(order)), [f"{names[i]} = {values[i]:.4g}" for i in order], fontsize=8, parse_math=False)
    axes.tick_params(labelsize=8, color=_PALE)
