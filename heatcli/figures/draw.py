"""The kinds of figures. All are drawn from `View`s only, so that `heatcli show` can draw them again from files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from heatcli.errors import UsageError, unknown_name
from heatcli.figures.page import Cell, figure_of
from heatcli.figures.plots import plot
from heatcli.figures.view import UNVERIFIED, View, caption, heading, hidden, means, number, percent, text_of
from heatcli.images.drawing import LOCK, Drawing
from heatcli.images.overlay import (
    BACKDROPS,
    CLIP,
    GREY,
    Scale,
    beside,
    colour_map,
    hatched,
    onto_picture,
    outlined,
    overlay,
    stamped,
)
from heatcli.images.preprocess import Box
from heatcli.images.read import as_mode

NONE = "none"
KINDS = ("overlay", "panel", "grid", "heatmap", "parts", "contour", NONE)
IMAGE, RUN = "image", "run"
SIDE = 400  # approximate length in pixels of the longer side of a picture in a figure
LEAST = 224  # about the longer side of an overlay of a smaller picture, so that a person can see it
MOST, GRID = 48, 4  # the most maps in a grid, and cells in its row
_UNSEEN = (222, 222, 222)


@dataclass(frozen=True)
class Style:
    """How a figure is drawn. Raises `UsageError` for values that are not valid.

    `kind`: one of `KINDS`. `size`: the approximate length in pixels of the longer side of each picture; None means
    `SIDE`, and for an overlay the picture's own size, but at least about `LEAST`. `scale`: `image`, `run` for one
    scale over several maps, or the relevance per pixel that gets the full colour, in units of the score. `clip`:
    the percentile of |relevance| that gets the full colour. `cmap`: a diverging colour map of matplotlib.
    `opacity`: 0..1, of the strongest relevance. `backdrop`: the picture under an overlay, grey or colour. `top`:
    the percentage of pixels that `contour` outlines. `bands`: of a picture with several, the one or the three that
    are shown, from 1; () for the mean of all.
    """

    kind: str = "overlay"
    size: int | None = None
    scale: str | float = IMAGE
    clip: float = CLIP
    cmap: str = "bwr"
    opacity: float = 0.9
    backdrop: str = GREY
    top: float = 5.0
    bands: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown_name("figure", self.kind, KINDS)
        if self.backdrop not in BACKDROPS:
            raise unknown_name("backdrop", self.backdrop, BACKDROPS)
        for name, value, low, high in (("figure-size", self.size, 16, 8192), ("clip", self.clip, 50, 100),
                                       ("top", self.top, 0.1, 50), ("opacity", self.opacity, 0, 1)):  # fmt: skip
            if value is not None and not low <= value <= high:
                raise UsageError(f"--{name} {value:g} is not allowed; it is a number from {low:g} to {high:g}")
        if isinstance(self.scale, float) and not 0 < self.scale < float("inf"):
            raise UsageError(f"--scale {self.scale:g} is not allowed; it is more than 0")
        if len(self.bands) not in (0, 1, 3) or any(band < 1 for band in self.bands):
            raise UsageError("--bands takes the number of one band or of three, from 1, such as 4,3,2")
        colour_map(self.cmap)

    def of(self, view: View) -> Scale:
        """The colour scale of a single map."""
        if isinstance(self.scale, float):
            return Scale(self.scale, self.scale, "given", self.clip)
        return Scale.of(view.relevance, view.divided, self.clip)


def draw(views: Sequence[View], style: Style) -> Drawing:
    """The figure of a single view, or the grid of several. Raises `UsageError` for a wrong number of views."""
    if style.kind == "grid":
        if not 1 <= len(views) <= MOST:
            raise UsageError(f"a grid has from 1 to {MOST} maps, and these are {len(views)}")
    elif len(views) != 1:
        raise UsageError(f"a {style.kind} shows one map, and these are {len(views)}; --figure grid shows several")
    if not isinstance(views[0].picture, Image.Image):
        with LOCK:
            return _plotted(views, style)
    with nullcontext() if style.kind == "overlay" else LOCK:  # Pillow needs no lock
        return _DRAWN[style.kind](views, style)


def _plotted(views: Sequence[View], style: Style) -> Drawing:
    """The figure of signals or tables: a plot per view; for a single view also the ledger and the caption."""
    if style.kind in ("parts", "contour"):
        raise UsageError(f"--figure {style.kind} is for pictures and volumes; a signal or a table has panel and grid")
    scales = [view.scale or style.of(view) for view in views]
    cells = [
        Cell(plot(view, scale, style.cmap, style.size), view.report.method.name, (scale, view))
        for view, scale in zip(views, scales, strict=True)
    ]
    if len(views) == 1:
        return replace(_drawn(views[0], scales[0], cells, style), scales=tuple(scales))
    texts = " | ".join(text_of(view, scale) for view, scale in zip(views, scales, strict=True))
    title = f"{Path(views[0].report.image.path).name}: {heading(views[0])}"
    return Drawing(figure_of(title, "", cells, [], None, style.cmap, 1), texts, tuple(scales))


def common(scales: Sequence[Scale]) -> Scale:
    """One scale for several maps: the 0.9 quantile of their own scales, so that a few strong maps do not pale the rest.

    The quantile is rounded up, so that it is the largest scale of up to ten maps.
    """
    cut = float(np.quantile([scale.cut for scale in scales], 0.9, method="higher"))
    return Scale(cut, cut, RUN, scales[0].clip)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class _Shown:
    """A view at its size in a figure: drawn at the size of `picture`, then enlarged `times` times.

    Enlarging repeats pixels, so that small pictures are not smoothed. `box`: the part of `picture` that the network
    saw, in its pixels.
    """

    view: View
    picture: Image.Image
    box: Box
    times: int

    @classmethod
    def of(cls, view: View, side: int | None) -> _Shown:
        """The view with a longer side of about `side` pixels; None keeps its size."""
        picture, longer = view.image, max(view.image.size)
        if side is None or longer == side:
            return cls(view, picture, view.box, 1)
        if longer < side:
            return cls(view, picture, view.box, max(1, round(side / longer)))
        size = tuple(max(1, round(length * side / longer)) for length in picture.size)
        small = as_mode(picture, picture.mode if picture.mode in ("L", "RGB") else "RGB")
        small = small.resize(size, Image.Resampling.LANCZOS)  # type: ignore[arg-type]
        x, y = small.width / picture.width, small.height / picture.height
        left, top, right, bottom = view.box
        return cls(view, small, (left * x, top * y, right * x, bottom * y), 1)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in the figure."""
        return self.picture.width * self.times, self.picture.height * self.times

    @property
    def large_box(self) -> Box:
        """The part that the network saw, in the figure's pixels."""
        left, top, right, bottom = (self.times * round(edge) for edge in self.box)
        return left, top, right, bottom

    def enlarged(self, picture: Image.Image) -> Image.Image:
        """A picture of the drawn size, enlarged to the size in the figure."""
        return picture if self.times == 1 else picture.resize(self.size, Image.Resampling.NEAREST)

    def original(self) -> Image.Image:
        """The picture without a map."""
        return self.boxed(self.enlarged(as_mode(self.picture, "RGB").copy()))

    def boxed(self, picture: Image.Image) -> Image.Image:
        """Draw the explained boxes onto a picture of the size in the figure. Changes and returns the picture."""
        x, y = (drawn / whole for drawn, whole in zip(self.size, self.view.image.size, strict=True))
        boxes = [(x * b.left, y * b.top, x * b.right, y * b.bottom) for b in self.view.report.target.boxes or ()]
        return outlined(picture, boxes)

    def overlay(self, style: Style, scale: Scale) -> Image.Image:
        """The map over the picture."""
        laid = overlay(
            self.picture, self.view.relevance, self.box, style.cmap, style.opacity, scale, style.backdrop, hatch=False
        )
        return self.boxed(hatched(self.enlarged(laid), self.large_box))

    def signed(self, relevance: NDArray[np.float64], scale: Scale) -> NDArray[np.float32]:
        """A map at the drawn size, scaled to −1..1: [height, width]."""
        return onto_picture(scale.signed(relevance), self.picture.size, self.box)

    def heatmap(self, relevance: NDArray[np.float64], style: Style, scale: Scale) -> Image.Image:
        """A map in colours; the part that the network did not see is grey and hatched."""
        colours = colour_map(style.cmap)(0.5 + self.signed(relevance, scale) / 2)[..., :3]
        picture = self.enlarged(Image.fromarray(np.uint8(np.rint(255 * colours))))
        left, top, right, bottom = self.large_box
        seen = (max(0, left), max(0, top), min(picture.width, right), min(picture.height, bottom))
        whole = Image.new("RGB", picture.size, _UNSEEN)
        whole.paste(picture.crop(seen), seen[:2])  # type: ignore[arg-type]
        return self.boxed(hatched(whole, self.large_box))


