"""How the gallery's page stands at 10, 1,000 and 10,000 explanations, in a real browser: writes GALLERY.md beside this.

    python tests/measure/gallery.py [--axe node_modules/axe-core/axe.min.js] [--work FOLDER] [10 1000 10000]

Needs Debian's chromium and the package playwright. The folders are made from one real run over samples/: its
pictures and maps turned, tinted and shifted, its reports with other numbers; nothing of them is kept.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import platform
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import orjson
from PIL import Image, ImageChops, ImageEnhance

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from browser import Page  # noqa: E402

from heatcli.report.schema import LedgerPart  # noqa: E402
from heatcli.run.index.index import FileEntry, Row, line_of  # noqa: E402

ODD = ['<img src=x onerror="alert(1)">', 'it\'s "quoted" & more', "émoji 🐺", "a#b?c%20d"]
METHOD = "lrp-eps"


def heatcli(*arguments: str | Path, folder: Path = ROOT) -> float:
    """Run a command of heatcli; the most memory that it took, in megabytes."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-m", "heatcli", *map(str, arguments)], cwd=folder, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"heatcli {arguments[0]} failed")
    return usage.ru_maxrss / 1024


def folder_of(count: int, work: Path) -> Path:
    """A folder of pictures, `pictures`, and one of `count` explanations of them, `run`, which is returned."""
    real, run, pictures = work / "real", work / f"{count}" / "run", work / f"{count}" / "pictures"
    if not (real / "index.jsonl").exists():
        heatcli("explain", "samples", "--method", METHOD, "--out", real, "--quiet")
    if (run / "index.jsonl").exists():
        return run
    run.mkdir(parents=True, exist_ok=True)
    pictures.mkdir(exist_ok=True)
    rows = [msgspec.json.decode(line, type=Row) for line in (real / "index.jsonl").read_bytes().splitlines()]
    bases = [_base(row, real) for row in rows]
    (run / "run.json").write_bytes((real / "run.json").read_bytes())
    draw = random.Random(0)
    with (run / "index.jsonl").open("wb") as index:
        for i in range(count):
            index.write(line_of(_varied(i, draw.choice(bases), draw, run, pictures)))
    return run


def _base(row: Row, real: Path) -> tuple[Row, Image.Image, Image.Image, dict[str, Any]]:
    picture, overlay = Image.open(ROOT / row.image).convert("RGB"), Image.open(real / row.files["overlay"].name)
    return row, picture, overlay.convert("RGB"), orjson.loads((real / row.files["report"].name).read_bytes())


def _varied(i: int, base: tuple[Row, Image.Image, Image.Image, dict[str, Any]], draw: random.Random, run: Path,
            pictures: Path) -> Row:  # fmt: skip
    row, picture, overlay, report = base
    label, scale = row.label or "", draw.lognormvariate(0, 0.3)
    name = f"{label} {i:05}{' ' + ODD[i % 4] if i % 100 < 4 else ''}.png".replace("/", "-")
    turn, shift, tint = draw.random() < 0.5, draw.randrange(256), draw.uniform(0.7, 1.3)
    contents = []
    for image in (picture, overlay):
        changed = ImageChops.offset(image, shift, 0)
        changed = changed.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if turn else changed
        buffer = io.BytesIO()
        ImageEnhance.Brightness(changed).enhance(tint).save(buffer, "PNG", compress_level=1)
        contents.append(buffer.getvalue())
    (pictures / name).write_bytes(contents[0])
    assert row.ledger is not None
    biases = {bias: total * scale * draw.uniform(0.8, 1.25) for bias, total in row.biases.items()}
    pixels, booked = row.ledger.pixels * scale * draw.uniform(0.1, 9), sum(biases.values())
    error = 10 ** draw.uniform(-8, -6)
    ledger = LedgerPart(
        output=pixels + booked, output_baseline=0.0, pixels=pixels, biases=booked, absorbed=0.0, unexplained=0.0,
        relative_error=error,
    )  # fmt: skip
    said = label if draw.random() < 0.93 else draw.choice(["wolf", "dog", "cow", "koala"])
    sha = hashlib.sha256(contents[0]).hexdigest()
    image = f"pictures/{name}"
    changed_report = report | {
        "image": report["image"] | {"path": image, "sha256": sha},
        "ledger": msgspec.to_builtins(ledger),
        "target": report["target"] | {"label": said, "score": ledger.output},
    }
    stem = f"{name[:-4]}.{METHOD}"
    written = {"overlay": (f"{stem}.png", contents[1]), "report": (f"{stem}.json", orjson.dumps(changed_report))}
    files = {}
    for what, (file, content) in written.items():
        (run / file).write_bytes(content)
        files[what] = FileEntry.of(file, content)
    return msgspec.structs.replace(
        row, image=image, stem=stem, sha256=sha, label=said, score=ledger.output, ledger=ledger, biases=biases,
        files=files, probability=draw.uniform(0.3, 1),
    )  # fmt: skip


