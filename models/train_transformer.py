"""Train `animals-transformer.pt`: four blocks of attention on the first stages of `animals.pt`, which stay as they are.

The drawings, the pictures and the test are those of train_animals.py, which has to run before.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from compose import Look
from nets import AnimalNet, AnimalTransformer
from scenes import background_bank
from sprites import FAMILIES, NAMES, TEST_FAMILY, load, sets_of
from train_animals import SIZE, Studio, export, predictions, run, summary, train

STEM = "animals-transformer"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--emoji", type=Path, default=Path("data"), help="folder with node_modules (default: ./data)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where the artifact goes")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--each", type=int, default=40, help="test pictures of a drawing on a kind of background")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def build(args: argparse.Namespace) -> None:
    """Make the artifact and its metrics."""
    trained = AnimalNet(len(NAMES))
    trained.load_state_dict(torch.jit.load(str(args.out / "animals.pt")).state_dict())
    sprites = load(args.emoji, sets_of([f for f in FAMILIES if f != TEST_FAMILY]), SIZE)
    test_sprites = load(args.emoji, sets_of([TEST_FAMILY]), SIZE)
    studio = Studio(sprites, background_bank(args.seed, "train", 200, 128), Look(), args.seed + 1)
    start = time.perf_counter()
    net = train(studio, args.steps, args.batch, rate=2e-3, start=AnimalTransformer(trained, len(NAMES)))
    seconds = round(time.perf_counter() - start)
    export(net, args.out, STEM, Path(__file__).name)
    report = summary(
        predictions(net, test_sprites, background_bank(args.seed + 99, "test", 60, 128), args.each), test_sprites
    )
    metrics = {"steps": args.steps, "batch": args.batch, "seconds": seconds, "test_set": TEST_FAMILY} | report
    (args.out / f"{STEM}.metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(metrics, indent=1))


if __name__ == "__main__":
    sys.exit(run(parse(), build))