def _scale(view: View, style: Style) -> Scale:
    """The scale of a map; of a pair, that of the map with more relevance a pixel, for both."""
    return view.scale or max((style.of(each) for each in _both(view)), key=lambda scale: scale.cut)


def _both(view: View) -> list[View]:
    """A view; of a pair, the other picture's view, too."""
    return [view] if view.pair is None else [view, view.pair]


def _cells(view: View, cells_of: Callable[[View], list[Cell]]) -> list[Cell]:
    """The cells of a view; of a pair, those of both pictures, each with its name."""
    found = list[Cell]()
    for each in _both(view):
        first, *others = cells_of(each)
        name = "" if view.pair is None else f"{Path(each.report.image.path).name}\n"
        found += [replace(first, title=f"{name}{first.title}"), *others]
    return found


def _overlay(views: Sequence[View], style: Style) -> Drawing:
    """The map over the picture, without a page around it."""
    view = views[0]
    scale = _scale(view, style)
    both = _both(view)
    size = style.size or max(LEAST, *(max(each.image.size) for each in both))
    picture = beside([_Shown.of(each, size).overlay(style, scale) for each in both])
    verified = view.report.model.verified
    if verified is not None and not verified.agrees:
        picture = stamped(picture, UNVERIFIED)
    return Drawing(picture, text_of(view, scale), (scale,))


