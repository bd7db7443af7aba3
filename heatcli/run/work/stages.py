"""The stages of each image: read it, explain it with its batch, write its figure and its report."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from msgspec.structs import replace as replace_fields
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from heatcli.artifact.notes import Notes
from heatcli.errors import HeatcliError, ImageError, OutOfMemoryError, UsageError, boundary, reason
from heatcli.explanation import explain
from heatcli.figures.draw import NONE, draw
from heatcli.figures.view import of_other, view_on
from heatcli.graph.outputs import settled
from heatcli.images.expected import Expected
from heatcli.images.overlay import GREY
from heatcli.images.preprocess import to_pixels
from heatcli.images.read import Picture, as_mode
from heatcli.images.region import region_of
from heatcli.methods.detections import asked, find, goal, is_of_all_boxes, no_detector
from heatcli.methods.pairs import COSINE
from heatcli.methods.question import outputs_of
from heatcli.methods.targets import Contrast, parse
from heatcli.model.model import Model
from heatcli.report.build import Reports, figure_part, image_part
from heatcli.report.schema import FilesPart, SecondsPart, encode
from heatcli.run.index.index import FileEntry, row_of
from heatcli.run.work.maps import IN_PLACE, in_place
from heatcli.run.work.pair import Other
from heatcli.run.work.request import Done, Empty, Failed, Job, Request
from heatcli.system.files import remove, seen_from, write
from heatcli.system.memory import is_out_of_memory, release

RESULTS = 64  # the most explanations in memory at once
LARGE = 1 << 24  # pixels; a larger picture is read again for its figure instead of being kept in memory
UNEXPECTED = "it cannot be explained; run it alone with --debug"
_MAPS = {"pixels", "arrays", "pair_pixels", "pair_arrays"}
Turn = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True, eq=False)
class Loaded:
    """A job's picture: its SHA-256, its size (width, height), and what the later stages need of it.

    `shown`: what the figure shows behind the heatmap: the picture, or the numbers of a file without a picture; None
    for a large picture, which is read again. `pixels`: the network's input before normalisation, float32 [C, H, W].
    `region`: bool [H, W]; None if no region was requested.
    """

    job: Job
    sha256: str
    size: tuple[int, ...]
    shown: Image.Image | Picture | None
    pixels: NDArray[np.float32]
    region: NDArray[np.bool_] | None = None


@dataclass(frozen=True, eq=False)
class Ready:
    """An explained image that is not written yet: image `i` of a batch's reports, `rank` of `of` classes.

    `rank`: from 1; None if the image has one class only. `said`: the expected and the predicted label, if a label was
    expected. `boxes`: whether `rank` counts boxes instead of classes.
    """

    loaded: Loaded
    reports: Reports
    i: int
    rank: int | None
    of: int
    said: tuple[str, str] | None = None
    boxes: bool = False

    @property
    def first(self) -> bool:
        """Whether this is the image's first class."""
        return self.rank in (None, 1)


def read_job(model: Model, job: Job, request: Request) -> Loaded | Failed:
    """Read a job's picture and fit it to the network's input. Any error becomes the picture's `Failed`.

    Raises `UsageError` for a region that is not valid.
    """
    try:
        with boundary(job.path, ImageError):
            picture = model.pictures.reader.picture(job.path)
            pixels, size = to_pixels(picture.pixels, model.pictures.fit), picture.size
            shown = _shown(picture, request) if math.prod(size) <= LARGE else None
            inside = None if request.region is None else _region(request.region, job, size, model)
            return Loaded(job, picture.sha256, size, shown, pixels, inside)
    except ImageError as error:
        return Failed(job, error)


def _shown(picture: Picture, request: Request) -> Image.Image | Picture:
    """The picture as figures need it: in grey if the figure shows no colours, to save memory."""
    if picture.numbers is not None:
        return picture
    grey = request.style.kind == "overlay" and request.style.backdrop == GREY
    return as_mode(picture.shown(request.style.bands), "L" if grey else "RGB")


def _region(text: str, job: Job, size: tuple[int, ...], model: Model) -> NDArray[np.bool_]:
    """As `region_of`; errors name the image."""
    try:
        return region_of(text, size, model.pictures.picture_fit)
    except ImageError as error:
        raise ImageError(f"{job.path}: {error}") from error


Explained = Ready | Failed | Empty  # the outcome of an image before writing


