"""The groups of maps that `heatcli discover` found in a folder, as columns of a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from heatcli.discover.write import FOLDER, TABLE, read_found
from heatcli.system.files import is_there


def groups_of(folder: Path, columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """The groups in `discover/clusters.json` of a folder, the most suspicious first; none if there is no such file.

    Adds columns by the column `name`, null for pictures that are in no scatter: `x` and `y`, places in 0..1, and
    `group`, the place of the picture's group in the result. Raises `UsageError` for a damaged file.
    """
    file = folder / FOLDER / TABLE
    if not is_there(file):
        return []
    found = read_found(file)
    place = {cluster.name: i for i, cluster in enumerate(found.clusters)}
    known: dict[tuple[str, str], tuple[float, float, int | None]] = {}
    for label, dots in found.layout.items():
        for name, x, y, cluster in zip(dots.images, dots.x, dots.y, dots.clusters, strict=True):
            known[label, name] = x, y, None if cluster is None else place.get(cluster)
    rows = [known.get(key, (None, None, None)) for key in zip(columns["label"], columns["name"], strict=True)]
    for column, values in zip(("x", "y", "group"), zip(*rows, strict=True), strict=True):
        columns[column] = list(values)
    return [
        {"name": one.name, "label": one.label, "suspicion": one.suspicion, "size": one.size, "why": "; ".join(one.why)}
        for one in found.clusters
    ]
