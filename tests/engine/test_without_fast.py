"""Nothing depends on `heatcli/engine/fast/`: with the folder deleted, every method gives the same numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from conftest import MODELS, SAMPLES

import heatcli

SCRIPT = """
import json, sys
import torch
import heatcli
from heatcli.engine import plan
from heatcli.methods.table import METHODS
from PIL import Image

model = heatcli.load(sys.argv[1])
batch = model.preprocess([Image.open(path) for path in sys.argv[2:]])
answers = {"fast": plan.fast is not None}
for name, method in METHODS.items():
    if method.kind == "backward":
        baseline = "blur" if method.baseline not in (None, "none") else None
        result = heatcli.explain(model, batch, name, baseline=baseline)
        answers[name] = [result.relevance.double().sum(1).flatten()[::97].tolist(), result.ledger.biases.tolist()]
print(json.dumps(answers))
"""
BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, *_):
        if name.startswith("heatcli.engine.fast"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked())
"""


def answers(script: str) -> dict[str, list[list[float]]]:
    """What the script prints, in a process of its own."""
    pictures = [str(SAMPLES / f"{name}.png") for name in ("wolf-on-snow", "dog-on-grass")]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(MODELS / "animals.pt"), *pictures],
        capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(Path(heatcli.__file__).parents[1])},
    )  # fmt: skip
    found: dict[str, list[list[float]]] = json.loads(done.stdout)
    return found


def test_the_numbers_stay() -> None:
    fast, plain = answers(SCRIPT), answers(BLOCK + SCRIPT)
    assert fast.pop("fast")
    assert not plain.pop("fast")
    assert len(fast) == len(plain) > 15
    for name, parts in fast.items():
        for own, other in zip(map(torch.tensor, parts), map(torch.tensor, plain[name]), strict=True):
            error = float((own - other).abs().max() / other.abs().max().clamp(min=1e-9))
            assert error < 2e-3, name  # float32: an order of sums, amplified where sums cancel
