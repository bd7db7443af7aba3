"""Positions that a network chooses: held for the picture that they are of, and never used for another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import heatcli
from heatcli.graph.positions import fingerprint_of

POSITIONS = st.lists(st.integers(0, 1000), max_size=6)


@given(st.lists(POSITIONS, min_size=1, max_size=3), st.lists(POSITIONS, min_size=1, max_size=3))
def test_fingerprints_are_of_positions_in_their_order(one: list[list[int]], other: list[list[int]]) -> None:
    a, b = (fingerprint_of([torch.tensor(part, dtype=torch.int64) for part in x]).item() for x in (one, other))
    assert (a == b) == (_without_empty_ends(one) == _without_empty_ends(other))


def _without_empty_ends(parts: list[list[int]]) -> list[list[int]]:
    while parts and not parts[-1]:
        parts = parts[:-1]
    return parts


class Bright(nn.Module):
    """The sum of a convolution at the bright places, which another convolution weighs; and of all places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 2, 3, padding=1), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        places = torch.nonzero(x.reshape(-1) > 0.5)[:, 0]
        maps = self.conv(x).reshape(1, 2, -1)
        return self.fc(torch.relu(maps[:, :, places]).sum(2) + maps.mean(2))


@pytest.mark.parametrize("bright", [[], [3], [3, 17, 40], [17, 3, 60]])
def test_a_picture_has_its_own_places(bright: list[int], tmp_path: Path) -> None:
    """Also where the picture that came before had none."""
    torch.manual_seed(0)
    net = Bright()
    torch.jit.script(net).save(str(tmp_path / "net.pt"))
    model = heatcli.load(tmp_path / "net.pt", size=8, channels=1)
    dark = torch.full((1, 1, 8, 8), 0.2)
    x = dark.clone()
    x.view(-1)[bright] = 0.9
    for given_picture in (dark, x, dark):
        result = heatcli.explain(model, given_picture, "lrp-eps", target=1, baseline="none")
        assert float(result.ledger.output) == pytest.approx(float(net(given_picture)[0, 1].detach()), abs=1e-5)
        picture = given_picture.clone().requires_grad_()
        net(picture)[0, 1].backward()
        gradient = heatcli.explain(model, given_picture, "gradient", target=1).relevance
        assert picture.grad is not None
        assert torch.allclose(gradient, picture.grad, atol=1e-5)
