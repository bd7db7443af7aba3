"""Whether the same picture gets the same map: batches, threads, processes, formats, devices, torch versions.

    python tests/measure/determinism.py [--python OTHER/bin/python …]

Explains the pictures of `samples/` by the commands' own options and compares the maps, pixel by pixel, with those of
one image at a time on one thread; then a ResNet-18 saved in every format with its traced file. `--python`: also by that
interpreter, which has another torch. Writes DETERMINISM.md beside this script.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from networks import FORMATS, architecture, images, load  # noqa: E402 - from the folders above

PAGE = Path(__file__).with_name("DETERMINISM.md")
METHODS = ("lrp-eps", "lrp-epsilon-plus", "deeplift-rescale", "integrated-gradients")
ALONE = ("--batch-size", "1", "--workers", "1", "--device", "cpu")
WAYS = {  # threads of torch, options
    "the same command again": (1, ALONE),
    "two worker threads": (1, ("--batch-size", "1", "--workers", "2", "--device", "cpu")),
    "half of the images (`--shard 1/2`)": (1, (*ALONE, "--shard", "1/2")),
    "batches of 4": (1, ("--batch-size", "4", "--workers", "1", "--device", "cpu")),
    "batches of 16": (1, ("--batch-size", "16", "--workers", "1", "--device", "cpu")),
    "torch on two threads": (2, ALONE),
    "`--compile`": (1, (*ALONE, "--compile")),
}
if torch.cuda.is_available():
    WAYS["`--device cuda`"] = (1, ("--batch-size", "1", "--workers", "1", "--device", "cuda"))

Maps = dict[str, np.ndarray]


def maps(method: str, threads: int, options: tuple[str, ...], python: str = sys.executable) -> Maps:
    """The maps of all samples, by name."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        command = [python, "-m", "heatcli", "explain", str(ROOT / "samples"), "--method", method, "--out", folder,
                   "--pixels", "npz", "-q", *options]  # fmt: skip
        subprocess.run(command, check=True, cwd=ROOT, env=environment)
        return {path.name: np.load(path)["relevance"] for path in Path(folder).rglob("*.npz")}


def apart(found: Maps, alone: Maps) -> str:
    """The largest difference of two maps of one picture, as a share of its largest pixel."""
    off = max(float(np.abs(x - alone[name]).max() / np.abs(alone[name]).max()) for name, x in found.items())
    return "the same" if off == 0 else f"{off:.1e}"


def table(rows: dict[str, Callable[[str], str]]) -> list[str]:
    """A row a way, a column a method."""
    head = [f"| | {' | '.join(METHODS)} |", "|---|" + "--:|" * len(METHODS)]
    return [*head, *(f"| {way} | {' | '.join(map(cell, METHODS))} |" for way, cell in rows.items())]


def of_commands(pythons: Sequence[str]) -> list[str]:
    """The samples by the embedded network, explained in every way."""
    alone = {method: maps(method, 1, ALONE) for method in METHODS}
    rows: dict[str, Callable[[str], str]] = {
        way: lambda method, threads=threads, options=options: apart(maps(method, threads, options), alone[method])  # type: ignore[misc]
        for way, (threads, options) in WAYS.items()
    }
    for python in pythons:
        version = subprocess.run([python, "-c", "import torch; print(torch.__version__)"], check=True,
                                 capture_output=True, text=True).stdout.strip()  # fmt: skip
        rows[f"torch {version}"] = lambda method, python=python: apart(maps(method, 1, ALONE, python), alone[method])  # type: ignore[misc]
    return table(rows)


def of_formats() -> list[str]:
    """A ResNet-18 with random weights in every format, four random pictures, against its traced file."""
    import heatcli

    def explained(form: str, method: str) -> Maps:
        with tempfile.TemporaryDirectory() as folder:
            model = load(architecture("resnet18"), Path(folder), form, shape)
            baseline = None if method.startswith("lrp") else batch[:1] * 0
            found = heatcli.explain(model, batch, method, target=1, baseline=baseline).relevance
            return {str(i): x.numpy() for i, x in enumerate(found)}

    shape = (3, 64, 64)
    batch = images(4, shape=shape)
    first = {method: explained("traced", method) for method in METHODS}
    rows: dict[str, Callable[[str], str]] = {
        f"{name} ({form})": lambda method, form=form: apart(explained(form, method), first[method])  # type: ignore[misc]
        for form, (name, _) in FORMATS.items()
        if form != "traced"
    }
    return table(rows)


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", default=[], metavar="PATH")
    pythons = parser.parse_args().python
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lines = [
        "# The same picture, the same map?", "",
        f"Written by `python tests/measure/determinism.py`, torch {torch.__version__}, float32. Each cell: the",
        "largest difference of a pixel between two maps of one picture, as a share of the largest pixel. *The same*:",
        "bit for bit.", "",
        "The pictures of `samples/` with the embedded network, against one image at a time on one thread of a CPU:", "",
        *of_commands(pythons), "",
        "A ResNet-18 of random weights, four random pictures of 64×64 in a batch, against its traced file:", "",
        *of_formats(),
    ]  # fmt: skip
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
