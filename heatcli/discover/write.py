"""The files of `heatcli discover`: clusters.json, a sheet of mean maps and medoids, and a spec for `heatcli check`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from heatcli.discover.job import Cluster, Found, Shown
from heatcli.errors import ImageError, counted
from heatcli.images.read import read_picture
from heatcli.images.sheet import Block, Tile, coloured, png, sheet
from heatcli.system.files import make_folder, read_regular, reading, write_atomically, write_json

DRAWN = 10  # the most clusters on the sheet
FOLDER, TABLE = "discover", "clusters.json"  # in the folder of a run
SPEC = """\
# Written by heatcli discover. The check fails as long as pictures of the class {label} are recognised by the places of
# {name}, and if another group of pictures gets places of its own: heatcli check MODEL PICTURES --spec {file}
[unexpected-clusters]
clusters = {table}
gone = [{quoted}]
"""


def write(out: Path, found: Found, shown: Sequence[Shown]) -> tuple[Path, Path]:
    """Write both files into `out`, and return their paths. Raises `UsageError`."""
    make_folder(out)
    table, picture = out / TABLE, out / "clusters.png"
    write_atomically(picture, png(sheet([_block(one) for one in shown[:DRAWN]], 7)))
    write_json(table, found)
    return table, picture


def read_found(path: Path) -> Found:
    """The clusters in a `clusters.json`. Raises `UsageError`."""
    with reading(path, "file of clusters", "heatcli discover writes one"):
        return msgspec.json.decode(read_regular(path), type=Found)


def write_spec(file: Path, table: Path, cluster: Cluster) -> None:
    """Write a spec by which `heatcli check` fails as long as `cluster` is there. Raises `UsageError`.

    `table`: the `clusters.json` that has the cluster, in the folder of `file`.
    """
    quoted = (msgspec.json.encode(text).decode() for text in (table.name, cluster.name))  # also a string of TOML
    name, text = next(quoted), next(quoted)
    content = SPEC.format(label=cluster.label, name=cluster.name, file=file.name, table=name, quoted=text)
    write_atomically(file, content.encode())


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
