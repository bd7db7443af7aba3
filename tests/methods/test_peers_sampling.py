"""Agreement of methods of many passes and of CAM methods with Captum, torchcam and pytorch-grad-cam."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PEERS
from networks import images, load, network
from test_peers import EVERY_NET, NETS, TARGET, apart, averaging, vgg_like
from torch import Tensor, nn
from torch.nn import functional

import heatcli
from heatcli.methods import path, smooth, superpixels
from heatcli.methods.table import method

captum = pytest.importorskip("captum.attr")
torchcam = pytest.importorskip("torchcam.methods")
grad_cam = pytest.importorskip("pytorch_grad_cam")

pytestmark = PEERS

START = 0.3


def found(module: nn.Module, folder: Path, batch: Tensor, name: str, baseline: Any = None, **parameters: Any) -> Tensor:
    """heatcli's map, of the module saved as TorchScript."""
    return heatcli.explain(load(module, folder), batch, name, TARGET, baseline, **parameters).relevance


# --- Captum -------------------------------------------------------------------------------------------------------

QUADRATURES = {
    "gauss-legendre": "gausslegendre", "riemann": "riemann_right", "riemann-left": "riemann_left",
    "riemann-middle": "riemann_middle",
}  # fmt: skip


@EVERY_NET
@pytest.mark.parametrize("rule", QUADRATURES)
def test_integrated_gradients_are_captums(tmp_path: Path, name: str, rule: str) -> None:
    module, batch = NETS[name](), images(3)
    start = torch.full_like(batch, START)
    expected = captum.IntegratedGradients(module).attribute(
        batch, start, target=TARGET, n_steps=20, method=QUADRATURES[rule]
    )
    mine = found(module, tmp_path, batch, "integrated-gradients", start[0], steps=20, rule=rule)
    assert apart(mine, expected.float()) <= 1e-4


def test_captums_trapezoid_loses_an_nth(tmp_path: Path) -> None:
    """Its weights are 1/n at n points, half at both ends: they sum to (n − 1)/n, not to 1."""
    module, batch = averaging(), images(2)
    peer = captum.IntegratedGradients(module).attribute(batch, target=TARGET, n_steps=10, method="riemann_trapezoid")
    mine = found(module, tmp_path, batch, "integrated-gradients", steps=10, rule="riemann-trapezoid")
    assert apart(mine * 9 / 10, peer.float()) <= 1e-4
    assert apart(mine, peer.float()) > 0.05


