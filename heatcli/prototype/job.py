"""Prototypes of one class or all classes, and their files: picture, trace as JSON and plot, animation, sheet."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from PIL import Image
from torch import Tensor

from heatcli.errors import UsageError
from heatcli.graph.outputs import settled
from heatcli.images.sheet import Block, Tile, picture_of, png, sheet
from heatcli.methods.targets import parse
from heatcli.model.model import Model
from heatcli.prototype.ascent import Search, State, ascend
from heatcli.prototype.priors import Prior
from heatcli.system.compress import npz
from heatcli.system.files import make_folder, write_atomically
from heatcli.version import __version__

NAME = "heatcli.prototype/1"
FAINT = 0.25  # of the range of pixels, 0..1
TRACED = ("score", "log_probability", "prior", "norm")
FRAMES = 40
Steps = Callable[[Iterator[State]], Iterator[State]]


@dataclass(frozen=True)
class PrototypeRequest:
    """What to search for. `target`: a class or `all`. `out`: the folder of the files. `animate`: also write a GIF."""

    target: str
    search: Search
    out: Path
    animate: bool = False


@dataclass(frozen=True, eq=False)
class Found:
    """The prototypes of the classes `targets` [N], each the best of `restarts` searches.

    `last`: the final state. `pixels`: [N, C, H, W] before normalisation. `trace`: name → [N, steps + 1], each number of
    the states. `frames`: pixels [N, C, H, W] at some steps.
    """

    targets: Tensor
    restarts: int
    last: State
    pixels: Tensor
    trace: dict[str, Tensor]
    frames: list[Tensor]


def classes(model: Model, target: str) -> Tensor:
    """The classes for `target` (an index, a label or `all`), int64 [N]. Raises `UsageError`."""
    model.pictures.need_values_between("there is no prototype")
    graph = settled(model.graph((model.batch_size or 1, *model.shape)), model.path)
    count = graph.output_shape[1] if len(graph.output_shape) > 1 else 1
    if target == "all":
        return torch.arange(count, device=model.device)
    index, minus = parse(target, count, model.labels)
    if minus is not None:
        raise UsageError(f"target {target!r} is a difference; a prototype is of one class, or of all")
    return torch.tensor([index], device=model.device)


def search(model: Model, targets: Tensor, prior: Prior, how: Search, steps: Steps = iter) -> Found:
    """Run the whole search for `targets`, int64 [N]. Raises as `ascend`.

    `steps`: a function through which all states pass, to show progress.
    """
    restarts = how.restarts or (prior.restarts if how.start == "noise" else 1)
    n = len(targets)
    states: dict[str, list[Tensor]] = {name: [] for name in TRACED}
    frames = []
    every = max(1, how.steps // FRAMES)
    state = None
    for state in steps(ascend(model, targets.repeat_interleave(restarts), prior, how)):
        for name in TRACED:
            states[name].append(getattr(state, name))
        if state.step % every == 0 or state.step == how.steps:
            frames.append(model.pictures.pixels(state.picture))
    assert state is not None
    best = state.goal.reshape(n, restarts).argmax(1) + torch.arange(n, device=targets.device) * restarts
    last = State(state.step, *(getattr(state, name)[best] for name in ("picture", *TRACED, "goal")))
    trace = {name: torch.stack(rows, 1)[best].cpu() for name, rows in states.items()}
    return Found(targets, restarts, last, model.pictures.pixels(last.picture), trace, [frame[best] for frame in frames])


def write(model: Model, request: PrototypeRequest, prior: Prior, found: Found) -> Iterator[dict[str, Any]]:
    """Write the files of every class, then the sheet of all classes. Yields the record in the JSON of each class."""
    make_folder(request.out)
    stem = f"{model.stem}.{{}}.{prior.name}"
    for i, target in enumerate(found.targets.tolist()):
        label = model.label(target)
        name = stem.format(safe(label if label is not None else str(target)))
        shown, low, high = as_shown(found.pixels[i])
        files = {"picture": f"{name}.png", "array": f"{name}.npz", "trace": f"{name}.trace.png"}
        write_atomically(request.out / files["picture"], png(shown))
        arrays = {"input": found.last.picture[i].cpu().numpy(), "pixels": found.pixels[i].cpu().numpy()}
        write_atomically(request.out / files["array"], npz(arrays))
        write_atomically(request.out / files["trace"], plot(found, i, f"{model.path.name}, {label or target}"))
        if request.animate:
            files["animation"] = f"{name}.gif"
            write_atomically(request.out / files["animation"], animation([frame[i] for frame in found.frames]))
        record = _record(model, request, prior, found, i) | {"shown": {"low": low, "high": high}, "files": files}
        write_atomically(request.out / f"{name}.json", msgspec.json.encode(record) + b"\n")
        yield record
    if request.target == "all":
        write_atomically(request.out / f"{stem.format('all')}.png", png(overview(model, found, prior.name)))


def safe(label: str) -> str:
    """A label as a part of a file name: characters other than letters, digits, `-` and `_` become `-`."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in label) or "-"


