"""Networks of one operator, exported: what ONNX Runtime and torch.export say is what `explain` says.

Each stands for a kind that torch's exporter refuses or writes otherwise. All operators: `tests/measure/export.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from one_operator import OTHERS, Case, cases, inputs, model
from recipes import SHAPE
from torch.nn import functional

from heatcli.explanation import explain
from heatcli.export.job import ExportRequest, recording
from heatcli.export.run import opened
from heatcli.export.verify import verify
from heatcli.export.write import WRITERS
from heatcli.methods.table import method

KINDS = (
    "grid_sampler_2d, bilinear, zeros, False", "grid_sampler_2d, bilinear, border, True",
    "grid_sampler_2d, bilinear, reflection, False", "grid_sampler_2d, bicubic, zeros, False", "grid_sampler_3d",
    "spatial transformer", "index by booleans", "index_put of rows by booleans", "index_put by booleans",
    "written diagonals", "as_strided_scatter", "conv of weights that are computed", "_cdist_forward",
    "_cdist_forward, p 1", "prod along an axis", "cumprod", "cummax", "median", "scatter_reduce, mean", "hypot",
    "lerp of three",
)  # fmt: skip
FIXED = torch.nn.functional.affine_grid(torch.tensor([[[0.8, 0.3, 0.1], [-0.2, 0.9, 0.0]]]), [1, 1, 5, 5], False)
MORE = {
    "windows of unequal size": lambda x: functional.adaptive_max_pool2d(x, (4, 5)),
    "volumes of unequal size": lambda x: functional.adaptive_max_pool3d(x, (3, 4, 5)),
    "a grid that is constant": lambda x: functional.grid_sample(
        x, FIXED.expand(x.shape[0], -1, -1, -1), padding_mode="border", align_corners=False
    ),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if i % 12 == 6 else pytest.mark.slow) for i, name in enumerate((*KINDS, *MORE))],
)
def test_it_says_what_explain_says(name: str, tmp_path: Path) -> None:
    """Of pictures that the export never saw, one and eight at once."""
    case = next(cases(name, 1)) if name in OTHERS else Case(name, MORE[name], [SHAPE])
    subject, chosen = model(case, tmp_path), method("lrp-eps")
    found = recording(subject, ExportRequest(path=tmp_path / "e.onnx", method=chosen))
    for suffix in (".onnx", ".pt2"):
        content, path = found.content(WRITERS[suffix]), tmp_path / f"e{suffix}"
        verify(content, found.record, found.note, found.unseen, path)
        path.write_bytes(content)
        artifact = opened(path)
        for count in (found.size,) if found.size else (1, 8):
            batch = inputs(count, count)
            said, expected = artifact.run({"input": batch}), explain(subject, batch, chosen)
            truth = expected.relevance.numpy()
            assert np.abs(said["relevance"] - truth).max() < 1e-4 * np.abs(truth).max()
            np.testing.assert_allclose(said["logits"], expected.outputs.numpy(), rtol=1e-4, atol=1e-4)
