"""nn.TransformerEncoder behind a convolution: scripted, traced, with masked tokens taken out as a nested tensor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import heatcli
from heatcli.errors import ModelError

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning"
)
SIZE, WIDTH = 16, 16


class Encoded(nn.Module):
    """16 tokens of 4 × 4 pixels and one for the class. `masked`: the last three do not count."""

    def __init__(self, masked: bool, pooled: bool = False, norm_first: bool = False, nested: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Sequential(nn.Conv2d(3, WIDTH, 4, 4), nn.ReLU())
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 32, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested)
        self.start, self.head = nn.Parameter(torch.randn(1, 1, WIDTH)), nn.Linear(WIDTH, 5)
        self.masked, self.pooled = masked, pooled

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.start.expand(tokens.shape[0], -1, -1), tokens], 1)
        mask = torch.zeros([tokens.shape[0], tokens.shape[1]], dtype=torch.bool)
        mask[:, -3:] = True
        found = self.encoder(tokens, src_key_padding_mask=mask if self.masked else None)
        return self.head(found.mean(1) if self.pooled else found[:, 0])


def saved(net: nn.Module, form: str, path: Path) -> Path:
    with torch.no_grad():  # so that a trace takes the fast path
        x = torch.rand(2, 3, SIZE, SIZE)
        (torch.jit.script(net) if form == "scripted" else torch.jit.trace(net, x, check_trace=False)).save(str(path))
    return path


@pytest.mark.parametrize("form", ["scripted", "traced"])
@pytest.mark.parametrize("kind", ["plain", "norm first", "masked", "masked, pooled", "masked, not nested"])
def test_an_encoder_is_explained(kind: str, form: str, tmp_path: Path) -> None:
    """The artifact's own outputs, tokens that do not count included; ledgers are closed."""
    net = Encoded("masked" in kind, "pooled" in kind, kind == "norm first", "not nested" not in kind).eval()
    model = heatcli.load(saved(net, form, tmp_path / "net.pt"), size=SIZE)
    x = torch.rand(3, 3, SIZE, SIZE)
    with torch.no_grad():
        expected = net(x) if form == "scripted" else net(x[:2])
    for method in ("cp-lrp", "attnlrp", "lrp-epsilon-plus"):
        result = heatcli.explain(model, x[: len(expected)], method, baseline="none")
        assert torch.allclose(result.outputs, expected, atol=1e-5)
        assert float(result.ledger.relative_error.max()) < 1e-5
    assert model.graph(x.shape).verified is not None
    unmasked = heatcli.explain(model, x[: len(expected)], "gradient").relevance.abs().sum((0, 1))
    assert bool(unmasked[12:, 4:].any()) != ("masked" in kind), "the last three tokens are masked"


def test_another_nested_tensor_says_what_to_do(tmp_path: Path) -> None:
    class Longer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            tokens = x.flatten(2).transpose(1, 2)
            mask = torch.ones([tokens.shape[0], tokens.shape[1]], dtype=torch.bool)
            nested = torch._nested_tensor_from_mask(tokens, mask)
            return nested.to_padded_tensor(0.0, [tokens.shape[0], tokens.shape[1] + 1, 3]).sum(1)

    torch.jit.trace(Longer(), torch.rand(1, 3, 4, 4)).save(str(tmp_path / "net.pt"))
    with pytest.raises(ModelError, match="give the encoder enable_nested_tensor=False"):
        heatcli.load(tmp_path / "net.pt", size=4).graph((1, 3, 4, 4))
