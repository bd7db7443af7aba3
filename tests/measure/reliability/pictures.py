"""Trials of all that comes in as a picture or a small side file."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from forked import forked
from PIL import Image
from spoiled import SIDE_READERS, fuzz_pictures, fuzz_side_files, npz, pictures, png, saved, shaped
from trial import FAULT, REFUSED, RIGHT, Class, Ran, Trial, command

ROOT = Path(__file__).parents[3]
ANIMALS, MEAN = ROOT / "models" / "animals.pt", ROOT / "models" / "animals.mean.npz"
WOLF = ROOT / "samples" / "wolf-on-snow.png"
PLENTY = 6 << 30  # bytes of address space: torch alone maps more than 2 GiB
TINY = 1 << 21  # bytes of a tiny file


def _write(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None  # type: ignore[func-returns-value]


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        before = Path.cwd()
        os.chdir(path.parent)  # addresses are short
        made.bind(path.name)
        os.chdir(before)


def _picture(size: tuple[int, int] = (96, 96)) -> bytes:
    with Image.open(WOLF) as image, tempfile.TemporaryFile() as file:
        image.convert("RGB").resize(size).save(file, "PNG")
        file.seek(0)
        return file.read()


def _line(width: int, height: int) -> bytes:
    return png(width, height, (b"\0" + bytes(3 * width)) * height)


def _scans() -> bytes:
    """A progressive JPEG that says its last scan 5,000 times."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * 5000 + content[-2:]


