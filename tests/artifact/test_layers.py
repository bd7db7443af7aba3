"""Layers that formats write in ways of their own: the same map from each, and a ledger that balances."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from networks import images, randomised, save
from torch import Tensor, nn

import heatcli


class Layer(nn.Module):
    """A convolution, the layer under test, and a dense head."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.conv, self.layer, self.head = nn.Conv2d(3, 4, 3), layer, nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(self.conv(x))
        return self.head((x * x.sigmoid()).mean((2, 3)))


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "instance norm": lambda: nn.InstanceNorm2d(4, affine=True),
    "instance norm without parameters": lambda: nn.InstanceNorm2d(4),
    "group norm": lambda: nn.GroupNorm(2, 4),
    "prelu": lambda: nn.PReLU(4, 0.3),
    "prelu with one slope": lambda: nn.PReLU(1, 0.3),
}


@pytest.mark.parametrize("form", ["scripted", "traced", "onnx-old", "onnx-new", "pt2"])
@pytest.mark.parametrize("name", LAYERS)
def test_every_format_gives_the_same_map(tmp_path: Path, name: str, form: str) -> None:
    torch.manual_seed(0)
    module = randomised(Layer(LAYERS[name]()), 1)
    batch = images(3, shape=(3, 8, 8))
    first = heatcli.load(save(module, tmp_path, "scripted", (3, 8, 8)), size=8)
    other = heatcli.load(save(module, tmp_path, form, (3, 8, 8)), size=8)
    for method in ("lrp-0", "deeplift-rescale"):
        a, b = heatcli.explain(first, batch, method, target=2), heatcli.explain(other, batch, method, target=2)
        assert torch.allclose(b.outputs, module(batch), atol=1e-5)
        assert not b.unexplained
        assert float(b.ledger.relative_error.max()) < 1e-5
        scale = float(a.relevance.abs().max())
        assert torch.allclose(a.relevance, b.relevance, atol=1e-4 * scale)


class Attention(nn.Module):
    """A convolution and self-attention over its positions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.attention = nn.Conv2d(3, 8, 3), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).flatten(2).transpose(1, 2)
        return self.attention(y, y, y, need_weights=False)[0].mean(1)


class Encoder(nn.Module):
    """A convolution and a transformer's encoder layer over its positions."""

    def __init__(self, norm_first: bool = False, activation: str = "relu") -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.layer = nn.TransformerEncoderLayer(
            8, 2, 12, batch_first=True, norm_first=norm_first, activation=activation
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.conv(x).flatten(2).transpose(1, 2)).mean(1)[:, :5]


ATTENTIVE: dict[str, Callable[[], nn.Module]] = {
    "attention": Attention,
    "encoder": Encoder,
    "encoder, norm first": lambda: Encoder(norm_first=True, activation="gelu"),
}


@pytest.mark.parametrize("form", ["scripted", "traced", "pt2"])
@pytest.mark.parametrize("name", ATTENTIVE)
def test_attention_is_explained(tmp_path: Path, name: str, form: str) -> None:
    """Fused operators, which a trace and a script hold, are taken apart: the same map, and books that balance."""
    torch.manual_seed(0)
    module = randomised(ATTENTIVE[name](), 1)
    batch = images(2, shape=(3, 6, 6))
    for method in ("lrp-0", "deeplift-rescale", "gradient"):
        model = heatcli.load(save(module, tmp_path, form, (3, 6, 6)), size=6)
        result = heatcli.explain(model, batch, method, target=1)
        assert torch.allclose(result.outputs, module(batch), atol=1e-5)
        if method != "gradient":
            assert not result.unexplained
            assert float(result.ledger.relative_error.max()) < 1e-5
            continue
        x = batch.clone().requires_grad_()
        module(x)[:, 1].sum().backward()
        assert torch.allclose(result.relevance, x.grad, atol=1e-5 * float(x.grad.abs().max()))