def as_shown(pixels: Tensor) -> tuple[Image.Image, float, float]:
    """Pixels [C, H, W] as a picture, and the values that are shown as black and white.

    These are 0 and 1, or the smallest and largest value if they lie outside 0..1, so that no value is cut off. They are
    the smallest and largest value, too, if these lie less than `FAINT` apart: such a picture would be an even grey.
    """
    low, high = float(pixels.min()), float(pixels.max())
    if not 0 < high - low < FAINT:
        low, high = min(0.0, low), max(1.0, high)
    return picture_of(((pixels - low) / (high - low)).cpu().numpy()), low, high


def overview(model: Model, found: Found, title: str, columns: int = 10) -> Image.Image:
    """A sheet of all prototypes, with the class and the network's probability of each."""
    tiles = []
    for i, target in enumerate(found.targets.tolist()):
        chance = float(found.last.log_probability[i].exp())
        tiles.append(Tile(as_shown(found.pixels[i])[0], f"{model.label(target) or target}\np {chance:.3g}"))
    return sheet([Block(f"{model.path.name}, prior {title}", tiles)], columns)


def _record(model: Model, request: PrototypeRequest, prior: Prior, found: Found, i: int) -> dict[str, Any]:
    """The record of a class, for its JSON."""
    target = int(found.targets[i])
    how = {f: getattr(request.search, f) for f in request.search.__dataclass_fields__}
    trace = {name: [float(f"{v:.6g}") for v in rows[i].tolist()] for name, rows in found.trace.items()}
    return {
        "schema": NAME,
        "version": __version__,
        "model": {"path": model.named_in("."), "sha256": model.sha256, "format": model.format},
        "target": {"index": target, "label": model.label(target)},
        "prior": prior.details(),
        "search": how | {"objective": how["objective"] or prior.objective, "restarts": found.restarts},
        "final": {name: rows[-1] for name, rows in trace.items()},
        "trace": trace,
    }


def plot(found: Found, i: int, title: str) -> bytes:
    """A plot of score, log-probability, prior and norm over the steps, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.4), layout="constrained")
    for at, (name, rows) in zip(figure.subplots(1, len(TRACED)), found.trace.items(), strict=True):
        at.plot(rows[i].numpy(), color="#204a87")
        at.set_title(name.replace("_", " "), fontsize=9)
        at.set_xlabel("step", fontsize=8)
        at.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=9)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def animation(frames: list[Tensor]) -> bytes:
    """A GIF of frames [C, H, W] on one scale, at least 112 pixels wide."""
    low = min(0.0, *(float(f.min()) for f in frames))
    high = max(1.0, *(float(f.max()) for f in frames))
    pictures = [picture_of(((f - low) / (high - low)).cpu().numpy()) for f in frames]
    scale = max(1, -(-112 // pictures[0].width))
    large = [p.resize((p.width * scale, p.height * scale), Image.Resampling.NEAREST) for p in pictures]
    buffer = io.BytesIO()
    times = [80] * (len(large) - 1) + [1500]  # milliseconds
    large[0].save(buffer, "GIF", save_all=True, append_images=large[1:], duration=times, loop=0)
    return buffer.getvalue()
