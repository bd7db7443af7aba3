"""Whether the same picture gets the same map: alone or in a batch, on one thread or two, in threads or processes.

    python tests/measure/determinism.py

Explains the pictures of `samples/` by the commands' own options and compares the maps, pixel by pixel, with those of
one image at a time on one thread. Prints the table of `heatcli help reproducibility`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
METHODS = ("lrp-eps", "lrp-epsilon-plus", "deeplift-rescale", "integrated-gradients")
WAYS = {  # threads of torch, options
    "again": (1, ("--batch-size", "1", "--workers", "1")),
    "batch of 4": (1, ("--batch-size", "4", "--workers", "1")),
    "batch of 16": (1, ("--batch-size", "16", "--workers", "1")),
    "two threads": (2, ("--batch-size", "1", "--workers", "1")),
    "two workers": (1, ("--batch-size", "1", "--workers", "2")),
    "half of the images": (1, ("--batch-size", "1", "--workers", "1", "--shard", "1/2")),
    "compiled": (1, ("--batch-size", "1", "--workers", "1", "--compile")),
}


def maps(folder: Path, method: str, threads: int, options: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The maps of all samples, by name."""
    command = [sys.executable, "-m", "heatcli", "explain", str(ROOT / "samples"), "--method", method, "--out",
               str(folder), "--pixels", "npz", "-q", *options]  # fmt: skip
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    return {path.name: np.load(path)["relevance"] for path in folder.rglob("*.npz")}


def main() -> None:
    """The table."""
    print(f"| | {' | '.join(METHODS)} |", "|---|" + "--:|" * len(METHODS), sep="\n")
    cells: dict[str, list[str]] = {way: [] for way in WAYS}
    for method in METHODS:
        with tempfile.TemporaryDirectory() as folder:
            alone = maps(Path(folder), method, 1, ("--batch-size", "1", "--workers", "1"))
        for way, (threads, options) in WAYS.items():
            with tempfile.TemporaryDirectory() as folder:
                found = maps(Path(folder), method, threads, options)
            off = max(float(np.abs(x - alone[name]).max() / np.abs(alone[name]).max()) for name, x in found.items())
            cells[way].append("the same" if off == 0 else f"{off:.1e}")
    for way, row in cells.items():
        print(f"| {way} | {' | '.join(row)} |")


if __name__ == "__main__":
    main()
