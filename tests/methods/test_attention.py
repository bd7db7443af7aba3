"""AttnLRP and CP-LRP: against autograd with modified gradients, in every format, on vision transformers.

Each rule has a form for autograd (Achtibat et al. 2024, appendix A.3): a product shared by half is x/2 in the gradient,
a constant is detached, an activation is x times its detached slope. Relevance is then input times gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from dense import assert_same
from networks import CLASSES, FORMATS, SIZE, images, load, randomised, walked
from torch import Tensor, nn
from torch.nn import functional

import heatcli
from heatcli.graph.operator import Operator
from heatcli.methods.table import Method, method

ATTENTION = ("attnlrp", "cp-lrp")
WIDTH, HEADS, PATCH = 8, 2, 4


@dataclass(frozen=True)
class Plain:
    """The operations of a transformer as torch has them; a subclass changes their gradients."""

    def share(self, x: Tensor) -> Tensor:
        """A factor of a product."""
        return x

    def weights(self, x: Tensor) -> Tensor:
        """Attention weights, a factor of the product with the values."""
        return self.share(x)

    def values(self, x: Tensor) -> Tensor:
        """The other factor."""
        return self.share(x)

    def statistic(self, x: Tensor) -> Tensor:
        """The deviation that a norm divides by."""
        return x

    def gelu(self, x: Tensor) -> Tensor:
        return functional.gelu(x)


class AttnLrp(Plain):
    """Products by half, deviations constant, activations by their slope; the softmax by its gradient."""

    def share(self, x: Tensor) -> Tensor:
        return x / 2 + x.detach() / 2

    def statistic(self, x: Tensor) -> Tensor:
        return x.detach()

    def gelu(self, x: Tensor) -> Tensor:
        return x * (functional.gelu(x) / x).detach()


class CpLrp(AttnLrp):
    """Attention weights constant."""

    def weights(self, x: Tensor) -> Tensor:
        return x.detach()

    def values(self, x: Tensor) -> Tensor:
        return x


MODIFIED = {"attnlrp": AttnLrp(), "cp-lrp": CpLrp()}


class Norm(nn.Module):
    """A layer norm, or an RMS norm if `rms`."""

    def __init__(self, rms: bool) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.zeros(WIDTH))
        self.rms = rms

    def forward(self, x: Tensor, do: Plain) -> Tensor:
        if self.rms:
            return x / do.statistic((x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()) * self.weight
        c = x - x.mean(-1, keepdim=True)
        return c / do.statistic((c.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()) * self.weight + self.bias


class Head(nn.Module):
    """A single attention head on tokens [N, T, WIDTH], their mean, a dense layer."""

    def __init__(self, do: Plain) -> None:
        super().__init__()
        self.do = do
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.classes = nn.Linear(WIDTH, CLASSES)

    def attend(self, x: Tensor) -> Tensor:
        scores = self.do.share(self.query(x)) @ self.do.share(self.key(x)).mT / WIDTH**0.5
        return self.do.weights(scores.softmax(-1)) @ self.do.values(self.value(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(self.attend(x).mean(1))


class Block(Head):
    """The head in a transformer's block: norms before it and before two dense layers, residual sums."""

    def __init__(self, do: Plain, rms: bool = False) -> None:
        super().__init__(do)
        self.norms = nn.ModuleList([Norm(rms), Norm(rms)])
        self.wide, self.narrow = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.norms[0](x, self.do))
        x = x + self.narrow(self.do.gelu(self.wide(self.norms[1](x, self.do))))
        return self.classes(x.mean(1))


BUILT: dict[str, Callable[[Plain], nn.Module]] = {
    "head": Head, "block": Block, "block with RMS norms": lambda do: Block(do, rms=True),
}  # fmt: skip


def exact(name: str) -> Method:
    """The method without its stabiliser, as the modified gradients have none."""
    return method(name, epsilon=0)


@pytest.mark.parametrize("build", BUILT.values(), ids=BUILT.keys())
@pytest.mark.parametrize("name", ATTENTION)
def test_the_rules_are_modified_gradients(name: str, build: Callable[[Plain], nn.Module]) -> None:
    """In float64: the same relevance, and every unit of the score booked."""
    torch.manual_seed(0)
    module = randomised(build(MODIFIED[name]), 2).double()
    tokens = images(3, 1, (5, WIDTH)).double()
    x = tokens.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(module(x)[:, 1].sum(), x)
    module.do = Plain()
    found = walked(module, tokens, exact(name), target=1)
    assert_same(found.relevance, tokens * gradient)
    assert float(found.left.abs().max()) < 1e-9 * float(found.output.abs().max())
    assert not found.books.unexplained


@pytest.mark.parametrize("name", ATTENTION)
def test_a_difference_of_two_pictures_closes(name: str) -> None:
    torch.manual_seed(0)
    module = randomised(Block(Plain()), 2).double()
    tokens, others = (images(3, seed, (5, WIDTH)).double() for seed in (1, 2))
    found = walked(module, tokens, method(name), others, target=1)
    assert float(found.left.abs().max()) < 1e-9 * float(found.output.abs().max())
    assert not any(bool(entry.any()) for entry in found.books.biases.values())