def test_expected_gradients_are_captums_gradient_shap_with_the_same_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, batch, pool, samples = averaging(), images(1), images(4, 9), 10
    seen: list[Tensor] = []

    def scores(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return module(x)

    np.random.seed(0)
    torch.manual_seed(0)
    expected = captum.GradientShap(scores).attribute(batch, pool, target=TARGET, n_samples=samples, stdevs=0.0)
    points = torch.cat(seen)
    assert len(points) == samples
    which, along = [], []
    for point in points:  # its draws, from where it looked: a point on the way from one of the baselines
        shares = ((point - pool) / (batch[0] - pool)).flatten(1)
        nearest = int((shares.quantile(0.9, 1) - shares.quantile(0.1, 1)).argmin())
        which.append(nearest)
        along.append(float(shares[nearest].median()))
    drawn = torch.tensor(which), torch.tensor(along, dtype=torch.float64)
    monkeypatch.setattr(path, "draws", lambda *_: drawn)
    mine = found(module, tmp_path, batch, "expected-gradients", pool, samples=samples)
    assert apart(mine, expected.detach().float()) <= 1e-4


@pytest.mark.parametrize("name", ["averaging", "normalised"])
def test_deep_shap_is_captums(tmp_path: Path, name: str) -> None:
    module, batch, pool = NETS[name](), images(2), images(3, 9)
    expected = captum.DeepLiftShap(module).attribute(batch.clone().requires_grad_(), pool, target=TARGET)
    assert apart(found(module, tmp_path, batch, "deep-shap", pool), expected.detach()) <= 1e-4


@pytest.mark.parametrize(("name", "peer"), [("smoothgrad", ""), ("smoothgrad-squared", "_sq"), ("vargrad", "vargrad")])
def test_smoothgrad_and_its_kin_are_captums_noise_tunnel_with_the_same_noise(
    tmp_path: Path, name: str, peer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, batch, samples, sigma = NETS["normalised"](), images(1), 8, 0.1
    span = float(batch.max() - batch.min())
    torch.manual_seed(5)
    drawn = torch.normal(0, torch.full((samples, *batch.shape[1:]), sigma * span)) / (sigma * span)
    torch.manual_seed(5)
    tunnel = captum.NoiseTunnel(captum.Saliency(module))
    expected = tunnel.attribute(
        batch, nt_type=peer if peer == "vargrad" else f"smoothgrad{peer}", nt_samples=samples, stdevs=sigma * span,
        target=TARGET, abs=False,
    )  # fmt: skip
    monkeypatch.setattr(smooth, "noise", lambda *_: drawn)
    mine = found(module, tmp_path, batch, name, samples=samples, sigma=sigma)
    assert apart(mine, expected.detach()) <= 1e-4


@EVERY_NET
@pytest.mark.parametrize(("window", "stride"), [(4, 4), (4, 2), (6, 5)])
def test_occlusion_is_captums(tmp_path: Path, name: str, window: int, stride: int) -> None:
    """With `share=whole`; by default heatcli shares what a window is worth over its pixels and channels."""
    module, batch = NETS[name](), images(2)
    expected = captum.Occlusion(module).attribute(
        batch, (3, window, window), (3, stride, stride), baselines=START, target=TARGET
    )
    start = torch.full((3, 16, 16), START)
    mine = found(module, tmp_path, batch, "occlusion", start, window=window, stride=stride, share="whole")
    assert apart(mine, expected) <= 1e-4
    shared = found(module, tmp_path, batch, "occlusion", start, window=window, stride=stride)
    assert apart(shared * 3 * window**2, expected) <= 1e-4


def test_occlusion_differs_from_captums_where_windows_do_not_fit(tmp_path: Path) -> None:
    """Captum's last window hangs over the edge and hides less; heatcli's is moved in, so all hide the same."""
    module, batch = averaging(), images(2)
    expected = captum.Occlusion(module).attribute(batch, (3, 5, 5), (3, 4, 4), target=TARGET)
    mine = found(module, tmp_path, batch, "occlusion", window=5, stride=4, share="whole")
    assert apart(mine, expected) > 0.01
    assert apart(mine[..., :4, :4], expected[..., :4, :4]) <= 1e-4, "the same where they look through the same windows"


def superpixelled(name: str, batch: Tensor, folder: Path, **parameters: Any) -> tuple[Tensor, Tensor]:
    """heatcli's sum for each superpixel, and the superpixels [1, 1, H, W]."""
    segments = torch.from_numpy(superpixels.superpixels(batch[0], 6, 1000.0))[None, None]
    relevance = found(averaging(), folder, batch, name, superpixels=6, compactness=1000.0, **parameters)
    sums = [relevance[0][:, segments[0, 0] == i].sum() for i in range(int(segments.max()) + 1)]
    return torch.stack(sums), segments


def test_kernel_shap_is_captums_exact_shapley_values(tmp_path: Path) -> None:
    batch = images(1)
    mine, segments = superpixelled("kernel-shap", batch, tmp_path)
    peer = captum.ShapleyValues(averaging()).attribute(batch, target=TARGET, feature_mask=segments)
    sampled = captum.ShapleyValueSampling(averaging())
    assert len(mine) > 3
    for i, value in enumerate(mine):
        first = peer[0, 0][segments[0, 0] == i][0]
        assert float(abs(value - first) / mine.abs().max()) <= 1e-4
    torch.manual_seed(0)
    near = sampled.attribute(batch, target=TARGET, feature_mask=segments, n_samples=50)
    assert apart(near, peer) < 0.5, "which are close to what sampling finds"


def test_lime_is_captums_with_the_same_samples(tmp_path: Path) -> None:
    """Its interpretable samples, similarity and model are given; the forward runs, masks and fit are its own."""
    from captum._utils.models.linear_model import SkLearnRidge

    batch, module = images(1), averaging()
    mine, segments = superpixelled("lime", batch, tmp_path, samples=60)
    count = len(mine)
    shown = superpixels.Lime(samples=60).shown(count)
    rows = iter(torch.from_numpy(shown).float())

    def similarity(original: Tensor, perturbed: Tensor, sample: Tensor, **_: Any) -> Tensor:  # noqa: ARG001
        distance = 1 - functional.cosine_similarity(torch.ones_like(sample), sample).item()
        return torch.tensor(np.exp(-(distance**2) / 0.25**2))

    peer = captum.Lime(
        module, interpretable_model=SkLearnRidge(alpha=1.0), similarity_func=similarity,
        perturb_func=lambda *_, **__: next(rows)[None],
    )  # fmt: skip
    expected = peer.attribute(batch, target=TARGET, feature_mask=segments, n_samples=60, return_input_shape=False)
    assert apart(mine, expected[0]) <= 1e-3


# --- class activation maps ----------------------------------------------------------------------------------------


def enlarged(cam: Tensor) -> Tensor:
    """A map [N, h, w] at the size of the images."""
    return functional.interpolate(cam[:, None], (16, 16), mode="bilinear", align_corners=False)[:, 0].detach()


def layer_of(module: nn.Module, folder: Path) -> str:
    """The name of the operator that the last ReLU of `vgg_like`'s convolutions became."""
    graph = load(module, folder).graph((2, 3, 16, 16))
    return [op.name for op in graph.operators if op.title == "relu" and len(op.shape) == 4][-1]


LAST_RELU = 10


def net() -> nn.Module:
    module = vgg_like()
    assert isinstance(module[LAST_RELU - 1], nn.ReLU)
    return module


def test_grad_cam_is_captums(tmp_path: Path) -> None:
    module, batch = net(), images(3)
    expected = captum.LayerGradCam(module, module[LAST_RELU - 1]).attribute(batch, TARGET, relu_attributions=True)
    mine = found(module, tmp_path, batch, "grad-cam", layer=layer_of(module, tmp_path))
    assert apart(mine.sum(1), enlarged(expected[:, 0])) <= 1e-4


def test_grad_cam_of_a_convolution_by_name_is_captums(tmp_path: Path) -> None:
    module, batch = network("plain"), images(3)
    expected = captum.LayerGradCam(module, module.features[3]).attribute(batch, TARGET, relu_attributions=True)
    mine = found(module, tmp_path, batch, "grad-cam", layer="features.3")
    assert apart(mine.sum(1), enlarged(expected[:, 0])) <= 1e-4


def test_guided_grad_cam_is_captums(tmp_path: Path) -> None:
    module, batch = net(), images(3)
    expected = captum.GuidedGradCam(module, module[LAST_RELU - 1]).attribute(
        batch.clone().requires_grad_(), TARGET, interpolate_mode="bilinear"
    )
    mine = found(module, tmp_path, batch, "guided-grad-cam", layer=layer_of(module, tmp_path))
    assert apart(mine, expected.detach()) <= 1e-4


def torchcams(kind: type, module: nn.Module, batch: Tensor, **more: Any) -> Tensor:
    """torchcam's map, neither normalised nor enlarged: [N, h, w]."""
    with kind(module, target_layer=module[LAST_RELU - 1], input_shape=(3, 16, 16), **more) as extractor:
        scores = module(batch.clone().requires_grad_())
        return extractor([TARGET] * len(batch), scores, normalized=False)[0]


@pytest.mark.parametrize(("name", "kind"), [("grad-cam", "GradCAM"), ("layer-cam", "LayerCAM")])
def test_cam_methods_are_torchcams(tmp_path: Path, name: str, kind: str) -> None:
    module, batch = net(), images(3)
    expected = torchcams(getattr(torchcam, kind), module, batch)
    mine = found(module, tmp_path, batch, name, layer=layer_of(module, tmp_path))
    assert apart(mine.sum(1), enlarged(expected)) <= 1e-4


def scaled(cam: Tensor) -> Tensor:
    """Each map [N, …] less its smallest value, over its largest."""
    cam = cam - cam.flatten(1).amin(1)[:, None, None]
    return cam / cam.flatten(1).amax(1)[:, None, None]


@pytest.mark.parametrize(
    ("name", "kind"), [("grad-cam", "GradCAM"), ("grad-cam-plus-plus", "GradCAMPlusPlus"), ("layer-cam", "LayerCAM")]
)
def test_cam_methods_are_pytorch_grad_cams(tmp_path: Path, name: str, kind: str) -> None:
    """It scales each map to 0..1 and enlarges it with OpenCV: compared before that, at the size of the layer.

    Grad-CAM++ has ε = 1e-6 below g² there, so scores are made large enough for it not to matter (else: 2e-3 apart).
    """
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    module, batch = net(), images(3)
    with torch.no_grad():
        module[-1].weight *= 1000
    with getattr(grad_cam, kind)(module, [module[LAST_RELU - 1]]) as peer:
        peer.get_target_width_height = lambda _: None  # keeps the layer's size
        expected = torch.from_numpy(peer(batch, [ClassifierOutputTarget(TARGET)] * 3))
    mine = found(module, tmp_path, batch, name, layer=layer_of(module, tmp_path)).sum(1)
    assert apart(scaled(mine), scaled(enlarged(expected))) <= 1e-4


def test_torchcams_grad_cam_plus_plus_never_divides(tmp_path: Path) -> None:
    """It divides what a boolean mask picked in place, which is a copy: its α is g², not equation 19."""
    module, batch = net(), images(2)
    mine = found(module, tmp_path, batch, "grad-cam-plus-plus", layer=layer_of(module, tmp_path)).sum(1)
    peer = torchcams(torchcam.GradCAMpp, module, batch)
    assert apart(scaled(mine), scaled(enlarged(peer))) > 0.01
    maps = module[:LAST_RELU](batch).detach().requires_grad_()
    (g,) = torch.autograd.grad(module[LAST_RELU:](maps)[:, TARGET].sum(), maps)
    undivided = ((g**2 * g.relu()).sum((2, 3), keepdim=True) * maps.detach()).sum(1).relu()
    assert apart(undivided, peer.detach()) <= 1e-4


def test_score_cam_is_torchcams(tmp_path: Path) -> None:
    """Also in the order: maps are scaled to 0..1, then enlarged."""
    module, batch = net(), images(2)
    expected = torchcams(torchcam.ScoreCAM, module, batch)
    mine = found(module, tmp_path, batch, "score-cam", layer=layer_of(module, tmp_path))
    assert apart(mine.sum(1), enlarged(expected)) <= 1e-4


def test_a_smoothed_lrp_is_captums_noise_tunnel_around_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--smooth` around input × gradient, with Captum's noise."""
    module, batch = averaging(), images(1)
    span = float(batch.max() - batch.min())
    torch.manual_seed(5)
    drawn = torch.normal(0, torch.full((6, *batch.shape[1:]), 0.1 * span)) / (0.1 * span)
    torch.manual_seed(5)
    expected = captum.NoiseTunnel(captum.InputXGradient(module)).attribute(
        batch, nt_type="smoothgrad", nt_samples=6, stdevs=0.1 * span, target=TARGET
    )
    monkeypatch.setattr(smooth, "noise", lambda *_: drawn)
    around = smooth.smoothed(method("input-x-gradient"), "6:0.1")
    mine = heatcli.explain(load(module, tmp_path), batch, around, TARGET).relevance
    assert apart(mine, expected.detach()) <= 1e-4
