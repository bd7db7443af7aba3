"""How long the command line takes to start, beside `python -c "import torch"`: paired runs, medians, as Markdown.

python tests/measure_start.py [RUNS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SAMPLE = Path(__file__).parents[1] / "samples" / "wolf-on-snow.png"
DIGIT = SAMPLE.parent / "digits" / "8-a.png"
MODEL = SAMPLE.parents[1] / "models" / "digits.onnx"
IMPORT = 'python -c "import torch"'


def main() -> None:
    """Run every command in turn, `runs` times after one warm-up, and print the table."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    with tempfile.TemporaryDirectory() as folder:
        heatcli = [sys.executable, "-m", "heatcli"]
        explain = [*heatcli, "explain", "--out", folder]
        commands = {
            IMPORT: [sys.executable, "-c", "import torch"],
            "heatcli --help": [*heatcli, "--help"],
            "heatcli explain samples/wolf-on-snow.png": [*explain, str(SAMPLE)],
            "heatcli explain samples/digits/8-a.png --model models/digits.onnx": [
                *explain,
                str(DIGIT),
                "-m",
                str(MODEL),
            ],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for run in range(runs + 1):
            for name, command in commands.items():
                started = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True)
                if run:
                    seconds[name].append(time.perf_counter() - started)
    print(f"| command | seconds, median of {runs} | × `import torch` |\n|---|---|---|")
    for name, taken in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(taken, seconds[IMPORT], strict=True))
        print(f"| `{name}` | {statistics.median(taken):.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