def test_cp_lrp_is_linear_in_the_values() -> None:
    """Queries and keys get nothing: relevance is that of the values under fixed attention weights."""
    torch.manual_seed(0)
    module = randomised(Head(Plain()), 2).double()
    tokens = images(1, 1, (5, WIDTH)).double()
    weights = (module.query(tokens) @ module.key(tokens).mT / WIDTH**0.5).softmax(-1).mean(1)  # [1, 5]
    by_token = module.classes.weight[1] @ module.value.weight  # [WIDTH]
    found = walked(module, tokens, exact("cp-lrp"), target=1)
    assert_same(found.relevance, weights.detach()[:, :, None] * (by_token * tokens).detach())
    assert not found.books.biases["query.bias"].any()
    assert not found.books.biases["key.bias"].any()


# --- vision transformers --------------------------------------------------------------------------------------------


class SmallViT(nn.Module):
    """A vision transformer of torch's own layers: patches, class token, positions, blocks, norm, head."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.class_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.positions = nn.Parameter(torch.zeros(1, (SIZE // PATCH) ** 2 + 1, WIDTH))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, activation="gelu", batch_first=True, norm_first=first)
            for first in (True, False)
        )
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1), tokens], 1) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens[:, 0]))


def small_vit() -> nn.Module:
    torch.manual_seed(0)
    module = SmallViT().eval()
    for parameter in module.parameters():
        if parameter.dim() == 1 or parameter.shape[0] == 1:
            nn.init.normal_(parameter, 0.5, 0.5)
    return module


def ops_of(model: heatcli.Model, batch: Tensor) -> tuple[Operator, ...]:
    return model.network.graph(tuple(batch.shape)).operators


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, heatcli.Model]:
    """The same network from every format."""
    return {form: load(small_vit(), tmp_path_factory.mktemp(form), form) for form in FORMATS}


@pytest.mark.parametrize("name", [*ATTENTION, "attnlrp-gamma", "cp-lrp-gamma"])
def test_every_format_has_the_same_map_and_a_closed_ledger(artifacts: dict[str, heatcli.Model], name: str) -> None:
    batch = images(2, 3)
    maps, shares = [], []
    for model in artifacts.values():
        result = heatcli.explain(model, batch, method=name, target=1)
        assert float(result.ledger.relative_error.max()) < 1e-5
        assert not result.ledger.unexplained.any()
        maps.append(result.relevance)
        shares.append({bias: float(entry.sum()) for bias, entry in result.biases.items() if "softmax" not in bias})
    size = float(maps[0].abs().max())
    for found, named in zip(maps[1:], shares[1:], strict=True):
        torch.testing.assert_close(found, maps[0], rtol=1e-5, atol=1e-5 * size)
        assert named == pytest.approx(shares[0], abs=1e-5)


def test_what_is_no_pixel_is_booked_under_its_name(artifacts: dict[str, heatcli.Model]) -> None:
    """Class token, positions, shifts of norms, and each softmax's constant, which is 0 where weights are constants."""
    model, batch = artifacts["traced"], images(2, 3)
    by_method = {name: heatcli.explain(model, batch, method=name, target=1).biases for name in ATTENTION}
    for biases in by_method.values():
        named = {"class_token", "positions", "norm.bias", "blocks.0.norm1.bias", "patches.bias", "head.bias"}
        assert named <= biases.keys()
        assert all(bool(biases[name].any()) for name in named)
    softmaxes = [op.offsets[0].name for op in ops_of(model, batch) if op.role == "softmax"]
    assert len(softmaxes) == 2
    assert all(bool(by_method["attnlrp"][name].any()) for name in softmaxes)
    assert not any(bool(by_method["cp-lrp"][name].any()) for name in softmaxes)


def test_without_attention_it_is_lrp_eps(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(CLASSES))
    module(images(1))
    model, batch = load(randomised(module, 1), tmp_path), images(2, 3)
    one, other = (heatcli.explain(model, batch, method=name).relevance for name in ("attnlrp", "lrp-eps"))
    assert torch.equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTENTION)
def test_torchvisions_vision_transformer(name: str, tmp_path: Path) -> None:
    """ViT-B/16 with random weights, from TorchScript and ONNX. Without ε, which turns rounding near 0 into 1e-3."""
    from torchvision.models import vit_b_16

    torch.manual_seed(0)
    module = vit_b_16(num_classes=CLASSES).eval()
    for parameter in (module.heads.head.weight, module.class_token):
        nn.init.normal_(parameter)
    shape = (3, 224, 224)
    maps = []
    for form in ("traced", "onnx-old"):
        result = heatcli.explain(load(module, tmp_path, form, shape), images(1, 3, shape), name, target=1, epsilon=0)
        assert float(result.ledger.relative_error.max()) < 1e-5
        assert bool(result.biases["class_token"].any())
        maps.append(result.relevance)
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-4, atol=1e-4 * float(maps[0].abs().max()))
