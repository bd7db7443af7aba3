"""What folders cost: images a second beside the engine alone, bytes an image, peak memory; as Markdown.

python tests/measure_folders.py speed [IMAGES] | stages | memory [FEW MANY]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
BATCH, REPEATS = 8, 3


def speed(count: int = 48) -> None:
    """Paired runs, medians: `explain` on batches that lie ready, and the whole run over a folder of files."""
    import torch
    import torchvision
    from PIL import Image

    import heatcli

    warnings.simplefilter("ignore")  # torch.jit is deprecated

    print(f"{torch.get_num_threads()} threads, {os.cpu_count()} cores, batch {BATCH}, lrp-eps\n")
    print("| network | pictures | --pixels | engine alone, images/s | folder, images/s | ratio | kB an image |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        torch.jit.script(torchvision.models.resnet50().eval()).save(folder / "resnet50.pt")
        samples = sorted((ROOT / "samples").glob("*.png"))
        for kind, size, suffix in (("small", (256, 256), "png"), ("photos", (500, 375), "jpg")):
            (folder / kind).mkdir()
            for i in range(count * 8 if kind == "small" else count):
                with Image.open(samples[i % len(samples)]) as picture:
                    picture.convert("RGB").resize(size).save(folder / kind / f"{i:05}.{suffix}")
        animals, resnet = heatcli.load(), heatcli.load(folder / "resnet50.pt", preset="imagenet")
        for pixels in ("json", "npz", "none"):
            _row("embedded (96×96)", animals, folder / "small", "256×256 PNG", pixels)
        for pixels in ("json", "npz", "none"):
            _row("resnet50 (224×224)", resnet, folder / "photos", "500×375 JPEG", pixels)


def _row(title: str, model: object, folder: Path, pictures: str, pixels: str) -> None:
    from PIL import Image

    import heatcli
    from heatcli.methods.table import method
    from heatcli.run import Request, Run

    files = sorted(folder.iterdir())
    opened = [Image.open(path) for path in files[:BATCH]]
    batch = model.preprocess(opened)  # type: ignore[attr-defined]
    heatcli.explain(model, batch)  # type: ignore[arg-type]
    alone, whole, stored = [], [], 0
    for _ in range(REPEATS if pixels == "json" else 1):
        started = time.perf_counter()
        for _ in range(len(files) // BATCH):
            heatcli.explain(model, batch)  # type: ignore[arg-type]
        alone.append(len(files) / (time.perf_counter() - started))
        with tempfile.TemporaryDirectory(dir=folder.parent) as out:
            request = Request((folder,), Path(out), method("lrp-eps"), pixels=pixels, batch_size=BATCH)
            started = time.perf_counter()
            done = sum(1 for _ in Run(model, request))  # type: ignore[arg-type]
            whole.append(done / (time.perf_counter() - started))
            stored = sum(path.stat().st_size for path in Path(out).iterdir())
    ratio = statistics.median(b / a for a, b in zip(alone, whole, strict=True))
    print(f"| {title} | {pictures} | {pixels} | {statistics.median(alone):.3g} | {statistics.median(whole):.3g} "
          f"| {ratio:.2f} | {stored / len(files) / 1000:.0f} |", flush=True)  # fmt: skip


def stages() -> None:
    """What one image costs, best of several: the network with all threads, reading and writing on one."""
    import torch
    import torchvision
    from PIL import Image

    import heatcli
    from heatcli.methods.table import method
    from heatcli.run import Job, Request
    from heatcli.run.work import explain_all, read_job, write_ready

    warnings.simplefilter("ignore")
    print(
        "| network | network alone, ms | reading, ms | writing json, npz, none, ms | kB json, npz, none |\n"
        + "|---" * 5
        + "|"
    )
    with tempfile.TemporaryDirectory() as name:
        torch.jit.script(torchvision.models.resnet50().eval()).save(f"{name}/resnet50.pt")
        resnet = heatcli.load(f"{name}/resnet50.pt", preset="imagenet")
        for title, model, size, suffix in (("embedded, 256×256 PNG", heatcli.load(), (256, 256), "png"),
                                           ("resnet50, 500×375 JPEG", resnet, (500, 375), "jpg")):  # fmt: skip
            path = f"{name}/one.{suffix}"
            with Image.open(ROOT / "samples" / "wolf-on-snow.png") as picture:
                picture.convert("RGB").resize(size).save(path)
            job = Job(path, name, "one")
            requests = [Request((path,), name, method("lrp-eps"), pixels=pixels) for pixels in ("json", "npz", "none")]
            loaded = read_job(model, job)
            ready = list(explain_all(model, requests[0], [loaded] * BATCH, True))  # type: ignore[list-item]
            network = _best(lambda: list(explain_all(model, requests[0], [loaded] * BATCH, True)), 8) / BATCH  # noqa: B023
            reading = _best(lambda: read_job(model, job))  # noqa: B023
            writing = [_best(lambda: write_ready(model, r, ready[0], 0.0, None)) for r in requests]  # noqa: B023
            done = [write_ready(model, r, ready[0], 0.0, None) for r in requests]  # type: ignore[arg-type]
            kilobytes = [sum(f.bytes for f in one.row.files.values()) / 1000 for one in done]
            print(f"| {title} | {network:.3g} | {reading:.2g} | {', '.join(f'{w:.3g}' for w in writing)} "
                  f"| {', '.join(f'{k:.0f}' for k in kilobytes)} |", flush=True)  # fmt: skip


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
    {"speed": speed, "stages": stages, "memory": memory}[sys.argv[1]](*map(int, sys.argv[2:]))
