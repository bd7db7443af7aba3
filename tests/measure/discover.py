"""Does `heatcli discover` find shortcuts that were planted? Prints a row a model for DISCOVER.md.

`python models/train_planted.py --out OUT` makes the models; `heatcli explain OUT/NAME/pictures -r --model
OUT/NAME/model.pt --out OUT/NAME/maps` their maps; then `python tests/measure/discover.py OUT/NAME…` and, with
`--model`, the same with OUT/NAME/model.pt, with `--masks` also with OUT/NAME/masks. `--method METHOD` takes maps that
`heatcli explain … --method METHOD --out OUT/NAME/METHOD` made.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from heatcli.discover.asking import Asked, explanations
from heatcli.discover.background import backgrounds
from heatcli.discover.job import Cluster, Found, Shown, discover
from heatcli.discover.treated import treated
from heatcli.model.model import load


def hits(cluster: Cluster, planted: set[str]) -> int:
    """How many pictures of a cluster are planted."""
    return sum("/".join(Path(name).parts[-2:]) in planted for name in cluster.images)


def with_model(run: Path, masks: Path | None) -> tuple[Found, list[Shown]]:
    """What `heatcli discover OUT/NAME/maps --model OUT/NAME/model.pt` finds; `masks`: with `--masks`."""
    model, asked = load(run.parent / "model.pt"), list[Asked]()
    if masks is not None:
        asked.append(backgrounds(model, run, explanations(run), masks, None, print))
    if (answers := treated(model, run, print)) is not None:
        asked.append(answers)
    return discover(run, masks=masks, asked=asked)


def main() -> None:
    """One row a folder: how far the network uses the artefact, the first cluster, the planted cluster's place."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--model", action="store_true")
    parser.add_argument("--masks", action="store_true")
    parser.add_argument("--method", default="maps", help="the folder of the maps in each folder")
    args = parser.parse_args()
    for folder in args.folders:
        truth = json.loads((folder / "truth.json").read_text("utf-8"))
        planted, masks = set(truth["planted"]), folder / "masks" if args.masks else None
        run = folder / args.method
        found, _ = with_model(run, masks) if args.model or args.masks else discover(run)
        uses, first = truth["others_called_so"]["with"], found.clusters[0]
        alarms = [cluster for cluster in found.clusters if cluster.suspicion and not hits(cluster, planted)]
        row = f"| {found.method.name} | {folder.name} | {uses:.0%} | {first.name} | {first.suspicion:.2%} |"
        row += f" {len(alarms)} |"
        if planted:
            rank, best = max(enumerate(found.clusters, 1), key=lambda pair: hits(pair[1], planted) ** 2 / pair[1].size)
            count = hits(best, planted)
            row += f" {rank} | {best.suspicion:.2%} | {count / best.size:.2f} | {count / len(planted):.2f} |"
        else:
            row += " – | – | – | – |"
        print(row, flush=True)


if __name__ == "__main__":
    main()
