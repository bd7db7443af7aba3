"""What the comparison with the artifact's own runtime costs: prints a table.

    python tests/measure/verification.py

The embedded networks as they ship, and torchvision's with random weights, scripted and as ONNX: seconds of one load and
capture with and without the comparison, in turns, medians of 5; the largest difference of an output.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from pathlib import Path

import torch

import heatcli

ROOT = Path(__file__).parents[2]
ROUNDS = 5
NETWORKS = {"resnet18": 224, "mobilenet_v3_large": 224}
OTHERS = ("digits-decoder", "motifs")  # that take no picture


def artifacts(folder: Path) -> dict[str, Path]:
    """Name → file."""
    import torchvision

    files = (p for p in sorted((ROOT / "models").glob("*.*")) if p.suffix in (".pt", ".onnx") and p.stem not in OTHERS)
    found = {path.name: path for path in files}
    for name, size in NETWORKS.items():
        torch.manual_seed(0)
        net, x = getattr(torchvision.models, name)().eval(), torch.rand(1, 3, size, size)
        torch.jit.script(net).save(str(folder / f"{name}.pt"))
        torch.onnx.export(net, (x,), str(folder / f"{name}.onnx"), dynamo=False, opset_version=17)
        found |= {f"{name}{suffix}": folder / f"{name}{suffix}" for suffix in (".pt", ".onnx")}
    return found


def measured(path: Path) -> tuple[float, float, float, float]:
    """Seconds without and with the comparison, the comparison's own seconds, and its error."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    own: list[float] = []
    error = 0.0
    for _ in range(ROUNDS):
        for compared in (False, True):
            started = time.perf_counter()
            model = heatcli.load(path, size=(224, 224)) if path.stem in NETWORKS else heatcli.load(path)
            if not compared:
                object.__setattr__(model.artifact, "runtime", None)
            verified = model.graph((1, *model.shape)).verified
            seconds[compared].append(time.perf_counter() - started)
            if verified is not None:
                own.append(model.capture.compared_in)
                error = max(error, verified.error)
    return statistics.median(seconds[False]), statistics.median(seconds[True]), statistics.median(own), error


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    print("| artifact | without, s | with, s | the comparison, s | error |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, path in artifacts(Path(folder)).items():
            before, after, own, error = measured(path)
            print(f"| {name} | {before:.2f} | {after:.2f} | {own:.3f} | {error:.0e} |", flush=True)


if __name__ == "__main__":
    main()
