"""AttnLRP and CP-LRP against LXT (Achtibat et al. 2024): a block written with its functions, a network it patches.

`pip install --no-deps lxt` is enough for its explicit rules; its patches need `transformers<5` beside it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import PEERS
from networks import images, load, randomised, walked
from test_attention import WIDTH, Block, Head, Norm, Plain
from torch import Tensor, nn
from torch.nn import functional

import heatcli
from heatcli.methods.table import METHODS, Method, method

lxt = pytest.importorskip("lxt.explicit.functional")
from lxt.explicit import rules  # noqa: E402

pytestmark = PEERS
EPSILON = 1e-8


def apart(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected value."""
    return float((found - expected).abs().max() / expected.abs().max())


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return lxt.linear_epsilon(x, layer.weight, layer.bias, EPSILON)


def attend(module: Head, x: Tensor, constant: bool) -> Tensor:
    """The attention head in LXT's functions; `constant`: CP-LRP."""
    query, key, value = (linear(layer, x) for layer in (module.query, module.key, module.value))
    if constant:
        weights = (query @ key.mT / WIDTH**0.5).softmax(-1).detach()
        return rules.epsilon_lrp(torch.matmul, EPSILON, weights, value)
    scores = lxt.matmul(query, key.mT, epsilon=EPSILON)
    return lxt.matmul(lxt.softmax(scores, -1, temperature=WIDTH**0.5), value, epsilon=EPSILON)


def normed(norm: Norm, x: Tensor) -> Tensor:
    if norm.rms:
        return lxt.rms_norm_identity(x, norm.weight, 1e-5)
    return lxt.layer_norm(x, norm.weight, norm.bias, 1e-5)


def by_lxt(module: Block, x: Tensor, constant: bool) -> Tensor:
    x = lxt.add2(x, attend(module, normed(module.norms[0], x), constant), epsilon=EPSILON)
    hidden = rules.identity(functional.gelu, linear(module.wide, normed(module.norms[1], x)))
    x = lxt.add2(x, linear(module.narrow, hidden), epsilon=EPSILON)
    return linear(module.classes, lxt.mean(x, 1, False, EPSILON))


@pytest.mark.parametrize("rms", [False, True], ids=["layer norms", "RMS norms"])
@pytest.mark.parametrize("name", ["attnlrp", "cp-lrp"])
def test_a_block(name: str, rms: bool) -> None:
    """To 1e-4 of the largest: LXT stabilises sums, products and norms too, and computes RMS norms in float32."""
    torch.manual_seed(0)
    module = randomised(Block(Plain(), rms), 2).double()
    tokens = images(3, 1, (5, WIDTH)).double()
    x = tokens.clone().requires_grad_()
    score = by_lxt(module, x, name == "cp-lrp")[:, 1]
    (expected,) = torch.autograd.grad(score, x, score.detach())
    found = walked(module, tokens, method(name, epsilon=EPSILON), target=1)
    torch.testing.assert_close(found.output[:, 1], score.detach(), rtol=1e-6, atol=1e-6)
    assert apart(found.relevance, expected) < 1e-4
    assert apart(walked(module, tokens, other(name), target=1).relevance, expected) > 1e-2


def other(name: str) -> Method:
    """The other of the two methods: the comparison tells them apart."""
    return METHODS["cp-lrp" if name == "attnlrp" else "attnlrp"]


def test_torchvisions_transformer_with_lxts_patches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LXT has CP-LRP for this class; it replaces methods of torch's layers, which `monkeypatch` puts back."""
    patched = pytest.importorskip("lxt.efficient", reason="needs transformers<5", exc_type=ImportError)
    from torchvision.models import vision_transformer

    torch.manual_seed(0)
    module = vision_transformer.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5).eval()
    for parameter in (module.heads.head.weight, module.class_token):
        nn.init.normal_(parameter)
    batch = images(2, 3, (3, 32, 32))
    found = heatcli.explain(load(module, tmp_path, "traced", (3, 32, 32)), batch, "cp-lrp", target=1, epsilon=0)
    for layer in (nn.GELU, nn.LayerNorm, nn.MultiheadAttention):
        monkeypatch.setattr(layer, "forward", layer.forward)
    patched.monkey_patch(vision_transformer)
    x = batch.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(module(x)[:, 1].sum(), x)
    assert apart(found.relevance, batch * gradient) < 1e-4
