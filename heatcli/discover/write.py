"""The files of `heatcli discover`: clusters.json, and a sheet of mean maps and medoids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from heatcli.discover.job import Found, Shown
from heatcli.errors import ImageError, counted
from heatcli.images.read import read_picture
from heatcli.images.sheet import Block, Tile, coloured, png, sheet
from heatcli.system.files import make_folder, write_atomically, write_json

DRAWN = 10  # the most clusters on the sheet


def write(out: Path, found: Found, shown: Sequence[Shown]) -> tuple[Path, Path]:
    """Write both files into `out`, and return their paths. Raises `UsageError`."""
    make_folder(out)
    table, picture = out / "clusters.json", out / "clusters.png"
    write_atomically(picture, png(sheet([_block(one) for one in shown[:DRAWN]], 7)))
    write_json(table, found)
    return table, picture


def _block(shown: Shown) -> Block:
    """A block of the sheet: the mean map, then the medoids."""
    cluster = shown.cluster
    mean = np.array(cluster.mean_map)
    tiles = [Tile(coloured(mean, 0.0, float(mean.max()), "viridis"), "mean map")]
    for path in shown.medoids:
        try:
            picture = read_picture(path, 3)
        except ImageError:
            continue  # the picture was moved or damaged since; its name is in clusters.json
        if not isinstance(picture.pixels, np.ndarray):
            tiles.append(Tile(picture.pixels, path.name[:16]))
    size = counted(cluster.size, "picture")
    title = f"{cluster.name}: suspicion {cluster.suspicion:.1%}, {size}, {cluster.share:.0%} of class"
    return Block(title, tiles)
