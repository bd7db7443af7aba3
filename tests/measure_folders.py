"""What folders cost: images a second beside the engine alone, bytes an image, peak memory; as Markdown.

python tests/measure_folders.py speed [IMAGES] | shards [IMAGES] | stages | memory [FEW MANY]
"""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BATCH, REPEATS = 8, 3


def speed(count: int = 192) -> None:
    """Paired runs, medians: `explain` on a batch that lies ready, with all threads, and runs over folders of files."""
    import torch

    import heatcli

    warnings.simplefilter("ignore")  # torch.jit is deprecated
    print(f"{torch.get_num_threads()} threads, {os.cpu_count()} cores, batch {BATCH}, lrp-eps; core-ms: CPU time\n")
    print("| network | pictures | --pixels | alone, images/s | core-ms | folder, images/s | core-ms | ratio | kB |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        small, middle, photos = (_pictures(Path(name), *kind) for kind in (
            ((96, 96), "png", 4 * count), ((256, 256), "png", 4 * count), ((500, 375), "jpg", count)))  # fmt: skip
        animals, resnet = heatcli.load(), heatcli.load(_resnet50(name), preset="imagenet")
        for title, model, folder in (("embedded", animals, small), ("embedded", animals, middle),
                                     ("resnet50", resnet, photos)):  # fmt: skip
            for pixels in ("json", "npz", "none"):
                _row(title, model, folder, pixels)


def _pictures(folder: Path, size: tuple[int, int], suffix: str, count: int) -> Path:
    """A folder of so many pictures of that size, named after it."""
    from PIL import Image

    made = folder / f"{size[0]}×{size[1]} {suffix}"
    made.mkdir()
    samples = sorted((ROOT / "samples").glob("*.png"))
    for i in range(count):
        with Image.open(samples[i % len(samples)]) as picture:
            picture.convert("RGB").resize(size).save(made / f"{i:05}.{suffix}")
    return made


def _resnet50(folder: str) -> str:
    import torch
    import torchvision

    torch.manual_seed(0)
    torch.jit.script(torchvision.models.resnet50().eval()).save(f"{folder}/resnet50.pt")
    return f"{folder}/resnet50.pt"


