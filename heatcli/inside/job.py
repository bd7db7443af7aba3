"""Feature maps of many pictures: a sheet and an `.npz` for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from heatcli.errors import ImageError, UsageError, boundary
from heatcli.images.mean import images_in
from heatcli.images.read import SUFFIXES
from heatcli.images.sheet import Block, Tile, coloured, png, sheet
from heatcli.inside.activations import By, FeatureMaps, activations
from heatcli.methods.table import Method
from heatcli.model.model import Model
from heatcli.system.compress import npz
from heatcli.system.files import make_folder, write_atomically

COLUMNS = 8


@dataclass(frozen=True)
class ActivationsRequest:
    """What to show.

    `layers`: names or globs. `out`: the folder of the sheets. `top`: the number of channels per layer. `by`: what is
    shown and sorted by. `method`, `target`, `baseline`: of the relevance, as in `heatcli.explain`.
    """

    images: tuple[Path, ...]
    layers: tuple[str, ...]
    out: Path
    top: int = 16
    by: By = "activation"
    method: Method | None = None
    target: str | None = None
    baseline: str | None = None


@dataclass(frozen=True, eq=False)
class Looked:
    """The result for a picture: its path, the path of its sheet, and a record for JSON."""

    path: Path
    sheet: Path
    record: dict[str, Any]


def planned(request: ActivationsRequest, ends: Collection[str] = SUFFIXES) -> list[tuple[Path, Path]]:
    """Pairs (picture, path of its sheet). `ends`: suffixes of pictures in a folder.

    Pictures that differ in their suffix alone keep it: `a.jpg.activation.png`.
    Raises `UsageError` for wrong values, for sheets that collide, and for sheets that would overwrite a picture.
    """
    if request.by not in ("activation", "relevance"):
        raise UsageError(f"--by {request.by} is not known; use activation, relevance")
    if request.top < 1:
        raise UsageError(f"--top {request.top} is not allowed; it is at least 1")
    paths = list(images_in(request.images, False, ends))
    if not paths:
        raise UsageError(f"{request.images[0]}: no images in this folder")
    plan: dict[Path, Path] = {}
    stems = Counter(path.stem for path in paths)
    for path in paths:
        name = f"{path.stem if stems[path.stem] == 1 else path.name}.{request.by}.png"
        other = plan.setdefault(request.out / name, path)
        if other is not path:
            raise UsageError(f"{other} and {path} would both write {name}; use one --out folder each")
    inputs = {path.absolute() for path in paths}
    for out in plan:
        if out.absolute() in inputs:
            raise UsageError(f"{out} is itself an input; give another --out folder")
    return [(path, out) for out, path in plan.items()]


def run(model: Model, request: ActivationsRequest) -> Iterator[Looked | ImageError]:
    """Write a sheet and an `.npz` for each picture, in order. A picture that cannot be read yields an `ImageError`.

    Raises `UsageError` before any work if the request is not valid, `ModelError`.
    """
    plan = planned(request, model.pictures.suffixes)
    make_folder(request.out)
    for path, out in plan:
        try:
            with boundary(path, ImageError):
                batch = model.preprocess([model.pictures.reader.picture(path)])
        except ImageError as error:
            yield error
            continue
        maps, goal = activations(model, batch, request.layers, request.method, request.target, request.baseline)
        write_atomically(out, png(sheet([draw(m, request.top, request.by) for m in maps], COLUMNS)))
        write_atomically(out.with_suffix(".npz"), _arrays(maps))
        target = int(goal.index[0])
        record = {
            "image": str(path),
            "target": {"index": target, "label": model.label(target)},
            "layers": [_record(m) for m in maps],
            "files": {"sheet": out.name, "arrays": out.with_suffix(".npz").name},
        }
        yield Looked(path, out, record)


def draw(maps: FeatureMaps, top: int, by: By) -> Block:
    """Draw the `top` channels of the first picture, with the largest activation and the relevance of each."""
    order = maps.ranked(0, by)[:top]
    shown = (maps.values if by == "activation" else maps.relevance)[0].float().cpu().numpy()
    active, relevant = (maps.strengths(name)[0].tolist() for name in ("activation", "relevance"))
    high = float(np.abs(shown[order]).max()) or 1.0
    low, cmap = (min(0.0, float(shown[order].min())), "viridis") if by == "activation" else (-high, "bwr")
    tiles = [
        Tile(coloured(shown[c], low, high, cmap), f"{c}: a {active[c]:.3g}\nR {relevant[c] + 0.0:+.3g}") for c in order
    ]
    of = f", {top} of {len(shown)} channels" if len(shown) > top else ""
    return Block(f"{maps.layer.title}{of} by {by}, ΣR {sum(relevant):.4g}", tiles)


def _arrays(maps: list[FeatureMaps]) -> bytes:
    """An `.npz` with the arrays LAYER and LAYER.relevance of each layer, float32 [C, …]."""
    arrays = {}
    for m in maps:
        arrays[m.layer.name] = m.values[0].float().cpu().numpy()
        arrays[f"{m.layer.name}.relevance"] = m.relevance[0].float().cpu().numpy()
    return npz(arrays)


def _record(maps: FeatureMaps) -> dict[str, Any]:
    """The record of a layer, for the JSON."""
    active, relevant = (maps.strengths(name)[0].tolist() for name in ("activation", "relevance"))
    return {
        "layer": maps.layer.name,
        "parameters": list(maps.layer.parameters),
        "shape": list(maps.layer.operator.shape[1:]),
        "channels": [
            {"channel": c, "activation": active[c], "relevance": relevant[c]} for c in maps.ranked(0, "activation")
        ],
    }
