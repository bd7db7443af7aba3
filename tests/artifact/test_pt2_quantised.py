"""Quantised programs, as pt2e writes them: rounded activations between layers, integers for weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import heatcli
from heatcli.artifact.program import Refused, _called
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


class Dynamic(nn.Module):
    """Two dense layers behind a convolution; activations are rounded by the range of each batch, or of each row.

    `way`: which operators of pt2e do that; "" leaves activations alone. Weights are whole numbers, in groups of 4.
    """

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.way, self.features = way, nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        self.register_buffer("dense", torch.randint(-128, 128, (4, 8), dtype=torch.int8))
        self.register_buffer("scales", torch.rand(4, 2) / 100)
        self.register_buffer("zeros", torch.randint(-3, 3, (4, 2), dtype=torch.int32))
        self.last = nn.Parameter(torch.randn(5, 4))
        self.register_buffer("steps", self.last.detach().abs().amax(1) / 127)
        self.bias = nn.Parameter(torch.randn(5))

    def rounded(self, x: Tensor) -> Tensor:
        if self.way == "tensor":
            scale, zero = WAYS.choose_qparams.tensor(x, -128, 127, 1e-6, torch.int8)
            given = scale, zero, -128, 127, torch.int8
            return WAYS.dequantize_per_tensor.tensor(WAYS.quantize_per_tensor.tensor(x, *given), *given)
        if self.way == "token":
            scale, zero = WAYS._choose_qparams_per_token_asymmetric_impl(x, torch.int8)
            given = scale, zero, -128, 127, torch.int8
            return WAYS.dequantize_per_token(WAYS.quantize_per_token(x, *given), *given, torch.float32)
        return x

    def forward(self, x: Tensor) -> Tensor:
        y = self.rounded(self.features(x).mean((2, 3)))
        limits = -128, 127, torch.int8
        dense = WAYS.dequantize_per_channel_group(self.dense, self.scales, self.zeros, *limits, 4, torch.float32)
        y = self.rounded(torch.relu(y @ dense.t()))
        none = torch.zeros(5, dtype=torch.int64)
        last = WAYS.quantize_per_channel(self.last, self.steps, none, 0, *limits)
        return y @ WAYS.dequantize_per_channel(last, self.steps, none, 0, *limits).t() + self.bias


@pytest.mark.parametrize("way", ["tensor", "token"])
def test_dynamic_quantisation_is_left_out(way: str, tmp_path: Path) -> None:
    """The map is that of the same network with real activations; the runtime's output is nearly the same."""
    x = torch.rand(1, 3, 16, 16)
    models = [heatcli.load(saved(Dynamic(kind), tmp_path / f"net{kind}.pt2"), size=16) for kind in ("", way)]
    plain, found = (heatcli.explain(model, x, "lrp-eps", target=1, baseline="none") for model in models)
    assert torch.equal(plain.relevance, found.relevance)
    assert torch.allclose(plain.outputs, Dynamic("")(x), atol=1e-5)
    assert torch.allclose(found.outputs, Dynamic(way)(x), atol=0.05)
    assert float(found.ledger.relative_error) < 1e-5
    verified = models[1].graph(x.shape).verified
    assert verified is not None
    assert verified.agrees
    assert "dequantise" in models[1].artifact.rewrites


def test_what_is_not_known_is_one_line(tmp_path: Path) -> None:
    class Unknown(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return WAYS.convert_element_type.no_fuse(x, torch.float32).mean((2, 3))

    class Whole(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            whole = (x.mean(1)[0, :, :8] * 127).round().to(torch.int8)
            return torch._int_mm(whole.repeat(2, 1), torch.ones(8, 8, dtype=torch.int8)).float()[None, :4, 0]

    for net, said in (
        (Unknown(), "quantized_decomposed::convert_element_type.*export it without quantisation"),
        (Whole(), "aten::_int_mm on whole numbers, which no relevance passes; quantise the weights alone"),
    ):
        path = saved(net, tmp_path / "net.pt2")
        with pytest.raises(ModelError, match=said):
            heatcli.load(path, size=16).graph((1, 3, 16, 16))


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("torch.ops.torchao.dequantize_affine.default", "an operator of torchao's own; save torch.export"),
        (
            "torch.ops.torchao.quantize_affine.default",
            "which rounds activations to whole numbers; quantise the weights",
        ),
        ("torch.ops.export.access_subclass_inner_tensor.default", "such as torchao's; save torch.export"),
        ("torch.ops.higher_order.out_dtype", "call convert_pt2e without use_reference_representation"),
        ("torch.ops.other.operator.default", "which does more than compute tensors; refused"),
    ],
)
def test_an_operator_of_a_quantiser_is_refused_with_a_way_out(target: str, said: str) -> None:
    with pytest.raises(Refused, match=rf"calls '{target}', .*{said}"):
        _called(target)


def test_what_torchao_exports(tmp_path: Path) -> None:
    """By pt2e, static and dynamic, and weights alone: the map of the network before quantisation, nearly."""
    pytest.importorskip("torchao")
    from torchao.quantization import Int8WeightOnlyConfig, quantize_
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as ways

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 32), nn.ReLU(),
        nn.Linear(32, 4),
    ).eval()  # fmt: skip
    x = torch.rand(1, 3, 16, 16)
    plain = heatcli.explain(heatcli.load(saved(net, tmp_path / "net.pt2"), size=16), x, "lrp-eps", 1, "none").relevance
    programs = {}
    for dynamic in (False, True):
        quantizer = ways.X86InductorQuantizer()
        quantizer.set_global(ways.get_default_x86_inductor_quantization_config(is_dynamic=dynamic))
        prepared = prepare_pt2e(torch.export.export(net, (x,)).module(), quantizer)
        for _ in range(4):
            prepared(torch.rand(1, 3, 16, 16))
        programs[f"pt2e{dynamic}"] = torch.export.export(convert_pt2e(prepared), (x,))
    quantize_(net, Int8WeightOnlyConfig())
    programs["weights"] = torch.export.export(net, (x,)).run_decompositions()
    for name, program in programs.items():
        torch.export.save(program, tmp_path / f"{name}.pt2")
        found = heatcli.explain(heatcli.load(tmp_path / f"{name}.pt2", size=16), x, "lrp-eps", 1, "none").relevance
        alike = torch.corrcoef(torch.stack([plain.flatten(), found.flatten()]))[0, 1]
        assert float(alike) > 0.95, name
