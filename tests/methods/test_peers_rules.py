"""Every rule and composite of Zennit's, and Captum's guided backpropagation and deconvnet, on their own ground.

heatcli is given TorchScript, and for some ONNX and .pt2; the peers are given eager modules built so that they work.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import PEERS
from networks import CLASSES, SIZE, calibrated, images, load, randomised, save
from torch import Tensor, nn
from torch.nn import functional

import heatcli
from heatcli.methods.table import Method
from heatcli.methods.table import method as method_of

captum = pytest.importorskip("captum.attr")
zennit = pytest.importorskip("zennit")
from zennit import composites, rules, types  # noqa: E402
from zennit.torchvision import ResNetCanonizer  # noqa: E402

pytestmark = PEERS
TARGET = 1
LOW, HIGH = -3.0, 3.0  # the range of pixels, which heatcli has from mean 0.5 and std 1/6


def apart(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected value."""
    assert float(expected.abs().max()) > 0
    return float((found - expected).abs().max() / expected.abs().max())


def vgg_like() -> nn.Module:
    torch.manual_seed(0)
    return randomised(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2),
            nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, CLASSES),
        ),
        1,
    )  # fmt: skip


def resnet() -> nn.Module:
    """torchvision's, so that Zennit's own canonizer fits; narrow, and with statistics that leave pixels a say."""
    from torchvision.models.resnet import BasicBlock, ResNet

    torch.manual_seed(0)
    return calibrated(randomised(ResNet(BasicBlock, [1, 1, 1, 1], num_classes=CLASSES), 1), 32)


def layer_map(convolution: type, dense: type | None = None, **parameters: float) -> Callable[[], object]:
    """A composite of one rule in convolutions and one in dense layers (None: the same)."""

    def made() -> object:
        return composites.LayerMapComposite(
            [
                (types.Activation, rules.Pass()), (types.AvgPool, rules.Norm()),
                (types.Convolution, convolution(**parameters)), (types.Linear, (dense or convolution)(**parameters)),
            ]
        )  # fmt: skip

    return made


def boxed(size: int) -> dict[str, Tensor]:
    return {"low": torch.full((1, 3, size, size), LOW), "high": torch.full((1, 3, size, size), HIGH)}


CAPTUMS = pytest.mark.parametrize(
    ("method", "explainer"), [("guided-backprop", "GuidedBackprop"), ("deconvnet", "Deconvolution")]
)
# heatcli's method, Zennit's composite for it
RULES: dict[str, Callable[[], object]] = {
    "lrp-gamma": layer_map(rules.Gamma),
    "lrp-alpha1-beta0": layer_map(rules.AlphaBeta, alpha=1, beta=0),
    "lrp-alpha2-beta1": layer_map(rules.AlphaBeta, alpha=2, beta=1),
    "lrp-alpha3-beta2": layer_map(rules.AlphaBeta, alpha=3, beta=2),
    "lrp-z-plus": layer_map(rules.ZPlus),
}
COMPOSITES: dict[str, Callable[..., object]] = {
    "lrp-epsilon-plus": composites.EpsilonPlus,
    "lrp-epsilon-plus-flat": composites.EpsilonPlusFlat,
    "lrp-epsilon-alpha2-beta1": composites.EpsilonAlpha2Beta1,
    "lrp-epsilon-alpha2-beta1-flat": composites.EpsilonAlpha2Beta1Flat,
    "lrp-epsilon-gamma-box": composites.EpsilonGammaBox,
}


def first(rule: object) -> Callable[[], object]:
    """LRP-ε with `rule` in the first layer."""

    def made() -> object:
        rest = [
            (types.Activation, rules.Pass()), (types.AvgPool, rules.Norm()),
            (types.Linear, rules.Epsilon()),
        ]  # fmt: skip
        return composites.SpecialFirstLayerMapComposite(rest, [(types.Linear, rule)])

    return made


def peer(module: nn.Module, composite: object, batch: Tensor) -> Tensor:
    """Zennit's relevance of the input, started with the score itself."""
    x = batch.clone().requires_grad_()
    with composite.context(module) as hooked:  # type: ignore[attr-defined]
        output = hooked(x)
        seed = torch.zeros_like(output)
        seed[:, TARGET] = output.detach()[:, TARGET]
        return torch.autograd.grad(output, x, seed)[0]


