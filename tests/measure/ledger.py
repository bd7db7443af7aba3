"""Print the table of LEDGER.md: `python tests/measure/ledger.py [--size 224] [--images 8]`.

For each torchvision network (random weights, randomised BatchNorm statistics and biases), format and conserving
method, the largest relative error of the ledger over the images.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from pathlib import Path

import torch
from networks import ARCHITECTURES, FORMATS, architecture, images, load

import heatcli
from heatcli.methods.table import METHODS

CONSERVING = [name for name, m in METHODS.items() if m.kind == "backward" and m.conserves]
FORMS = ("scripted", "onnx-old", "onnx-new", "pt2")


def row(name: str, form: str, n: int, size: int) -> list[str]:
    """One line: network, format, largest error of the forward output, and of the ledger for each method."""
    module, batch = architecture(name, size), images(n, shape=(3, size, size))
    with torch.no_grad():
        expected = module(batch)
    cells = []
    with tempfile.TemporaryDirectory() as folder:
        model = load(module, Path(folder), form, (3, size, size))
        del module
        for method in CONSERVING:
            result = heatcli.explain(model, batch, method)
            told = f" ({len(result.unexplained)} operators unexplained)" if result.unexplained else ""
            cells.append(f"{float(result.ledger.relative_error.max()):.1e}{told}")
    forward = float((result.outputs - expected).abs().max() / expected.abs().max())
    return [name, form, f"{forward:.1e}", *cells]


def main() -> None:
    """Print the table line by line, as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--networks", nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--formats", nargs="+", default=list(FORMS), choices=list(FORMATS))
    given = parser.parse_args()
    head = ["network", "format", "forward", *CONSERVING]
    print("|", " | ".join(head), "|")
    print("|", " | ".join("---" for _ in head), "|")
    for name in given.networks:
        for form in given.formats:
            print("|", " | ".join(row(name, form, given.images, given.size)), "|", flush=True)
            gc.collect()


if __name__ == "__main__":
    main()
