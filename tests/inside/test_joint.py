"""Joint relevance of two pictures: a bilinear form, the maps of the pair, marks that go together, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SAMPLES, Cli
from embeddings import Linear
from torch import Tensor, nn

import heatcli
from heatcli.errors import UsageError
from heatcli.inside.joint import joint

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::DeprecationWarning")]
SIDE, GRID = 12, 3


class Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.dense = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6 * 16, 20)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(nn.functional.avg_pool2d(self.conv(x).relu(), 3).flatten(1))


def two() -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    return torch.rand(1, 3, SIDE, SIDE), torch.rand(1, 3, SIDE, SIDE)


def regions(values: Tensor) -> Tensor:
    """[…, H, W] summed over GRID×GRID regions."""
    cell = SIDE // GRID
    return values.unflatten(-1, (GRID, cell)).sum(-1).unflatten(-2, (GRID, cell)).sum(-2)


@pytest.mark.parametrize("name", ["cosine", "dot"])
def test_of_a_linear_network_it_is_the_bilinear_form(name: str) -> None:
    """a·(WᵀW)·b, element by element, summed over regions; over both norms for the cosine."""
    net, (a, b) = Linear(SIDE), two()
    found = joint(heatcli.load(net, a), a, b, "lrp-0", name, GRID)
    w = net.dense.weight.detach().double().reshape(4, 3, SIDE, SIDE)
    own, other = (regions((w * x[0].double()).sum(1)) for x in (a, b))  # [4, GRID, GRID]
    expected = torch.einsum("mij,mkl->ijkl", own, other)
    if name == "cosine":
        expected = expected / float(net(a).detach().double().norm() * net(b).detach().double().norm())
    torch.testing.assert_close(found.pixels, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))
    assert found.score == pytest.approx(float(expected.sum()), rel=1e-5)
    assert not found.own.any()
    assert not found.other.any()


@pytest.mark.parametrize("method", ["lrp-eps", "lrp-gamma", "lrp-epsilon-plus"])
def test_summed_over_one_picture_it_is_the_map_of_the_other(method: str) -> None:
    """With the other's biases, since a rule is linear in what it passes on. The books close."""
    net, (a, b) = Embedding(), two()
    model = heatcli.load(net, a)
    found = joint(model, a, b, method, "cosine", GRID)
    assert found.relative_error < 1e-5
    pair = heatcli.explain(model, a, method, baseline="none", pair=b)
    assert found.score == pytest.approx(float(pair.ledger.output), rel=1e-5)
    for mine, result in (
        (found.pixels.sum((2, 3)) + found.own, pair),
        (found.pixels.sum((0, 1)) + found.other, pair.pair),
    ):
        assert result is not None
        expected = regions(result.relevance[0].double().sum(0))
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


class Marks(nn.Module):
    """How much there is of each of two marks, wherever it stands."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1, bias=False)
        self.conv.weight.data = torch.tensor([[1.0, -1, -1], [-1, 1, -1]])[:, :, None, None]

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).relu().sum((2, 3))


def test_each_mark_goes_with_the_same_mark_elsewhere() -> None:
    """A red and a green mark, swapped in the other picture: first-order maps cannot tell which goes with which."""
    a, b = torch.zeros(2, 1, 3, SIDE, SIDE)
    a[0, 0, 1:3, 1:3] = b[0, 0, 9:11, 9:11] = 1.0  # red
    a[0, 1, 9:11, 9:11] = b[0, 1, 1:3, 1:3] = 1.0  # green
    found = joint(heatcli.load(Marks(), a), a, b, "lrp-0", "dot", GRID)
    pairs = {(one, other): relevance for relevance, one, other in found.strongest(2)}
    assert pairs == {((0, 0), (2, 2)): pytest.approx(16.0), ((2, 2), (0, 0)): pytest.approx(16.0)}
    assert float(found.pixels.abs().sum()) == pytest.approx(32.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "gradient"}, "does not divide a score in one walk"), ({"grid": 13}, "from 1 to 12"),
        ({"method": "occlusion"}, "does not divide a score in one walk"), ({"similarity": "l2"}, "cosine, dot"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(given: dict[str, object], message: str) -> None:
    a, b = two()
    with pytest.raises(UsageError, match=message):
        joint(heatcli.load(Embedding(), a), a, b, **given)  # type: ignore[arg-type]


def test_the_command_writes_a_figure_and_an_array(tmp_path: Path, cli: Cli) -> None:
    a, b = (SAMPLES / f"wolf-on-{ground}.png" for ground in ("snow", "grass"))
    ran = cli("joint", a, b, "--grid", "4", "--top", "3", "--out", tmp_path / "out", "--json")
    (line,) = (json.loads(text) for text in ran.out.splitlines())
    with np.load(tmp_path / "out" / "wolf-on-snow.wolf-on-grass.joint.npz") as arrays:
        assert arrays["pixels"].shape == (4, 4, 4, 4)
        strongest = line["pairs"][0]
        place = (*strongest["image"], *strongest["other"])
        assert arrays["pixels"][place] == pytest.approx(strongest["relevance"])
        assert abs(arrays["pixels"]).max() == pytest.approx(abs(strongest["relevance"]))
    ledger = line["ledger"]
    assert sum(ledger[part] for part in ("pixels", "own", "other", "biases")) == pytest.approx(ledger["output"])
    assert (tmp_path / "out" / "wolf-on-snow.wolf-on-grass.joint.png").stat().st_size > 1000
    assert len(line["pairs"]) == 3