def bad_pictures() -> dict[str, tuple[str, Callable[[Path], None]]]:
    """Kinds of bad pictures: the file's name, and what makes it there."""
    whole = _picture()
    odd = {name: pictures()[name] for name in ("a.tif", "a.gif", "a.webp", "a.jpg", "a.bmp", "a.pgm")}
    truncated = {
        f"truncated {name}": (f"b{Path(name).suffix}", _write(c[: 2 * len(c) // 3])) for name, c in odd.items()
    }
    return {
        "empty": ("b.png", _write(b"")),
        "text": ("b.png", _write(b"not a picture")),
        "PostScript": ("b.png", _write(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n")),
        "truncated PNG": ("b.png", _write(whole[: len(whole) // 2])),
        **truncated,
        "60,000 × 60,000": ("b.png", _write(png(60_000, 60_000))),
        "TIFF of damaged tags": ("b.tif", _write(pictures()["b.tif"][:8] + b"\xff" * 400)),
        "5,000 scans": ("b.jpg", _write(_scans())),
        "FIFO": ("b.png", os.mkfifo),
        "socket": ("b.png", _socket),
        "device": ("b.png", lambda path: path.symlink_to("/dev/zero")),
        "link to itself": ("b.png", lambda path: path.symlink_to(path)),
        "link to nowhere": ("b.png", lambda path: path.symlink_to(path.parent / "nowhere")),
        "name that is not UTF-8": ("b\udcff.png", _write(whole)),
        "name too long with our suffix": ("b" * 249 + ".png", _write(whole)),
        "name too long for the report only": ("b" * 242 + ".png", _write(whole)),
        "a folder where its overlay goes": ("b.png", lambda path: _taken(path, whole)),
        "array of objects": ("b.npy", _write(saved(np.array([{}, "x"], dtype=object)))),
        "array that declares 8 TB": ("b.npy", _write(shaped("(3, 1000000, 1000000)"))),
        "array of a negative shape": ("b.npy", _write(shaped("(3, -4, -4)", data=bytes(192)))),
        "array of NaN": ("b.npy", _write(saved(np.full((3, 9, 9), np.nan, np.float32)))),
        "array beyond float32": ("b.npy", _write(saved(np.full((3, 9, 9), 1e200)))),
        "array that overflows the network": ("b.npy", _write(saved(np.full((3, 9, 9), 3e38, np.float32)))),
        "array of another shape": ("b.npy", _write(saved(np.zeros((5, 9, 9), np.float32)))),
        "nested header": ("b.npy", _write(shaped("(" * 4000 + ")" * 4000))),
        "archive under .npy": ("b.npy", _write(npz({"x.npy": saved(np.zeros((3, 9, 9)))}))),
    }  # fmt: skip


def _taken(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    (path.parents[1] / "out" / f"{path.stem}.lrp-eps.png").mkdir(parents=True)


def _rows(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "index.jsonl").read_text(encoding="utf-8").splitlines()]


def between(seed: int, count: int) -> Iterator[Trial]:
    """A folder of a good picture, a bad one and a good one; then the same with --resume, and with one more good one."""
    for kind, (name, make) in bad_pictures().items():
        with tempfile.TemporaryDirectory() as folder:
            yield _between(kind, Path(folder), name, make)


def _between(kind: str, folder: Path, name: str, make: Callable[[Path], None]) -> Trial:
    images, out = folder / "in", folder / "out"
    images.mkdir()
    shutil.copy(WOLF, images / "a.png")
    shutil.copy(WOLF, images / "c.png")
    make(images / name)
    for resume in (False, True):
        if resume:
            shutil.copy(WOLF, images / "d.png")
        ran = forked(
            "explain", images, "--out", out, "--quiet", "--batch-size", "3", *["--resume"] * resume, folder=folder
        )
        wrong = ran.problem((1,), name[:200].encode("utf-8", "surrogateescape").decode("utf-8", "replace")[:1])
        rows = [] if wrong else _rows(out)
        fine = sorted(Path(str(row["image"])).name for row in rows if row["error"] is None)
        failed = [row for row in rows if row["error"] is not None]
        if not wrong and fine != ["a.png", "c.png", "d.png"][: 2 + resume]:
            wrong = f"explained {fine}"
        if not wrong and len(failed) != 1:
            wrong = f"{len(failed)} lines of what failed"
        halves = [path for path in out.glob("b*") if path.is_file()]
        if not wrong and halves:
            wrong = f"left {halves[0].name[:40]}"
        if wrong:
            return Trial(kind, FAULT, f"{'with --resume: ' if resume else ''}{wrong}")
    return Trial(kind, REFUSED)


def one_by_one(seed: int, count: int) -> Iterator[Trial]:
    """Pictures of every format, cut, flipped, renamed, of odd sizes, read, made to fit and laid under a heatmap."""
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)  # what C libraries say, too
        try:
            for i, (name, _, fine, wrong) in enumerate(fuzz_pictures(seed, count or 2500)):
                if said.tell() and not wrong:
                    said.seek(0)
                    wrong = f"said on stderr: {said.read()[:200]!r}"
                    said.seek(0)
                    said.truncate()
                yield _trial(f"{i} {name}", fine, wrong)
        finally:
            os.dup2(before, 2)
            os.close(before)


def readers(seed: int, count: int) -> Iterator[Trial]:
    """Sidecars, labels, specs, arrays, masks, lists and sequences, each mutated `count` times over."""
    for kind in SIDE_READERS:
        for i, (_, _, fine, wrong) in enumerate(
            fuzz_side_files(kind, seed, -(-(count or 11_000) // len(SIDE_READERS)))
        ):
            yield _trial(f"{kind} {i}", fine, wrong)


def _trial(what: str, fine: bool, wrong: str) -> Trial:
    return Trial(what, FAULT, wrong) if wrong else Trial(what, RIGHT if fine else REFUSED)


BAD_SIDES: dict[str, Callable[[Path], None]] = {
    "missing": lambda _: None,
    "empty": _write(b""),
    "junk": _write(b"\xff\xfejunk"),
    "nested": _write(b"a = " + b"[" * 100_000),
    "FIFO": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
    "link to itself": lambda path: path.symlink_to(path),
}
# Nothing is wrong there, or it is a list of one odd name.
FINE = {
    ("missing", "sidecar"),
    ("missing", "mask"),
    ("empty", "labels"),
    ("empty", "sidecar"),
    ("junk", "list"),
    ("nested", "labels"),
    ("nested", "list"),
}
TOO_LONG = "x" * 300


def commands(seed: int, count: int) -> Iterator[Trial]:
    """Every command that reads pictures or side files, with bad ones: a status and a line."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        kinds = {kind: made for kind, made in bad_pictures().items() if kind in (
            "text", "FIFO", "device", "link to itself", "name that is not UTF-8", "array beyond float32",
            "60,000 × 60,000", "truncated a.tif")}  # fmt: skip
        for kind, (name, make) in kinds.items():
            images = folder / kind.replace(",", "")
            images.mkdir()
            for good in ("a.png", "c.png"):
                shutil.copy(WOLF, images / good)
            make(images / name)
            for called, arguments in _of_pictures(images, folder).items():
                ran = forked(*arguments, folder=folder)
                yield _judged(f"{called}: {kind}", ran, (1,), "b")
            alone = forked("explain", images / name, "--quiet", folder=folder)
            yield _judged(f"explain of the picture alone: {kind}", alone, (1,), "b")
        for kind, make in BAD_SIDES.items():
            for called, (name, arguments, status, *made) in _of_sides(folder).items():
                (path := folder / name).parent.mkdir(exist_ok=True)
                _clear(path)
                for other, content in made:
                    (folder / other).write_bytes(content)
                make(path)
                if (kind, called) in FINE:
                    _clear(path)
                    continue
                yield _judged(f"{called}: {kind}", forked(*arguments, folder=folder), (status,), path.name)
                _clear(path)
        for called, arguments in {
            "explain": ("explain", f"{TOO_LONG}.png"), "list": ("explain", f"{TOO_LONG}.txt"),
            "baseline": ("explain", WOLF, "--baseline", f"{TOO_LONG}.png"),
            "region": ("explain", WOLF, "--region", TOO_LONG), "mean": ("mean", TOO_LONG, "-o", "m.npz"),
            "check": ("check", ANIMALS, f"{TOO_LONG}.png"), "evaluate": ("evaluate", ANIMALS, f"{TOO_LONG}.png"),
            "activations": ("activations", f"{TOO_LONG}.png"),
        }.items():  # fmt: skip
            yield _judged(f"{called}: name of 300 letters", forked(*arguments, folder=folder), (1, 2), "xxx")


def _clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def _of_pictures(images: Path, folder: Path) -> dict[str, tuple[str | Path, ...]]:
    """Commands that go over a folder of pictures."""
    return {
        "mean": ("mean", images, "-o", folder / "m.npz"),
        "activations": ("activations", images, "--layer", "*conv*", "--out", folder / "activations"),
        "activations --top-images": ("activations", images, "--layer", "native_batch_norm_2", "--top-images", "2",
                                     "--channel", "0", "--out", folder / "top"),
        "evaluate": ("evaluate", ANIMALS, images, "--metric", "complexity", "--methods", "gradient", "--json",
                     "--out", folder / "evaluation"),
        "check": ("check", ANIMALS, images, "--spec", _spec(folder), "--methods", "gradient"),
        "compare": ("compare", "gradient", "lrp-0", images, "--json"),
    }  # fmt: skip


def _spec(folder: Path) -> Path:
    path = folder / "finite.toml"
    path.write_text("[finite]\n")
    return path


def _of_sides(folder: Path) -> dict[str, tuple[object, ...]]:
    """Commands that read a side file: its name, the command, the status, and other files that it needs."""
    onto = ("explain", WOLF, "--quiet")
    model = (("beside/model.pt", ANIMALS.read_bytes()),)
    picture = folder / "alone.png"
    shutil.copy(WOLF, picture)
    return {
        "baseline": ("b.png", (*onto, "--baseline", "b.png"), 2),
        "baseline array": ("b.npy", (*onto, "--baseline", "b.npy"), 2),
        "mean": ("mean.npz", (*onto, "--baseline", "mean:mean.npz"), 2),
        "region": ("r.png", (*onto, "--region", "r.png"), 2),
        "labels": ("labels.lab", (*onto, "--labels", "labels.lab"), 3),
        "sidecar": ("beside/model.toml", (*onto, "--model", "beside/model.pt"), 3, *model),
        "list": ("list.txt", ("explain", "list.txt", "--quiet"), 2),
        "spec": ("spec.toml", ("check", ANIMALS, WOLF, "--spec", "spec.toml"), 2),
        "start": ("s.png", ("prototype", ANIMALS, "--target", "wolf", "--start", "s.png", "--steps", "1"), 2),
        "expert": ("e.npz", ("prototype", ANIMALS, "--target", "wolf", "--prior", "rbm:e.npz", "--steps", "1"), 2),
        "mask": ("alone.mask.png", ("evaluate", ANIMALS, picture, WOLF, "--metric", "complexity"), 1),
    }


def _judged(what: str, ran: Ran, statuses: tuple[int, ...], names: str) -> Trial:
    """Right if it ended with one of those statuses and said in one line what; what else it says is of its work."""
    told = [line for line in ran.err.splitlines() if line.startswith("heatcli: ") and "note:" not in line]
    wrong = Ran(ran.status, ran.out, "\n".join(told)).problem(statuses) if not _report_of_check(ran) else ""
    if not wrong and not told and not _report_of_check(ran):
        wrong = "no line"
    if "Traceback" in ran.err or "internal error" in ran.err:
        wrong = ran.err[-300:]
    if not wrong and names not in ran.err + ran.out:
        wrong = f"does not name {names}: {ran.err[-200:]}"
    return Trial(what, FAULT, wrong) if wrong else Trial(what, REFUSED)


def _report_of_check(ran: Ran) -> bool:
    """`heatcli check` says on stdout what failed."""
    return ran.status == 1 and "FAILED" in ran.out


WEBP = b"RIFF\x30\0\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0\xfe\x3f\0\xfe\x3f\0VP8L"
BMP = b"BM" + bytes(8) + b"\x36\0\0\0\x28\0\0\0" + b"\x30\x75\0\0" * 2 + b"\1\0\x18\0"
GIF = b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b",\0\0\0\0\xff\xff\xff\xff\0\2\2L\1\0;"


def tiny_files() -> dict[str, tuple[str, bytes]]:
    """Files below 2 MiB that say they are huge, or are once they are decoded."""
    zeros = bytes(1 << 28)
    return {
        "PNG of 1 × 200,000": ("b.png", _line(1, 200_000)),
        "PNG of 200,000 × 1": ("b.png", _line(200_000, 1)),
        "PNG of 2,000,000 × 3": ("b.png", _line(2_000_000, 3)),
        "PNG of 13,000 × 13,000": ("b.png", _line(13_000, 13_000)),
        "PNG of 13,000 × 13,000, see-through": ("b.png", png(13_000, 13_000, bytes(13_000 * 52_001), colour=6)),
        "PNG of 13,000 × 13,000, 16 bits": ("b.png", png(13_000, 13_000, bytes(13_000 * 26_001), 16, 0)),
        "PNG of 2^31 × 1": ("b.png", png(2**31 - 1, 1)),
        "WebP of 16,383 × 16,383": ("b.webp", WEBP + bytes(20)),
        "TIFF of 1 × 4,000,000,000": ("b.tif", _tiff(1, 4_000_000_000)),
        "BMP of 30,000 × 30,000": ("b.bmp", BMP + bytes(24)),
        "PPM of 2^31": ("b.ppm", b"P6 2147483647 2147483647 255\n"),
        "GIF of 65,535 × 65,535": ("b.gif", GIF),
        "npy that declares 3 TB": ("b.npy", shaped("(3, 500000, 500000)")),
        "npy that declares 2^70": ("b.npy", shaped(f"(3, {2**35}, {2**35})")),
        "npz of 256 MiB": ("b.npz", npz({"x.npy": shaped("(3, 9000, 9000)", "|u1", zeros)})),
        "npz of 2 GiB of zeros": ("b.npz", _zeros(shaped("(3, 26000, 26000)", "|u1"), 8 * len(zeros))),
        "JPEG of 5,000 scans": ("b.jpg", _scans()),
    }  # fmt: skip


def _zeros(header: bytes, length: int) -> bytes:
    """An `.npz` of one array: that header, and so many zeros, which are never in memory at once."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w", force_zip64=True) as file,
    ):
        file.write(header)
        for _ in range(length >> 20):
            file.write(bytes(1 << 20))
    return buffer.getvalue()


def _tiff(width: int, height: int) -> bytes:
    tags = ((256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1),
            (278, 4, height), (279, 4, 10))  # fmt: skip
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + body + bytes(14)


def memory(seed: int, count: int) -> Iterator[Trial]:
    """Tiny files explained within 6 GiB of address space, stretched and with a crop before."""
    for resize in ("stretch", "crop:256"):
        for kind, (name, content) in tiny_files().items():
            with tempfile.TemporaryDirectory() as folder:
                assert len(content) < TINY, (kind, len(content))
                Path(folder, name).write_bytes(content)
                ran = command("explain", name, "--resize", resize, "--size", "96", "--quiet", "--pixels", "none",
                              "--workers", "1", folder=Path(folder), memory=PLENTY)  # fmt: skip
                wrong = ran.problem((0, 1), name)
                yield _trial(f"{kind}, {resize}", ran.status == 0, wrong)


CLASSES: dict[str, Class] = {
    "one bad picture between two good ones": between,
    "bad pictures read one by one": one_by_one,
    "side files fuzzed": readers,
    "other commands with bad files": commands,
    "tiny files of huge shapes": memory,
}
