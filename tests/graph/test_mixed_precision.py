"""`--amp`: layers in bfloat16, everything that needs it in float32, and what that costs in exactness."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import MODELS, SAMPLES, Cli
from networks import CONSERVING, NETWORKS, SIZE, architecture, graph_of, images, network, save
from torch import Tensor, nn

import heatcli
from heatcli.engine.values import output_of
from heatcli.graph.layers import find_map, parameters_of, spatial
from heatcli.graph.mixed_precision import mixed_precision
from heatcli.graph.passes import DEFAULT, apply
from heatcli.images.read import read_picture

AMP = (*DEFAULT, "mixed-precision")


class Branched(nn.Module):
    """A layer of each sort, a residual sum, ReLU, SiLU, a BatchNorm that cannot be folded."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.grouped, self.side = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 4, 1)
        self.norm, self.middle, self.head = nn.BatchNorm2d(4), nn.Linear(4, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = nn.functional.max_pool2d(x + self.side(x), 2)
        x = nn.functional.silu(self.norm(self.grouped(x) * x))
        return self.head(torch.relu(self.middle(x.mean((2, 3)))))


def test_what_is_low() -> None:
    """What a grouped layer, a curve or a norm is given is raised; the last layer stays as it is."""
    graph = mixed_precision(graph_of(Branched().eval(), images(2)))
    dtypes = [(op.title, str(op.dtype).removeprefix("torch.")) for op in graph.operators if op.sources]
    low = [title for title, dtype in dtypes if dtype == "bfloat16"]
    assert low == ["_to_copy", "convolution", "relu", "convolution", "add", "max_pool2d_with_indices", "_to_copy",
                   "linear", "relu"]  # fmt: skip
    high = [title for title, dtype in dtypes if dtype == "float32"]
    assert high == ["_to_copy", "convolution", "mul", "native_batch_norm", "silu", "mean", "_to_copy", "linear"]
    assert graph.operators[-1].name == graph.output


@pytest.mark.parametrize("which", list(NETWORKS))
def test_outputs_are_as_near_as_those_of_autocast(which: str) -> None:
    """Near in what the network's outputs differ by; every operator is of the dtype that it says."""
    module, x = network(which), images(8)
    graph = apply(graph_of(module, x), AMP)
    with torch.no_grad():
        exact = module(x)
        with torch.autocast("cpu", torch.bfloat16):
            theirs = float((module(x).float() - exact).abs().max() / exact.std())
    ours = output_of(graph, x)
    assert ours.dtype == torch.float32
    assert 0 < float((ours - exact).abs().max() / exact.std()) < max(2 * theirs, 0.02)
    values = {graph.input: x}
    for op in graph.operators:
        values[op.name] = op.run(values)
        assert values[op.name].dtype == op.dtype, op.name


class Whole(nn.Module):
    """All weights and biases are small whole numbers, which bfloat16 has exactly, as it has what they make of such."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 2, 2), nn.ReLU(), nn.Conv2d(2, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)
        )
        g = torch.Generator().manual_seed(4)
        for parameter in self.parameters():
            parameter.data = torch.randint(-1, 2, parameter.shape, generator=g).float()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


@pytest.mark.parametrize("method", ["gradient", "lrp-0", "guided-backprop"])
def test_whole_numbers_are_exact(method: str, tmp_path: Path) -> None:
    """Then there is no rounding, and mixed precision says what float32 says, to the last bit."""
    path = save(Whole(), tmp_path, shape=(3, 4, 4))
    batch = torch.randint(0, 3, (6, 3, 4, 4), generator=torch.Generator().manual_seed(1)).float()
    plain, mixed = (heatcli.explain(heatcli.load(path, size=4, passes=p), batch, method) for p in (DEFAULT, AMP))
    assert bool(plain.relevance.any())
    assert torch.equal(mixed.relevance, plain.relevance)
    assert torch.equal(mixed.outputs, plain.outputs)
    assert all(torch.equal(mixed.biases[name], entry) for name, entry in plain.biases.items())
    assert torch.equal(mixed.ledger.relative_error, plain.ledger.relative_error)


@pytest.fixture(scope="module")
def animals() -> tuple[heatcli.Model, heatcli.Model, Tensor]:
    """The embedded network as it is and in mixed precision, and samples."""
    plain, mixed = heatcli.load(), heatcli.load(passes=AMP)
    return plain, mixed, plain.preprocess([read_picture(p, 3).pixels for p in sorted(SAMPLES.glob("*.png"))[:4]])


@pytest.mark.parametrize("method", CONSERVING)
def test_maps_of_a_trained_network_are_alike(method: str, animals: tuple[heatcli.Model, heatcli.Model, Tensor]) -> None:
    """The ledger is open by what rounding takes, a twentieth at most, and says so.

    α3β2 has 3 + 2 parts of a relevance of 1, each rounded, and processors round differently: twice as much there.
    """
    most = 0.1 if method == "lrp-alpha3-beta2" else 0.05
    plain, mixed, batch = animals
    exact, near = (heatcli.explain(model, batch, method) for model in (plain, mixed))
    one, other = (e.relevance.double().sum(1).flatten(1) for e in (exact, near))
    assert float(torch.cosine_similarity(one, other).median()) > 0.95
    assert near.relevance.dtype == torch.float32
    assert float(exact.ledger.relative_error.max()) < 1e-5 < float(near.ledger.relative_error.max()) < most


@pytest.mark.parametrize("method", ["lrp-0", "deep-taylor", "deeplift-rescale", "deeplift-reveal-cancel"])
@pytest.mark.parametrize("which", list(NETWORKS))
def test_any_graph_is_explained(which: str, method: str, tmp_path: Path) -> None:
    """Sums, concatenations, products, normalisers, views: maps near to float32's, of one dtype."""
    path = save(network(which), tmp_path)
    exact, near = (heatcli.explain(heatcli.load(path, size=SIZE, passes=p), images(4), method) for p in (DEFAULT, AMP))
    one, other = (e.relevance.double().flatten(1) for e in (exact, near))
    assert float(torch.cosine_similarity(one, other).median()) > 0.9
    assert near.relevance.dtype == torch.float32
    assert {entry.dtype for entry in near.biases.values()} == {torch.float32}


@pytest.mark.parametrize("which", [*NETWORKS, "mobilenet_v3_small", "efficientnet_b0"])
def test_layers_are_what_they_were(which: str) -> None:
    """By name and by default, whatever was cast on the way."""
    small = which in NETWORKS
    module, x = (network(which), images(2)) if small else (architecture(which), images(2, shape=(3, 64, 64)))
    plain, mixed = (apply(graph_of(module, x), passes) for passes in (DEFAULT, AMP))
    assert spatial(plain)
    assert find_map(mixed, "last").name == find_map(plain, "last").name
    for name in {name.rpartition(".")[0] for op in spatial(plain) for name in parameters_of(op)} - {""}:
        assert find_map(mixed, name).name == find_map(plain, name).name


@pytest.mark.parametrize("method", ["grad-cam", "grad-cam-plus-plus", "layer-cam", "score-cam", "guided-grad-cam"])
def test_maps_of_a_layer(method: str, animals: tuple[heatcli.Model, heatcli.Model, Tensor]) -> None:
    """Of a layer in bfloat16, in float32."""
    plain, mixed, batch = animals
    exact, near = (heatcli.explain(m, batch[:2], method, layer="stage3").relevance for m in (plain, mixed))
    assert near.dtype == torch.float32
    assert float(torch.cosine_similarity(exact.flatten(1), near.flatten(1)).min()) > 0.98


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_stay(dtype: torch.dtype) -> None:
    """An artifact that is not of float32 is what it was."""
    graph = graph_of(network("plain").to(dtype), images(2).to(dtype))
    assert mixed_precision(graph).operators == graph.operators


def test_on_the_command_line(process: Cli, tmp_path: Path) -> None:
    """The report says so, and so does the run: it is not continued without."""
    command = ("explain", str(SAMPLES), "--model", str(MODELS / "animals.pt"), "--out", "out", "--quiet")
    assert process(*command, "--amp").status == 0
    reports = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.lrp-eps.json")]
    assert reports
    assert all("mixed-precision" in report["model"]["passes"] for report in reports)
    ran = process(*command, "--resume")
    assert ran.status == 2
    assert 'out: holds a run with other parameters (passes ["mixed-precision"], not [])' in ran.err
