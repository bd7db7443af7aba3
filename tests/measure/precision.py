"""How far a float32 map is from the same walk in float64: prints a Markdown table.

    python tests/measure/precision.py [--amp]

L∞ of the difference over L∞ of the float64 map, largest of four images at 64×64, random weights with BatchNorm
statistics near the data's; and the largest relative error of the ledger in float32.
`--amp`: instead how near maps in mixed precision are to float32's, of the embedded network on the samples.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

import torch
from conftest import SAMPLES
from networks import ARCHITECTURES, CORE, architecture, images, save

import heatcli
from heatcli.errors import UsageError
from heatcli.graph.passes import DEFAULT
from heatcli.images.read import read_picture

SHAPE = (3, 64, 64)


def main() -> None:
    """Measure and print."""
    warnings.simplefilter("ignore")
    batch = images(4, shape=SHAPE)
    rows: dict[str, list[str]] = {name: [] for name in CORE}
    for network in ARCHITECTURES:
        with tempfile.TemporaryDirectory() as folder:
            single = heatcli.load(save(architecture(network), Path(folder), shape=SHAPE), size=64)
            module = architecture(network).double()
            path = Path(folder) / "double.pt"
            torch.jit.script(module).save(str(path))
            double = heatcli.load(path, size=64)
            for name in CORE:
                try:
                    a = heatcli.explain(single, batch, name, target=1)
                except UsageError:  # guided backpropagation without a ReLU
                    rows[name].append("refused")
                    continue
                b = heatcli.explain(double, batch.double(), name, target=1)
                away = float((a.relevance.double() - b.relevance).abs().max() / b.relevance.abs().max())
                error = f", {float(a.ledger.relative_error.max()):.0e}" if a.method.conserves else ""
                rows[name].append(f"{away:.0e}{error}")
    print(f"| method | {' | '.join(ARCHITECTURES)} |\n|---|{'---|' * len(ARCHITECTURES)}")
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")


def amp() -> None:
    """The cosine between both maps, the median and the least of all samples; the ledger's largest relative error."""
    plain, mixed = heatcli.load(), heatcli.load(passes=(*DEFAULT, "mixed-precision"))
    batch = plain.preprocess([read_picture(path, 3).pixels for path in sorted(SAMPLES.glob("*.png"))])
    print(f"{len(batch)} images\n\n| method | cosine, median | least | ledger |\n|---|---|---|---|")
    for name in CORE:
        exact, near = (heatcli.explain(model, batch, name) for model in (plain, mixed))
        one, other = (e.relevance.double().sum(1).flatten(1) for e in (exact, near))
        cosine = torch.cosine_similarity(one, other)
        error = f"{float(near.ledger.relative_error.max()):.0e}" if near.method.conserves else ""
        print(f"| {name} | {float(cosine.median()):.3f} | {float(cosine.min()):.3f} | {error} |")


if __name__ == "__main__":
    amp() if sys.argv[1:] == ["--amp"] else main()
