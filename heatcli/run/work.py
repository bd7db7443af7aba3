"""What is done for each image: read it, explain it with its batch, write its overlay and its report."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from heatcli.artifact.model import Model
from heatcli.artifact.notes import Notes
from heatcli.errors import HeatcliError, ImageError, OutOfMemoryError, UsageError, boundary, reason
from heatcli.explanation import explain
from heatcli.files import remove, write
from heatcli.images.overlay import overlay, stamped
from heatcli.images.png import png_bytes
from heatcli.images.preprocess import seen_box, to_pixels
from heatcli.images.region import region_of
from heatcli.memory import is_out_of_memory, release
from heatcli.report.build import Reports
from heatcli.report.schema import FilesPart, ImagePart, SecondsPart, encode
from heatcli.run.index import FileEntry, row_of
from heatcli.run.request import Done, Failed, Job, Request

RESULTS = 64  # explanations of one image that are held at once
LARGE = 1 << 24  # pixels of a picture that is not held from reading to writing
UNEXPECTED = "it cannot be explained; run it alone with --debug"
Turn = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True, eq=False)
class Loaded:
    """A job's picture: its hash, its size (width, height), and what is still needed of it.

    `grey`: what the heatmap is laid over; None where it is so large that it is read again. `pixels`: as they go into
    the network, float32 [C, H, W] before normalisation. `region`: bool [H, W], None where none is asked for.
    """

    job: Job
    sha256: str
    size: tuple[int, int]
    grey: Image.Image | None
    pixels: NDArray[np.float32]
    region: NDArray[np.bool_] | None = None


@dataclass(frozen=True, eq=False)
class Ready:
    """An explained image that is still to be written: image `i` of a batch's reports, `rank` of `of` classes."""

    loaded: Loaded
    reports: Reports
    i: int
    rank: int | None
    of: int

    @property
    def first(self) -> bool:
        """Whether it is the image's first class."""
        return self.rank in (None, 1)


def read_job(model: Model, job: Job, region: str | None = None) -> Loaded | Failed:
    """Read and fit a job's picture; whatever goes wrong is that picture's failure.

    Raises `UsageError` for a `region` that is none.
    """
    try:
        with boundary(job.path, ImageError):
            picture = model.reader.picture(job.path)
            pixels, (width, height) = to_pixels(picture.pixels, model.fit), picture.size
            grey = picture.shown().convert("L") if width * height <= LARGE else None
            inside = _region(region, job, (width, height), model)
            return Loaded(job, picture.sha256, (width, height), grey, pixels, inside)
    except ImageError as error:
        return Failed(job, error)


def _region(text: str | None, job: Job, size: tuple[int, int], model: Model) -> NDArray[np.bool_] | None:
    try:
        return None if text is None else region_of(text, size, model.fit)
    except ImageError as error:
        raise ImageError(f"{job.path}: {error}") from error