@dataclass
class Room:
    """The number of images that run through the network at once. It is halved when memory runs out."""

    images: int

    @classmethod
    def of(cls, request: Request) -> Room:
        """The request's batch size; less for many classes, so that at most `RESULTS` explanations are in memory."""
        return cls(min(request.batch_size, max(1, RESULTS // request.classes)))

    def halve(self, model: Model, images: int) -> None:
        """Halve the number after `images` at once ran out of memory. Adds a note to the model's notes."""
        self.images = min(self.images, images // 2)  # several threads may report the same number
        model.notes.add(
            f"memory is too small for {images} images at once; on with {self.images} (--batch-size {self.images})"
        )


def explain_all(
    model: Model, request: Request, loaded: Sequence[Loaded], proven: bool, turn: Turn = nullcontext,
    room: Room | None = None,
) -> Iterator[Explained]:  # fmt: skip
    """Explain a batch, `room.images` at once.

    If the model fails on several images, they are explained one by one, so that one image does not fail the others.
    `proven`: whether the model has explained an image before. `turn`: a context that is entered while the network
    runs. Raises `UsageError`. Raises the model's error if the model is not proven and fails on all images of the batch
    and on a grey picture.
    """
    room = room or Room.of(request)
    waiting, alone = deque(loaded), 0
    failed: list[tuple[Loaded, Exception]] = []  # while the model has explained nothing yet
    while waiting:
        some = [waiting.popleft()]
        most = 1 if alone else room.images
        while waiting and len(some) < most and waiting[0].pixels.shape == some[0].pixels.shape:
            some.append(waiting.popleft())
        alone = max(0, alone - 1)
        ready, error = _tried(model, request, some, turn)
        if error is None:
            yield from (Failed(one.job, _of_image(one, why)) for one, why in failed)
            yield from ready
            failed, proven = [], True
        elif len(some) > 1:
            waiting.extendleft(reversed(some))
            if isinstance(error, OutOfMemoryError):
                room.halve(model, len(some))
            else:
                alone = len(some)
        elif proven:
            yield Failed(some[0].job, _of_image(some[0], error))
        else:
            failed.append((some[0], error))
    if failed and not _explains_grey(model, request, failed[0][0].pixels.shape, turn):
        raise failed[0][1]
    yield from (Failed(one.job, _of_image(one, why)) for one, why in failed)


def _tried(
    model: Model, request: Request, loaded: Sequence[Loaded], turn: Turn
) -> tuple[Sequence[Explained], Exception | None]:
    """Images explained together, or the error. After an error of memory, unused memory is released."""
    try:
        return _explained(model, request, loaded, turn), None
    except UsageError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            return [], error
    release()
    many = "one image" if len(loaded) == 1 else f"{len(loaded)} images at once"
    return [], OutOfMemoryError(f"{model.path}: memory is too small to explain {many}")


def _explained(model: Model, request: Request, loaded: Sequence[Loaded], turn: Turn) -> Sequence[Explained]:
    """Explain a batch at once. The results are ordered by image, then by class."""
    with turn():
        batch = model.pictures.stack([one.pixels for one in loaded])
        regions = [one.region for one in loaded if one.region is not None]
        region = torch.from_numpy(np.stack(regions)) if regions else None
        if request.expected is not None:
            return _contrasted(model, request, request.expected, loaded, batch, region)
        if request.boxes:
            return _boxed(model, request, loaded, batch)
        if isinstance(request.pair, Other):
            return _paired(model, request, request.pair, loaded, batch)
        found = [
            (rank, explain(model, batch, request.method, target, request.baseline, region, request.progress))
            for rank, target in _targets(model, request, batch)
        ]
    made = [(rank, Reports(model, explanation)) for rank, explanation in found]
    return [Ready(one, reports, i, rank, len(made)) for i, one in enumerate(loaded) for rank, reports in made]


def _boxed(model: Model, request: Request, loaded: Sequence[Loaded], batch: Tensor) -> list[Explained]:
    """Explain the boxes that the target names, image by image, at most `RESULTS` boxes at once."""
    model.network.seen(batch)
    if len(loaded) > 1 and not model.graph(batch[:1].shape).is_of_every_image:  # each picture has a graph of its own
        return [one for i in range(len(loaded)) for one in _boxed(model, request, loaded[i : i + 1], batch[i : i + 1])]
    with model.network.holding(batch):
        return _boxed_at_once(model, request, loaded, batch)


def _boxed_at_once(model: Model, request: Request, loaded: Sequence[Loaded], batch: Tensor) -> list[Explained]:
    """As `_boxed`, of pictures that have one graph."""
    target, graph = request.target or "", settled(model.graph(batch.shape), model.path)
    if graph.boxes is None:
        raise no_detector(model, target)
    output, thresholds = outputs_of(model, batch), model.thresholds
    made: list[Explained] = []
    for i, (one, found) in enumerate(zip(loaded, find(output, graph.boxes, thresholds), strict=True)):
        try:
            wanted = asked(target, found, graph.boxes, model.labels)
        except ImageError as error:
            made.append(Failed(one.job, ImageError(f"{one.job.path}: {error}")))
            continue
        if not wanted.numbers:
            chance, index = found.best
            name = model.label(index) or f"class {index}"
            least = f"no box of at least {thresholds.confidence:g}"
            made.append(Empty(one.job, f"{least}; the highest is {name}, {chance:.3g}; --confidence says the least"))
            continue
        each = wanted.each
        single = not is_of_all_boxes(target)
        for start in range(0, len(each), RESULTS):
            part = each[start : start + RESULTS]
            goals = goal(output, graph.boxes, [i] * len(part), [found] * len(part), part)
            rows = batch[i : i + 1].expand(len(part), *batch.shape[1:])
            reports = Reports(
                model, explain(model, rows, request.method, goals, request.baseline, None, request.progress)
            )
            ranks = [None if single else start + k + 1 for k in range(len(part))]
            made += [Ready(one, reports, k, rank, len(each), boxes=True) for k, rank in enumerate(ranks)]
    return made


def _paired(model: Model, request: Request, other: Other, loaded: Sequence[Loaded], batch: Tensor) -> list[Ready]:
    """The similarity of each image with the other one, explained on both."""
    found = explain(
        model, batch, request.method, request.target, request.baseline, None, request.progress,
        pair=model.pictures.stack([other.pixels]), similarity=request.similarity or COSINE,
    )  # fmt: skip
    reports = Reports(model, found)
    return [Ready(one, reports, i, None, 1) for i, one in enumerate(loaded)]


def _contrasted(
    model: Model, request: Request, expected: Expected, loaded: Sequence[Loaded], batch: Tensor, region: Tensor | None
) -> list[Ready]:
    """Explain the predicted class; if another one is expected, the score of the predicted less that of the expected."""
    scores = explain(model, batch, None if model.explained else "gradient").outputs
    top, classes = scores.argmax(1), scores.shape[1]
    wanted = [expected.of(one.job.path, Path(one.job.path)) for one in loaded]
    indices = [None if label is None else parse(label, classes, model.labels)[0] for label in wanted]
    if None in indices:
        model.notes.add(f"{expected.given} names no label for some pictures; their first class is explained")
    wrong = [i for i, index in enumerate(indices) if index is not None and index != int(top[i])]
    ready: dict[int, Ready] = {}
    for rows in (wrong, [i for i in range(len(loaded)) if i not in wrong]):
        if not rows:
            continue
        at, goal = torch.tensor(rows, device=batch.device), None
        if rows is wrong:
            goal = Contrast(top[at.to(top.device)], torch.tensor([indices[i] for i in rows]))
        area = region[at.cpu()] if region is not None else None
        found = explain(model, batch[at], request.method, goal, request.baseline, area, request.progress)
        reports = Reports(model, found)
        for number, i in enumerate(rows):
            first = int(top[i])
            index = indices[i]
            said = None if index is None else (model.called(index), model.called(first))
            ready[i] = Ready(loaded[i], reports, number, None, 1, said)
    return [ready[i] for i in range(len(loaded))]


def _explains_grey(model: Model, request: Request, shape: tuple[int, ...], turn: Turn) -> bool:
    """Whether the model explains a grey picture of that shape. If so, the pictures are at fault, not the model."""
    own = replace(model, notes=Notes())  # notes on the grey picture are of no use to the user
    try:
        with turn():
            batch = own.pictures.stack([np.full(shape, 0.5, np.float32)])
            explain(own, batch, request.method, None, request.baseline)
    except Exception:
        return False
    return True


def _of_image(loaded: Loaded, error: Exception) -> HeatcliError:
    """An error that came while one image was explained, with the image's name."""
    path = loaded.job.path
    if not isinstance(error, HeatcliError):
        found: HeatcliError = ImageError(f"{path}: {UNEXPECTED}: {reason(error)}")
    elif str(error).startswith(path):
        return error
    else:
        found = type(error)(f"{path}: {error}")
    found.__cause__ = error
    return found


def _targets(model: Model, request: Request, batch: Tensor) -> Sequence[tuple[int | None, Any]]:
    """Pairs (rank, target): the request's target with rank None; for `top:K` the K best classes of each image."""
    if request.classes == 1 and request.target != "top:1":
        return [(None, request.target)]
    scores = explain(model, batch, None if model.explained else "gradient").outputs
    if request.classes > scores.shape[1]:
        raise UsageError(f"target {request.target!r} is out of range: top:K takes K from 1 to {scores.shape[1]}")
    best = scores.topk(request.classes, dim=1).indices
    return [(rank + 1, best[:, rank]) for rank in range(request.classes)]


def write_ready(model: Model, request: Request, ready: Ready, load_seconds: float, scratch: Path | None) -> Done:
    """Write the figure, the arrays and the report of an explained image.

    `scratch`: a folder for files that are not complete yet. Raises `UsageError` if they cannot be written,
    `ImageError` if a large picture cannot be read again.
    """
    started = time.perf_counter()
    loaded, reports, i, result = ready.loaded, ready.reports, ready.i, ready.reports.explanation
    job = loaded.job.ranked(ready.rank, ready.boxes)
    named = _names(request, job)
    folder = named["report"][: -len(PurePath(named["report"]).name)] or "."
    own: dict[str, Any] = {what: PurePath(name).name for what, name in named.items() if what != "report"}
    part = image_part(model, seen_from(folder, job.path), loaded.sha256, loaded.size)
    seconds = SecondsPart(load=load_seconds, write=0.0, **result.seconds)
    pair = request.pair if isinstance(request.pair, Other) else None
    other = None if pair is None else image_part(model, seen_from(folder, pair.path), pair.sha256, pair.size)
    report = reports.report(
        i, part, FilesPart(**own), seconds, inline=request.pixels == "json", biases=request.biases, other=other
    )
    own_model = replace_fields(report.model, path=model.named_in(folder))
    report = replace_fields(report, model=own_model)
    if ready.said is not None:
        target = replace_fields(report.target, expected=ready.said[0], predicted=ready.said[1])
        report = replace_fields(report, target=target)
    contents = {
        name: of.array(i, PurePath(name).suffix)
        if not name.endswith(IN_PLACE)
        else in_place(model, job.path, _read(loaded), of.pixels(i), name)
        for what, name in named.items()
        if (of := reports.pair if what.startswith("pair_") else reports) is not None and what in _MAPS
    }
    if "overlay" in named:
        shown = loaded.shown or _shown(model.pictures.reader.picture(job.path), request)
        view = view_on(shown, reports.pixels(i), report)
        if pair is not None and reports.pair is not None:
            view = replace(view, pair=view_on(pair.shown, reports.pair.pixels(i), of_other(report)))
        drawing = draw([view], request.style)
        contents[named["overlay"]] = drawing.content(PurePath(named["overlay"]).suffix)
        report = replace_fields(report, figure=figure_part(request.style.kind, drawing.scales[0], request.style.bands))
    with ExitStack() as undo:  # if the report cannot be written, the other files are removed
        for name, content in contents.items():
            write(name, content, scratch)
            undo.callback(remove, name)
        seconds = replace_fields(seconds, write=time.perf_counter() - started)
        contents[named["report"]] = encode(replace_fields(report, seconds=seconds))
        write(named["report"], contents[named["report"]], scratch)
        undo.pop_all()
    below = job.part[: -len(PurePath(job.part).name)]
    files = {what: FileEntry.of(below + PurePath(name).name, contents[name]) for what, name in named.items()}
    row = row_of(report, loaded.job.part, ready.rank, ready.of, files, job.path)
    return Done(
        job, row, named["report"], request.figure(job.stem), report,
        {n: float(v[i]) for n, v in result.unexplained.items()}, ready.rank in (None, ready.of),
    )  # fmt: skip


def _read(loaded: Loaded) -> Picture | None:
    """What was read of a file that is no picture, if it is kept."""
    return loaded.shown if isinstance(loaded.shown, Picture) else None


def _names(request: Request, job: Job) -> dict[str, str]:
    """The paths of the files that are written for a job, by their role."""
    named = {"report": f"{job.stem}.json"}
    if request.style.kind not in (NONE, "grid"):
        named["overlay"] = request.figure(job.stem)
    if request.pixels == "npz":
        named["pixels"] = f"{job.stem}.npz"
    if request.arrays is not None:
        named["arrays"] = f"{job.stem}.{request.arrays}"
    if request.pair is not None:
        for what in _MAPS & set(named):
            named[f"pair_{what}"] = job.stem + ".pair" + named[what].removeprefix(job.stem)
    return named
