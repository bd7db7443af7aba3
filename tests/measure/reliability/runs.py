"""Runs and what they write: killed, starved of disk, memory and descriptors, side by side, with damaged files."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from folders import fill, rows
from forked import forked
from mutations import mutated
from PIL import Image
from trial import FAULT, REFUSED, RIGHT, Class, Ran, Trial, command

IMAGES = 500
NET = ["--model", "tiny.pt"]


def place() -> Path:
    """A folder with a tiny network, 500 pictures and 12 of them in another, made once a process."""
    if not _MADE:
        import torch
        from torch import nn

        folder = Path(tempfile.mkdtemp(prefix="heatcli-runs-"))
        os.environ["HEATCLI_CACHE"] = str(folder / "cache")
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
        torch.jit.script(net.eval()).save(folder / "tiny.pt")
        (folder / "tiny.toml").write_text("[input]\nsize = [8, 8]\nchannels = 3\nmean = [0.5]\nstd = [0.25]\n")
        fill(folder / "in", [f"{i:03}.png" for i in range(IMAGES)])
        fill(folder / "few", [f"{i:03}.png" for i in range(12)])
        _MADE.append(folder)
    return _MADE[0]


_MADE: list[Path] = []


def fresh(name: str = "out") -> Path:
    """An output folder that is not there."""
    out = place() / name
    shutil.rmtree(out, ignore_errors=True)
    return out


def judged(what: str, problem: str, refused: bool = False) -> Trial:
    """A trial by its problem, if it has one."""
    return Trial(what, FAULT if problem else REFUSED if refused else RIGHT, problem)


def report(path: Path) -> Any:
    """A report but for its times, and for the folders of picture and model, which one in a store does not name."""
    found = json.loads(path.read_bytes())
    del found["seconds"]
    for part in ("image", "model"):
        found[part]["path"] = Path(found[part]["path"]).name
    return found


def wrong(out: Path, images: int, sound: Path | None = None, exact: bool = True) -> str:
    """What is wrong in a folder after a run: lost, doubled, half-written, or not as in the folder `sound`.

    Not `exact`: where batches were others, maps may differ by rounding, which batches of other sizes have.
    """
    lines = (out / "index.jsonl").read_bytes()
    if lines and not lines.endswith(b"\n"):
        return "a torn line"
    found = rows(out)
    names = [row["image"] for row in found]
    if len(set(names)) != len(names) or len(names) != images:
        return f"{len(names)} lines, {len(set(names))} images, of {images}"
    if failed := [row["error"] for row in found if row["error"]]:
        return f"{len(failed)} failed: {failed[0]}"
    named = {file["name"]: file["bytes"] for row in found for file in row["files"].values()}
    if torn := [name for name, size in named.items() if (out / name).stat().st_size != size]:
        return f"{torn[0]} is not whole"
    there = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    if more := there - set(named) - {"index.jsonl", "run.json"}:
        return f"left behind: {sorted(more)[:3]}"
    for name in named if sound is not None else ():
        assert sound is not None
        if problem := _differs(out / name, sound / name, exact):
            return problem
    return ""


def _differs(one: Path, other: Path, exact: bool) -> str:
    if one.suffix == ".png":
        if exact:
            same = one.read_bytes() == other.read_bytes()
        else:
            a, b = (np.asarray(Image.open(path).convert("RGB")).astype(int) for path in (one, other))
            same = bool(np.abs(a - b).max() <= 2)
    else:
        a, b = report(one), report(other)
        same = (
            a == b if exact else bool(np.allclose(a["pixels"]["values"], b["pixels"]["values"], rtol=1e-4, atol=1e-6))
        )
    return "" if same else f"{one.name} is not that of an undisturbed run"


def kill(pid: int) -> None:
    """Kill -9, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def killed_main(seed: int, count: int) -> Iterator[Trial]:
    """A run of 500 images is killed at a random moment, once or twice, and continued."""
    rng = random.Random(seed)
    for size in (1, 8):
        arguments = ["explain", "in", *NET, "--batch-size", str(size)]
        sound = fresh(f"sound{size}")
        began = time.monotonic()
        ran = forked(*arguments, "--out", sound, folder=place())
        took = time.monotonic() - began
        assert ran.status == 0, ran.err
        for number in range((count or 50) // 2):
            out, moments = fresh(), []
            for _ in range(1 + number % 2):
                moment = rng.uniform(0.0, took * 1.1)
                moments.append(f"{moment:.3f} s")
                forked(*arguments, "--out", out, "--resume", folder=place(),
                       during=lambda pid, moment=moment: (time.sleep(moment), kill(pid)))  # fmt: skip
            ran = forked(*arguments, "--out", out, "--resume", folder=place())
            problem = ran.problem([0]) or wrong(out, IMAGES, sound, exact=size == 1)
            yield judged(f"batches of {size}, killed at {', '.join(moments)}", problem)


def killed_workers(seed: int, count: int) -> Iterator[Trial]:
    """Worker processes, or the main process while they work, are killed at a random moment; then `--resume`."""
    rng = random.Random(seed)
    slow = ["explain", "in", *NET, "--batch-size", "4", "--smooth", "10:0.1", "--workers", "2"]
    sound = fresh("sound-slow")
    assert forked(*slow, "--out", sound, folder=place()).status == 0

    def at_once() -> None:
        """Worker processes start after the first batch, and are waited for."""
        from heatcli.run.work import pipeline, processes

        class Waited(processes.Processes):
            def _start(self) -> None:
                super()._start()
                for child in self._children:
                    child.pipe.poll(60)
                Path("started").touch()

        processes.WATCHED = processes.FAST = processes.LONG = 0.0
        pipeline.Processes = Waited  # type: ignore[misc]

    for number in range(count or 20):
        out, started = fresh(), place() / "started"
        started.unlink(missing_ok=True)
        main, moment = bool(number % 2), rng.uniform(0.0, 1.5)

        def disturb(pid: int, started: Path = started, main: bool = main, moment: float = moment) -> None:
            end = time.monotonic() + 60
            while not started.exists() and time.monotonic() < end:
                time.sleep(0.01)
            time.sleep(moment)
            kill(pid if main else rng.choice(workers(pid) or [pid]))

        ran = forked(*slow, "--out", out, folder=place(), before=at_once, during=disturb)
        problem = "" if main or ran.status in (0, -signal.SIGKILL) else f"status {ran.status}: {ran.err[-200:]}"
        ran = forked(*slow, "--out", out, "--resume", folder=place())
        problem = problem or ran.problem([0]) or wrong(out, IMAGES, sound, exact=False)
        yield judged(f"{'main' if main else 'a worker'} killed {moment:.2f} s after the workers' start", problem)


def workers(pid: int) -> list[int]:
    """The worker processes of a process."""
    children = [int(p) for task in Path(f"/proc/{pid}/task").glob("*/children") for p in task.read_text().split()]
    return [p for p in children if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]


def killed_ray(seed: int, count: int) -> Iterator[Trial]:
    """The same on a Ray that is started for each run: the driver, or an actor."""
    rng = random.Random(seed)
    arguments = ["explain", "in", *NET, "--batch-size", "2", "--engine", "ray"]
    for number in range(count or 6):
        out, main = fresh(), bool(number % 2)
        process = subprocess.Popen(
            [sys.executable, "-m", "heatcli", *arguments, "--out", str(out)], cwd=place(), start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        lines = rng.randrange(1, IMAGES - 50)
        while process.poll() is None and not _has(out, lines):
            time.sleep(0.02)
        actors = [p for p in _below(process.pid) if b"MapWorker" in Path(f"/proc/{p}/cmdline").read_bytes()]
        kill(process.pid if main or not actors else actors[0])
        _, said = process.communicate(timeout=200)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the Ray that it had started
        problem = "" if main or process.returncode == 0 else f"status {process.returncode}: {said[-200:]}"
        ran = command(*arguments, "--out", out, "--resume", folder=place(), seconds=200)
        yield judged(f"{'driver' if main else 'actor'} killed after {lines} lines",
                     problem or ran.problem([0]) or wrong(out, IMAGES))  # fmt: skip


def _has(out: Path, lines: int) -> bool:
    index = out / "index.jsonl"
    return index.exists() and index.read_bytes().count(b"\n") >= lines


def _below(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                yield child
                yield from _below(child)


@contextlib.contextmanager
def small_disk(kilobytes: int) -> Iterator[Path | None]:
    """A file system of so many kilobytes; None where it may not be mounted."""
    folder = Path(tempfile.mkdtemp(prefix="heatcli-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(folder)]
    mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)
        folder.rmdir()


def file_limit(size: int) -> Callable[[], None]:
    """Files of at most so many bytes, with an error rather than a signal."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def disk_full(seed: int, count: int) -> Iterator[Trial]:
    """A disk that is full after some images, and files that may grow no longer; then `--resume` with more room."""
    rng = random.Random(seed)
    for number in range(count or 20):
        kilobytes = rng.randrange(12, 1500)
        index = ["--index", "parquet"] if number % 4 == 3 else []
        with small_disk(kilobytes) as disk:
            if disk is not None:
                out, what = disk / "out", f"a disk of {kilobytes} kB"
                ran = forked("explain", "in", *NET, "--out", out, *index, folder=place())
                problem = ran.problem([2], str(disk))
                subprocess.run(["mount", "-o", "remount,size=40m", str(disk)], check=True)
                ran = forked("explain", "in", *NET, "--out", out, "--resume", folder=place())
                yield judged(what, problem or ran.problem([0]) or wrong(out, IMAGES), refused=True)
        out, size = fresh(), rng.randrange(1, 40_000)
        ran = forked("explain", "in", *NET, "--out", out, *index, folder=place(), before=file_limit(size))
        problem = ran.problem([2], str(out))
        ran = forked("explain", "in", *NET, "--out", out, "--resume", folder=place())
        yield judged(f"files of {size} bytes", problem or ran.problem([0]) or wrong(out, IMAGES), refused=True)


def folder_gone(seed: int, count: int) -> Iterator[Trial]:
    """The output folder is removed, or moved, in the middle of a run; then the run is started again."""
    rng = random.Random(seed)
    for number in range(count or 20):
        out, lines, moved = fresh(), rng.randrange(1, 200), bool(number % 2)
        shutil.rmtree(place() / "moved", ignore_errors=True)

        def disturb(_: int, out: Path = out, lines: int = lines, moved: bool = moved) -> None:
            end = time.monotonic() + 20
            while not _has(out, lines) and time.monotonic() < end:
                time.sleep(0.001)
            if moved:
                out.rename(place() / "moved")
            else:
                shutil.rmtree(out, ignore_errors=True)

        ran = forked("explain", "in", *NET, "--out", out, folder=place(), during=disturb)
        problem = ran.problem([2], str(out))
        if moved:
            shutil.rmtree(out, ignore_errors=True)
            (place() / "moved").rename(out)
        ran = forked("explain", "in", *NET, "--out", out, "--resume", folder=place())
        yield judged(f"{'moved' if moved else 'removed'} after {lines} lines",
                     problem or ran.problem([0]) or wrong(out, IMAGES), refused=True)  # fmt: skip


def few_descriptors(seed: int, count: int) -> Iterator[Trial]:
    """From 4 open files on: done, or one line; and then `--resume` without the limit."""
    for number in range(4, 4 + (count or 28)):
        out = fresh()

        def limit(number: int = number) -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (number, number))

        ran = forked("explain", "in", *NET, "--out", out, folder=place(), before=limit)
        problem = ran.problem([0, 1, 2, 3])
        if ran.status == 1 and all(line.startswith(("heatcli: in/", "500 images in")) for line in ran.lines):
            problem = ""  # a line for each picture that could not be opened
        again = forked("explain", "in", *NET, "--out", out, "--resume", folder=place())
        yield judged(f"{number} files", problem or again.problem([0]) or wrong(out, IMAGES), refused=bool(ran.status))


def out_of_memory(seed: int, count: int) -> Iterator[Trial]:
    """An address space that some batches do not fit into: the batch is halved, told, and every image explained."""
    import torch
    from torch import nn

    folder = place()
    if not (folder / "wide.pt").exists():
        net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                            nn.Flatten(), nn.Linear(64, 3))  # fmt: skip
        torch.jit.script(net.eval()).save(folder / "wide.pt")
    arguments = ["explain", "in", "--glob", "0[0-3]*.png", "--model", "wide.pt", "--size", "128", "--preset", "none",
                 "--workers", "1", "--pixels", "none"]  # fmt: skip
    sound = fresh("sound-wide")
    ran = forked(*arguments, "--batch-size", "1", "--out", sound, folder=folder)
    assert ran.status == 0, ran.err
    for number in range(count or 8):
        out, megabytes = fresh(), 250 + 150 * number

        def limit(megabytes: int = megabytes) -> None:
            in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            most = in_use + (megabytes << 20)
            resource.setrlimit(resource.RLIMIT_AS, (most, most))

        ran = forked(*arguments, "--batch-size", "40", "--out", out, folder=folder, before=limit)
        halved = "memory is too small for" in ran.err
        refused = ran.status == 3
        problem = ran.problem([0, 3], "memory")
        if not problem and not refused:
            problem = wrong(out, 40) or (
                "" if halved or "takes" not in ran.err else "the batch was cut for no reason told"
            )
        yield judged(f"{megabytes} MB more: {'halved' if halved else 'whole batches'}", problem, refused)


def side_by_side(seed: int, count: int) -> Iterator[Trial]:
    """Two whole runs and four shards at once into one folder; a third time one of them is killed, then `--resume`."""
    sound = fresh("sound1")
    assert forked("explain", "in", *NET, "--batch-size", "1", "--out", sound, folder=place()).status == 0
    for number in range(count or 10):
        out = fresh()
        parts: list[list[str]] = [[], [], *(["--shard", f"{k}/4"] for k in range(1, 5))]

        def run(part: list[str], out: Path = out, number: int = number) -> Ran:
            disturbed = number % 2 and part == ["--shard", "2/4"]
            return command("explain", "in", *NET, "--batch-size", "1", "--out", out, *part, folder=place(), seconds=120,
                           kill_after=20.0 + number if disturbed else None)  # fmt: skip

        with ThreadPoolExecutor(len(parts)) as pool:
            ran = list(pool.map(run, parts))
        problem = next((p for r in ran if r.status != -signal.SIGKILL and (p := r.problem([0]))), "")
        if number % 2:
            again = forked("explain", "in", *NET, "--batch-size", "1", "--out", out, "--resume", folder=place())
            problem = problem or again.problem([0])
        yield judged(f"two runs, four shards{', one killed' if number % 2 else ''}",
                     problem or wrong(out, IMAGES, sound))  # fmt: skip


STREAMS = {
    "stdout full": "{} > /dev/full", "stderr full": "{} 2> /dev/full", "both full": "{} > /dev/full 2>&1",
    "stdout closed": "{} >&-", "stderr closed": "{} 2>&-", "all closed": "{} <&- >&- 2>&-",
    "stdout a pipe that ends": "{} | head -c 100 > /dev/null; exit ${{PIPESTATUS[0]}}",
    "stderr a pipe that ends": "{} 2> >(head -c 1 > /dev/null)",
    "ASCII": "PYTHONIOENCODING=ascii LC_ALL=C {}", "locale C": "LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 {}",
}  # fmt: skip


def streams(seed: int, count: int) -> Iterator[Trial]:
    """Standard streams that take nothing: all results on disk, no internal error, a lost stdout told by the status."""
    folder = place()
    (folder / "ü").mkdir(exist_ok=True)
    for i in range(3):
        shutil.copy(folder / "few" / f"00{i}.png", folder / "ü" / f"é{i}.png")
    commands = {
        "explain --json": ["explain", "ü", *NET, "--json", "--out", "OUT"],
        "explain": ["explain", "ü", *NET, "--out", "OUT"],
        "inspect": ["inspect", "tiny.pt"], "methods": ["methods", "--json"],
        "compare": ["compare", "lrp-eps", "gradient", "ü", *NET],
        "check --json": ["check", "tiny.pt", "ü", "--methods", "gradient", "--json"],
        "evaluate": ["evaluate", "tiny.pt", "ü", "--methods", "gradient", "--metric", "complexity", "--out", "OUT"],
    }  # fmt: skip
    cases = [(name, what) for name in commands for what in STREAMS]
    random.Random(seed).shuffle(cases)
    for name, what in cases[: count or None]:
        arguments, shell = commands[name], STREAMS[what]
        out = fresh()
        line = " ".join([sys.executable, "-m", "heatcli", *(str(out) if a == "OUT" else a for a in arguments)])
        done = subprocess.run(["bash", "-c", shell.format(line)], cwd=folder, capture_output=True, text=True,
                              errors="replace", timeout=120, check=False)  # fmt: skip
        loses = name != "explain" and any(w in what for w in ("stdout", "both", "all"))
        wanted = [0] if not loses else [1, 141]
        if name == "check --json" and not loses:
            wanted = [0, 1]  # a random network need not pass
        if what == "locale C":
            wanted = [0, 1]  # names that are no ASCII fail there, with a line each
        if "pipe" in what:
            wanted = [0, 1, 141]  # all of it may fit before the pipe ends
        problem = "" if done.returncode in wanted else f"status {done.returncode}: {done.stderr[-200:]}"
        if "internal error" in done.stderr or "Traceback" in done.stderr:
            problem = done.stderr[-300:]
        if name.startswith("explain") and what != "locale C":
            problem = problem or wrong(out, 3)
        if name == "explain --json" and what == "ASCII" and not problem:
            problem = "" if [json.loads(x) for x in done.stdout.splitlines()] else "no JSON"
        yield judged(f"{name}, {what}", problem)


def damaged(seed: int, count: int) -> Iterator[Trial]:
    """Index, record, reports, overlays, damaged at random; `--resume` ends whole, or says in one line what to do."""
    rng = random.Random(seed)
    sound = fresh("sound-few")
    arguments = ["explain", "few", *NET, "--batch-size", "1"]
    assert forked(*arguments, "--out", sound, folder=place()).status == 0
    kinds = ["index.jsonl", "run.json", "000.lrp-eps.json", "005.lrp-eps.png"]
    for number in range(count or 120):
        out, name = fresh(), kinds[number % len(kinds)]
        shutil.copytree(sound, out)
        before = (out / name).read_bytes()
        content = bytes(len(before)) if number < 4 else mutated(rng, before)
        (out / name).write_bytes(content)
        given = place() / "few" if number % 3 else Path("few")
        ran = forked("explain", given, *arguments[2:], "--out", out, "--resume", folder=place())
        refused = ran.status == 2
        problem = ran.problem([0, 2] if name in ("run.json", "index.jsonl") else [0], str(out))
        if not refused and not problem and ran.status == 0:
            problem = wrong(out, 12) or next(
                (p for f in sound.glob("*.*g") if (p := _differs(out / f.name, f, True))), ""
            )
        yield judged(f"{name}: {content[:40]!r}", problem, refused)


def fuzzed(seed: int, count: int) -> Iterator[Trial]:
    """The readers of index and record, in this process: rows, or a `UsageError` of one line that names the file."""
    from heatcli.errors import UsageError
    from heatcli.run.index.index import images
    from heatcli.run.index.record import read_record

    rng = random.Random(seed)
    sound = fresh("sound-few")
    assert forked("explain", "few", *NET, "--target", "top:2", "--out", sound, folder=place()).status == 0
    contents = {name: (sound / name).read_bytes() for name in ("index.jsonl", "run.json")}
    for number in range(count or 20_000):
        name = "run.json" if number % 4 == 0 else "index.jsonl"
        path = place() / name
        content = mutated(rng, contents[name])
        path.write_bytes(content)
        refused, problem = False, ""
        try:
            if name == "run.json":
                read_record(path)
            else:
                for found in images(path, []):
                    assert found[-1][0].last
        except UsageError as error:
            refused = True
            problem = "" if str(path) in str(error) and "\n" not in str(error) else repr(error)
        except Exception as error:
            problem = repr(error)
        yield judged(f"{name} {number}" if not problem else repr(content[:200]), problem, refused)


def cache(seed: int, count: int) -> Iterator[Trial]:
    """The graph cache: damaged, of no use, shared by six processes at once."""
    rng = random.Random(seed)
    sound = fresh("sound-few")
    arguments = ["explain", "few", *NET, "--batch-size", "1"]
    assert forked(*arguments, "--out", sound, folder=place()).status == 0
    kept = place() / "cache"

    def same(out: Path) -> str:
        return wrong(out, 12, sound)

    for number in range(count or 60):
        out = fresh()
        for path in kept.iterdir():
            if rng.random() < 0.6:
                path.write_bytes(mutated(rng, path.read_bytes() or b"{:}"))
        ran = forked(*arguments, "--out", out, folder=place())
        yield judged(f"damaged {number}", ran.problem([0]) or same(out))
    for what, make in {
        "a file": lambda p: p.write_text("x"), "read-only": lambda p: p.symlink_to("/proc"),
        "full": lambda p: p.symlink_to("/dev/full"), "folders of those names": lambda p: [
            (p / q).mkdir(parents=True) for q in [path.name for path in kept.iterdir()]],
    }.items():  # fmt: skip
        other, out = place() / "other-cache", fresh()
        shutil.rmtree(other, ignore_errors=True)
        other.unlink(missing_ok=True)
        make(other)
        ran = forked(*arguments, "--out", out, folder=place(), before=lambda p=other: _set("HEATCLI_CACHE", str(p)))
        yield judged(what, ran.problem([0]) or same(out))
    shutil.rmtree(place() / "other-cache", ignore_errors=True)
    (place() / "other-cache").unlink(missing_ok=True)
    for _ in range(3):
        shutil.rmtree(kept)
        outs = [fresh(f"shared{i}") for i in range(6)]
        with ThreadPoolExecutor(len(outs)) as pool:
            at_once = [pool.submit(command, *arguments, "--out", o, folder=place(), seconds=120) for o in outs]
        problems = [future.result().problem([0]) for future in at_once] + [same(o) for o in outs]
        yield judged("six at once, empty cache", next(filter(None, problems), ""))


def _set(name: str, value: str) -> None:
    os.environ[name] = value


def object_stores(seed: int, count: int) -> Iterator[Trial]:
    """Outputs to a store that fails now and then, always, or from some call on; then `--resume` with one that works."""
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    rng = random.Random(seed)

    class Flaky(LocalFileSystem):  # type: ignore[misc]
        """Files here, behind calls that fail."""

        protocol = "flaky"
        rate, after, draws, cachable = 0.0, -1, random.Random(0), False

        def _fails(self) -> None:
            Flaky.after -= 1
            if Flaky.after == 0 or (Flaky.after < 0 and Flaky.rate == 1.0) or self.draws.random() < Flaky.rate % 1.0:
                raise rng.choice([ConnectionError("the store hung up"), TimeoutError(), RuntimeError("503 Slow Down")])

        def pipe_file(self, path: str, value: bytes, **more: Any) -> None:
            self._fails()
            super().pipe_file(path, value, **more)

        def cat_file(self, path: str, *more: Any, **named: Any) -> bytes:
            self._fails()
            return bytes(super().cat_file(path, *more, **named))

        def size(self, path: str) -> int:
            self._fails()
            return int(super().size(path))

    fsspec.register_implementation("flaky", Flaky, clobber=True)
    sound = fresh("sound-few")
    arguments = ["explain", "few", *NET, "--batch-size", "1"]
    assert forked(*arguments, "--out", sound, folder=place()).status == 0

    def failing(rate: float, after: int, number: int) -> None:
        from heatcli.run.index import remote
        from heatcli.system import files

        Flaky.rate, Flaky.after, Flaky.draws = rate, after, random.Random(number)
        files.PAUSE, remote.EVERY = 0.002, 0.0

    for number in range(count or 40):
        out = fresh()
        rate, after = [(0.1, -1), (0.4, -1), (1.0, rng.randrange(1, 60)), (0.02, -1)][number % 4]
        url = f"flaky://{out}"
        ran = forked(
            *arguments, "--out", url, folder=place(), before=lambda r=rate, a=after, n=number: failing(r, a, n)
        )
        problem = ran.problem([0, 1, 2], "flaky://")
        again = forked(*arguments, "--out", url, "--resume", folder=place(), before=lambda: failing(0.0, -1, 0))
        problem = problem or again.problem([0])
        if not problem:
            for part in out.glob("index.part-*"):
                part.unlink()
            problem = wrong(out, 12, sound)
        yield judged(
            f"fails {f'from call {after} on' if rate == 1.0 else f'{rate:.0%} of calls'}", problem, ran.status != 0
        )


def bad_places(seed: int, count: int) -> Iterator[Trial]:
    """Every command that writes, into places that take nothing: one line, status 2, nothing half-written."""
    folder = place()
    good = fresh("good")
    assert forked("explain", "few", *NET, "--out", good, folder=folder).status == 0
    fill(folder / "many", [f"{i:02}.png" for i in range(24)])
    one = "few/000.png"
    quick = ["--methods", "gradient"]
    commands: dict[str, Callable[[str], list[str]]] = {
        "explain an image": lambda o: ["explain", one, *NET, "--out", o],
        "explain a folder": lambda o: ["explain", "few", *NET, "--out", o],
        "explain, Parquet": lambda o: ["explain", "few", *NET, "--out", o, "--index", "parquet"],
        "explain, arrays": lambda o: ["explain", "few", *NET, "--out", o, "--pixels", "npz"],
        "activations": lambda o: ["activations", one, *NET, "--out", o],
        "activations --top-images": lambda o: ["activations", "few", *NET, "--layer", "convolution", "--channel", "0",
                                               "--top-images", "2", "--out", o],
        "filters": lambda o: ["filters", "tiny.pt", "--out", o],
        "prototype": lambda o: ["prototype", "tiny.pt", "--target", "0", "--steps", "2", "--out", o],
        "evaluate": lambda o: ["evaluate", "tiny.pt", "few", *quick, "--metric", "complexity", "--out", o],
        "mean": lambda o: ["mean", "few", *NET, "-o", f"{o}/x.npz"],
        "fit-expert": lambda o: ["fit-expert", "many", "-o", f"{o}/x.npz", "--size", "8", "--epochs", "1"],
        "check --junit": lambda o: ["check", "tiny.pt", "few", *quick, "--junit", f"{o}/x.xml"],
        "merge": lambda o: ["merge", "good", "-o", f"{o}/index.jsonl"],
        "merge, Parquet": lambda o: ["merge", "good", "-o", f"{o}/index.jsonl", "--index", "parquet"],
    }  # fmt: skip
    (folder / "a-file").write_text("x")
    with small_disk(24) as disk, small_disk(16) as locked:
        if disk is None or locked is None:
            return
        (disk / "fill").write_bytes(bytes((24 << 10) - (4 << 10)))  # one block is free
        subprocess.run(["mount", "-o", "remount,ro", str(locked)], check=True)
        places = [str(locked), f"{locked}/x", "a-file", "a-file/x", str(disk), "/dev/null", "/proc/x", "x" * 300]
        for name, arguments in commands.items():
            for where in places:
                ran = forked(*arguments(where), folder=folder)
                lines = [line for line in ran.lines if line.startswith("heatcli:")]
                fits = where == str(disk) and ran.status in (0, 1)  # all that it writes, in one block
                problem = (
                    "" if fits or (ran.status == 2 and len(lines) == 1) else f"status {ran.status}: {ran.err[-250:]}"
                )
                if "internal error" in ran.err or "Traceback" in ran.err:
                    problem = ran.err[-300:]
                for path in disk.rglob("*"):
                    if (
                        path.is_file()
                        and path.name != "fill"
                        and (path.name.startswith(".") or not path.stat().st_size)
                    ):
                        problem = problem or f"left {path.name}"
                for path in disk.iterdir():
                    if path.is_dir():
                        shutil.rmtree(path)
                    elif path.name != "fill":
                        path.unlink()
                yield judged(f"{name}: {where[:30]}", problem, not fits)
            shutil.rmtree(folder / "new", ignore_errors=True)
            ran = forked(*arguments("new/deep"), folder=folder)
            said = ran.problem([0, 1] if name.startswith("check") else [0])  # a random network need not pass
            yield judged(f"{name}: a folder that is not there yet", "" if said.startswith("not one line") else said)


CLASSES: dict[str, Class] = {
    "kill -9 of a run of 500 images, then --resume": killed_main,
    "kill -9 of workers, or of a run with workers, then --resume": killed_workers,
    "kill -9 on Ray, then --resume": killed_ray,
    "disk full": disk_full,
    "output folder gone in the middle": folder_gone,
    "few file descriptors": few_descriptors,
    "out of memory at a batch size": out_of_memory,
    "two runs and four shards in one folder": side_by_side,
    "standard streams closed, full, broken, ASCII": streams,
    "damaged index, record, reports, then --resume": damaged,
    "fuzz of index and record": fuzzed,
    "damaged, useless or shared graph cache": cache,
    "object stores that fail": object_stores,
    "output places that take nothing": bad_places,
}
