"""The arguments of a run (`Request`), and the outcome of each image (`Done`, `Failed`, `Empty`)."""

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
ARRAYS = ("npy", "npz", "nii", "nii.gz", "tif")
INDEXES = ("jsonl", "parquet")
ENGINES = ("local", "ray")
WORKERS = 4  # each worker holds the activations of one batch in memory


@dataclass(frozen=True)
class Request:
    """What to explain, how, and what to write.

    `inputs`: images, folders, patterns, text files with a list of names, `-` for a list on stdin.
    `target`, `baseline`, `region`: as `heatcli.explain` takes them, `region` as text (`heatcli.images.region`).
    `recursive`: include the folders below; the outputs then mirror the tree. `glob`: a pattern for the files of a
    folder. `shard`: (k, n) selects the k-th of n parts, by a hash of the names, k from 1.
    `resume`: continue an earlier run into `out`. `overwrite`: delete the index of earlier runs into `out`.
    `index`: `jsonl`, or `parquet` for both files; None writes `jsonl` if an input is a folder, a pattern or a list.
    `pixels`: where the report keeps relevance per pixel: `json`, `npz` or `none`. `biases`: `all`, or another value of
    `heatcli.report.build.BIASES`.
    `workers`: the number of threads, each of which reads, explains and writes a batch; None is one per core, between 2
    and `WORKERS`. `processes`: whether as many processes may take over the batches (`heatcli.run.work.processes`);
    they import the program's main module again. `engine`: `local`, or `ray` for a Ray cluster. `device`: the device of
    the cluster's models.
    `progress`: called after each pass of a method that makes many. `expected`: the labels that the user expects; if
    the predicted class is another one, the difference of the two scores is explained.
    `style`: how figures are drawn. `arrays`: the suffix of a file with the map alone, float32 [C, H, W]; None writes
    none. `file`: the path of the figure of a single image; None puts the figure beside its report.
    `pair`: a picture that each is compared with; the `similarity` of their embeddings is explained, on both.
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
        """Raises `UsageError` for unknown values and for options that exclude each other."""
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
        """Check that all figures can be drawn again on one scale at the end. Raises `UsageError`."""
        if is_url(self.out) or self.shard is not None:
            raise UsageError("--scale run needs all images in one folder here; run without, then heatcli show DIR")
        if self.style.kind == NONE or self.pixels == "none":
            raise UsageError("--scale run needs figures and pixels; leave --figure none and --pixels none out")

    def figure(self, stem: str) -> str:
        """The path of the figure for outputs with this stem."""
        return self.file or f"{stem}.png"

    @property
    def threads(self) -> int:
        """The number of worker threads: one batch each."""
        return self.workers or max(2, min(WORKERS, os.cpu_count() or 2))

    @property
    def boxes(self) -> bool:
        """Whether boxes of a detector are explained: the targets `detections` and `box:N`."""
        return is_of_boxes(self.target)

    @property
    def several(self) -> bool:
        """Whether an image may have several reports: the targets `top:K` and `detections`."""
        return self.classes > 1 or is_of_all_boxes(self.target)

    @property
    def classes(self) -> int:
        """The number of classes explained per image: K for the target `top:K`, 1 for any other target."""
        name, colon, count = (self.target or "").partition(":")
        return int(count) if name == "top" and colon else 1


@dataclass(frozen=True)
class Job:
    """One image: its path, the output folder `out`, and `part`, the stem of the image's outputs below `out`."""

    path: str
    out: str
    part: str

    @cached_property
    def stem(self) -> str:
        """The stem of the image's outputs, including the output folder."""
        return joined(self.out, self.part)

    def ranked(self, rank: int | None, boxes: bool = False) -> Job:
        """The job for one class or one box of the image, by rank from 1; None if there is only one."""
        name = f"box{(rank or 1) - 1}" if boxes else f"top{rank}"
        return self if rank is None else Job(self.path, self.out, f"{self.part}.{name}")


@dataclass(frozen=True, eq=False)
class Done:
    """An image that was explained: its line in the index, and the paths of its report and its figure.

    `report` is None if another process or machine wrote it. `unexplained`: operator → relevance, of operators without
    a rule. `last`: this is the last outcome of the image.
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
    """An image without a report. `first`, `last`: whether this is the first, or the last, outcome of the image."""

    job: Job
    first: bool = field(default=True, kw_only=True)
    last: bool = field(default=True, kw_only=True)

    @property
    def row(self) -> Row:
        """A line of the index with the image's name only."""
        return Row(image=printable(self.job.path), stem=self.job.part)


@dataclass(frozen=True, eq=False)
class Failed(Unwritten):
    """An image that was not explained, and the reason."""

    error: HeatcliError

    @property
    def row(self) -> Row:
        """The image's line in the index, with the error."""
        return msgspec.structs.replace(super().row, error=str(self.error))


@dataclass(frozen=True, eq=False)
class Empty(Unwritten):
    """An image in which a detector finds no box. It has no report and no line in the index.

    `said`: a sentence on the box with the highest score.
    """

    said: str


Outcome = Done | Failed | Empty
