"""Whether heatcli stays whole on bad input and on bad days: writes RELIABILITY.md in the folder above.

    python tests/measure/reliability run [CLASS …] [--seed 0] [--count 0 | --many]
    python tests/measure/reliability page
    python tests/measure/reliability list

`run` keeps one JSON line a trial in the results folder; a class that is run again is measured anew. `--count` says how
many trials of a class are wanted where a class draws them; 0 leaves it to the class. `--many`: as many as `MANY` says,
which takes a night. A fault ends it with status 1. `page` adds what lies in the results folder to counts.json, which
keeps the counts of each class, and writes the page from it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "support"), *map(str, HERE.parents[:3])]

from trial import FAULT, REFUSED, RIGHT, Class  # noqa: E402 - from this folder

PAGE, COUNTS = HERE.parent / "RELIABILITY.md", HERE / "counts.json"
Counts = dict[str, Any]  # of a class: how many trials were right, how many refused, and each fault in a line
MODULES = ("pictures", "models", "runs", "walks")
MANY = {  # trials: readers fuzzed a million times, 50,000 walks; of the others as many as they draw by themselves
    "bad pictures read one by one": 300_000,
    "side files fuzzed": 600_000,
    "fuzz of index and record": 100_000,
    **{f"mutated models, {format}": 2_000 for format in ("torchscript", "pt2", "onnx", "onnx beside")},
    "random networks, 4 backward methods each": 12_500,
}


def classes() -> dict[str, Class]:
    """All classes of trials, in the order of the page."""
    found: dict[str, Class] = {}
    for name in MODULES:
        found |= importlib.import_module(name).CLASSES
    return found


def run(folder: Path, names: list[str], seed: int, count: int, many: bool = False) -> bool:
    """Run those classes, all of them for none; whether there was no fault. `many`: as many trials as `MANY` says."""
    known, sound = classes(), True
    for name in names or known:
        outcomes = Counter[str]()
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as rows:
            for trial in known[name](seed, MANY.get(name, 0) if many else count):
                rows.write(json.dumps({"what": trial.what, "outcome": trial.outcome, "why": trial.why}) + "\n")
                rows.flush()  # what was tried counts, also if the class is stopped
                outcomes[trial.outcome] += 1
                if trial.outcome == FAULT:
                    print(f"{name}: {trial.what}: {trial.why}", flush=True)
        print(name, dict(outcomes), flush=True)
        sound &= not outcomes[FAULT]
    return sound


def counted(folder: Path) -> dict[str, Counts]:
    """The counts of each class: those of the results folder, and the kept ones of classes that were not run anew."""
    kept: dict[str, Counts] = json.loads(COUNTS.read_text(encoding="utf-8"))
    for name in classes():
        path = folder / f"{name}.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
        if rows:
            outcomes = Counter(row["outcome"] for row in rows)
            kept[name] = {
                RIGHT: outcomes[RIGHT], REFUSED: outcomes[REFUSED],
                FAULT: [f"{row['what']}: {row['why']}" for row in rows if row["outcome"] == FAULT],
            }  # fmt: skip
    return {name: kept[name] for name in classes() if name in kept}


def page(counts: dict[str, Counts]) -> str:
    """The page: a row a class, and each fault in a line."""
    lines = [
        "# Bad input, bad days", "",
        "Written by `python tests/measure/reliability`. *Right*: the outcome is that of a sound input or of a run that",
        "nothing disturbed. *Refused*: one line that names the file, and the status of its kind of error. *Faults*:",
        "anything else: an internal error, a hang, memory without bound, a wrong answer, a result lost. A class that was",
        "stopped counts what had ended; `--many` takes a night.", "",
        "| class | tried | right | refused in one line | faults |", "|---|--:|--:|--:|--:|",
    ]  # fmt: skip
    for name, n in counts.items():
        tried = n[RIGHT] + n[REFUSED] + len(n[FAULT])
        lines.append(f"| {name} | {tried:,} | {n[RIGHT]:,} | {n[REFUSED]:,} | {len(n[FAULT]):,} |")
    faults = [f"- {name}: {fault}" for name, n in counts.items() for fault in n[FAULT]]
    return "\n".join([*lines, *(["", "## Faults", "", *faults] if faults else [])]) + "\n"


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path(tempfile.gettempdir()) / "heatcli-reliability")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run", help="run classes of trials")
    one.add_argument("names", nargs="*", metavar="CLASS")
    one.add_argument("--seed", type=int, default=0)
    how_many = one.add_mutually_exclusive_group()
    how_many.add_argument("--count", type=int, default=0)
    how_many.add_argument("--many", action="store_true")
    commands.add_parser("page", help="write RELIABILITY.md from what was measured")
    commands.add_parser("list", help="the names of the classes")
    return parser.parse_args(arguments)


def main() -> None:
    """The command."""
    options = parsed()
    options.results.mkdir(parents=True, exist_ok=True)
    if options.command == "run":
        sys.exit(not run(options.results, options.names, options.seed, options.count, options.many))
    elif options.command == "page":
        counts = counted(options.results)
        COUNTS.write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
        PAGE.write_text(page(counts), encoding="utf-8")
    else:
        print(*classes(), sep="\n")


if __name__ == "__main__":
    main()
