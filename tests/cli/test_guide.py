"""Relevance as a training loss: its gradient reaches the weights, and is the right one."""

from __future__ import annotations

import sys

import pytest
import torch
from conftest import MODELS
from torch import Tensor, nn

import heatcli

sys.path.insert(0, str(MODELS))
from guide import Guide, live
from nets import AnimalNet


@pytest.fixture
def net() -> AnimalNet:
    """The animals network, trained."""
    found = AnimalNet(16)
    found.load_state_dict(torch.jit.load(str(MODELS / "animals.pt")).state_dict())
    return found.eval()


def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    coverage = torch.zeros(3, 96, 96)
    coverage[:, 30:60, 30:60] = 1
    return torch.randn(3, 3, 96, 96, generator=generator), torch.tensor([1, 5, 9]), coverage


@pytest.mark.parametrize("trained_on", ["lrp-0", "deeplift-rescale@mean"])
def test_the_penalty_is_what_heatcli_explain_shows(net: AnimalNet, trained_on: str) -> None:
    inputs, labels, coverage = batch()
    guide = Guide(1.0, 3, 0.0, trained_on)
    found = guide.outside(net, inputs, labels, coverage)
    name, _, baseline = trained_on.partition("@")
    model = heatcli.load(MODELS / "animals.pt")
    shown = heatcli.explain(model, inputs, name, labels, baseline or None).relevance.sum(1).abs()
    expected = ((shown * (1 - coverage)).sum((1, 2)) / shown.sum((1, 2))).mean()
    assert float(found.detach()) == pytest.approx(float(expected), rel=1e-3)


def test_its_gradient_is_the_slope_of_the_penalty(net: AnimalNet) -> None:
    """Against a central difference along the gradient, in float64, for weights of the first and the last layer."""
    inputs, labels, coverage = (x.double() if x.is_floating_point() else x for x in batch())
    net = net.double()
    guide = Guide(1.0, 3, 0.0, "lrp-0")
    penalty = guide.outside(net, inputs, labels, coverage)
    weights = (net.stem.weight, net.fc.weight)
    for weight, gradient in zip(weights, torch.autograd.grad(penalty, weights), strict=True):
        assert float(gradient.norm()) > 0
        step = 1e-5 * gradient / gradient.norm()
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                weight += sign * step
            sides.append(float(guide.outside(net, inputs, labels, coverage).detach()))
            with torch.no_grad():
                weight -= sign * step
        slope = (sides[0] - sides[1]) / 2 / float(step.norm())
        assert slope == pytest.approx(float(gradient.norm()), rel=1e-2)


def test_live_graphs_hold_the_parameters_themselves(net: AnimalNet) -> None:
    inputs, labels, coverage = batch()
    guide = Guide(1.0, 3, 0.0, "lrp-0")
    guide.outside(net, inputs, labels, coverage)
    assert guide.graph is not None
    held = {c.name: c.value for op in live(guide.graph, net).operators for c in op.constants}
    parameters: dict[str, nn.Parameter] = dict(net.named_parameters())
    assert held["stem.weight"] is parameters["stem.weight"]
    assert set(parameters) <= set(held)
