"""What a run is asked for, and what comes of each image."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from heatcli.errors import HeatcliError, UsageError, printable
from heatcli.files import joined
from heatcli.images.baselines import Reference
from heatcli.images.overlay import colour_map
from heatcli.methods.question import Progress
from heatcli.methods.table import Method
from heatcli.report.schema import Report
from heatcli.run.index import Row

PIXELS = ("json", "npz", "none")
INDEXES = ("jsonl", "parquet")
ENGINES = ("local", "ray")
WORKERS = 4  # as many batches of activations are in memory


@dataclass(frozen=True)
class Request:
    """What to explain, how, and what to write.

    `inputs`: images, folders, patterns, text files with a list, `-` for a list on stdin. `recursive`: folders below,
    too, and the outputs mirror the tree. `glob`: which files of a folder. `shard`: (k, n), the k-th of n parts, by
    name. `resume`: go on where an earlier run into `out` ended. `index`: `jsonl`, or `parquet` besides; None keeps an
    index where a folder, a pattern or a list is given. `workers`: threads, each with a batch that it reads, explains
    and writes; None is one a core, from 2 to `WORKERS`. `processes`: whether as many processes may take the batches
    over (`heatcli.run.processes`), which import the program's main module again.
    `engine`: `local`, or `ray` for the cluster's slots, whose models go to `device`. `progress` is told of the passes
    of methods that make many.
    """

    inputs: tuple[Path | str, ...]
    out: Path | str
    method: Method
    target: str | None = None
    baseline: str | Reference | None = None
    region: str | None = None
    pixels: str = "json"
    batch_size: int = 8
    cmap: str = "bwr"
    opacity: float = 0.9
    recursive: bool = False
    glob: str | None = None
    shard: tuple[int, int] | None = None
    resume: bool = False
    index: str | None = None
    workers: int | None = None
    processes: bool = False
    engine: str = "local"
    device: str = "auto"
    progress: Progress | None = None

    def validate(self) -> None:
        """Raises `UsageError` for what no run could do."""
        if self.pixels not in PIXELS:
            raise UsageError(f"--pixels {self.pixels} is not known; use {', '.join(PIXELS)}")
        if self.index is not None and self.index not in INDEXES:
            raise UsageError(f"--index {self.index} is not known; use {', '.join(INDEXES)}")
        if self.engine not in ENGINES:
            raise UsageError(f"--engine {self.engine} is not known; use {', '.join(ENGINES)}")
        if self.batch_size < 1:
            raise UsageError(f"--batch-size {self.batch_size} is not allowed; it is at least 1")
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"--workers {self.workers} is not allowed; it is at least 1")
        if not 0 <= self.opacity <= 1:
            raise UsageError(f"--opacity {self.opacity:g} is not allowed; it is a number from 0 to 1")
        name, colon, count = (self.target or "").partition(":")
        if name == "top" and colon and not (count.isdecimal() and int(count)):
            raise UsageError(f"target {self.target!r} is out of range: top:K takes K from 1 to the number of classes")
        colour_map(self.cmap)

    @property
    def threads(self) -> int:
        """How many batches are read, explained or written at once, each in its thread."""
        return self.workers or max(2, min(WORKERS, os.cpu_count() or 2))

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

    def ranked(self, rank: int | None) -> Job:
        """The same image for its class of that rank (None: for its only one)."""
        return self if rank is None else Job(self.path, self.out, f"{self.part}.top{rank}")


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
class Failed:
    """An image that was not, and why."""

    job: Job
    error: HeatcliError
    first: bool = True
    last: bool = True

    @property
    def row(self) -> Row:
        """Its line in the index."""
        return Row(image=printable(self.job.path), stem=self.job.part, error=str(self.error))


Outcome = Done | Failed
