"""The pipeline on a Ray cluster (extra `ray`): blocks of names go out, lines of the index come back."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from heatcli.errors import ModelError, first_line
from heatcli.model.model import Model
from heatcli.model.named import cached_in, is_named
from heatcli.run.work.pipeline import Pipeline
from heatcli.run.work.request import Job, Outcome, Request
from heatcli.run.work.shipping import Recipe, packed, unpacked
from heatcli.system.extras import optional
from heatcli.system.files import is_url, scratch, stamp
from heatcli.system.memory import keep_freed

BATCHES = 4  # in a block, which is explained again if its actor is lost
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
WAVE = 100_000  # the number of names that Ray holds at once


@dataclass(frozen=True)
class Shipped:
    """A model as it is sent to another machine: its recipe, and the content of its files by name.

    `files`: the artifact, and any files of weights beside it. `mean`: name and content of the mean image.
    """

    recipe: Recipe
    files: dict[str, bytes]
    mean: tuple[str, bytes] | None
    device: str

    @classmethod
    def of(cls, model: Model, device: str) -> Shipped:
        """Everything that another machine needs for the same model. That machine resolves `device`.

        Raises `ModelError` if a file of weights beside the artifact was changed since it was read.
        """
        mean = model.pictures.mean_file
        found = (mean.name, mean.read_bytes()) if mean is not None and mean.is_file() else None
        external_data = model.artifact.external_data
        files = {name: (model.file.parent / name).read_bytes() for name in (model.file.name, *external_data)}
        if any(stamp(model.file.parent / name) != before for name, before in external_data.items()):
            raise ModelError(f"{model.path}: was changed while it was in use; run again")
        return cls(replace(Recipe.of(model), cached=False), files, found, device)

    def model(self) -> Model:
        """Write the files into a temporary folder and load the model from there."""
        own = Path(self.recipe.path)
        made = Path(tempfile.mkdtemp(prefix="heatcli-"))  # not deleted, because the mean image is read later
        folder = cached_in(made) if is_named(own) else made
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        path = own if is_named(own) else folder / own.name
        if self.mean is None:
            return self.recipe.model(self.device, path)
        mean = folder / self.mean[0]
        mean.write_bytes(self.mean[1])
        return self.recipe.model(self.device, path, mean)


class Explainer:
    """A Ray actor: one model on one slot, which explains blocks of images."""

    def __init__(self, shipped: Any, request: Request, folder: str) -> None:
        """`shipped`: Ray's reference to a `Shipped`. `folder`: the driver's working directory."""
        import ray

        if Path(folder).is_dir():
            os.chdir(folder)  # relative paths are the driver's
        keep_freed()
        started = time.perf_counter()
        self._model: Model = ray.get(shipped).model()
        self._request = replace(request, workers=request.workers or 2, progress=None)
        self._load_seconds = time.perf_counter() - started
        self._pipeline: Pipeline | None = None  # kept between blocks, so that the baseline is read once

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        """Explain a block with the columns `path` and `part`. Returns a column of one entry: the packed outcomes."""
        out = str(self._request.out)
        jobs = [Job(str(path), out, str(part)) for path, part in zip(block["path"], block["part"], strict=True)]
        return {"outcomes": np.array([packed(self._outcomes(jobs, out), self._model.notes)], dtype=object)}

    def _outcomes(self, jobs: list[Job], out: str) -> Iterator[Outcome]:
        """The outcomes of a block."""
        pipeline = self._pipeline = self._pipeline or Pipeline(self._model, self._request, self._load_seconds)
        with nullcontext() if is_url(out) else scratch(Path(out)) as pipeline.worker.scratch:
            for outcomes in pipeline.run(jobs):
                yield from outcomes


class Cluster:
    """Runs jobs on Ray: one actor per GPU if the cluster has GPUs, else one per CPU. Used like `Pipeline`.

    Raises `UsageError` if Ray is not installed, `ModelError` if the model's files were changed, or if Ray cannot be
    reached or gives up.
    """

    lost = 0  # Ray itself replaces lost actors

    def __init__(self, model: Model, request: Request) -> None:
        self.left: list[list[Outcome]] = []
        self._request, self._notes = replace(request, progress=None), model.notes
        self._ray = require()
        shipped = Shipped.of(model, request.device)
        with self._boundary():
            if not self._ray.is_initialized():
                self._ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
            self._shipped = self._ray.put(shipped)  # kept for actors that Ray restarts

    def run(self, jobs: Iterable[Job]) -> Generator[list[Outcome], None, None]:
        """As `Pipeline.run`, by blocks. The blocks of lost actors are explained again. Raises `ModelError`."""
        source = iter(jobs)
        while wave := list(islice(source, WAVE)):
            for content in self._wave(wave):
                outcomes = list[Outcome]()
                self.left = [outcomes]
                outcomes.extend(unpacked(content, str(self._request.out), self._notes))
                yield outcomes

    def _wave(self, jobs: list[Job]) -> Iterator[bytes]:
        """The packed outcomes of each block of `jobs`. Raises `ModelError`."""
        data = self._ray.data
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        with self._boundary():
            resources = self._ray.cluster_resources()
        gpus = 0 if self._request.device == "cpu" else int(resources.get("GPU", 0))
        slots = gpus or max(1, int(resources.get("CPU", 1)))
        blocks = -(-len(jobs) // (BATCHES * self._request.batch_size))
        names = data.from_items(
            [{"path": job.path, "part": job.part} for job in jobs], override_num_blocks=max(blocks, 1)
        )
        outcomes = names.map_batches(
            Explainer,
            batch_size=None, batch_format="numpy", compute=data.ActorPoolStrategy(size=min(slots, blocks)),
            fn_constructor_args=(self._shipped, self._request, str(Path.cwd())),
            **({"num_gpus": 1} if gpus else {"num_cpus": 1}),
        )  # fmt: skip
        with self._boundary():
            for row in outcomes.iter_rows():
                yield row["outcomes"]

    @contextmanager
    def _boundary(self) -> Iterator[None]:
        """What Ray raises becomes a `ModelError` of one line: a cluster that cannot be reached, or that gives up."""
        try:
            yield
        except (self._ray.exceptions.RayError, ConnectionError) as error:
            raise ModelError(f"Ray gave up: {first_line(error)}") from error


def require() -> Any:
    """The module `ray`. Raises `UsageError` if Ray is not installed."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    optional("ray.data", "--engine ray needs Ray", "ray")
    return optional("ray", "--engine ray needs Ray", "ray")
