"""What ONNX Runtime's own quantiser makes of a small network: explained as it computes, to one quantisation step."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import SIZE, images, network, save
from onnxruntime import quantization
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType

import heatcli

SHAPE = (3, SIZE, SIZE)


class _Pictures(CalibrationDataReader):
    """A few batches for calibration."""

    def __init__(self) -> None:
        self._left = [{"input": images(2, seed=seed).numpy()} for seed in range(4)]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self._left.pop() if self._left else None


def _quantised(folder: Path, how: str) -> Path:
    plain, path = save(network("plain"), folder, "onnx-old"), folder / f"{how}.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if how == "dynamic":
            # 7 bits: with 8, ONNX Runtime's kernels saturate at 16 bits on CPUs without VNNI, as its manual says.
            quantization.quantize_dynamic(plain, path, reduce_range=True)
            return path
        kind = QuantFormat.QOperator if "operator" in how else QuantFormat.QDQ
        more: dict[str, Any] = {"activation_type": QuantType.QInt8} if "int8" in how else {}
        quantization.quantize_static(
            plain,
            path,
            _Pictures(),
            quant_format=kind,
            per_channel="channel" in how,
            weight_type=QuantType.QInt8,
            **more,
        )
    return path


@pytest.mark.parametrize(
    "how", ["qdq", "qdq-int8", "qdq-per-channel", "operator", "operator-int8", "operator-per-channel", "dynamic"]
)
def test_as_onnx_runtime_quantises(tmp_path: Path, how: str) -> None:
    """Outputs are ONNX Runtime's, the books close, and biases keep the names that the file has for them."""
    path = _quantised(tmp_path, how)
    model, batch = heatcli.load(path, size=SIZE), images(1, seed=9)
    artifact = model.artifact
    assert artifact.rewrites == ("dequantise",)
    assert artifact.runtime is not None
    (theirs,) = artifact.runtime([batch])
    (ours,) = artifact.module_for({"input": tuple(batch.shape)})(batch)
    assert float((ours - theirs).abs().max()) <= 0.03 * float(theirs.abs().max())
    assert artifact.differs is not None
    assert artifact.differs([batch]) is None
    graph = model.graph(batch.shape)
    assert torch.allclose(graph_output(model, batch), ours, atol=1e-5)
    assert any("fake_quantize" in op.title for op in graph.operators)
    biases = {o.name for op in graph.operators for o in op.offsets if op.title in ("convolution", "addmm")}
    named = set(artifact.names(artifact.module_for({})))
    assert biases <= named


def graph_output(model: heatcli.Model, batch: torch.Tensor) -> torch.Tensor:
    from heatcli.engine.values import output_of

    return output_of(model.graph(batch.shape), batch)
