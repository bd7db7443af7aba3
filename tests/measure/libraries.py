"""What hand-written parts save beside the library that could do the same: medians of rounds in turn, as Markdown.

python tests/measure/libraries.py [ROUNDS]

Rows of a library that is not installed are left out. The graph cache is measured by `start.py`.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from PIL import Image

from heatcli.system.compress import deflate, npz, png_bytes
from heatcli.system.files import joined, locked

WOLF = Path(__file__).parents[2] / "samples" / "wolf-on-snow.png"
NAMES = [f"{i:06}.png" for i in range(10_000)]


def parts() -> Iterator[tuple[str, str, Callable[[], object], Callable[[], object]]]:
    """What is done, by which library, by us, and by the library."""
    picture = Image.open(WOLF).convert("RGB").resize((1024, 1024), Image.Resampling.BICUBIC)
    yield "a PNG of 1024×1024", "Pillow, level 1", lambda: png_bytes(picture), lambda: _saved(picture)
    pixels = np.asarray(picture).tobytes()
    yield "3 MiB deflated", "zlib, level 1", lambda: deflate(pixels), lambda: zlib.compress(pixels, 1)
    maps = {"relevance": np.random.default_rng(0).standard_normal((3, 224, 224)).astype(np.float32)}
    yield "an `.npz` of 3×224×224", "numpy.savez_compressed", lambda: npz(maps), lambda: _npz(maps)
    with contextlib.suppress(ImportError), tempfile.TemporaryDirectory() as folder:
        from filelock import FileLock

        path = Path(folder, "lock")
        path.touch()
        yield "1,000 locks taken and freed", "filelock", lambda: _locked(path), lambda: _held(FileLock(path))
    try:
        from upath import UPath
    except ImportError:
        return
    yield (
        "10,000 names in a remote folder", "universal-pathlib",
        lambda: [joined("memory://out", name) for name in NAMES],
        lambda: [str(UPath("memory://out") / name) for name in NAMES],
    )  # fmt: skip


def _saved(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _locked(path: Path) -> None:
    for _ in range(1000):
        with locked(path):
            pass


def _held(lock: AbstractContextManager[object]) -> None:
    for _ in range(1000):
        with lock:
            pass


def main() -> None:
    """Print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    print("| what | library | ours, ms | the library, ms | × | ours, bytes | the library, bytes |")
    print("|---|---|--:|--:|--:|--:|--:|")
    for what, library, ours, theirs in parts():
        seconds: list[tuple[float, float]] = []
        for _ in range(rounds):
            seconds.append((_timed(ours), _timed(theirs)))
        a, b = (statistics.median(side) for side in zip(*seconds, strict=True))
        ratio = statistics.median(y / x for x, y in seconds)
        sizes = [f"{len(made):,}" if isinstance(made := job(), bytes) else "" for job in (ours, theirs)]
        print(f"| {what} | {library} | {a * 1e3:.1f} | {b * 1e3:.1f} | {ratio:.1f} | {' | '.join(sizes)} |")


def _timed(job: Callable[[], object]) -> float:
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
