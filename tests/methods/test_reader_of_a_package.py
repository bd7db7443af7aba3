"""A text recogniser that a package ships: the CRNN of PyPI's `ddddocr` (extra `peers`), an LSTM, [T, 1, C]."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import heatcli

pytestmark = pytest.mark.peers
WIDE, COLUMNS = 160, 8  # pixels, and pixels a step
BLANK = 0


def drawn(text: str) -> Tensor:
    """Black letters on white, [1, 1, 64, WIDE] in 0..1."""
    picture = Image.new("L", (WIDE, 64), 255)
    ImageDraw.Draw(picture).text((12, 4), text, fill=0, font=ImageFont.load_default(size=44))
    return torch.from_numpy(np.asarray(picture, np.float32) / 255)[None, None]


def test_each_letter_is_explained_where_it_stands() -> None:
    """Four letters, each at its own step: most relevance lies within three steps of it, and the ledger closes."""
    spec = find_spec("ddddocr")
    if spec is None or spec.origin is None:
        pytest.skip("install .[peers]")
    artifact = Path(spec.origin).parent / "common.onnx"
    model, batch = heatcli.load(artifact, size=(64, WIDE), class_axis=2), drawn("4K7b")
    (outputs,) = onnxruntime.InferenceSession(str(artifact)).run(None, {"input1": batch.numpy()})
    best = outputs[:, 0].argmax(1).tolist()
    found = {t: letter for t, letter in enumerate(best) if letter != BLANK and letter != best[t - 1]}
    assert len(found) == 4
    for t, letter in found.items():
        result = heatcli.explain(model, batch, "lrp-eps", target=f"{letter}@{t}")
        assert float(result.ledger.output) == pytest.approx(float(outputs[t, 0, letter]), rel=1e-5)
        assert float(result.ledger.relative_error.max()) < 1e-5
        by_column = result.relevance[0, 0].abs().sum(0)
        near = by_column[max(0, (t - 3) * COLUMNS) : (t + 4) * COLUMNS].sum() / by_column.sum()
        assert near > 0.8