def _panel(views: Sequence[View], style: Style) -> Drawing:
    """The picture, its map and their overlay, with the ledger and the caption."""
    scale = _scale(views[0], style)

    def cells_of(view: View) -> list[Cell]:
        """The picture, its map, and the map over the picture."""
        at = _Shown.of(view, style.size or SIDE)
        return [
            Cell(at.original(), "picture"),
            Cell(at.heatmap(view.relevance, style, scale), _relevance_title(view), (scale, view)),
            Cell(at.overlay(style, scale), "relevance over the picture"),
        ]

    return _drawn(views[0], scale, _cells(views[0], cells_of), style)


def _heatmap(views: Sequence[View], style: Style) -> Drawing:
    """The map alone, with the ledger and the caption."""
    scale = _scale(views[0], style)

    def cells_of(view: View) -> list[Cell]:
        """The map alone."""
        at = _Shown.of(view, style.size or SIDE)
        return [Cell(at.heatmap(view.relevance, style, scale), _relevance_title(view), (scale, view))]

    return _drawn(views[0], scale, _cells(views[0], cells_of), style)


def _parts(views: Sequence[View], style: Style) -> Drawing:
    """Positive and negative relevance apart."""
    scale = _scale(views[0], style)

    def cells_of(view: View) -> list[Cell]:
        """The picture, what speaks for the score, and what speaks against it."""
        at, pixels = _Shown.of(view, style.size or SIDE), view.report.pixels
        cells = [Cell(at.original(), "picture")]
        halves = ("for", np.maximum, pixels.positive), ("against", np.minimum, pixels.negative)
        for name, half, total in halves:
            bar = (scale, view) if name == "against" else None
            part = half(view.relevance, 0.0)
            cells.append(Cell(at.heatmap(part, style, scale), f"{name}: {number(total, 3)} in all", bar))
        return cells

    return _drawn(views[0], scale, _cells(views[0], cells_of), style)


def _contour(views: Sequence[View], style: Style) -> Drawing:
    """Outlines around the pixels with the most |relevance|, smoothed."""
    scale = _scale(views[0], style)

    def cells_of(view: View) -> list[Cell]:
        """The picture with the outline of what matters most."""
        at = _Shown.of(view, style.size or SIDE)
        left, top, right, bottom = at.large_box
        strongest = float(np.abs(view.relevance).max()) or 1.0
        smooth = _blurred(onto_picture(view.relevance / strongest, at.size, at.large_box), _smoothing(at.size))
        seen = np.abs(smooth[max(0, int(top)) : int(bottom), max(0, int(left)) : int(right)])
        level = float(np.percentile(seen, 100 - style.top)) if seen.any() else 0.0
        lines = None if level == 0 else (smooth, level)
        return [Cell(hatched(at.original(), at.large_box), f"the top {style.top:g} % of |relevance|", lines=lines)]

    view, cells = views[0], _cells(views[0], cells_of)
    blur = _smoothing((cells[0].picture.width, cells[0].picture.height))
    note = (
        f"Outlined: {style.top:g} % of what the network saw, solid for, dashed against; smoothed by {blur:.0f} pixels."
    )
    sentences = [line for line in caption(view, scale) if not line.startswith("Strongest colour")]
    return _drawn(view, scale, cells, style, [note, *sentences])


