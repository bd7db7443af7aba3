"""Agreement with Captum and Zennit on eager modules that they can handle, and their known faults, with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import PEERS
from networks import CLASSES, SIZE, images, load, randomised
from torch import Tensor, nn
from torch.nn import functional

import heatcli

captum = pytest.importorskip("captum.attr")
zennit = pytest.importorskip("zennit")
from zennit import composites, rules, types  # noqa: E402

pytestmark = PEERS

TARGET = 1


def apart(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected value."""
    assert float(expected.abs().max()) > 0
    return float((found - expected).abs().max() / expected.abs().max())


def built(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for layer in layers:
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    return randomised(nn.Sequential(*layers), 1)


def averaging() -> nn.Module:
    """Convolutions, ReLU modules, average pooling, dense layers."""
    return built(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(8, 12, 3), nn.ReLU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(108, 16), nn.ReLU(), nn.Linear(16, CLASSES),
    )  # fmt: skip


class Copy(nn.Module):
    """Hands a copy on: see `test_captums_deeplift_skips_max_pooling_right_behind_a_relu`."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clone()


def vgg_like(between: type[nn.Module] = nn.Identity) -> nn.Module:
    """Blocks of two convolutions, each ended by max pooling; a dense head. `between` goes before each pooling."""
    return built(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), between(), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(), between(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, CLASSES),
    )  # fmt: skip


def normalised() -> nn.Module:
    """With batch norm, and a smooth activation."""
    return built(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Tanh(),
        nn.Flatten(), nn.Linear(200, 12), nn.ELU(), nn.Linear(12, CLASSES),
    )  # fmt: skip


NETS = {"averaging": averaging, "vgg-like": vgg_like, "normalised": normalised}
EVERY_NET = pytest.mark.parametrize("name", list(NETS))


def heatmap(module: nn.Module, folder: Path, batch: Tensor, method: str, **parameters: float | Tensor) -> Tensor:
    """heatcli's, of the module saved as TorchScript."""
    return heatcli.explain(load(module, folder), batch, method, target=TARGET, **parameters).relevance


# --- agreement ----------------------------------------------------------------------------------------------------


@EVERY_NET
def test_gradient_is_captums_saliency(name: str, tmp_path: Path) -> None:
    module, batch = NETS[name](), images(3)
    expected = captum.Saliency(module).attribute(batch.clone().requires_grad_(), target=TARGET, abs=False)
    assert apart(heatmap(module, tmp_path, batch, "gradient"), expected) <= 1e-5


@EVERY_NET
def test_input_times_gradient_is_captums(name: str, tmp_path: Path) -> None:
    module, batch = NETS[name](), images(3)
    expected = captum.InputXGradient(module).attribute(batch.clone().requires_grad_(), target=TARGET)
    assert apart(heatmap(module, tmp_path, batch, "input-x-gradient"), expected.detach()) <= 1e-5


@EVERY_NET
def test_deeplift_rescale_is_captums(name: str, tmp_path: Path) -> None:
    """Also with max pooling, as long as its windows do not overlap and no ReLU's own output goes into it.

    The baseline is noise: on a single colour the windows of a max pooling tie, and heatcli shares among the tied.
    """
    module, batch = vgg_like(between=Copy) if name == "vgg-like" else NETS[name](), images(3)
    based = images(3, 7)
    found = heatmap(module, tmp_path, batch, "deeplift-rescale", baseline=based)
    expected = captum.DeepLift(module).attribute(batch.clone().requires_grad_(), based, target=TARGET)
    assert apart(found, expected.detach()) <= 1e-4
    plain = captum.InputXGradient(module).attribute(batch.clone().requires_grad_(), target=TARGET)
    assert apart(found, plain.detach()) > 0.01, "the gradient would not have done"


def zennit_heatmap(module: nn.Module, composite: composites.LayerMapComposite, batch: Tensor) -> Tensor:
    """Zennit's relevance of the input, started with the score itself."""
    x = batch.clone().requires_grad_()
    with composite.context(module) as hooked:
        output = hooked(x)
        seed = torch.zeros_like(output)
        seed[:, TARGET] = output.detach()[:, TARGET]
        (relevance,) = torch.autograd.grad(output, x, seed)
    return relevance


@pytest.mark.parametrize("epsilon", [1e-6, 0.1])
@pytest.mark.parametrize("name", ["averaging", "vgg-like"])
def test_lrp_epsilon_is_zennits(name: str, epsilon: float, tmp_path: Path) -> None:
    """Epsilon on convolutions and dense layers (biases kept), Norm on average pooling, the gradient on max pooling."""
    module, batch = NETS[name]().double(), images(3).double()  # an ε of 1e-6 is near to what float32 rounds
    composite = composites.LayerMapComposite(
        [
            (types.Activation, rules.Pass()),
            (types.AvgPool, rules.Norm(stabilizer=epsilon)),
            (types.Convolution, rules.Epsilon(epsilon=epsilon)),
            (types.Linear, rules.Epsilon(epsilon=epsilon)),
        ]
    )
    found = heatmap(module, tmp_path, batch, "lrp-eps", epsilon=epsilon)
    assert apart(found, zennit_heatmap(module, composite, batch)) <= 1e-4
    if epsilon == 0.1:
        assert apart(found, heatmap(module, tmp_path, batch, "lrp-0")) > 0.01, "the stabiliser matters"


# --- known faults of peers ----------------------------------------------------------------------------------------


def rise_of(module: nn.Module, batch: Tensor) -> Tensor:
    """How far the score lies above that of the zero baseline: what DeepLIFT's shares must sum to."""
    with torch.no_grad():
        return (module(batch) - module(torch.zeros_like(batch)))[:, TARGET]


def worst_sum(relevance: Tensor, rise: Tensor) -> float:
    """Largest relative error of the sum of one image's shares."""
    return float(((relevance.detach().flatten(1).sum(1) - rise) / rise).abs().max())


def test_captums_deeplift_skips_max_pooling_right_behind_a_relu(tmp_path: Path) -> None:
    """As in every VGG. Both hook the one tensor between them, the ReLU first: it keeps the gradient from before the
    pooling's hook put its rule in place, so the rule is lost, and with it the sum. A copy in between brings it back.
    """
    module, batch = vgg_like(), images(3)
    based = images(3, 7)  # noise, so that no window ties
    rise = (module(batch) - module(based))[:, TARGET].detach()
    peer = captum.DeepLift(module).attribute(batch.clone().requires_grad_(), based, target=TARGET).detach()
    found = heatmap(module, tmp_path, batch, "deeplift-rescale", baseline=based)
    assert worst_sum(peer, rise) > 0.05
    assert worst_sum(found, rise) < 1e-4
    copied = vgg_like(between=Copy)
    assert torch.equal(copied(batch), module(batch))
    mended = captum.DeepLift(copied).attribute(batch.clone().requires_grad_(), based, target=TARGET).detach()
    assert apart(found, mended) <= 1e-4


def test_captums_deeplift_loses_relevance_at_overlapping_max_pooling(tmp_path: Path) -> None:
    """It undoes the pooling with max_unpool, which keeps one of several windows with the same winner; heatcli adds."""
    module = built(nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(3, stride=1), nn.Flatten(), nn.Linear(1568, CLASSES))
    batch = images(3)
    rise = rise_of(module, batch)
    peer = captum.DeepLift(module).attribute(batch.clone().requires_grad_(), torch.zeros_like(batch), target=TARGET)
    assert worst_sum(peer, rise) > 0.05
    assert worst_sum(heatmap(module, tmp_path, batch, "deeplift-rescale"), rise) < 1e-4


def test_captums_deeplift_takes_the_gradient_of_silu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And of whatever else is not in its table of activations, silently. Told of it, it is what heatcli is."""
    from captum.attr._core import deep_lift

    module, batch = built(nn.Conv2d(3, 8, 3, stride=2), nn.SiLU(), nn.Flatten(), nn.Linear(392, CLASSES)), images(3)
    zero, found = torch.zeros_like(batch), heatmap(module, tmp_path, batch, "deeplift-rescale")

    def peer() -> Tensor:
        return captum.DeepLift(module).attribute(batch.clone().requires_grad_(), zero, target=TARGET).detach()  # type: ignore[no-any-return]

    rise = rise_of(module, batch)
    assert worst_sum(peer(), rise) > 0.05
    assert worst_sum(found, rise) < 1e-4
    table = {**deep_lift.SUPPORTED_NON_LINEAR, nn.SiLU: deep_lift.nonlinear}
    monkeypatch.setattr(deep_lift, "SUPPORTED_NON_LINEAR", table)
    assert apart(found, peer()) <= 1e-4


def test_zennits_rules_are_the_plain_gradient_on_a_script_module(tmp_path: Path) -> None:
    """It knows layers by their Python class, which a ScriptModule has not: nothing is hooked and nothing is said."""
    module, batch = vgg_like(), images(3)
    script = torch.jit.script(module)
    x = batch.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(script(x)[:, TARGET].sum(), x)

    def peer(of: nn.Module) -> Tensor:
        x = batch.clone().requires_grad_()
        with composites.EpsilonPlus().context(of) as hooked:
            return torch.autograd.grad(hooked(x)[:, TARGET].sum(), x)[0]

    assert torch.equal(peer(script), gradient)
    assert apart(peer(module), gradient) > 0.1
    composite = composites.LayerMapComposite(
        [(types.Activation, rules.Pass()), (types.Convolution, rules.Epsilon()), (types.Linear, rules.Epsilon())]
    )
    from_eager = zennit_heatmap(module, composite, batch)
    assert apart(zennit_heatmap(script, composite, batch), from_eager) > 0.1
    assert apart(heatmap(module, tmp_path, batch, "lrp-eps"), from_eager) <= 1e-4


class Functional(nn.Module):
    """The layers of `plain`, its ReLUs called as functions."""

    def __init__(self, plain: nn.Module) -> None:
        super().__init__()
        self.conv, self.fc1, self.fc2 = plain[0], plain[3], plain[5]

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv(x)).flatten(1)
        return self.fc2(functional.relu(self.fc1(x)))


def test_captums_deeplift_is_input_times_gradient_where_relu_is_a_function(tmp_path: Path) -> None:
    """It hooks modules; a function has no hook, so autograd's derivative stands in for the rescale rule, silently."""
    plain = built(
        nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(6 * ((SIZE - 1) // 2) ** 2, 12), nn.ReLU(),
        nn.Linear(12, CLASSES),
    )  # fmt: skip
    written, batch = Functional(plain), images(3)
    zero = torch.zeros_like(batch)
    right = captum.DeepLift(plain).attribute(batch.clone().requires_grad_(), zero, target=TARGET).detach()
    peer = captum.DeepLift(written).attribute(batch.clone().requires_grad_(), zero, target=TARGET).detach()
    times_gradient = captum.InputXGradient(written).attribute(batch.clone().requires_grad_(), target=TARGET).detach()
    assert apart(peer, times_gradient) <= 1e-5
    assert apart(peer, right) > 0.05
    assert apart(heatmap(written, tmp_path, batch, "deeplift-rescale"), right) <= 1e-4
