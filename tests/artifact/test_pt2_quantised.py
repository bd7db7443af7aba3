"""Quantised programs, as pt2e writes them: rounded activations between layers, integers for weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import heatcli
from heatcli.errors import ModelError
from heatcli.system.torch_private import load_decomposed

load_decomposed()
WAYS = torch.ops.quantized_decomposed
pytestmark = [
    pytest.mark.skipif(not hasattr(WAYS, "quantize_per_tensor"), reason="this torch does not have the operators"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


class Quantised(nn.Module):
    """Two layers on rounded values: weights with a scale for each channel, and with one for all."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        weight, dense = torch.randn(8, 3, 3, 3), torch.randn(4, 8)
        scales = weight.abs().amax((1, 2, 3)) / 127
        self.scale = float(dense.abs().max() / 127)
        self.bias = nn.Parameter(torch.randn(8))
        self.register_buffer("scales", scales)
        self.register_buffer("zeros", torch.zeros(8, dtype=torch.int64))
        self.register_buffer("weight", (weight / scales[:, None, None, None]).round().to(torch.int8))
        self.register_buffer("dense", (dense / self.scale).round().to(torch.int8))

    def rounded(self, x: Tensor, scale: float, zero: int) -> Tensor:
        return WAYS.dequantize_per_tensor(
            WAYS.quantize_per_tensor(x, scale, zero, -128, 127, torch.int8), scale, zero, -128, 127, torch.int8
        )

    def forward(self, x: Tensor) -> Tensor:
        weight = WAYS.dequantize_per_channel(self.weight, self.scales, self.zeros, 0, -128, 127, torch.int8)
        dense = WAYS.dequantize_per_tensor(self.dense, self.scale, 0, -128, 127, torch.int8)
        y = torch.conv2d(self.rounded(x, 1 / 255, -128), weight, self.bias, 2).relu()
        return self.rounded(y, 0.05, -128).mean((2, 3)) @ dense.t()


def saved(module: nn.Module, path: Path) -> Path:
    torch.export.save(torch.export.export(module.eval(), (torch.rand(1, 3, 16, 16),)), path)
    return path


def test_it_is_explained_by_the_real_numbers(tmp_path: Path) -> None:
    """Outputs are the artifact's; what rounding adds is the only thing unexplained; the bias keeps its name."""
    net, x = Quantised(), torch.rand(1, 3, 16, 16)
    model = heatcli.load(saved(net, tmp_path / "net.pt2"), size=16)
    result = heatcli.explain(model, x, "lrp-eps", baseline="none")
    assert torch.allclose(result.outputs, net(x), atol=1e-4)
    assert "bias" in result.biases
    assert float(result.ledger.relative_error) < 1e-2
    verified = model.graph(x.shape).verified
    assert verified is not None
    assert verified.agrees


def test_it_is_explained_as_its_onnx_sibling(tmp_path: Path) -> None:
    """The same map as of QuantizeLinear and DequantizeLinear."""
    pytest.importorskip("onnxscript")
    net, x = Quantised().eval(), torch.rand(1, 3, 16, 16)
    torch.onnx.export(net, (x,), str(tmp_path / "net.onnx"), dynamo=True, verbose=False)
    maps = [
        heatcli.explain(heatcli.load(path, size=16), x, "lrp-epsilon-plus", target=1, baseline="none").relevance
        for path in (saved(net, tmp_path / "net.pt2"), tmp_path / "net.onnx")
    ]
    assert torch.allclose(*maps, atol=1e-4 * float(maps[0].abs().max()))


def test_what_is_not_known_is_one_line(tmp_path: Path) -> None:
    """Dynamic quantisation takes its scale from each batch."""

    class Dynamic(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            scale, zero = WAYS.choose_qparams.tensor(x, -128, 127, 1e-6, torch.int8)
            return WAYS.quantize_per_tensor.tensor(x, scale, zero, -128, 127, torch.int8).float().mean((2, 3))

    path = saved(Dynamic(), tmp_path / "net.pt2")
    with pytest.raises(ModelError, match=r"quantized_decomposed::choose_qparams.*export it without quantisation"):
        heatcli.load(path, size=16).graph((1, 3, 16, 16))
