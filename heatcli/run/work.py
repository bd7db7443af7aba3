"""What is done for each image: read it, explain it with its batch, write its overlay and its report."""

from __future__ import annotations

import time
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
from heatcli.errors import HeatcliError, ImageError, UsageError, boundary, reason
from heatcli.explanation import explain
from heatcli.files import remove, write
from heatcli.images.overlay import overlay, stamped
from heatcli.images.png import png_bytes
from heatcli.images.preprocess import seen_box, to_pixels
from heatcli.images.region import region_of
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


def explain_all(
    model: Model, request: Request, loaded: Sequence[Loaded], proven: bool, turn: Turn = nullcontext
) -> Iterator[Ready | Failed]:
    """Explain a batch; where that fails, one by one, so that one image does not take others with it.

    `proven`: the model has explained an image before. `turn`: held while the network runs.
    Raises what the model raises if it never has, and fails on all of these and on a grey picture; `UsageError`.
    """
    if not loaded:
        return
    explained = _explained(model, request, loaded, turn)
    try:
        first = next(explained)
    except UsageError:
        raise
    except Exception as error:
        if len(loaded) > 1:
            yield from _one_by_one(model, request, loaded, proven, turn)
        elif proven or _explains_grey(model, request, turn):
            yield Failed(loaded[0].job, _of_image(loaded[0].job, error))
        else:
            raise
        return
    yield first
    yield from explained


def _one_by_one(
    model: Model, request: Request, loaded: Sequence[Loaded], proven: bool, turn: Turn
) -> Iterator[Ready | Failed]:
    outcomes = [outcome for one in loaded for outcome in explain_all(model, request, [one], True, turn)]
    failed = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    if len(failed) == len(loaded) and not proven and not _explains_grey(model, request, turn):
        next(_explained(model, request, loaded[:1], turn))  # raises what it has raised before
    yield from outcomes


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


def _of_image(job: Job, error: Exception) -> HeatcliError:
    """What went wrong while one image was explained, with the image's name."""
    if not isinstance(error, HeatcliError):
        found: HeatcliError = ImageError(f"{job.path}: {UNEXPECTED}: {reason(error)}")
    elif str(error).startswith(job.path):
        return error
    else:
        found = type(error)(f"{job.path}: {error}")
    found.__cause__ = error
    return found


def _explained(model: Model, request: Request, loaded: Sequence[Loaded], turn: Turn) -> Iterator[Ready]:
    """Image by image, the classes of each together; with many classes fewer images at once, to bound memory."""
    at_once = max(1, RESULTS // request.classes)
    for start in range(0, len(loaded), at_once):
        some = loaded[start : start + at_once]
        with turn():
            batch = model.stack([one.pixels for one in some])
            regions = [one.region for one in some if one.region is not None]
            region = torch.from_numpy(np.stack(regions)) if regions else None
            found = [
                (rank, explain(model, batch, request.method, target, request.baseline, region, request.progress))
                for rank, target in _targets(model, request, batch)
            ]
        made = [(rank, Reports(model, explanation)) for rank, explanation in found]
        for i, one in enumerate(some):
            for rank, reports in made:
                yield Ready(one, reports, i, rank, len(made))


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
    files = {what: FileEntry(job.part + suffix, len(content)) for what, (suffix, content) in contents.items()}
    return Done(
        job, row_of(report, loaded.job.part, ready.rank, ready.of, files), job.stem + ".json", job.stem + ".png",
        report, {n: float(v[i]) for n, v in result.unexplained.items()}, ready.rank in (None, ready.of),
    )  # fmt: skip
