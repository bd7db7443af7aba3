"""Class activation maps against the papers' formulas written out, and the layers that names stand for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import SAMPLES, Cli
from networks import CLASSES, architecture, graph_of, images, load, network
from torch import Tensor, nn
from torch.nn import functional

import heatcli
from heatcli.errors import UsageError
from heatcli.graph.layers import find_map
from heatcli.methods.table import METHODS

WOLF = str(SAMPLES / "wolf-on-snow.png")
CAMS = [name for name, m in METHODS.items() if m.kind == "cam"]


def parts(module: nn.Module, batch: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """The maps that the plain network's second convolution ends in after its ReLU, and the score's gradient there."""
    maps = module.features[:5](batch).detach().requires_grad_()
    score = module.head(module.features[5](maps))[:, target].sum()
    return maps.detach(), torch.autograd.grad(score, maps)[0]


def loops(name: str, a: Tensor, g: Tensor) -> Tensor:
    """The map [h, w] of one image, sum by sum as the papers write it, from A and ∂S/∂A [K, h, w]."""
    channels, height, width = a.shape
    cells = [(i, j) for i in range(height) for j in range(width)]
    cam = torch.zeros(height, width, dtype=a.dtype)
    for k in range(channels):
        if name == "layer-cam":
            for i, j in cells:
                cam[i, j] += max(g[k, i, j], 0) * a[k, i, j]
            continue
        weight = 0.0
        for i, j in cells:
            if name == "grad-cam":
                weight += g[k, i, j] / len(cells)
            elif g[k, i, j] != 0:
                whole = sum(a[k, p, q] * g[k, i, j] ** 3 for p, q in cells)
                weight += g[k, i, j] ** 2 / (2 * g[k, i, j] ** 2 + whole) * max(g[k, i, j], 0)
        cam += weight * a[k]
    return cam.clamp(min=0)


@pytest.mark.parametrize("name", ["grad-cam", "grad-cam-plus-plus", "layer-cam"])
def test_a_map_is_the_papers_formula(tmp_path: Path, name: str) -> None:
    module, batch = network("plain"), images(2)
    maps, gradients = parts(module, batch, 2)
    expected = torch.stack([loops(name, a, g) for a, g in zip(maps, gradients, strict=True)])[:, None]
    expected = functional.interpolate(expected, (16, 16), mode="bilinear", align_corners=False)[:, 0]
    found = heatcli.explain(load(module, tmp_path), batch, name, 2, layer="relu_4")
    assert float((found.relevance.sum(1) - expected).abs().max() / expected.abs().max()) < 1e-5
    assert torch.equal(found.relevance[:, 0], found.relevance[:, 2]), "shared evenly over channels"


def test_score_cam_weighs_maps_by_the_score_of_what_they_show(tmp_path: Path) -> None:
    module, batch, start = network("plain"), images(1), torch.full((3, 16, 16), 0.5)
    maps, _ = parts(module, batch, 1)
    scores = []
    with torch.no_grad():
        for map_ in maps[0]:
            mask = (map_ - map_.min()) / (map_.max() - map_.min() or 1)
            mask = functional.interpolate(mask[None, None], (16, 16), mode="bilinear", align_corners=False)
            scores.append(module(start + mask * (batch - start))[0, 1])
    cam = (torch.stack(scores).softmax(0)[:, None, None] * maps[0]).sum(0).relu()
    expected = functional.interpolate(cam[None, None], (16, 16), mode="bilinear", align_corners=False)[0, 0]
    found = heatcli.explain(load(module, tmp_path), batch, "score-cam", 1, start, layer="relu_4").relevance
    assert float((found[0].sum(0) - expected).abs().max() / expected.max()) < 1e-5


def test_guided_grad_cam_is_the_product_of_the_two(tmp_path: Path) -> None:
    model, batch = load(network("residual"), tmp_path), images(2)
    guided = heatcli.explain(model, batch, "guided-backprop", 1).relevance
    cam = heatcli.explain(model, batch, "grad-cam", 1).relevance.sum(1, keepdim=True)
    found = heatcli.explain(model, batch, "guided-grad-cam", 1).relevance
    assert torch.allclose(found, guided * cam, atol=1e-6)
    assert float(found.abs().max()) > 0


# --- layers -------------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Patches, self-attention written out, then maps again, averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.qkv = nn.Linear(8, 24)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).reshape(n, 16, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        attended = ((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).reshape(n, 16, 8)
        return self.fc((tokens + attended).transpose(1, 2).reshape(n, 8, 4, 4).mean((2, 3)))


class Dense(nn.Module):
    """Scores at every pixel: a convolution, its ReLU, and a convolution to classes, enlarged."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.Conv2d(6, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.interpolate(self.head(self.body(x).relu()), scale_factor=2.0, mode="bilinear")


def titles(module: nn.Module) -> str:
    found = find_map(graph_of(module.eval(), images(2)), "last")
    return f"{found.title} {'×'.join(map(str, found.shape[2:]))}"


def test_the_last_spatial_layer_is_found() -> None:
    """Where maps end in pooling, in a product with gates, in tokens, in maps from tokens, or in maps of scores."""
    assert titles(network("plain")) == "max_pool2d_with_indices 4×4"
    assert titles(network("residual")) == "cat 16×16"
    assert titles(network("excited")) == "hardswish 8×8"
    assert titles(Attention()) == "reshape 4×4", "not the attention matrix, which has four dimensions, too"
    assert titles(Dense()) == "relu 8×8", "not the output itself"


