"""How long the command line takes to start, beside `python -c "import torch"`: paired runs, medians, as Markdown.

python tests/measure/start.py [RUNS]

Each explanation runs with its graph in the cache and with --no-cache. The ResNet-50 is an ONNX file of 100 MB with
random weights, made here.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "support")]
from networks import architecture, save  # noqa: E402 - from the folder of tests

WOLF = ROOT / "samples" / "wolf-on-snow.png"
DIGIT = ROOT / "samples" / "digits" / "8-a.png"
HEATCLI = [sys.executable, "-m", "heatcli"]
IMPORT = [sys.executable, "-c", "import torch"]


def main() -> None:
    """Run every command in turn, `runs` times after one that fills the cache, and print the table."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["HEATCLI_CACHE"] = str(folder / "cache")
        explain = [*HEATCLI, "explain", "--out", name]
        big = save(architecture("resnet50", 224), folder, "onnx-old", (3, 224, 224))
        commands = {
            "`heatcli explain`, the embedded model": [*explain, str(WOLF)],
            "– `models/digits.onnx`": [*explain, str(DIGIT), "-m", str(ROOT / "models" / "digits.onnx")],
            "– a ResNet-50, ONNX": [*explain, str(WOLF), "-m", str(big), "--size", "224"],
        }
        seconds: dict[tuple[str, bool], list[float]] = {}
        imports, helps = [], []
        for run in range(runs + 1):
            imports.append(_timed(IMPORT))
            helps.append(_timed([*HEATCLI, "--help"]))
            for title, command in commands.items():
                for cached in (True, False):
                    taken = _timed(command if cached else [*command, "--no-cache"])
                    seconds.setdefault((title, cached), []).append(taken)
            if not run:
                imports, helps, seconds = [], [], {}
    print(f"| command | seconds, median of {runs} | × `import torch` | with `--no-cache` | × `import torch` |")
    print("|---|---|---|---|---|")
    print(f'| `python -c "import torch"` | {statistics.median(imports):.2f} | 1.00 | | |')
    print(f"| `heatcli --help` | {_cells(helps, imports)} | | |")
    for title in commands:
        print(f"| {title} | " + " | ".join(_cells(seconds[title, cached], imports) for cached in (True, False)) + " |")


def _timed(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def _cells(taken: list[float], imports: list[float]) -> str:
    """Median seconds, and the median of the paired ratios."""
    ratio = statistics.median(a / b for a, b in zip(taken, imports, strict=True))
    return f"{statistics.median(taken):.2f} | {ratio:.2f}"


if __name__ == "__main__":
    main()
