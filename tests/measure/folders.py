"""What folders cost: images a second beside the engine alone, bytes an image, peak memory; as Markdown.

python tests/measure/folders.py speed [IMAGES ROUNDS] | large [IMAGES ROUNDS] | stages | bound [ROUNDS]
    | memory [FEW MANY] | default [IMAGES ROUNDS]
"""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from heatcli.system.memory import keep_freed

ROOT = Path(__file__).parents[2]
BATCH = 8


def speed(count: int = 3200, rounds: int = 5) -> None:
    """The embedded network, with worker processes as the command starts them; their start is not counted."""
    import heatcli
    from heatcli.run.work import pipeline, processes

    class Waited(processes.Processes):
        def _start(self) -> None:
            super()._start()
            for child in self._children:
                child.pipe.poll(None)

    processes.WATCHED = processes.LONG = 0.0  # at once, whatever is left
    pipeline.Processes = Waited  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as name:  # nothing is removed before the end: that would slow new files down
        _head()
        model = heatcli.load(cache=True)
        for folder in [_pictures(Path(name), size, "png", count) for size in ((96, 96), (256, 256))]:
            for pixels in ("json", "npz", "none"):
                _row("embedded", model, folder, pixels, 16 * BATCH, rounds)


def large(count: int = 192, rounds: int = 3) -> None:
    """ResNet-50, for which the command starts no processes; the whole run, but for the first batch."""
    import heatcli

    with tempfile.TemporaryDirectory() as name:
        _head()
        model, folder = (
            heatcli.load(_resnet50(name), preset="imagenet"),
            _pictures(Path(name), (500, 375), "jpg", count),
        )
        for pixels in ("json", "npz", "none"):
            _row("resnet50", model, folder, pixels, BATCH, rounds)


