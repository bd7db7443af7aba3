"""The methods of `Explanation` that show it: figures, reports, files, and its display in a notebook."""

from __future__ import annotations

import base64
import html
import json
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from heatcli.errors import UsageError
from heatcli.figures.draw import Style, draw
from heatcli.figures.view import View, of_other
from heatcli.images.drawing import SUFFIXES, Drawing
from heatcli.images.preprocess import seen_box
from heatcli.images.read import Picture
from heatcli.images.sheet import picture_of
from heatcli.report.build import Reports
from heatcli.report.schema import FilesPart, ImagePart, SecondsPart, encode, named
from heatcli.system.files import seen_from, write_atomically

if TYPE_CHECKING:
    from heatcli.explanation import Explanation

MOST = 8  # the number of images shown in a notebook


def view_of(
    explanation: Explanation, i: int, picture: str | Path | Image.Image | None, folder: Path | None = None
) -> View:  # fmt: skip
    """The view of image `i`, from which figures are drawn.

    `picture`: the original picture or its path; None shows the network's input. `folder`: the report's folder, to which
    paths in the report are relative. Raises `UsageError` for an index out of range, and for a model that takes no
    pictures.
    """
    model, batch = explanation.model, explanation.batch
    if model is None or batch is None or batch.dim() != 4:
        raise UsageError("only an explanation that heatcli.explain made of pictures has figures and reports")
    if not -len(batch) <= i < len(batch):
        raise UsageError(f"there is no image {i}: the explanation has {len(batch)}")
    i %= len(batch)
    (shown, image), other, second = _pictured(explanation, i, picture, folder), None, None
    if explanation.pair is not None:
        second, other = _pictured(explanation.pair, i, None, folder)
    reports = Reports(model, explanation)
    seconds = SecondsPart(load=0.0, write=0.0, **explanation.seconds)
    view = View(shown, reports.pixels(i), reports.report(i, image, FilesPart(), seconds, inline=True, other=other))
    if reports.pair is None or second is None:
        return view
    return replace(view, pair=View(second, reports.pair.pixels(i), of_other(view.report)))


def _pictured(
    explanation: Explanation, i: int, picture: str | Path | Image.Image | None, folder: Path | None
) -> tuple[Image.Image, ImagePart]:
    """Image `i` as it is shown, and what a report says of it."""
    model, batch = explanation.model, explanation.batch
    assert model is not None
    assert batch is not None
    if picture is None and explanation.pictures:
        picture = explanation.pictures[i]
    path, sha256 = f"image {i}", ""
    if isinstance(picture, (str, Path)):
        read = model.pictures.reader.picture(picture)
        shown, path, sha256 = read.shown(), str(picture) if folder is None else seen_from(folder, picture), read.sha256
    elif isinstance(picture, Picture):
        shown, path, sha256 = picture.shown(), str(picture.path), picture.sha256
    elif picture is not None:
        shown = Picture(path, "", model.pictures.reader.ready(path, picture)).shown()
    else:
        shown = picture_of(model.pictures.pixels(batch[i : i + 1])[0].detach().cpu().numpy())
    seen = (
        (0.0, 0.0, float(shown.width), float(shown.height))
        if picture is None
        else seen_box(shown.size, model.pictures.picture_fit)
    )
    return shown, ImagePart(path=path, sha256=sha256, width=shown.width, height=shown.height, seen=seen)


def figure(explanation: Explanation, i: int, picture: Any, **style: Any) -> Drawing:
    """A figure of image `i`, by default a panel. `style`: the fields of `heatcli.figures.draw.Style`."""
    return draw([view_of(explanation, i, picture)], Style(**{"kind": "panel", **style}))


def report(explanation: Explanation, i: int, picture: Any) -> dict[str, Any]:
    """The report on image `i` as a dictionary, as `heatcli explain` writes it."""
    found: dict[str, Any] = json.loads(encode(view_of(explanation, i, picture).report))
    return found


def save(explanation: Explanation, path: str | Path, i: int, picture: Any, **style: Any) -> Path:
    """Write image `i` to `path`, and return the path. The suffix decides: a figure, the report (.json), or the map.

    The map is float32 [C, H, W] in an .npy, or as `relevance` in an .npz. Raises `UsageError` for other suffixes.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return figure(explanation, i, picture, **style).save(path)
    view = view_of(explanation, i, picture, path.parent)
    if suffix == ".json":
        write_atomically(path, encode(view.report))
    elif suffix in (".npy", ".npz") and explanation.model is not None:
        write_atomically(path, Reports(explanation.model, explanation).array(i, suffix))
    else:
        raise UsageError(f"{path}: is none of {', '.join((*SUFFIXES, '.json', '.npy', '.npz'))}; give one of them")
    return path


def described(explanation: Explanation) -> str:
    """An explanation as one line of text."""
    n, shape = len(explanation.relevance), list(explanation.relevance.shape)
    target, model = explanation.target, explanation.model
    index = int(target.index[0])
    chance = float(explanation.probabilities[0, index])
    label = named(
        index, None if model is None else model.label(index), explanation.quantity, None if isnan(chance) else chance
    )
    more = "" if n == 1 else f", … of {n} images"
    return (
        f"<Explanation by {explanation.method.name}, baseline {explanation.reference.name}: {label}, "
        f"{explanation.quantity} {float(explanation.ledger.output[0]):.4g}{more}; relevance {shape}, "
        f"{len(explanation.biases)} biases>"
    )


def as_html(explanation: Explanation) -> str:
    """The figures of the first images as HTML, for notebooks."""
    count = min(len(explanation.relevance), MOST)
    parts = [f"<p>{html.escape(described(explanation))}</p>"]
    for i in range(count):
        drawn = figure(explanation, i, None)
        data = base64.b64encode(drawn.content()).decode("ascii")
        parts.append(f'<img alt="{html.escape(drawn.text)}" src="data:image/png;base64,{data}" style="max-width:100%">')
    if count < len(explanation.relevance):
        parts.append(f"<p>{len(explanation.relevance) - count} more; .figure(i) shows each.</p>")
    return "\n".join(parts)
