"""Explaining sequences: a logo and a report for each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch

from heatcli.errors import ImageError, UsageError
from heatcli.methods.table import Method
from heatcli.model.model import Model
from heatcli.report.build import Reports
from heatcli.report.schema import FilesPart, ImagePart, Report, SecondsPart, SequencePart, encode
from heatcli.sequences.logo import logo
from heatcli.sequences.read import Sequence, read_sequences, sequence_files
from heatcli.sequences.references import explain_sequences
from heatcli.system.files import make_folder, seen_from, write_atomically


@dataclass(frozen=True)
class SequencesRequest:
    """Which sequences to explain, how, and what to write; fields as in `heatcli.run.work.request.Request`."""

    inputs: tuple[Path, ...]
    out: Path
    method: Method
    target: str | None = None
    baseline: str | None = None
    pixels: str = "json"
    batch_size: int = 8


@dataclass(frozen=True, eq=False)
class Done:
    """A sequence that was explained: its report, and the paths of report and logo."""

    report: Report
    report_path: Path
    logo_path: Path


def run(model: Model, request: SequencesRequest, load_seconds: float) -> Iterator[Done | ImageError]:
    """Write a logo and a report for each sequence of every file, in order. `load_seconds`: for the reports.

    A file that cannot be read yields an `ImageError`. Raises `UsageError` before any work if the request is not valid.
    """
    if request.pixels not in ("json", "npz", "none"):
        raise UsageError(f"--pixels {request.pixels} is not known; use json, npz, none")
    if request.batch_size < 1:
        raise UsageError(f"--batch-size {request.batch_size} is not allowed; it is at least 1")
    found, failed = _read(model, request)
    planned = _planned(request, found)
    make_folder(request.out)
    yield from failed
    for _, group in groupby(planned, key=lambda pair: len(pair[0].letters)):
        alike = list(group)
        for start in range(0, len(alike), request.batch_size):
            yield from _batch(model, request, alike[start : start + request.batch_size], load_seconds)


def _read(model: Model, request: SequencesRequest) -> tuple[list[Sequence], list[ImageError]]:
    """The sequences of all files, and the errors of files that cannot be read."""
    found: list[Sequence] = []
    failed = []
    for path in (path for given in request.inputs for path in sequence_files(given)):
        try:
            found += read_sequences(path, model.pictures.alphabet, model.pictures.length)
        except ImageError as error:
            failed.append(error)
    return found, failed


def _planned(request: SequencesRequest, found: list[Sequence]) -> list[tuple[Sequence, Path]]:
    """Each sequence with the stem of its outputs: FILE.METHOD, or FILE.NAME.METHOD if the file holds several.

    Raises `UsageError` if two sequences have the same stem.
    """
    taken: dict[Path, Sequence] = {}
    for one in found:
        name = "".join(c if c.isalnum() or c in "-_" else "-" for c in one.name)
        part = one.path.stem if one.alone else f"{one.path.stem}.{name}"
        stem = request.out / f"{part}.{request.method.name}"
        other = taken.setdefault(stem, one)
        if other is not one:
            raise UsageError(f"sequence {other.name} of {other.path} and {one.name} of {one.path} would both write "
                             f"{stem}.png; give them names of their own")  # fmt: skip
    return [(one, stem) for stem, one in taken.items()]


def _batch(
    model: Model, request: SequencesRequest, chosen: list[tuple[Sequence, Path]], load_seconds: float
) -> Iterator[Done]:
    """Explain and write sequences of one length."""
    batch = torch.stack([torch.from_numpy(one.onehot) for one, _ in chosen]).to(model.device, model.pictures.dtype)
    reports = Reports(model, explain_sequences(model, batch, request.method, request.target, request.baseline))
    for i, (one, stem) in enumerate(chosen):
        yield _write(model, request, one, stem, reports, i, load_seconds)


def _write(
    model: Model, request: SequencesRequest, one: Sequence, stem: Path, reports: Reports, i: int, load_seconds: float
) -> Done:
    """Write the logo and the report of a sequence."""
    started, result = time.perf_counter(), reports.explanation
    logo_path, report_path = (stem.with_name(stem.name + suffix) for suffix in (".png", ".json"))
    target = int(result.target.index[i])
    title = f"{one.name}: {model.label(target) or target}, {request.method.name}"
    if result.reference.name != "none":
        title += f" against {result.reference.name}"
    write_atomically(logo_path, logo(one.letters, reports.pixels(i)[0], title))
    files = FilesPart(overlay=logo_path.name)
    if request.pixels == "npz":
        files = FilesPart(overlay=logo_path.name, pixels=stem.name + ".npz")
        write_atomically(stem.with_name(stem.name + ".npz"), reports.array(i))
    seconds = SecondsPart(load=load_seconds, write=time.perf_counter() - started, **result.seconds)
    part = ImagePart(
        path=seen_from(request.out, one.path), sha256=one.sha256, width=len(one.letters), height=1,
        sequence=SequencePart(name=one.name, letters=one.letters),
    )  # fmt: skip
    report = reports.report(i, part, files, seconds, inline=request.pixels == "json")
    write_atomically(report_path, encode(report))
    return Done(report, report_path, logo_path)