def _smoothing(size: tuple[int, int]) -> float:
    """The Gaussian's σ in pixels, for outlines on a picture of that size."""
    return max(1.0, 0.015 * max(size))


def _blurred(values: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """An array [H, W] after a Gaussian blur; values at the edges are repeated."""
    reach = int(3 * sigma) + 1
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    for _ in range(2):
        padded = np.pad(values, ((reach, reach), (0, 0)), mode="edge")
        values = sum(w * padded[i : i + len(values)] for i, w in enumerate(weights)).T
    return np.asarray(values, np.float32)


def _grid(views: Sequence[View], style: Style) -> Drawing:
    """The picture and every map over it. Maps that divide the score share one scale, unless the style says `image`."""
    views = [each for view in views for each in _both(view)]
    own = [view.scale or style.of(view) for view in views]
    together = [i for i, view in enumerate(views) if view.divided is not None]
    shared = common([own[i] for i in together]) if style.scale != IMAGE and len(together) > 1 else None
    if isinstance(style.scale, float):
        shared = own[together[0]] if together else None
    scales = [shared if shared is not None and i in together else scale for i, scale in enumerate(own)]
    side = style.size or (SIDE if len(views) < 4 else 260)
    first = _Shown.of(views[0], side)
    same = len({view.report.image.sha256 for view in views}) == 1
    cells = [Cell(first.original(), "picture")] if same else []
    count = len(cells) + len(views)
    columns = -(-count // -(-count // GRID))  # so that all rows have nearly equal lengths
    row = range(columns - len(cells))  # the maps in the first row; the last of them has the colour bar
    barred = None if shared is None else max((i for i in together if i in row), default=together[0])
    alike = len({heading(view) for view in views}) == 1
    for i, (view, scale) in enumerate(zip(views, scales, strict=True)):
        at = _Shown.of(view, side)
        name = view.report.method.name if same else f"{Path(view.report.image.path).name}\n{view.report.method.name}"
        held = "no unit" if not view.divided else f"{view.element}s {percent(view.report.pixels.total / view.divided)}"
        mine = "" if shared is not None and i in together else f", ±{scale.cut:.2g}"
        title = f"{name}\n{held}{mine}" if alike else f"{name}\n{heading(view)}\n{held}{mine}"
        cells.append(Cell(at.overlay(style, scale), title, (scale, view) if i == barred else None))
    texts = " | ".join(text_of(view, scale) for view, scale in zip(views, scales, strict=True))
    scaled = "Each map has its own scale; its strongest colour is what stands after ±."
    if shared is not None:
        scaled = (
            "Methods that divide the score share one scale, others have their own, after ±; --scale image undoes it."
        )
    lines = [f"{views[0].element}s: what share of its score each map holds. {scaled}"]
    lines += [line for line in dict.fromkeys([*map(hidden, views)]) if line]
    title = Path(views[0].report.image.path).name if same else f"{len(views)} maps"
    title += f": {heading(views[0])}" if alike else ""
    below = {means(view) for view in views}
    figure = figure_of(title, below.pop() if len(below) == 1 else "", cells, lines, None, style.cmap, columns)
    return Drawing(figure, texts, tuple(scales))


def _relevance_title(view: View) -> str:
    """The title of a map."""
    if view.slices:
        return "relevance of the slices"
    high, wide = view.relevance.shape
    return f"relevance, {wide}×{high} pixels"


def _drawn(view: View, scale: Scale, cells: Sequence[Cell], style: Style, lines: list[str] | None = None) -> Drawing:
    """A page of cells. `lines`: the sentences below; None: the caption."""
    title = f"{Path(view.report.image.path).name}: {heading(view)}"
    sentences = caption(view, scale) if lines is None else lines
    figure = figure_of(title, means(view), cells, sentences, view if view.divides == "whole" else None, style.cmap, 3)
    return Drawing(figure, text_of(view, scale), (scale,))


_DRAWN: dict[str, Callable[[Sequence[View], Style], Drawing]] = {
    "overlay": _overlay, "panel": _panel, "grid": _grid, "heatmap": _heatmap, "parts": _parts, "contour": _contour,
}  # fmt: skip
