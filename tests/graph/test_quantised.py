"""Quantised TorchScript: explained in real numbers, with its outputs, its ReLUs as clamps, and its biases by name."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SAMPLES, Cli
from torch import Tensor, nn

import heatcli
from heatcli.errors import ModelError
from heatcli.graph.quantised import QUANTISED, rounded
from heatcli.system.torch_private import load_decomposed, schemas_of

WOLF = SAMPLES / "wolf-on-snow.png"


@pytest.fixture(autouse=True)
def no_deprecation() -> Iterator[None]:
    """torch.ao.quantization is deprecated; artifacts made with it are in the field."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Mixed(nn.Module):
    """A residual sum, a ReLU in a convolution, max pooling, hardswish, a grouped convolution, a mean, a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        from torch.ao.quantization import DeQuantStub, QuantStub

        self.begin, self.end = QuantStub(), DeQuantStub()
        self.c1, self.b1, self.r1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        self.c2, self.c3 = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 12, 3, groups=4)
        self.add, self.pool, self.act = torch.ao.nn.quantized.FloatFunctional(), nn.MaxPool2d(2), nn.Hardswish()
        self.mean, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.r1(self.b1(self.c1(self.begin(x))))
        y = self.act(self.c3(self.pool(self.add.add_relu(self.c2(y), y))))
        return self.end(self.head(self.mean(y).flatten(1)))


def quantised(module: nn.Module, fuse: list[list[str]]) -> tuple[nn.Module, nn.Module]:
    """The float network and the network after static quantisation, calibrated on noise."""
    import torch.ao.quantization as ao

    plain = ao.fuse_modules(module.eval(), fuse)
    plain.qconfig = ao.get_default_qconfig("x86")
    prepared = ao.prepare(plain)
    for seed in range(4):
        prepared(torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(seed)))
    return plain, ao.convert(prepared)


@pytest.fixture(scope="module")
def both() -> tuple[nn.Module, nn.Module]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        return quantised(Mixed(), [["c1", "b1", "r1"]])


@pytest.mark.parametrize("way", ["scripted", "traced"])
def test_its_outputs_are_the_runtimes_and_its_map_is_the_float_networks(
    way: str, both: tuple[nn.Module, nn.Module], tmp_path: Path
) -> None:
    plain, whole = both
    x = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(9))
    scripted = torch.jit.script(whole) if way == "scripted" else torch.jit.trace(whole, x[:1])
    scripted.save(str(tmp_path / "q.pt"))
    model = heatcli.load(tmp_path / "q.pt", example=x[:1])
    for method in ("lrp-epsilon-plus", "input-x-gradient"):
        found = heatcli.explain(model, x, method, target=1)
        assert found.verified is not None
        assert found.verified.agrees
        with torch.no_grad():
            torch.testing.assert_close(found.ledger.output.float(), whole(x)[:, 1], rtol=0.05, atol=0.01)
        expected = heatcli.explain(heatcli.load(plain, example=x[:1]), x, method, target=1).relevance
        alike = torch.nn.functional.cosine_similarity(found.relevance.flatten(1), expected.flatten(1))
        assert float(alike.min()) > 0.95
    assert set(found.biases) >= {"c1.bias", "c2.bias", "c3.bias", "head.bias"}
    assert "dequantise" in model.artifact.rewrites


def test_dynamic_quantisation(tmp_path: Path) -> None:
    torch.manual_seed(1)
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    whole = torch.ao.quantization.quantize_dynamic(plain.eval(), {nn.Linear}, dtype=torch.qint8)
    torch.jit.script(whole).save(str(tmp_path / "d.pt"))
    x = torch.rand(2, 3, 16, 16)
    found = heatcli.explain(heatcli.load(tmp_path / "d.pt", example=x), x, "lrp-0", target=2)
    torch.testing.assert_close(found.ledger.output.float(), whole(x)[:, 2], rtol=0.05, atol=0.01)
    assert float(found.ledger.relative_error.max()) < 1e-5
    assert "4.bias" in found.biases


@pytest.mark.parametrize("name", ["add", "add_relu", "mul", "mul_relu"])
def test_operators_of_two_beside_torchs_own(name: str) -> None:
    a, b = (torch.randn(50, generator=torch.Generator().manual_seed(i)) for i in range(2))
    qa, qb = (torch.quantize_per_tensor(x, 0.05, 60, torch.quint8) for x in (a, b))
    expected = getattr(torch.ops.quantized, name)(qa, qb, 0.07, 40).dequantize()
    found = QUANTISED[f"quantized::{name}"](qa.dequantize(), qb.dequantize(), 0.07, 40)
    assert float((found - expected).abs().max()) < 0.07 * 1.01, "a step at most, where halves are rounded"
    assert float(((found - expected).abs() > 1e-5).float().mean()) < 0.1


@pytest.mark.parametrize(
    ("name", "given"), [("hardswish", ()), ("sigmoid", ()), ("leaky_relu", (0.1, False)), ("softmax", (0,))]
)
def test_operators_of_one_beside_torchs_own(name: str, given: tuple[Any, ...]) -> None:
    x = torch.quantize_per_tensor(torch.randn(50), 0.05, 60, torch.quint8)
    scale, zero = (1 / 256, 0) if name == "softmax" else (0.04, 30)
    expected = getattr(torch.ops.quantized, name)(x, *given, scale, zero).dequantize()
    found = QUANTISED[f"quantized::{name}"](x.dequantize(), *given, scale, zero)
    assert float((found - expected).abs().max()) < scale * 1.01


@pytest.mark.parametrize("dtype", [torch.quint8, torch.qint8])
def test_rounding_is_torchs(dtype: torch.dtype) -> None:
    x = torch.linspace(-20, 20, 4001)
    zero, low, high = (100, 0, 255) if dtype == torch.quint8 else (-20, -128, 127)
    expected = torch.quantize_per_tensor(x, 0.11, zero, dtype).dequantize()
    assert float(((rounded(x, 0.11, zero, low, high) - expected).abs() > 1e-5).float().mean()) < 1e-3


def test_every_name_exists() -> None:
    load_decomposed()
    assert [name for name in QUANTISED if not schemas_of(name)] == []


def test_an_operator_that_is_not_known_is_named(tmp_path: Path) -> None:
    class Celu(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            q = torch.quantize_per_tensor(x, 0.05, 60, torch.quint8)
            return torch.ops.quantized.celu(q, 0.05, 60, 1.0).dequantize().mean((2, 3))

    torch.jit.trace(Celu(), torch.rand(1, 3, 16, 16)).save(str(tmp_path / "c.pt"))
    with pytest.raises(ModelError, match="calls quantized::celu, which heatcli does not know"):
        heatcli.explain(heatcli.load(tmp_path / "c.pt", example=torch.rand(1, 3, 16, 16)), torch.rand(1, 3, 16, 16))


def test_the_command_says_so(cli: Cli, both: tuple[nn.Module, nn.Module], tmp_path: Path) -> None:
    """In the sandbox, as a user has it."""
    torch.jit.script(both[1]).save(str(tmp_path / "q.pt"))
    ran = cli("explain", WOLF, "--model", "q.pt", "--size", "32", "--preset", "none", "--method", "lrp-epsilon-plus")
    assert ran.status == 0, ran.err
    assert "q.pt is quantised: it is explained in real numbers" in ran.err
