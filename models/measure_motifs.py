"""Do methods put relevance on planted motifs, and not elsewhere, also where several copies saturate the score?

Random sequences with one TAL motif and 1, 2, 3 or 5 GATA motifs; the score of GATA is explained. For each method and
reference, as Markdown and in `motifs.relevance.json`:

- share: positive relevance on GATA motifs, of all positive relevance (of |gradient|, for the gradient);
- found: GATA motifs whose relevance is above that of every window as long that touches none;
- a copy: relevance of a GATA motif among five, over that of one alone.

heatcli must be installed.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from train_motifs import MOTIFS, Sequences, plant

import heatcli
from heatcli.methods.table import METHODS
from heatcli.model.model import Model
from heatcli.sequences.logo import logo
from heatcli.sequences.read import read_sequences
from heatcli.sequences.references import explain_sequences

HERE = Path(__file__).parent
SAMPLES = HERE.parent / "samples"
COPIES = (1, 2, 3, 5)
WIDTH = len(MOTIFS["GATA"])
ROWS = (
    ("gradient", None), ("guided-backprop", None), ("input-x-gradient", "none"), ("input-x-gradient", "background"),
    ("input-x-gradient", "shuffle"), ("lrp-eps", "none"), ("lrp-alpha-beta", "none"), ("lrp-z-plus", "none"),
    ("integrated-gradients", "background"), ("deeplift-rescale", "zero"), ("deeplift-rescale", "background"),
    ("deeplift-rescale", "shuffle"), ("deeplift-genomics", "background"), ("deeplift-genomics", "shuffle"),
    ("deeplift-reveal-cancel", "background"), ("deeplift-reveal-cancel", "shuffle"),
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One method against one reference, a number for each of COPIES but for `a_copy`."""

    method: str
    reference: str
    share: list[float]
    found: list[float]
    a_copy: float


def positions(model: Model, onehot: Tensor, method: str, baseline: str | None) -> Tensor:
    """Relevance a position, [N, L]: summed over letters; of a gradient, the largest |value|."""
    chosen = METHODS[method]
    relevance = explain_sequences(model, onehot, chosen, "GATA", baseline).relevance
    return relevance.sum(1) if chosen.readout == "relevance" else relevance.abs().amax(1)


def measured(model: Model, data: dict[int, Sequences], method: str, baseline: str | None) -> Row:
    """All numbers of one row."""
    share, found, copies = [], [], []
    for count, sequences in data.items():
        relevance = positions(model, torch.from_numpy(sequences.onehot), method, baseline).double().numpy()
        planted = sequences.planted[:, 0]
        positive = relevance.clip(min=0)
        share.append(float((positive * planted).sum(1).mean() / positive.sum(1).mean()))
        windows = np.lib.stride_tricks.sliding_window_view(relevance, WIDTH, axis=1).sum(2)
        touched = np.lib.stride_tricks.sliding_window_view(planted, WIDTH, axis=1).any(2)
        best = np.where(touched, -np.inf, windows).max(1)
        starts = np.lib.stride_tricks.sliding_window_view(planted, WIDTH, axis=1).all(2)
        starts &= in_step(sequences, count)
        found.append(float((windows > best[:, None])[starts].mean()))
        copies.append(float(windows[starts].mean()))
    return Row(method, baseline or "none", share, found, copies[-1] / copies[0])


def in_step(sequences: Sequences, count: int) -> np.ndarray:
    """Where motifs start, bool [N, L − WIDTH + 1]; two that touch count from where the first starts."""
    planted = sequences.planted[:, 0]
    starts = np.zeros((len(planted), planted.shape[1] - WIDTH + 1), bool)
    for row, own in zip(planted, starts, strict=True):
        at = np.flatnonzero(row)
        own[at[::WIDTH]] = True
    assert int(starts.sum()) == count * len(planted)
    return starts


def main() -> None:
    """Measure every row that this heatcli knows the method of."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=200, help="for each number of copies")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = heatcli.load(HERE / "motifs.onnx")
    dice = np.random.default_rng(11)
    data = {count: plant(np.tile([count, 1], (args.sequences, 1)), dice) for count in COPIES}
    with_none = plant(np.tile([0, 1], (args.sequences, 1)), dice)
    logits = {
        count: round(float(heatcli.explain(model, torch.from_numpy(s.onehot), "gradient", 0).outputs[:, 0].mean()), 2)
        for count, s in {0: with_none, **data}.items()
    }
    chance = [round(count * WIDTH / with_none.onehot.shape[2], 3) for count in COPIES]
    rows = [measured(model, data, *row) for row in ROWS if row[0] in METHODS]
    report = {"logits": logits, "chance": chance, "rows": [vars(row) for row in rows]}
    (HERE / "motifs.relevance.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (one,) = [s for s in read_sequences(SAMPLES / "sequences" / "motifs.fa", "ACGT") if s.name == "3-GATA"]
    relevance = positions(model, torch.from_numpy(one.onehot)[None], "deeplift-rescale", "shuffle")[0].double().numpy()
    (SAMPLES / "shown" / "logo.png").write_bytes(logo(one.letters, relevance, "GATA, deeplift-rescale against shuffle"))
    print("mean logit of GATA with " + ", ".join(f"{n}: {value}" for n, value in logits.items()) + " copies\n")
    shown = [COPIES.index(count) for count in (1, 3, 5)]
    print("| method | reference | share, 1 copy | 3 | 5 | found, 1 copy | 3 | 5 | a copy of 5 |\n" + "|---" * 9 + "|")
    print("| (chance) | | " + " | ".join(f"{100 * chance[i]:.0f}%" for i in shown) + " | | | | |")
    for row in rows:
        cells = [f"{100 * numbers[i]:.0f}%" for numbers in (row.share, row.found) for i in shown]
        print(f"| `{row.method}` | {row.reference} | " + " | ".join(cells) + f" | {row.a_copy:.2f} |")


if __name__ == "__main__":
    main()