@dataclass
class Room:
    """How many images go through the network at once: fewer with many classes, half as many once memory runs out."""

    images: int

    @classmethod
    def of(cls, request: Request) -> Room:
        """As much as the request says."""
        return cls(min(request.batch_size, max(1, RESULTS // request.classes)))

    def halve(self, model: Model, images: int) -> None:
        """So many were too many. Adds a note to the model's."""
        self.images = min(self.images, images // 2)  # threads that had as many say so, too
        model.notes.add(
            f"memory is too small for {images} images at once; on with {self.images} (--batch-size {self.images})"
        )


def explain_all(
    model: Model, request: Request, loaded: Sequence[Loaded], proven: bool, turn: Turn = nullcontext,
    room: Room | None = None,
) -> Iterator[Ready | Failed]:  # fmt: skip
    """Explain a batch, as many images at once as there is `room` for.

    Where the model fails on several, they are explained one by one, so that one image does not take others with it.
    `proven`: the model has explained an image before. `turn`: held while the network runs.
    Raises what the model raises if it never has, and fails on all of these and on a grey picture; `UsageError`.
    """
    room = room or Room.of(request)
    waiting, alone = deque(loaded), 0
    failed: list[tuple[Loaded, Exception]] = []  # by a model that has explained nothing yet
    while waiting:
        some = [waiting.popleft() for _ in range(1 if alone else min(room.images, len(waiting)))]
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
    if failed and not _explains_grey(model, request, turn):
        raise failed[0][1]
    yield from (Failed(one.job, _of_image(one, why)) for one, why in failed)


def _tried(
    model: Model, request: Request, loaded: Sequence[Loaded], turn: Turn
) -> tuple[list[Ready], Exception | None]:
    """Some images explained together, or why not. What an error of memory holds is given back."""
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


def _explained(model: Model, request: Request, loaded: Sequence[Loaded], turn: Turn) -> list[Ready]:
    """Image by image, the classes of each together."""
    with turn():
        batch = model.stack([one.pixels for one in loaded])
        regions = [one.region for one in loaded if one.region is not None]
        region = torch.from_numpy(np.stack(regions)) if regions else None
        found = [
            (rank, explain(model, batch, request.method, target, request.baseline, region, request.progress))
            for rank, target in _targets(model, request, batch)
        ]
    made = [(rank, Reports(model, explanation)) for rank, explanation in found]
    return [Ready(one, reports, i, rank, len(made)) for i, one in enumerate(loaded) for rank, reports in made]


def _explains_grey(model: Model, request: Request, turn: Turn) -> bool:
    """Whether the model explains a grey picture, so that what it does not explain is the pictures' own fault."""
    own = replace(model, notes=Notes())  # nobody asked about grey
    try:
        with turn():
            batch = own.stack([np.full(own.shape, 0.5, np.float32)])
            explain(own, batch, request.method, None, request.baseline)
    except Exception:
        return False
    return True


def _of_image(loaded: Loaded, error: Exception) -> HeatcliError:
    """What went wrong while one image was explained, with the image's name."""
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
    """The request's target; for `top:K` the K best classes of each image, with their rank."""
    if request.classes == 1 and request.target != "top:1":
        return [(None, request.target)]
    scores = explain(model, batch, "gradient").outputs
    if request.classes > scores.shape[1]:
        raise UsageError(f"target {request.target!r} is out of range: top:K takes K from 1 to {scores.shape[1]}")
    best = scores.topk(request.classes, dim=1).indices
    return [(rank + 1, best[:, rank]) for rank in range(request.classes)]


def write_ready(model: Model, request: Request, ready: Ready, load_seconds: float, scratch: Path | None) -> Done:
    """Write overlay, pixels and report of an explained image.

    Raises `UsageError` where they cannot be written, `ImageError` where the picture cannot be read again.
    """
    started = time.perf_counter()
    loaded, reports, i = ready.loaded, ready.reports, ready.i
    result = reports.explanation
    job, (width, height) = loaded.job.ranked(ready.rank), loaded.size
    grey = loaded.grey or model.reader.picture(job.path).shown()
    box = seen_box(loaded.size, model.fit)
    heatmap = overlay(grey, reports.pixels(i), box, request.cmap, request.opacity)
    if reports.unverified:
        heatmap = stamped(heatmap, "UNVERIFIED: not the model's own function")
    contents = {"overlay": (".png", png_bytes(heatmap))}
    if request.pixels == "npz":
        contents["pixels"] = (".npz", reports.npz(i))
    with ExitStack() as undo:  # an overlay without its report is nothing
        for suffix, content in contents.values():
            write(job.stem + suffix, content, scratch)
            undo.callback(remove, job.stem + suffix)
        name = Path(job.part).name
        named: dict[str, Any] = {what: name + suffix for what, (suffix, _) in contents.items()}
        seconds = SecondsPart(load=load_seconds, write=time.perf_counter() - started, **result.seconds)
        part = ImagePart(path=job.path, sha256=loaded.sha256, width=width, height=height)
        report = reports.report(i, part, FilesPart(**named), seconds, inline=request.pixels == "json")
        contents["report"] = (".json", encode(report))
        write(job.stem + ".json", contents["report"][1], scratch)
        undo.pop_all()
    files = {what: FileEntry.of(job.part + suffix, content) for what, (suffix, content) in contents.items()}
    return Done(
        job, row_of(report, loaded.job.part, ready.rank, ready.of, files), job.stem + ".json", job.stem + ".png",
        report, {n: float(v[i]) for n, v in result.unexplained.items()}, ready.rank in (None, ready.of),
    )  # fmt: skip
