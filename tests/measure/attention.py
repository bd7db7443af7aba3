"""How well methods for attention rank the regions of pictures, on `animals-transformer.pt`: writes ATTENTION.md.

    python tests/measure/attention.py --data DATA     (models/README.md says how to fill DATA)

What is measured lies in --cache as JSON, a line a method; a run that is interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "experiments"))
from pictures import animals  # noqa: E402

from heatcli.evaluate.explainer import Explainer  # noqa: E402
from heatcli.evaluate.run import apart, resampled  # noqa: E402
from heatcli.evaluate.subjects import alone  # noqa: E402
from heatcli.evaluate.trial import tried  # noqa: E402

STEM = "animals-transformer"
METHODS = (
    "attnlrp", "attnlrp@blur", "attnlrp-gamma", "attnlrp-gamma@blur", "cp-lrp", "cp-lrp@blur", "cp-lrp-gamma",
    "cp-lrp-gamma@blur", "cp-lrp-gamma:gamma=0.05", "cp-lrp-gamma:gamma=1", "cp-lrp-gamma:gamma=4",
    "cp-lrp-gamma:gamma=10", "attnlrp-gamma:gamma=1", "attnlrp-gamma:gamma=4", "lrp-epsilon-plus", "lrp-eps",
    "lrp-eps@blur", "lrp-gamma", "gradient", "input-x-gradient", "integrated-gradients@blur", "grad-cam", "random",
    "edges",
)  # fmt: skip

PAIRS = (
    ("cp-lrp", "lrp-eps"), ("attnlrp", "lrp-eps"), ("cp-lrp", "attnlrp"), ("cp-lrp", "input-x-gradient"),
    ("attnlrp", "input-x-gradient"), ("cp-lrp", "gradient"), ("attnlrp", "gradient"),
    ("cp-lrp", "integrated-gradients@blur"), ("cp-lrp-gamma:gamma=4", "grad-cam"),
    ("cp-lrp-gamma:gamma=1", "attnlrp-gamma:gamma=1"), ("cp-lrp-gamma:gamma=4", "attnlrp-gamma:gamma=4"),
)  # fmt: skip
"""Methods whose areas are compared, paired by picture."""


def measured(data: Path, count: int, cache: Path) -> list[dict[str, object]]:
    """A row a method, with one value a picture; what the cache has stays."""
    rows = [json.loads(line) for line in cache.read_text().splitlines()] if cache.is_file() else []
    had = {row["method"] for row in rows}
    own = animals(data, count, STEM)
    with cache.open("a") as lines:
        for name in METHODS:
            if name in had:
                continue
            found = tried(alone(own), Explainer.parse(name))
            values = {key: getattr(found, key).tolist() for key in ("between", "inside", "shown")}
            row = {"method": name, "seconds": found.seconds, **values}
            print(json.dumps(row), file=lines, flush=True)
            print(name, f"{np.mean(values['between']):.3f}", file=sys.stderr)
            rows.append(row)
    return rows


def column(row: dict[str, object], key: str) -> np.ndarray:
    """A row's values that are defined."""
    values = np.array(row[key], dtype=np.float64)
    return values[~np.isnan(values)]


def with_interval(values: np.ndarray) -> str:
    """Mean and 95 % bootstrap interval."""
    if not len(values):
        return ""
    low, high = resampled(values[:, None])[:, 0]
    return f"{values.mean():.2f} ({low:.2f} to {high:.2f})"


def page(rows: list[dict[str, object]], metrics: dict[str, float]) -> str:
    """The page."""
    by_name = {str(row["method"]): row for row in rows}
    ranked = sorted(by_name, key=lambda name: -column(by_name[name], "between").mean())
    best = by_name[ranked[0]]
    lines = [
        "# Attention",
        "",
        f"`models/{STEM}.pt`, a hybrid vision transformer ({100 * metrics['accuracy']:.1f} % of the held-out drawings, "
        f"mean of the classes), on {len(column(best, 'between'))} pictures of drawings and backgrounds that it was not "
        "trained on. Made by `python tests/measure/attention.py --data DATA`.",
        "",
        "*Area*: regions are replaced in the order of the map, most relevant first, and again least relevant first "
        "(Samek et al. 2015); the area between both curves of the score, in units of the score. *Behind*: how much "
        "less than the first row, paired by picture. *Inside*: the share of positive relevance on the animal. "
        "*Pixels*: the median share of the score that the pixels hold. Means with 95 % bootstrap intervals. "
        "γ = 4 and γ = 10 were added after γ = 1 had done well on these pictures, so their rows are somewhat too good.",
        "",
        "| method | area | behind | inside | pixels | ms |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name in ranked:
        row = by_name[name]
        behind = ""
        if row is not best:
            mean, low, high = apart(np.array(best["between"]), np.array(row["between"]))
            behind = f"{mean:.2f} ({low:.2f} to {high:.2f})"
        shown = column(row, "shown")
        median = f"{np.median(shown):.2f}" if len(shown) else ""
        cells = (with_interval(column(row, "between")), behind, with_interval(column(row, "inside")), median)
        lines.append(f"| `{name}` | " + " | ".join(cells) + f" | {1000 * float(str(row['seconds'])):.0f} |")
    lines += ["", "| difference of areas | mean (95 % interval) | |", "|---|--:|---|"]
    for one, other in PAIRS:
        mean, low, high = apart(np.array(by_name[one]["between"]), np.array(by_name[other]["between"]))
        decided = "better" if low > 0 else "worse" if high < 0 else "undecided"
        lines.append(f"| `{one}` less `{other}` | {mean:.2f} ({low:.2f} to {high:.2f}) | {decided} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what is missing, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with node_modules (default: ./data)")
    parser.add_argument("--count", type=int, default=200, help="pictures")
    parser.add_argument("--cache", type=Path, default=Path("attention.jsonl"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = measured(args.data, args.count, args.cache)
    metrics = json.loads((HERE.parents[1] / "models" / f"{STEM}.metrics.json").read_text(encoding="utf-8"))
    (HERE / "ATTENTION.md").write_text(page(rows, metrics), encoding="utf-8")


if __name__ == "__main__":
    main()
