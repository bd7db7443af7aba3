"""Time and memory of `heatcli discover` by the number of explanations. Prints a row a size for DISCOVER.md.

`python tests/measure/discover_scale.py RUN OUT 1000 10000 100000` writes OUT/NUMBER with as many explanations: those of
RUN, a finished run with `--pixels npz`, again and again, each map moved by a few pixels and with noise of its own.
`--classes N` deals them out to N classes. After `--`, options of `heatcli discover`. The copies have
no pictures, so neither `--masks` nor treatments.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from itertools import cycle, islice
from pathlib import Path

import msgspec
import numpy as np

from heatcli.run.index.folder import Folder, Item
from heatcli.run.index.index import INDEX, FileEntry, line_of
from heatcli.system.compress import crc32, npz

SHIFT, NOISE = 4, 0.1  # pixels; of the usual size of a map's values


def make(run: Path, out: Path, count: int, classes: int | None) -> None:
    """Write `count` explanations into `out`, with an index; of as many classes as there are, or `classes`."""
    items = [item for item in Folder.open(run).items() if isinstance(item, Item) and item.pixels is not None]
    rng = np.random.default_rng(count)
    with (out / INDEX).open("wb") as index:
        for number, item in enumerate(islice(cycle(items), count)):
            pixels = np.roll(item.pixels, rng.integers(-SHIFT, SHIFT + 1, 2), (0, 1))
            pixels = pixels + NOISE * pixels.std() * rng.standard_normal(pixels.shape)
            stem = f"{number // 1000:03}/{number:06}"
            (out / stem).parent.mkdir(exist_ok=True)
            contents = {"report": item.content("report"), "pixels": npz({"relevance": pixels[None].astype(np.float32)})}
            files = {}
            for what, suffix in (("report", "json"), ("pixels", "npz")):
                (out / f"{stem}.{suffix}").write_bytes(contents[what])
                files[what] = FileEntry(f"{stem}.{suffix}", len(contents[what]), crc32(contents[what]))
            label = item.row.label if classes is None else f"class {number % classes}"
            row = msgspec.structs.replace(item.row, image=f"{stem}.png", stem=stem, files=files, label=label)
            index.write(line_of(row))


def measured(folder: Path, options: list[str]) -> tuple[float, float, float]:
    """Seconds, seconds of processors, and the peak of memory in MiB of `heatcli discover`, in a process of its own."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "heatcli", "discover", str(folder), "-q", *options]
    child = os.spawnvp(os.P_NOWAIT, sys.executable, command)
    _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit(f"heatcli discover {folder} ended with status {status}")
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    """One row a size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("counts", nargs="+", type=int)
    parser.add_argument("--classes", type=int, default=None)
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args = parser.parse_args(sys.argv[1:end])
    for count in args.counts:
        folder = args.out / (str(count) if args.classes is None else f"{count}-{args.classes}")
        if not (folder / INDEX).is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            make(args.run, folder, count, args.classes)
        seconds, busy, memory = measured(folder, sys.argv[end + 1 :])
        table = (folder / "discover" / "clusters.json").stat().st_size / 2**20
        print(f"| {count:,} | {busy:.0f} s | {seconds:.0f} s | {memory:.0f} MiB | {table:.1f} MiB |", flush=True)


if __name__ == "__main__":
    main()