def ours(module: nn.Module, folder: Path, batch: Tensor, method: str | Method, form: str = "scripted") -> Tensor:
    path = save(module, folder, form, tuple(batch.shape[1:]))
    model = heatcli.load(path, size=tuple(batch.shape[-2:]), mean=(0.5,), std=(1 / 6,))
    return heatcli.explain(model, batch, method, target=TARGET).relevance


@pytest.mark.parametrize("method", list(RULES))
def test_rules_are_zennits(method: str, tmp_path: Path) -> None:
    module, batch = vgg_like(), images(3)
    expected = peer(module, RULES[method](), batch)
    assert apart(ours(module, tmp_path, batch, method), expected) <= 1e-4


@pytest.mark.parametrize("method", list(COMPOSITES))
@pytest.mark.parametrize("form", ["scripted", "onnx-old", "pt2"])
def test_composites_are_zennits(method: str, form: str, tmp_path: Path) -> None:
    module, batch = vgg_like(), images(3)
    more = boxed(SIZE) if "box" in method else {}
    expected = peer(module, COMPOSITES[method](**more), batch)
    assert apart(ours(module, tmp_path, batch, method, form), expected) <= 1e-4


@pytest.mark.parametrize(
    ("method", "rule"),
    [
        ("lrp-w2", rules.WSquare()),
        ("lrp-flat", rules.Flat()),
        ("lrp-zb", rules.ZBox(**boxed(SIZE))),
    ],
)
def test_first_layers_are_zennits(method: str, rule: object, tmp_path: Path) -> None:
    module, batch = vgg_like(), images(3)
    assert apart(ours(module, tmp_path, batch, method), peer(module, first(rule)(), batch)) <= 1e-4


@pytest.mark.parametrize("form", ["scripted", "onnx-old", "pt2"])
def test_rules_of_layers_by_name_are_zennits_name_map(form: str, tmp_path: Path) -> None:
    """In ONNX and .pt2 as well, where the names of modules are those of their parameters."""
    module, batch = vgg_like(), images(3)
    named = composites.NameMapComposite([
        (["1", "3", "6", "10"], rules.Pass()), (["7"], rules.Norm()), (["0"], rules.ZBox(**boxed(SIZE))),
        (["2"], rules.Gamma(gamma=0.5)), (["5"], rules.AlphaBeta(alpha=2, beta=1)), (["9", "11"], rules.Epsilon(0.01)),
    ])  # fmt: skip
    expected = peer(module, named, batch)
    given = ["0=zb", "2=gamma:gamma=0.5", "5=alpha-beta", "9=epsilon:epsilon=0.01", "11=epsilon:epsilon=0.01"]
    chosen = method_of("lrp-0").with_rules(given)
    assert apart(ours(module, tmp_path, batch, chosen, form), expected) <= 1e-4
    other = method_of("lrp-0").with_rules([*given, "5=z-plus"])
    assert apart(ours(module, tmp_path, batch, other, form), expected) > 1e-2


@pytest.mark.parametrize("method", list(COMPOSITES))
def test_composites_on_a_resnet_with_zennits_canonizer(method: str, tmp_path: Path) -> None:
    """Residual sums, reused ReLUs, BatchNorms: what Zennit needs a canonizer of this very architecture for."""
    module, batch = resnet(), images(2, shape=(3, 32, 32))
    more = boxed(32) if "box" in method else {}
    expected = peer(module, COMPOSITES[method](canonizers=[ResNetCanonizer()], **more), batch)
    assert apart(ours(module, tmp_path, batch, method), expected) <= 1e-4


@pytest.mark.parametrize(
    ("method", "explainer"), [("guided-backprop", "GuidedBackprop"), ("deconvnet", "Deconvolution")]
)
def test_guided_backprop_and_deconvnet_are_captums(method: str, explainer: str, tmp_path: Path) -> None:
    module, batch = vgg_like(), images(3)
    expected = getattr(captum, explainer)(module).attribute(batch.clone().requires_grad_(), target=TARGET)
    assert apart(ours(module, tmp_path, batch, method), expected) <= 1e-5


# --- the same network, written as deployment code is, in every format ------------------------------------------------


