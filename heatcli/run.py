"""The main job over many images: plan the outputs, explain in batches, write an overlay and a report for each."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from heatcli.artifact.model import Model
from heatcli.errors import ImageError, UsageError
from heatcli.explanation import Explanation, explain
from heatcli.files import make_folder, write_atomically
from heatcli.images.mean import image_files
from heatcli.images.overlay import colour_map, overlay
from heatcli.images.preprocess import seen_box
from heatcli.images.read import Picture, read_picture
from heatcli.images.region import region_of
from heatcli.methods.question import Progress
from heatcli.methods.table import Method
from heatcli.report.build import build, npz_bytes, pixel_values
from heatcli.report.schema import FilesPart, ImagePart, Report, SecondsPart, encode

PIXELS = ("json", "npz", "none")


@dataclass(frozen=True)
class Request:
    """What to explain, how, and what to write."""

    inputs: tuple[Path, ...]
    out: Path
    method: Method
    target: str | None = None
    baseline: str | None = None
    region: str | None = None
    pixels: str = "json"
    batch_size: int = 8
    cmap: str = "bwr"
    opacity: float = 0.9
    progress: Progress | None = None


@dataclass(frozen=True)
class Job:
    """One image and the stem of its outputs."""

    path: Path
    stem: Path

    def ranked(self, rank: int | None) -> Job:
        """The same image for its class of that rank (None: for its only one)."""
        return self if rank is None else Job(self.path, self.stem.with_name(f"{self.stem.name}.top{rank}"))


@dataclass(frozen=True, eq=False)
class Done:
    """An image that was explained: its report, and where report and overlay are."""

    job: Job
    report: Report
    report_path: Path
    overlay_path: Path
    unexplained: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Failed:
    """An image that was not, and why."""

    job: Job
    error: ImageError


def plan(request: Request) -> list[Job]:
    """One job an image; a folder stands for the images in it. Refuses outputs that collide or overwrite an input."""
    jobs = []
    for given in request.inputs:
        if given.is_dir():
            found = [Job(path, request.out / f"{path.stem}.{request.method.name}") for path in image_files(given)]
            if not found:
                raise UsageError(f"{given}: no images in this folder")
            jobs += found
        else:
            jobs.append(Job(given, request.out / f"{given.stem}.{request.method.name}"))
    taken: dict[Path, Path] = {}
    for job in jobs:
        other = taken.setdefault(job.stem, job.path)
        if other is not job.path:
            raise UsageError(f"{other} and {job.path} would both write {job.stem}.png; use one --out folder each")
    inputs = {job.path.absolute() for job in jobs}
    for job in jobs:
        if _suffixed(job.stem, ".png").absolute() in inputs:
            raise UsageError(f"{_suffixed(job.stem, '.png')} is itself an input; give another --out folder")
    return jobs


def run(model: Model, request: Request, load_seconds: float) -> Iterator[Done | Failed]:
    """Explain everything that `request` names, in order; an image that fails does not stop the others.

    Raises `UsageError` before any work if the request makes no sense.
    """
    _validate(request)
    jobs = plan(request)
    make_folder(request.out)
    for start in range(0, len(jobs), request.batch_size):
        yield from _batch(model, request, jobs[start : start + request.batch_size], load_seconds)


def _validate(request: Request) -> None:
    if request.pixels not in PIXELS:
        raise UsageError(f"--pixels {request.pixels} is not known; use {', '.join(PIXELS)}")
    if request.batch_size < 1:
        raise UsageError(f"--batch-size {request.batch_size} is not allowed; it is at least 1")
    if not 0 <= request.opacity <= 1:
        raise UsageError(f"--opacity {request.opacity:g} is not allowed; it is a number from 0 to 1")
    colour_map(request.cmap)


def _batch(model: Model, request: Request, jobs: Iterable[Job], load_seconds: float) -> Iterator[Done | Failed]:
    pictures: list[tuple[Job, Picture]] = []
    failed: list[Failed] = []
    for job in jobs:
        try:
            pictures.append((job, read_picture(job.path, model.shape[0])))
        except ImageError as error:
            failed.append(Failed(job, error))
    if pictures:
        batch = model.preprocess([picture.pixels for _, picture in pictures])
        region = _regions(model, request, [picture for _, picture in pictures])
        for rank, target in _targets(model, request, batch):
            result = explain(model, batch, request.method, target, request.baseline, region, request.progress)
            for i, (job, picture) in enumerate(pictures):
                yield _write(model, request, job.ranked(rank), picture, result, i, load_seconds)
    yield from failed


def _targets(model: Model, request: Request, batch: Tensor) -> Iterator[tuple[int | None, Any]]:
    """The request's target; for `top:K` the K best classes of each image, with their rank."""
    name, colon, count = (request.target or "").partition(":")
    if name != "top" or not colon:
        yield None, request.target
        return
    scores = explain(model, batch, "gradient").outputs
    if not count.isdecimal() or not 1 <= int(count) <= scores.shape[1]:
        raise UsageError(f"target {request.target!r} is out of range: top:K takes K from 1 to {scores.shape[1]}")
    best = scores.topk(int(count), dim=1).indices
    for rank in range(int(count)):
        yield rank + 1, best[:, rank]


def _regions(model: Model, request: Request, pictures: list[Picture]) -> Tensor | None:
    if request.region is None:
        return None
    masks = [region_of(request.region, picture.size, model.fit) for picture in pictures]
    return torch.from_numpy(np.stack(masks))


def _write(
    model: Model, request: Request, job: Job, picture: Picture, result: Explanation, i: int, load_seconds: float
) -> Done:
    started = time.perf_counter()
    width, height = picture.size
    box = seen_box((width, height), model.fit)
    heatmap = overlay(picture.shown(), pixel_values(result, i), box, request.cmap, request.opacity)
    report_path, overlay_path = _suffixed(job.stem, ".json"), _suffixed(job.stem, ".png")
    write_atomically(overlay_path, _png(heatmap))
    named: dict[str, Any] = {"overlay": overlay_path.name}
    if request.pixels == "npz":
        named["pixels"] = _suffixed(job.stem, ".npz").name
        write_atomically(job.stem.parent / named["pixels"], npz_bytes(result, i))
    seconds = SecondsPart(load=load_seconds, write=time.perf_counter() - started, **result.seconds)
    part = ImagePart(path=str(job.path), sha256=picture.sha256, width=width, height=height)
    report = build(model, result, i, part, FilesPart(**named), seconds, inline=request.pixels == "json")
    write_atomically(report_path, encode(report))
    return Done(job, report, report_path, overlay_path, {n: float(v[i]) for n, v in result.unexplained.items()})


def _suffixed(stem: Path, suffix: str) -> Path:
    return stem.parent / (stem.name + suffix)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
