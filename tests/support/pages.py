"""A page of `heatcli gallery`, taken apart."""

from __future__ import annotations

import base64
import gzip
import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from heatcli.gallery import pack


@dataclass(frozen=True)
class Seen:
    """A page's own data, read as its script reads it."""

    text: str
    meta: dict[str, Any]
    table: dict[str, list[Any]]
    pictures: list[bytes]
    biases: list[list[list[float]]]


def opened(text: str) -> bytes:
    return gzip.decompress(base64.b64decode(text))


def see(page: Path) -> Seen:
    """Take a page apart."""
    text = page.read_text(encoding="utf-8")
    parts = dict(re.findall(r'<script type="(?:text/plain|application/json)" id="([\w-]+)">(.*?)</script>', text, re.S))
    meta, table = json.loads(parts["meta"]), json.loads(opened(parts["table"]))
    sides = meta["sides"]
    pictures: list[bytes] = []
    biases: list[list[list[float]]] = []
    for k in range(-(-len(table["name"]) // meta["rows"])):
        data = opened(parts[f"block-{k}"])
        count = min(meta["rows"], len(table["name"]) - k * meta["rows"])
        lengths = np.frombuffer(data, "<u4", count * (1 + sides)).reshape(count, 1 + sides)
        at = lengths.nbytes
        columns: list[list[bytes]] = []
        for part in range(1 + sides):
            columns.append([])
            for length in lengths[:, part]:
                columns[part].append(data[at : at + length])
                at += length
        assert at == len(data)
        pictures += columns[0]
        for row in range(count):
            scale = table["scale"][len(biases)] / pack.FULL
            biases.append([[x * scale for (x,) in struct.iter_unpack("<h", columns[1 + s][row])] for s in range(sides)])
    return Seen(text, meta, table, pictures, biases)
