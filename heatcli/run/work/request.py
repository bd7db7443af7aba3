"""What a run is asked for, and what comes of each image."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import msgspec

from heatcli.errors import HeatcliError, UsageError, printable
from heatcli.figures.draw import NONE, RUN, Style
from heatcli.images.baselines import Reference
from heatcli.images.expected import Expected
from heatcli.methods.detections import is_of_all_boxes, is_of_boxes
from heatcli.methods.question import Progress
from heatcli.methods.table import Method
from heatcli.report.build import ALL, BIASES
from heatcli.report.schema import Report
from heatcli.run.index.index import Row
from heatcli.run.work.pair import Other
from heatcli.system.files import is_url, joined

PIXELS = ("json", "npz", "none")
ARRAYS = ("npy", "npz", "nii", "nii.gz")
INDEXES = ("jsonl", "parquet")
ENGINES = ("local", "ray")
WORKERS = 4  # as many batches of activations are in memory


@dataclass(frozen=True)
class Request:
    """What to explain, how, and what to write.

    `inputs`: images, folders, patterns, text files with a list, `-` for a list on stdin. `recursive`: folders below,
    too, and the outputs mirror the tree. `glob`: which files of a folder. `shard`: (k, n), the k-th of n parts, by
    name. `resume`: go on where an earlier run into `out` ended; `overwrite`: forget what earlier runs into it were.
    `index`: `jsonl`, or `parquet` besides; None keeps an index where a folder, a pattern or a list is given. `workers`:
    threads, each with a batch that it reads, explains and writes; None is one a core, from 2 to `WORKERS`. `processes`:
    whether as many processes may take the batches over (`heatcli.run.work.processes`), which import the program's main
    module again. `engine`: `local`, or `ray` for the cluster's slots, whose models go to `device`. `progress` is told
    of the passes of methods that make many. `expected`: the labels that should come first; where another does, the
    difference of the two is explained. `pair`: a picture that each is compared with; the `similarity` of their
    embeddings is explained, on both. `style`: how figures are drawn. `arrays`: the suffix of the map alone, float32
    [C, H, W], where that is written. `file`: where the figure of the only image goes, instead of beside its report.
    """

    inputs: tuple[Path | str, ...]
    out: Path | str
    method: Method
    target: str | None = None
    expected: Expected | None = None
    baseline: str | Reference | None = None
    region: str | None = None
    pixels: str = "json"
    biases: str = ALL
    batch_size: int = 8
    style: Style = field(default_factory=Style)
    arrays: str | None = None
    file: str | None = None
    recursive: bool = False
    glob: str | None = None
    shard: tuple[int, int] | None = None
    resume: bool = False
    overwrite: bool = False
    index: str | None = None
    workers: int | None = None
    processes: bool = False
    engine: str = "local"
    device: str = "auto"
    progress: Progress | None = None
    pair: str | Other | None = None
    similarity: str | None = None

    def validate(self) -> None:
        """Raises `UsageError` for what no run could do."""
        if self.pixels not in PIXELS:
            raise UsageError(f"--pixels {self.pixels} is not known; use {', '.join(PIXELS)}")
        if self.biases not in BIASES:
            raise UsageError(f"--biases {self.biases} is not known; use {', '.join(BIASES)}")
        if self.index is not None and self.index not in INDEXES:
            raise UsageError(f"--index {self.index} is not known; use {', '.join(INDEXES)}")
        if self.engine not in ENGINES:
            raise UsageError(f"--engine {self.engine} is not known; use {', '.join(ENGINES)}")
        if self.expected is not None and self.target not in (None, "top"):
            raise UsageError("--expected explains what the model says less what is expected; leave --target out")
        if self.pair is None and self.similarity is not None:
            raise UsageError("--similarity is that of a pair; give the other picture with --pair")
        if self.pair is not None and (self.region or self.expected or self.boxes or self.classes > 1):
            raise UsageError("a pair has one score; leave --region, --expected, top:K and boxes out")
        if self.overwrite and self.resume:
            raise UsageError("--resume keeps what is there, --overwrite does not; give one of them")
        if self.batch_size < 1:
            raise UsageError(f"--batch-size {self.batch_size} is not allowed; it is at least 1")
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"--workers {self.workers} is not allowed; it is at least 1")
        if self.arrays is not None and self.arrays not in ARRAYS:
            raise UsageError(f"--arrays {self.arrays} is not known; use {', '.join(ARRAYS)}")
        if self.style.scale == RUN and self.style.kind != "grid":
            self._validate_scale()
        name, colon, count = (self.target or "").partition(":")
        if name == "top" and colon and not (count.isdecimal() and int(count)):
            raise UsageError(f"target {self.target!r} is out of range: top:K takes K from 1 to the number of classes")

    def _validate_scale(self) -> None:
        """What drawing a second time needs, on one scale for all."""
        if is_url(self.out) or self.shard is not None:
            raise UsageError("--scale run needs all images in one folder here; run without, then heatcli show DIR")
        if self.style.kind == NONE or self.pixels == "none":
            raise UsageError("--scale run needs figures and pixels; leave --figure none and --pixels none out")

    def figure(self, stem: str) -> str:
        """Where the figure of the outputs with that stem goes."""
        return self.file or f"{stem}.png"

    @property
    def threads(self) -> int:
        """How many batches are read, explained or written at once, each in its thread."""
        return self.workers or max(2, min(WORKERS, os.cpu_count() or 2))

    @property
    def boxes(self) -> bool:
        """Whether each of the boxes that are found is explained: the targets `detections` and `box:N`."""
        return is_of_boxes(self.target)

    @property
    def several(self) -> bool:
        """Whether an image may have several reports: the targets `top:K` and `detections`."""
        return self.classes > 1 or is_of_all_boxes(self.target)

    @property
    def classes(self) -> int:
        """How many classes of each image are explained: the K of the target `top:K`, 1 for any other target."""
        name, colon, count = (self.target or "").partition(":")
        return int(count) if name == "top" and colon else 1


@dataclass(frozen=True)
class Job:
    """One image, and the stem of its outputs: `out` with the part below it."""

    path: str
    out: str
    part: str

    @cached_property
    def stem(self) -> str:
        """What the names of its outputs begin with."""
        return joined(self.out, self.part)

    def ranked(self, rank: int | None, boxes: bool = False) -> Job:
        """The same image for its class of that rank from 1, or its box from 0 (None: for its only one)."""
        name = f"box{(rank or 1) - 1}" if boxes else f"top{rank}"
        return self if rank is None else Job(self.path, self.out, f"{self.part}.{name}")


@dataclass(frozen=True, eq=False)
class Done:
    """An image that was explained: its line in the index, and where report and overlay are.

    `report` is None where another machine wrote it. `last`: no further class of the same image comes.
    """

    job: Job
    row: Row
    report_path: str
    overlay_path: str
    report: Report | None = None
    unexplained: Mapping[str, float] = field(default_factory=dict)
    last: bool = True


@dataclass(frozen=True, eq=False)
class Unwritten:
    """An image without a report. `first`, `last`: no other outcome of the same image comes before it, or after it."""

    job: Job
    first: bool = field(default=True, kw_only=True)
    last: bool = field(default=True, kw_only=True)

    @property
    def row(self) -> Row:
        """Its name, as a line of the index has it."""
        return Row(image=printable(self.job.path), stem=self.job.part)


@dataclass(frozen=True, eq=False)
class Failed(Unwritten):
    """An image that was not explained, and why."""

    error: HeatcliError

    @property
    def row(self) -> Row:
        """Its line in the index."""
        return msgspec.structs.replace(super().row, error=str(self.error))


@dataclass(frozen=True, eq=False)
class Empty(Unwritten):
    """An image in which a detector finds no box, and what the best one is; not in the index, since it has no report."""

    said: str


Outcome = Done | Failed | Empty
