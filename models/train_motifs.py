"""Train `motifs.onnx`: does a DNA sequence hold a GATA-like motif, a TAL-like one, both?

The simulated task of the DeepLIFT paper (Shrikumar et al. 2017, sec. 4.2): random sequences of 200 letters, motifs
drawn from position weight matrices planted in them, each label a yes or no. Up to five copies of a motif are planted,
and labels are smoothed, so the logit itself saturates: one copy is to be as good as five.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import clean
import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn

LETTERS, LENGTH = "ACGT", 200
SMOOTHING = 0.04
BACKGROUND = (0.3, 0.2, 0.2, 0.3)
TASKS = ("GATA", "TAL", "both")
SIDECAR = """# heatcli reads this beside motifs.onnx; made by train_motifs.py
[input]
alphabet = "ACGT"
length = 200

[labels]
names = ["GATA", "TAL", "both"]

[baseline]
background = [0.3, 0.2, 0.2, 0.3]
"""


def matrix(consensus: str, weak: str) -> np.ndarray:
    """Letter probabilities [positions, 4]: 0.97 for the letters of `consensus`, 0.8 where `weak` has an `x`."""
    rows = np.empty((len(consensus), 4))
    for i, letter in enumerate(consensus):
        sure = 0.8 if weak[i] == "x" else 0.97
        rows[i] = (1 - sure) / 3
        rows[i, LETTERS.index(letter)] = sure
    return rows


MOTIFS = {"GATA": matrix("CAGATAAGGC", "xx-----xxx"), "TAL": matrix("ACCATCTGTT", "xx-----xxx")}


@dataclass(frozen=True, eq=False)
class Sequences:
    """One-hot sequences [N, 4, L], labels [N, 3], and where motifs lie: bool [N, 2, L], GATA and TAL."""

    onehot: np.ndarray
    labels: np.ndarray
    planted: np.ndarray


def plant(copies: np.ndarray, dice: np.random.Generator, length: int = LENGTH) -> Sequences:
    """Random sequences with `copies` [N, 2] of each motif at places that do not overlap."""
    n = len(copies)
    letters = dice.choice(4, (n, length), p=BACKGROUND)
    planted = np.zeros((n, len(MOTIFS), length), bool)
    for i in range(n):
        order = [m for m, count in enumerate(copies[i]) for _ in range(count)]
        taken = np.zeros(length, bool)
        for m in order:
            rows = list(MOTIFS.values())[m]
            while True:
                at = int(dice.integers(0, length - len(rows) + 1))
                if not taken[at : at + len(rows)].any():
                    break
            taken[at : at + len(rows)] = True
            planted[i, m, at : at + len(rows)] = True
            letters[i, at : at + len(rows)] = [dice.choice(4, p=row) for row in rows]
    onehot = np.eye(4, dtype=np.float32)[letters].transpose(0, 2, 1)
    has = copies > 0
    labels = np.stack([has[:, 0], has[:, 1], has.all(1)], 1).astype(np.float32)
    return Sequences(np.ascontiguousarray(onehot), labels, planted)


def random_copies(n: int, dice: np.random.Generator) -> np.ndarray:
    """For a quarter of the sequences none, for the others up to five copies of one motif or of either."""
    copies = dice.integers(1, 6, (n, 2))
    kind = dice.integers(0, 4, n)
    copies[np.isin(kind, (0, 2)), 0] = 0
    copies[np.isin(kind, (0, 1)), 1] = 0
    return copies


class MotifNet(nn.Module):
    """Two convolutions, the mean over positions, two dense layers; [N, 4, L] one-hot to probabilities [N, 3]."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(4, width, 11, padding=5)
        self.conv2 = nn.Conv1d(width, width, 11, padding=5)
        self.fc1 = nn.Linear(width, 64)
        self.fc2 = nn.Linear(64, len(TASKS))

    def logits(self, x: Tensor) -> Tensor:
        """Before the sigmoid, [N, 3]."""
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        return self.fc2(F.relu(self.fc1(x.mean(2) * 20)))

    def forward(self, onehot: Tensor) -> Tensor:
        """Probabilities [N, 3]."""
        return torch.sigmoid(self.logits(onehot))


def train(data: Sequences, epochs: int, seed: int, batch: int = 128, rate: float = 4e-3) -> MotifNet:
    """Adam with one cycle; returns the network in eval mode."""
    source = torch.Generator().manual_seed(seed)
    x, y = torch.from_numpy(data.onehot), torch.from_numpy(data.labels) * (1 - SMOOTHING) + SMOOTHING / 2
    net = MotifNet()
    optimiser = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.01)
    steps = len(x) // batch
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=epochs * steps, pct_start=0.2)
    start = time.perf_counter()
    for epoch in range(epochs):
        for chosen in torch.randperm(len(x), generator=source)[: steps * batch].view(steps, batch):
            loss = F.binary_cross_entropy_with_logits(net.logits(x[chosen]), y[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            cycle.step()
        print(f"epoch {epoch + 1}/{epochs} loss {loss:.4f} {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return net.eval()


def export(net: MotifNet, path: Path) -> None:
    """Write one ONNX file: input `onehot` [N, 4, 200], output `probabilities` [N, 3], any N."""
    batch = torch.export.Dim("N", min=1)
    torch.onnx.export(
        net, (torch.zeros(2, 4, LENGTH),), str(path), dynamo=True, external_data=False, optimize=True, verbose=False,
        input_names=["onehot"], output_names=["probabilities"], dynamic_shapes={"onehot": {0: batch}},
    )  # fmt: skip
    clean.onnx_file(path)


def fasta(data: Sequences, path: Path) -> None:
    """Write sequences as FASTA, each named by its motifs and where they start."""
    lines = []
    for i in range(len(data.onehot)):
        places = []
        for m, name in enumerate(MOTIFS):
            starts = np.flatnonzero(np.diff(np.concatenate([[0], data.planted[i, m].astype(int)])) == 1)
            places += [f"{name}@{start}" for start in starts]
        lines += [
            f">{i}-{'-'.join(dict.fromkeys(p.split('@')[0] for p in places)) or 'none'} {' '.join(places)}",
            "".join(LETTERS[k] for k in data.onehot[i].argmax(0)),
        ]
    path.write_text("\n".join(lines) + "\n", encoding="ascii")


def main() -> int:
    """Train, export, measure, and write samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where the artifact goes")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--sequences", type=int, default=30000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    dice = np.random.default_rng(args.seed)
    data = plant(random_copies(args.sequences, dice), dice)
    start = time.perf_counter()
    net = train(data, args.epochs, args.seed)
    seconds = round(time.perf_counter() - start)
    path = args.out / "motifs.onnx"
    export(net, path)
    (args.out / "motifs.toml").write_text(SIDECAR, encoding="utf-8")
    dice = np.random.default_rng(args.seed + 1)
    test = plant(random_copies(4000, dice), dice)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    says = session.run(None, {"onehot": test.onehot})[0] > 0.5
    right = (says == (test.labels > 0.5)).mean(0)
    report = {"epochs": args.epochs, "seconds": seconds, "sequences": args.sequences, "test_sequences": 4000}
    report |= {"accuracy": {task: round(float(r), 4) for task, r in zip(TASKS, right, strict=True)}}
    (args.out / "motifs.metrics.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    folder = args.out.parent / "samples" / "sequences"
    folder.mkdir(parents=True, exist_ok=True)
    fasta(plant(np.array([[1, 0], [0, 1], [1, 1], [3, 0], [0, 0]]), np.random.default_rng(9)), folder / "motifs.fa")
    print(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