def _row(title: str, model: Any, folder: Path, pixels: str) -> None:
    from PIL import Image

    import heatcli
    from heatcli.methods.table import method
    from heatcli.run import Request, Run

    files = sorted(folder.iterdir())
    batch = model.preprocess([Image.open(path) for path in files[:BATCH]])
    heatcli.explain(model, batch)

    def alone() -> None:
        for _ in range(len(files) // BATCH):
            heatcli.explain(model, batch)

    def whole() -> None:
        assert sum(1 for _ in Run(model, Request((folder,), out, method("lrp-eps"), pixels=pixels))) == len(files)

    engine, folders, stored = [], [], 0
    for _ in range(REPEATS if title == "embedded" else 1):
        engine.append(_timed(alone, len(files)))
        with tempfile.TemporaryDirectory(dir=folder.parent) as out:
            folders.append(_timed(whole, len(files)))
            stored = sum(path.stat().st_size for path in Path(out).iterdir())
    ratio = statistics.median(b[0] / a[0] for a, b in zip(engine, folders, strict=True))
    rates = [f"{statistics.median(column):.3g}" for timed in (engine, folders) for column in zip(*timed, strict=True)]
    print(f"| {title} | {folder.name} | {pixels} | {' | '.join(rates)} | {ratio:.2f} "
          f"| {stored / len(files) / 1000:.0f} |", flush=True)  # fmt: skip


def _timed(work: Callable[[], object], images: int) -> tuple[float, float]:
    """Images a second, and core-milliseconds an image."""
    started, used = time.perf_counter(), time.process_time()
    work()
    return images / (time.perf_counter() - started), 1000 * (time.process_time() - used) / images


def shards(count: int = 1600) -> None:
    """Two processes with a shard and one thread each, into one folder, as `--shard` and `--workers 1` start them."""
    import multiprocessing

    spawn = multiprocessing.get_context("spawn")
    print("| pictures | --pixels | two shards, images/s |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        for size in (96, 256):
            folder = _pictures(Path(name), (size, size), "png", count)
            for pixels in ("json", "none"):
                ready, out = spawn.Barrier(3), tempfile.mkdtemp(dir=name)
                processes = [spawn.Process(target=_shard, args=(folder, out, k, pixels, ready)) for k in (1, 2)]
                for process in processes:
                    process.start()
                ready.wait()
                started = time.perf_counter()
                ready.wait()
                print(f"| {folder.name} | {pixels} | {count / (time.perf_counter() - started):.3g} |", flush=True)
                for process in processes:
                    process.join()


def _shard(folder: Path, out: str, k: int, pixels: str, ready: Any) -> None:
    import torch

    import heatcli
    from heatcli.methods.table import method
    from heatcli.run import Request, Run

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    model = heatcli.load()
    request = Request((folder,), out, method("lrp-eps"), pixels=pixels, shard=(k, 2), workers=1)
    heatcli.explain(model, torch.zeros(BATCH, *model.shape))  # what a run does once
    run = Run(model, request)
    ready.wait()
    for _ in run:
        pass
    ready.wait()


def stages() -> None:
    """What one image costs, best of several, each on one thread; the network on all of them, too."""
    import torch

    import heatcli
    from heatcli.methods.table import method
    from heatcli.run import Job, Request
    from heatcli.run.work import explain_all, read_job, write_ready

    warnings.simplefilter("ignore")
    most, numbers = torch.get_num_threads(), itertools.count()
    print(f"| network | pictures | network, ms on 1 thread | on {most} | reading, ms | writing json, npz, none, ms |")
    print("|---" * 6 + "|")
    with tempfile.TemporaryDirectory() as name:
        resnet = heatcli.load(_resnet50(name), preset="imagenet")
        for title, model, size, suffix in (("embedded", heatcli.load(), (96, 96), "png"),
                                           ("embedded", heatcli.load(), (256, 256), "png"),
                                           ("resnet50", resnet, (500, 375), "jpg")):  # fmt: skip
            folder = _pictures(Path(name), size, suffix, 1)
            job = Job(str(folder / f"00000.{suffix}"), name, "one")
            requests = [
                Request((job.path,), name, method("lrp-eps"), pixels=pixels) for pixels in ("json", "npz", "none")
            ]
            loaded = read_job(model, job)

            def network(threads: int, model=model, request=requests[0], loaded=loaded) -> float:  # type: ignore[no-untyped-def]
                torch.set_num_threads(threads)
                return _best(lambda: list(explain_all(model, request, [loaded] * BATCH, True)), 8) / BATCH

            both = network(most)
            one = network(1)
            ready = next(iter(explain_all(model, requests[0], [loaded] * BATCH, True)))

            def fresh(ready=ready, loaded=loaded) -> Any:  # type: ignore[no-untyped-def]
                return replace(ready, loaded=replace(loaded, job=Job(job.path, name, f"{next(numbers)}")))  # noqa: B023

            reading = _best(lambda: read_job(model, job))  # noqa: B023
            writing = [_best(lambda: write_ready(model, r, fresh(), 0.0, None)) for r in requests]  # noqa: B023
            torch.set_num_threads(most)
            print(f"| {title} | {folder.name} | {one:.3g} | {both:.3g} | {reading:.2g} "
                  f"| {', '.join(f'{w:.3g}' for w in writing)} |", flush=True)  # fmt: skip


def _best(work: Callable[[], object], times: int = 30) -> float:
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return 1000 * min(taken)


def memory(few: int = 1_000, many: int = 100_000) -> None:
    """Peak resident memory of `heatcli explain FOLDER --recursive` on a network of two layers, as its number grows."""
    import torch
    from PIL import Image
    from torch import nn

    warnings.simplefilter("ignore")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
        torch.jit.script(net.eval()).save(folder / "tiny.pt")
        for i in range(4):  # a file can have 65,000 names, not more
            Image.effect_noise((8, 8), 80).convert("RGB").save(folder / f"{i}.png")
        print("| images | seconds | peak memory, MB |\n|---|---|---|")
        for count in (few, many):
            inputs, out = folder / f"in{count}", folder / f"out{count}"
            for i in range(count):
                below = inputs / f"{i // 1000:04}"
                below.mkdir(parents=True, exist_ok=True)
                os.link(folder / f"{i % 4}.png", below / f"{i:07}.png")
            command = [sys.executable, "-m", "heatcli", "explain", inputs, "--recursive", "--out", out, "--quiet",
                       "--model", folder / "tiny.pt", "--size", "8", "--preset", "none", "--pixels", "none",
                       "--batch-size", "64"]  # fmt: skip
            started = time.perf_counter()
            process = subprocess.Popen(list(map(str, command)))
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise SystemExit(f"failed: {status}")
            lines = sum(1 for _ in (out / "index.jsonl").open())
            if lines != count:
                raise SystemExit(f"{lines} lines for {count} images")
            print(f"| {count:,} | {time.perf_counter() - started:.0f} | {usage.ru_maxrss / 1024:.0f} |", flush=True)


if __name__ == "__main__":
    {"speed": speed, "shards": shards, "stages": stages, "memory": memory}[sys.argv[1]](*map(int, sys.argv[2:]))