class Sum(nn.Module):
    """A residual sum that Zennit can hook."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(-1)


class Kind(nn.Module):
    """An eager network built so that peers work: every ReLU a module of its own, used once, no functions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(16, 8, 1)
        self.squeeze, self.excite, self.head = nn.Linear(8, 4), nn.Linear(4, 8), nn.Linear(8, CLASSES)
        self.r1, self.r2, self.r3, self.r4 = nn.ReLU(), nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.silu, self.gate = nn.SiLU(), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        x = self.r1(self.a(x))
        y = self.r2(self.b(x) + x)
        y = self.silu(self.c(torch.cat([x, y], 1)))
        g = self.gate(self.excite(self.r3(self.squeeze(y.mean((2, 3))))))
        return self.head(self.r4(y * g[:, :, None, None]).mean((2, 3)))


class Deployed(nn.Module):
    """The same, with one reused ReLU module and functional ones."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.a, self.b, self.c = kind.a, kind.b, kind.c
        self.squeeze, self.excite, self.head = kind.squeeze, kind.excite, kind.head
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.a(x))
        y = self.relu(self.b(x) + x)
        y = functional.silu(self.c(torch.cat([x, y], 1)))
        g = torch.sigmoid(self.excite(functional.relu(self.squeeze(y.mean((2, 3))))))
        return self.head(functional.relu(y * g[:, :, None, None]).mean((2, 3)))


@pytest.mark.parametrize("form", ["scripted", "traced", "pt2", "onnx-old", "onnx-new"])
@pytest.mark.parametrize(
    ("method", "explainer"), [("guided-backprop", "GuidedBackprop"), ("deconvnet", "Deconvolution")]
)
def test_every_format_gives_what_peers_give_where_they_work(
    method: str, explainer: str, form: str, tmp_path: Path
) -> None:
    """On the artifacts themselves Captum refuses or, on a ScriptModule, hands back the plain gradient in silence."""
    torch.manual_seed(0)
    kind = randomised(Kind(), 1)
    deployed, batch = Deployed(kind).eval(), images(3)
    assert torch.allclose(kind(batch), deployed(batch), atol=1e-6)
    expected = getattr(captum, explainer)(kind).attribute(batch.clone().requires_grad_(), target=TARGET)
    x = batch.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(kind(x)[:, TARGET].sum(), x)
    assert apart(gradient, expected) > 0.05
    assert apart(ours(deployed, tmp_path, batch, method, form), expected) <= 1e-5


def test_captums_guided_backprop_is_the_plain_gradient_on_a_script_module() -> None:
    """It looks for nn.ReLU among the modules, and a ScriptModule has none of that class: nothing is hooked."""
    torch.manual_seed(0)
    script, batch = torch.jit.script(vgg_like()), images(2)
    x = batch.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(script(x)[:, TARGET].sum(), x)
    found = captum.GuidedBackprop(script).attribute(batch.clone().requires_grad_(), target=TARGET)
    assert torch.equal(found, gradient)


def test_captums_deeplift_mixes_the_images_of_a_batch_at_a_softmax(tmp_path: Path) -> None:
    """Its softmax rule subtracts a mean over the whole batch; here each image's answer is its own."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, CLASSES), nn.Softmax(1)).eval()
    batch = images(3, shape=(3, 2, 2))
    zero = torch.zeros_like(batch)

    def captums(x: Tensor) -> Tensor:
        return captum.DeepLift(plain).attribute(x.clone().requires_grad_(), zero[: len(x)], target=TARGET).detach()

    together, alone = captums(batch), torch.cat([captums(batch[i : i + 1]) for i in range(3)])
    assert apart(together, alone) > 1e-3
    model = load(plain, tmp_path, shape=(3, 2, 2))
    for name in ("logit", "probability", "centred-logit"):
        from heatcli.graph.passes import DEFAULT, OUTPUTS

        chosen = (*(p for p in DEFAULT if p != "logit"), *OUTPUTS[name])
        model = heatcli.load(model.path, size=2, passes=chosen)
        whole = heatcli.explain(model, batch, "deeplift-rescale", target=TARGET).relevance
        parts = [heatcli.explain(model, batch[i : i + 1], "deeplift-rescale", target=TARGET) for i in range(3)]
        assert apart(whole, torch.cat([part.relevance for part in parts])) <= 1e-5