def test_a_network_of_one_layer_has_its_own_output(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Conv2d(3, CLASSES, 3, padding=1).eval()
    assert titles(net) == "convolution 16×16"
    assert bool(heatcli.explain(load(net, tmp_path), images(1), "grad-cam", 1).relevance.any())


def test_names_are_those_of_the_artifact() -> None:
    graph = graph_of(network("plain"), images(2))
    assert find_map(graph, "features.3").shape == (2, 8, 8, 8)
    assert find_map(graph, "features.3.weight").title == find_map(graph, "features.3").title == "convolution"
    name = next(op.name for op in graph.operators if op.title == "relu")
    assert find_map(graph, name).name == name
    assert find_map(graph, "features").shape == (2, 8, 4, 4), "a block goes on to what has no parameters"
    with pytest.raises(
        UsageError,
        match=r"unknown layer 'features.2'; did you mean 'features.[03]'\? Known: features, features.0, ",
    ):
        find_map(graph, "features.2")


def test_a_block_of_a_resnet_ends_in_its_relu() -> None:
    graph = graph_of(architecture("resnet18"), images(1, shape=(3, 64, 64)))
    assert [find_map(graph, f"layer{i}").title for i in (1, 2, 3, 4)] == ["relu"] * 4
    assert find_map(graph, "layer4").name == find_map(graph, "last").name
    assert find_map(graph, "layer3").shape[1] == 256


class Forked(nn.Module):
    """Class 0 is seen by the first convolution alone, class 1 by the second alone, which comes last."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.one(x).relu().mean((1, 2, 3)), self.two(x).relu().mean((1, 2, 3))], 1)


class ForkedDense(Forked):
    """The same at every position: each class is a layer of its own branch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 1, 3), nn.Conv2d(4, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.first(self.one(x).relu()), self.second(self.two(x).relu())], 1)


@pytest.mark.parametrize("net", [Forked, ForkedDense])
@pytest.mark.parametrize("name", CAMS)
def test_the_last_layer_is_one_that_the_score_depends_on(name: str, net: type[nn.Module], tmp_path: Path) -> None:
    """Each image of a batch has its own: the last of its class, in whatever order the branches run."""
    torch.manual_seed(0)
    model, batch, classes = load(net(), tmp_path), images(3), [0, 1, 0]
    found = heatcli.explain(model, batch, name, classes).relevance
    for i, index in enumerate(classes):
        layer = ("relu_1", "relu_4")[index]
        alone = heatcli.explain(model, batch[i : i + 1], name, index, layer=layer).relevance
        assert torch.allclose(found[i : i + 1], alone, atol=1e-6)
        assert bool(alone.any())


def test_an_empty_map_is_told(tmp_path: Path) -> None:
    """A layer of another class's branch says nothing of a class."""
    torch.manual_seed(0)
    for layer, empty in (("two", True), ("one", False), ("last", False)):
        found = heatcli.explain(load(Forked(), tmp_path), images(2), "grad-cam", target=0, layer=layer)
        assert bool((found.relevance == 0).all()) == empty
        assert any(f"nothing in layer {layer} speaks for the score" in note for note in found.notes) == empty


def test_a_network_without_maps_is_a_usage_error(tmp_path: Path) -> None:
    model = load(nn.Sequential(nn.Flatten(), nn.Linear(768, CLASSES)), tmp_path)
    with pytest.raises(UsageError, match="no maps"):
        heatcli.explain(model, images(1), "grad-cam")


CASES = [
    (["--method", "grad-cam", "--layer", "features.99"], "unknown layer 'features.99'; known: stage1, stage1.conv1"),
    (["--method", "grad-cam", "--layer", "stage9.conv1"], "did you mean 'stage4.conv1'?"),
    (["--method", "lrp-eps", "--layer", "relu_3"], "--layer is for methods that look at one layer"),
    (["--method", "grad-cam", "--baseline", "zero"], "method grad-cam compares with nothing"),
    (["--method", "score-cam", "--baseline", "none"], "method score-cam compares with an image"),
]


@pytest.mark.parametrize(("arguments", "said"), CASES, ids=[said[:30] for _, said in CASES])
def test_what_cannot_be_is_a_usage_error(cli: Cli, arguments: list[str], said: str) -> None:
    ran = cli("explain", WOLF, *arguments)
    assert (ran.status, said in ran.err, ran.err.count("\n")) == (2, True, 1), ran.err


@pytest.mark.parametrize("name", CAMS)
def test_the_command_takes_a_layer(cli: Cli, name: str) -> None:
    ran = cli("explain", WOLF, "--method", name, "--layer", "stage3", "--json", "--pixels", "none")
    assert ran.status == 0, ran.err
    assert '"layer":"stage3"' in ran.out.replace(" ", "")


def test_a_signal_without_channels_has_maps_of_one_axis(tmp_path: Path) -> None:
    """[N, L], convolved along it, then pooled as torch pools signals: as pictures of one row."""

    class Leads(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.head = torch.nn.Conv1d(1, 4, 5, 2), torch.nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            maps = torch.relu(self.conv(x.unsqueeze(1)))
            return self.head(torch.nn.functional.adaptive_avg_pool1d(maps, 1).flatten(1))

    net = Leads().eval()
    x = torch.randn(2, 40, generator=torch.Generator().manual_seed(1))
    torch.jit.trace(net, x).save(str(tmp_path / "net.pt"))
    found = heatcli.explain(heatcli.load(tmp_path / "net.pt", axes="NL", size=40), x, "grad-cam", 1)
    maps = torch.relu(net.conv(x.unsqueeze(1)))
    cam = torch.relu((maps * net.head.weight[1][:, None]).sum(1, keepdim=True)).detach()
    expected = torch.nn.functional.interpolate(cam, 40, mode="linear", align_corners=False)[:, 0]
    ratio = found.relevance / expected.clamp(min=1e-9)
    torch.testing.assert_close(found.relevance, expected * ratio[expected > 1e-3].median(), rtol=1e-3, atol=1e-4)
