"""The cost of an explained model compared with the plain one: bytes, and seconds per image on one thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from heatcli.artifact.explained import Note
from heatcli.engine.values import output_of
from heatcli.export.run import inputs_for, opened
from heatcli.model.model import Model

RUNS = 5


def measured(path: Path, model: Model, note: Note) -> dict[str, Any]:
    """The size and the median time of a few runs on one image, of the explained and of the plain model.

    Keys: `bytes`, `plain_bytes`, `seconds`, `plain_seconds`, and `runtime`, the name of the runtime.
    """
    threads, size = torch.get_num_threads(), model.network.fixed_batch((2, *model.pictures.only_shape)) or 1
    torch.set_num_threads(1)
    try:
        batch = model.capture.noise((size, *model.pictures.only_shape), 2)
        explained = opened(path)
        given = inputs_for(note, batch)
        seconds = _median(lambda: explained.run(given))
        if path.suffix == ".onnx":
            plain = opened(path, only=note.outputs[0])
            own = _median(lambda: plain.run(given))
        else:
            graph = model.graph(batch.shape)
            own = _median(lambda: output_of(graph, batch))
    finally:
        torch.set_num_threads(threads)
    return {
        "bytes": path.stat().st_size, "plain_bytes": model.file.stat().st_size, "seconds": seconds,
        "plain_seconds": own, "runtime": explained.name,
    }  # fmt: skip


def _median(run: Callable[[], object]) -> float:
    """The median time of `RUNS` runs in seconds, after one that does not count."""
    run()
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return median(times)