def _head() -> None:
    import torch

    warnings.simplefilter("ignore")  # torch.jit is deprecated
    print(f"{torch.get_num_threads()} threads, {os.cpu_count()} cores, batch {BATCH}, lrp-eps; core-ms: CPU time\n")
    print("| network | pictures | --pixels | alone, images/s | core-ms | folder, images/s | core-ms | ratio | kB |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)


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


def _row(title: str, model: Any, folder: Path, pixels: str, first: int, rounds: int) -> None:
    """Runs from image `first` on; before and after each, `explain` on a batch that lies ready, with all threads.

    Medians; of the ratios, too.
    """
    from PIL import Image

    import heatcli
    from heatcli.methods.table import method
    from heatcli.run import Request, Run

    files = sorted(folder.iterdir())
    batch = model.preprocess([Image.open(path) for path in files[:BATCH]])
    heatcli.explain(model, batch)

    def alone() -> tuple[float, float]:
        at, used = time.perf_counter(), _used()
        for _ in range(len(files) // 2 // BATCH):
            heatcli.explain(model, batch)
        images = len(files) // 2 // BATCH * BATCH
        return images / (time.perf_counter() - at), 1000 * (_used() - used) / images

    def whole(out: str) -> tuple[float, float]:
        last = len(files) - 2 * BATCH  # the last batches have no other beside them
        request = Request((folder,), out, method("lrp-eps"), pixels=pixels, processes=True)
        marks = [(time.perf_counter(), _used()) for i, _ in enumerate(Run(model, request)) if i in (first, last)]
        (start, used), (end, later) = marks
        return (last - first) / (end - start), 1000 * (later - used) / (last - first)

    found = []
    for _ in range(rounds):
        out = tempfile.mkdtemp(dir=folder.parent)
        before, run, after = alone(), whole(out), alone()
        engine = [statistics.mean(pair) for pair in zip(before, after, strict=True)]
        found.append((*engine, *run, run[0] / engine[0]))
    stored = sum(path.stat().st_size for path in Path(out).iterdir()) / len(files) / 1000
    *rates, ratio = map(statistics.median, zip(*found, strict=True))
    shown = " | ".join(f"{rate:.3g}" for rate in rates)
    print(f"| {title} | {folder.name} | {pixels} | {shown} | {ratio:.2f} | {stored:.0f} |", flush=True)


def default(count: int = 160, rounds: int = 5) -> None:
    """What the default costs, `lrp-eps` against a blurred picture, beside `lrp-eps` alone: whole commands, in turns.

    CPU time and the time that passes of the command over a folder, less that of the command over one batch.
    """
    with tempfile.TemporaryDirectory() as name:
        print("| network | pictures | `lrp-eps`: core-ms an image | the default: core-ms | ratio | images/s: ratio |")
        print("|---|---|---|---|---|---|", flush=True)
        networks = {
            "embedded": ([], (96, 96), "png", 10 * count),
            "resnet50": (["--model", _resnet50(name), "--preset", "imagenet"], (500, 375), "jpg", count),
        }
        for title, (model, size, suffix, images) in networks.items():
            folder = _pictures(Path(name), size, suffix, images)
            few = Path(name, f"few {title}")
            few.mkdir()
            for path in sorted(folder.iterdir())[:BATCH]:
                (few / path.name).symlink_to(path)

            def cost(given: Path, *method: str, model: list[str] = model) -> tuple[float, float]:
                """Seconds, and CPU seconds, of one command."""
                out = tempfile.mkdtemp(dir=name)
                command = [sys.executable, "-m", "heatcli", "explain", str(given), *model, *method, "--out", out]
                started, before = time.perf_counter(), os.times()
                subprocess.run(command, check=True, capture_output=True)
                after = os.times()
                used = after.children_user + after.children_system - before.children_user - before.children_system
                return time.perf_counter() - started, used

            found = []
            for _ in range(rounds):
                ways = [[b - a for a, b in zip(cost(few, *way), cost(folder, *way), strict=True)]
                        for way in (("--method", "lrp-eps"), ())]  # fmt: skip
                (wall, cpu), (wall_default, cpu_default) = ways
                each = 1000 / (images - BATCH)
                found.append((cpu * each, cpu_default * each, cpu_default / cpu, wall / wall_default))
            shown = " | ".join(f"{statistics.median(column):.3g}" for column in zip(*found, strict=True))
            print(f"| {title} | {folder.name} | {shown} |", flush=True)


def _tree(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    with contextlib.suppress(OSError):  # it has ended
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in map(int, task.read_text().split()):
                yield from _tree(child)


def _used() -> float:
    """CPU seconds of this process and all below it."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in _tree(os.getpid())]
    return sum(int(f[11]) + int(f[12]) for f in fields) / os.sysconf("SC_CLK_TCK")


def stages() -> None:
    """What one image costs, best of several, each on one thread; the network on all of them, too."""
    import torch

    import heatcli
    from heatcli.methods.table import method
    from heatcli.run import Job, Request
    from heatcli.run.work.stages import explain_all, read_job, write_ready

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


def bound(rounds: int = 10) -> None:
    """What two processes make of two cores that only explain, a thread each, beside one with both threads."""
    import torch

    warnings.simplefilter("ignore")
    spawn = get_context("spawn")
    go, done = spawn.Queue(), spawn.Queue()
    other = spawn.Process(target=_other, args=(go, done), daemon=True)
    other.start()
    done.get()
    work, ratios = _batches(), []
    for _ in range(rounds):
        torch.set_num_threads(2)
        alone = work()
        torch.set_num_threads(1)
        go.put(True)
        ratios.append((work() + done.get()) / alone)
    print(f"two processes, a thread each: {statistics.median(ratios):.2f} × one with two threads, images/s")


def _other(go: Any, done: Any) -> None:
    """The second process: explains whenever it is told to."""
    import torch

    warnings.simplefilter("ignore")
    keep_freed()
    torch.set_num_threads(1)
    work = _batches()
    done.put(True)
    while go.get():
        done.put(work())


def _batches() -> Callable[[], float]:
    """Explains a batch that lies ready for a second and a half: images a second."""
    from PIL import Image

    import heatcli

    model = heatcli.load()
    with Image.open(next((ROOT / "samples").glob("*.png"))) as picture:
        batch = model.preprocess([picture] * BATCH)

    def work() -> float:
        heatcli.explain(model, batch)  # with as many threads as there are now
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < 1.5:
            heatcli.explain(model, batch)
            count += BATCH
        return count / (time.perf_counter() - started)

    return work


def _best(work: Callable[[], object], times: int = 30) -> float:
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return 1000 * min(taken)


def memory(few: int = 1_000, many: int = 100_000) -> None:
    """Peak memory of `heatcli explain FOLDER --recursive` on a network of two layers, as the number of images grows.

    Of the command's own process (resident), and of it and its workers together (their proportional shares, so that what
    they share counts once), looked at five times a second.
    """
    import torch
    from PIL import Image
    from torch import nn

    warnings.simplefilter("ignore")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
        torch.jit.script(net.eval()).save(folder / "tiny.pt")
        files = 4 + (few + many) // 50_000  # a file can have 65,000 names, not more
        for i in range(files):
            Image.effect_noise((8, 8), 80).convert("RGB").save(folder / f"{i}.png")
        print("| images | seconds | processes | first one, MB | together, MB |\n|---|---|---|---|---|")
        for count in (few, many):
            inputs, out = folder / f"in{count}", folder / f"out{count}"
            for i in range(count):
                below = inputs / f"{i // 1000:04}"
                below.mkdir(parents=True, exist_ok=True)
                os.link(folder / f"{i % files}.png", below / f"{i:07}.png")
            command = [sys.executable, "-m", "heatcli", "explain", inputs, "--recursive", "--out", out, "--quiet",
                       "--model", folder / "tiny.pt", "--size", "8", "--preset", "none", "--pixels", "none",
                       "--batch-size", "64"]  # fmt: skip
            started = time.perf_counter()
            process = subprocess.Popen(list(map(str, command)))
            together, most = 0.0, 0
            while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                shares = [share for pid in _tree(process.pid) if (share := _share(pid))]
                together, most = max(together, sum(shares)), max(most, len(shares))
                time.sleep(0.2)
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise SystemExit(f"failed: {status}")
            lines = sum(1 for _ in (out / "index.jsonl").open())
            if lines != count:
                raise SystemExit(f"{lines} lines for {count} images")
            print(f"| {count:,} | {time.perf_counter() - started:.0f} | {most} | {usage.ru_maxrss / 1024:.0f} "
                  f"| {together:.0f} |", flush=True)  # fmt: skip


def _share(pid: int) -> float:
    """MB of a process, what several share divided among them; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


if __name__ == "__main__":
    wanted, *numbers = sys.argv[1:]
    keep_freed()  # as the command does
    commands = {"speed": speed, "large": large, "stages": stages, "bound": bound, "memory": memory,
                "default": default}  # fmt: skip
    commands[wanted](*map(int, numbers))
