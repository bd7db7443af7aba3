"""Models that are bad: attacks, mutants, files that cost much, signals while they are opened, and every command."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import malice
import torch
from bombs import bombs
from forked import forked
from mutants import Files, laid_out, models, mutants
from trial import FAULT, REFUSED, RIGHT, Class, Ran, Trial

import heatcli
from heatcli.errors import HeatcliError

LIMIT = 20.0  # seconds that an artifact may take here
SIGNALS = ("torchscript, while", "torchscript, while with tensors", "onnx, Loop without end")  # without end
COUNT = 500  # mutants of a format


def outcome(path: Path, expected: torch.Tensor | None, seconds: float, sandbox: bool = True) -> tuple[str, str]:
    """What comes of a model that is loaded and explained in this process; `expected`: its only right answer."""
    try:
        model = heatcli.load(path, size=8, channels=3, sandbox=sandbox, max_seconds=seconds, max_memory=2 << 30)
        outputs = heatcli.explain(model, malice.EXAMPLE, "lrp-eps", target=0).outputs
    except HeatcliError as error:
        said = str(error)
        good = "\n" not in said and said.isprintable() and str(path) in said and error.status in (2, 3)
        return (REFUSED, said) if good else (FAULT, f"not one line that names the file: {said[:300]!r}")
    except Exception as error:
        return FAULT, f"{type(error).__name__}: {str(error)[:200]!r}"
    if Path(malice.WRITTEN).exists() or malice.MODULE in sys.modules:
        return FAULT, "ran, wrote or imported"
    if expected is not None and not torch.allclose(outputs, expected, atol=1e-5):
        return FAULT, "another answer"
    return RIGHT, ""


def contained(attempt: Callable[[], tuple[str, str]], seconds: float) -> tuple[str, str]:
    """The outcome of `attempt` in a process of its own, so that a crash or a hang of this script's is a fault."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        signal.alarm(int(seconds) + 1)
        resource.setrlimit(resource.RLIMIT_DATA, (12 << 30, 12 << 30))
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.write(theirs, json.dumps(attempt()).encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if Path(malice.WRITTEN).exists():
        Path(malice.WRITTEN).unlink()
        return FAULT, "wrote a file"
    if not said:
        number = status & 127
        return (
            FAULT,
            f"no end after {seconds:g} s" if number == signal.SIGALRM else f"died: {signal.Signals(number).name}",
        )
    found, why = json.loads(said)
    return found, why


def _ready(folder: Path) -> None:
    """Import all that the first trial would, and go where attacks find what they look for."""
    import onnx
    import onnxruntime  # noqa: F401
    import torch.export.pt2_archive._package  # noqa: F401

    import heatcli.model.model  # noqa: F401

    del onnx
    warnings.simplefilter("ignore")
    malice.in_folder(folder)
    for name, target in (("link", "/etc/passwd"), ("loop", "loop")):
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe")


def tried(
    cases: Iterable[tuple[str, Files]], expected: torch.Tensor | None = None, limit: float = LIMIT
) -> Iterator[Trial]:
    """Every model of `cases`, loaded and explained."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        _ready(Path(name))
        os.chdir(name)
        try:
            for what, files in cases:
                path = laid_out(Path(name), files)
                found, why = contained(lambda path=path: outcome(path, expected, limit), 3 * limit + 15)  # type: ignore[misc]
                yield Trial(what, found, why)
        finally:
            os.chdir(before)


def _attacks(format: str) -> Class:
    def run(seed: int, count: int) -> Iterator[Trial]:
        """All attacks of a format; with `count`, so many drawn."""
        found = [
            a
            for a in malice.attacks(malice.honest())
            if a.kind.endswith(format) or ("loop" in a.kind and format == "torchscript")
        ]
        if count:
            found = random.Random(seed).sample(found, min(count, len(found)))
        answer = malice.Small().eval()(malice.EXAMPLE).detach()
        yield from tried(((f"{a.kind}, {a.name}", {"model": a.content}) for a in found), answer)

    return run


def _mutants(format: str) -> Class:
    def run(seed: int, count: int) -> Iterator[Trial]:
        """Mutants of sound models of a format."""
        yield from tried(mutants(format, models()[format], seed, count or COUNT))

    return run


def _bombs(format: str) -> Class:
    def run(seed: int, count: int) -> Iterator[Trial]:
        """Files that cost much; with `count`, so many drawn."""
        found = [(name, files) for name, files in bombs(malice.honest()) if name.startswith(f"{format},")]
        if count:
            found = random.Random(seed).sample(found, min(count, len(found)))
        yield from tried(found, limit=5.0)

    return run


COMMANDS = {
    "inspect": ["inspect", "MODEL"],
    "explain": ["explain", "PICTURE", "--model", "MODEL"],
    "check": ["check", "MODEL", "PICTURES"],
    "compare": ["compare", "MODEL", "MODEL", "PICTURES"],
    "evaluate": ["evaluate", "MODEL", "PICTURES", "--methods", "gradient"],
    "activations": ["activations", "PICTURES", "--model", "MODEL"],
    "filters": ["filters", "MODEL"],
    "prototype": ["prototype", "MODEL", "--target", "0"],
    "bench": ["bench", "MODEL"],
    "discover": ["discover", "MODEL", "PICTURES", "--out", "OUT"],
    "concepts": ["concepts", "PICTURES", "--model", "MODEL", "--layer", "conv", "--out", "OUT"],
    "joint": ["joint", "PICTURE", "PICTURE", "--model", "MODEL", "--out", "OUT"],
    "export": ["export", "MODEL", "--method", "gradient", "-o", "explained.onnx"],
    "mean": ["mean", "PICTURES", "--model", "MODEL", "-o", "mean.npz"],
}


def _commands(seed: int, count: int) -> Iterator[Trial]:
    """Every command, given models that are cut, changed, hang or cost too much."""
    good = malice.honest()
    by_name = dict(bombs(good))
    bad: dict[str, Files] = {
        "cut": {"model": good["pt2"][:900]}, "nothing": {"model": b""},
        "text": {"model": b"\x08hello \x1b[31mworld"},
        **{name: by_name[name] for name in (*SIGNALS, "torchscript, zeros", "onnx, Tile")},
    }  # fmt: skip
    cases = [(name, what) for name in COMMANDS for what in bad]
    if count:
        cases = random.Random(seed).sample(cases, min(count, len(cases)))
    for name, what in cases:
        ran, path, _ = _by_command(name, bad[what])
        unread = name == "mean" and ran.status == 0  # it needs the input's shape alone, and runs no model
        why = "" if unread else ran.problem((3,), path)
        yield Trial(f"{name}, {what}", FAULT if why else RIGHT if unread else REFUSED, why)


def _by_command(name: str, files: Files) -> tuple[Ran, str, bool]:
    """How a command ended that was given this model, the model's path, and whether an attack in it ran."""
    picture = Path(__file__).parents[3] / "samples" / "wolf-on-snow.png"
    with tempfile.TemporaryDirectory() as folder:
        path, pictures = laid_out(Path(folder), files), Path(folder, "pictures")
        malice.in_folder(Path(folder))
        pictures.mkdir()
        (pictures / "wolf.png").write_bytes(picture.read_bytes())
        places = {"MODEL": path, "PICTURE": pictures / "wolf.png", "PICTURES": pictures, "OUT": Path(folder, "out")}
        limits = ["--size", "8", "--max-seconds", "5", "--max-memory", "2G"]
        ran = forked(*(str(places.get(word, word)) for word in COMMANDS[name]), *limits, folder=Path(folder))
        return ran, str(path), any(Path(folder).rglob(malice.WRITTEN))


def ended(ran: Ran) -> bool:
    """Whether a command that took a model as sound ended by itself; checks of a random network may well fail."""
    return ran.status in (0, 1, 2) and "Traceback" not in ran.err and "internal error" not in ran.err


def _attacks_by_command(seed: int, count: int) -> Iterator[Trial]:
    """Every command, given attacks that are drawn from all kinds and formats: refused in one line, or harmless."""
    drawn, by_kind = random.Random(seed), dict[str, list[malice.Attack]]()
    for attack in malice.attacks(malice.honest()):
        by_kind.setdefault(attack.kind, []).append(attack)
    for number in range(count or 560):
        name = list(COMMANDS)[number % len(COMMANDS)]
        attack = drawn.choice(by_kind[drawn.choice(sorted(by_kind))])
        ran, path, succeeded = _by_command(name, {"model": attack.content})
        why = "ran, wrote or imported" if succeeded else "" if ended(ran) else ran.problem((3,), path)
        yield Trial(f"{name}, {attack.kind}, {attack.name}", FAULT if why else REFUSED if ran.status else RIGHT, why)


def signalled(path: Path, numbers: list[int], sandbox: bool, within: float) -> str:
    """Why a command that opens a model without end does not end by these signals, a second apart; "" if it does."""
    arguments = ["inspect", str(path), "--size", "8", "--no-cache", *([] if sandbox else ["--no-sandbox"])]
    process = subprocess.Popen(
        [sys.executable, "-m", "heatcli", *arguments], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    _until_busy(process)
    started = time.monotonic()
    for number in numbers:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
    try:
        _, said = process.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return f"no end within {within:g} s"
    if process.returncode not in {128 + number for number in numbers}:
        return f"status {process.returncode} after {time.monotonic() - started:.1f} s: {said[-200:]!r}"
    if said.count("\n") != 1 or "interrupted" not in said:
        return f"not one line: {said[-300:]!r}"
    return ""


def _until_busy(process: subprocess.Popen[str]) -> None:
    """Wait until the model is read: the process, or its child, has had a while since."""
    end = time.monotonic() + 40
    while time.monotonic() < end and process.poll() is None:
        maps = Path(f"/proc/{process.pid}/maps")
        with contextlib.suppress(OSError):
            if "libtorch_cpu" in maps.read_text():
                break
        time.sleep(0.1)
    time.sleep(6)


def _signals(seed: int, count: int) -> Iterator[Trial]:
    """One signal, and two, in the sandbox and without."""
    known = dict(bombs(malice.honest()))
    ways = [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT, signal.SIGINT], [signal.SIGTERM, signal.SIGINT]]
    cases = [(what, way, sandbox) for what in SIGNALS for way in ways for sandbox in (True, False)]
    if count:
        cases = random.Random(seed).sample(cases, min(count, len(cases)))
    for what, way, sandbox in cases:
        with tempfile.TemporaryDirectory() as folder:
            path = laid_out(Path(folder), known[what])
            # the sandbox ends at the first; without it, a loop of torch's ends by the second, or after ten seconds
            why = signalled(path, [int(n) for n in way], sandbox, 3 if sandbox or len(way) > 1 else 13)
        names = " ".join(n.name for n in way)
        yield Trial(f"{what}, {names}, {'sandbox' if sandbox else 'no sandbox'}", FAULT if why else RIGHT, why)


def _cache(seed: int, count: int) -> Iterator[Trial]:
    """Damaged files of the graph cache: the answer is that without a cache."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        before = os.environ.get("HEATCLI_CACHE")
        os.environ["HEATCLI_CACHE"] = str(folder / "cache")
        stack.callback(
            lambda: os.environ.__setitem__("HEATCLI_CACHE", before) if before else os.environ.pop("HEATCLI_CACHE")
        )
        path = laid_out(folder, {"model": malice.honest()["torchscript"]})
        answer = malice.Small().eval()(malice.EXAMPLE).detach()

        def attempt() -> tuple[str, str]:
            """Explain it with the cache as it is."""
            model = heatcli.load(path, size=8, channels=3, cache=True)
            outputs = heatcli.explain(model, malice.EXAMPLE, "lrp-eps", target=0).outputs
            return (RIGHT, "") if torch.allclose(outputs, answer, atol=1e-5) else (FAULT, "another answer")

        contained(attempt, 60)  # a process that has run autograd must not fork
        files = {file: file.read_bytes() for file in (folder / "cache").iterdir()}
        for number in range(count or 300):
            drawn = random.Random(f"{seed} {number}")
            file = drawn.choice(sorted(files))
            kind = drawn.choice(("bytes", "bytes", "bytes", "folder", "pipe", "loop", "sparse", "gone"))
            file.unlink()
            if kind == "bytes":
                file.write_bytes(malice.damaged(files[file], drawn))
            elif kind == "folder":
                file.mkdir()
            elif kind == "pipe":
                os.mkfifo(file)
            elif kind == "loop":
                file.symlink_to(file)
            elif kind == "sparse":
                with file.open("wb") as out:
                    out.truncate(1 << 40)
            found, why = contained(attempt, 30)
            yield Trial(f"{number}, {kind} {file.suffix}", found, why)
            with contextlib.suppress(OSError):
                file.rmdir() if kind == "folder" and file.is_dir() else file.unlink()
            file.write_bytes(files[file])


CLASSES: dict[str, Class] = {
    **{f"attacks on models, {f}": _attacks(f) for f in ("torchscript", "pt2")},
    **{f"mutated models, {f}": _mutants(f) for f in ("torchscript", "pt2", "onnx", "onnx beside")},
    **{f"costly models, {f}": _bombs(f) for f in ("torchscript", "pt2", "onnx")},
    "attacks on models, onnx beside": _bombs("onnx beside"),
    "commands with bad models": _commands,
    "attacks on models, by every command": _attacks_by_command,
    "signals while a model is opened": _signals,
    "damaged cache of graphs": _cache,
}  # fmt: skip