def measured(count: int, work: Path, axe: Path | None) -> dict[str, Any]:
    """Build the page of so many explanations and look at it."""
    run = folder_of(count, work)
    labels = run.parent / "labels.csv"
    names = (run.parent / "pictures").iterdir()
    labels.write_text("image,label\n" + "".join(f'"{n.name.replace(chr(34), chr(34) * 2)}",{n.name.split()[0]}\n'
                                                for n in names), encoding="utf-8")  # fmt: skip
    started = time.perf_counter()
    memory = heatcli("gallery", run, "--expected", labels, folder=run.parent)
    built = time.perf_counter() - started
    page = run / "report.html"
    with Page(1440, 1000) as browser:
        browser.open(page)
        paint = browser.first_paint()
        ready = browser.ready_after()
        frames = browser.scrolled()
        filtered = browser.filter_time()
        faults = browser.axe(axe) if axe else None
        errors = browser.errors
    return {
        "explanations": count, "build": built, "memory": memory,
        "megabytes": page.stat().st_size / 1e6, "paint": paint, "ready": ready, "frames": frames, "filter": filtered,
        "axe": faults, "errors": errors,
    }  # fmt: skip


def report(found: list[dict[str, Any]], browser: str) -> str:
    """The page of figures."""
    where = f"{browser}, headless, without a GPU, on {os.cpu_count()} cores of {platform.machine()}"
    where += f", beside other work (load average {os.getloadavg()[0]:.0f})"
    lines = [INTRODUCTION.format(where=where)]
    for f in found:
        times = sorted(f["frames"])
        middle, most = times[len(times) // 2], times[int(0.95 * len(times))]
        impacts = [fault["impact"] in ("serious", "critical") for fault in f["axe"] or ()]
        cells = [
            f"{f['explanations']:,}", f"{f['build']:.1f}", f"{f['memory']:.0f}", f"{f['megabytes']:.1f}",
            f"{f['paint']:.2f}", f"{f['ready']:.2f}", f"{middle:.1f}, {most:.1f}, {times[-1]:.0f}",
            f"{sum(t > 50 for t in times)} of {len(times)}", f"{f['filter']:.0f}",
            "–" if f["axe"] is None else f"{sum(impacts)}", "–" if f["axe"] is None else f"{len(impacts) - sum(impacts)}",
            f"{len(f['errors'])}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


INTRODUCTION = """\
# The gallery in a browser

Written by `python tests/measure/gallery.py`: {where}.
Pages are opened from the file system, 1440 × 1000, without a network.

- First paint, and ready (cards are in sight, filters work), count from the start of navigation.
- Frames: the page is scrolled by 120 pixels a frame, 3 s from its first card and 3 s from its middle; the time between frames.
- Filter: the longest of seven changes of filter, text or order, until the new cards are laid out.
- axe-core: violations on the page and with an explanation open, in both themes.
- Memory: the most that the build took, torch among it.

The folders are made of 18 real explanations, turned, shifted, tinted, and with other numbers, so small pictures are as large
as real ones. Names hold markup, quotes and emoji.

| explanations | build s | memory MB | page MB | first paint s | ready s | frames ms: median, 95%, longest | frames > 50 ms \
| filter ms | axe: serious, critical | axe: others | errors in the console |
|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"""


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("counts", nargs="*", type=int, default=[10, 1000, 10000])
    parser.add_argument("--axe", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    found = []
    for count in given.counts:
        found.append(measured(count, given.work, given.axe))
        print(json.dumps({k: v for k, v in found[-1].items() if k != "frames"}), file=sys.stderr)
    with Page(800, 600) as browser:
        version = browser.version
    Path(__file__).with_name("GALLERY.md").write_text(report(found, f"Chromium {version}"), encoding="utf-8")


if __name__ == "__main__":
    main()
