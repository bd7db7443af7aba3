"""Positions that a network chooses: held for the picture that they are of, and never used for another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import heatcli


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


def test_a_baseline_and_changed_pictures_keep_the_places(tmp_path: Path) -> None:
    """Of another picture the score at the places of the explained one, which the module's own weights give."""
    torch.manual_seed(0)
    net = Bright()
    torch.jit.script(net).save(str(tmp_path / "net.pt"))
    model = heatcli.load(tmp_path / "net.pt", size=8, channels=1)
    for bright in ([3, 17, 40], [5]):
        x = torch.full((1, 1, 8, 8), 0.2)
        x.view(-1)[bright] = 0.9

        def at_places(other: Tensor, places: list[int] = bright) -> float:
            maps = net.conv(other).reshape(1, 2, -1)
            return float(net.fc(torch.relu(maps[:, :, places]).sum(2) + maps.mean(2))[0, 1].detach())

        for method in ("lrp-eps", "deeplift-rescale", "integrated-gradients"):
            result = heatcli.explain(model, x, method, target=1, baseline="black")
            assert float(result.ledger.output_baseline) == pytest.approx(at_places(torch.zeros_like(x)), abs=1e-5)
        covered = x.clone()
        covered[0, 0, :4, :4] = 0
        found = heatcli.explain(model, x, "occlusion", target=1, baseline="black", window=4, stride=4)
        assert float(found.relevance[0, 0, :4, :4].sum()) == pytest.approx(at_places(x) - at_places(covered), abs=1e-5)
