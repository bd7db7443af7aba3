"""Does `heatcli discover` find shortcuts that were planted? Prints a row a model for DISCOVER.md.

`python models/train_planted.py --out OUT` makes the models; `heatcli explain OUT/NAME/pictures -r --model
OUT/NAME/model.pt --out OUT/NAME/maps` their maps; then `python tests/measure/discover.py OUT/NAME…` and, with
`--masks`, the same with OUT/NAME/masks and the model.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from heatcli.discover.background import backgrounds
from heatcli.discover.cover import explanations
from heatcli.discover.job import Cluster, Found, Shown, discover
from heatcli.model.model import load


def hits(cluster: Cluster, planted: set[str]) -> int:
    """How many pictures of a cluster are planted."""
    return sum("/".join(Path(name).parts[-2:]) in planted for name in cluster.images)


def with_masks(folder: Path) -> tuple[Found, list[Shown]]:
    """What `heatcli discover OUT/NAME/maps --masks OUT/NAME/masks --model OUT/NAME/model.pt` finds."""
    run, masks = folder / "maps", folder / "masks"
    asked = backgrounds(load(folder / "model.pt"), run, explanations(run), masks, None, print)
    return discover(run, masks=masks, asked=asked)


def main() -> None:
    """One row a folder: how far the network uses the artefact, the first cluster, the planted cluster's place."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--masks", action="store_true")
    args = parser.parse_args()
    for folder in args.folders:
        truth = json.loads((folder / "truth.json").read_text("utf-8"))
        planted, (found, _) = set(truth["planted"]), (with_masks(folder) if args.masks else discover(folder / "maps"))
        uses, first = truth["others_called_so"]["with"], found.clusters[0]
        alarms = [cluster for cluster in found.clusters if cluster.suspicion and not hits(cluster, planted)]
        row = f"| {folder.name} | {uses:.0%} | {first.name} | {first.suspicion:.2%} | {len(alarms)} |"
        if planted:
            rank, best = max(enumerate(found.clusters, 1), key=lambda pair: hits(pair[1], planted) ** 2 / pair[1].size)
            count = hits(best, planted)
            row += f" {rank} | {best.suspicion:.2%} | {count / best.size:.2f} | {count / len(planted):.2f} |"
        else:
            row += " – | – | – | – |"
        print(row, flush=True)


if __name__ == "__main__":
    main()
