"""The walk on networks small enough to be worked out by hand, and what it promises to leave alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import CORE, NETWORKS, RELU_NETWORKS, SECANT, SIZE, graph_of, images, load, network, walked
from torch import Tensor, nn
from torch.nn import functional

import heatcli
from heatcli.engine.forward import forward
from heatcli.engine.values import output_of
from heatcli.engine.walk import walk
from heatcli.graph.operator import Graph
from heatcli.methods.table import METHODS, method
from heatcli.rules.rule import Adjoint, Sent, Step

LRP = ("lrp-0", "lrp-eps")


def row(*values: float) -> Tensor:
    """One input [1, len(values)] in float64."""
    return torch.tensor([values], dtype=torch.float64)


def assert_close(found: Tensor, expected: Tensor | list[float], tolerance: float = 1e-9) -> None:
    expected = torch.as_tensor(expected, dtype=found.dtype).reshape(found.shape)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


# --- closed forms -------------------------------------------------------------------------------------------------


def saturated(x: Tensor) -> Tensor:
    """1 − max(0, 1 − i1 − i2): flat wherever i1 + i2 ≥ 1 (Shrikumar et al. 2017, fig. 1)."""
    return 1 - torch.relu(1 - x[:, :1] - x[:, 1:])


@pytest.mark.parametrize(
    ("x", "shares"),
    [((1, 1), [0.5, 0.5]), ((1, 0), [1, 0]), ((3, 1), [0.75, 0.25]), ((0.25, 0.5), [0.25, 0.5])],
)
def test_deeplift_sees_through_saturation(x: tuple[float, float], shares: list[float]) -> None:
    """From baseline 0 the output rises by min(1, i1 + i2), which the inputs share as they differ."""
    found = walked(saturated, row(*x), method("deeplift-rescale"), row(0, 0))
    assert_close(found.relevance, shares)
    assert_close(found.left, [0])
    assert walked(saturated, row(1, 1), method("gradient")).relevance.abs().max() == 0, "where the gradient is 0"


def smaller(x: Tensor) -> Tensor:
    """min(i1, i2) = i1 − max(0, i1 − i2)."""
    return x[:, :1] - torch.relu(x[:, :1] - x[:, 1:])


@pytest.mark.parametrize("name", SECANT)
@pytest.mark.parametrize(("x", "shares"), [((3, 1), [0, 1]), ((1, 3), [1, 0])])
def test_the_smaller_input_of_a_minimum_takes_all(name: str, x: tuple[float, float], shares: list[float]) -> None:
    baseline = row(0, 0) if METHODS[name].baseline == "zero" else None
    assert_close(walked(smaller, row(*x), method(name), baseline).relevance, shares, 1e-5)
    if baseline is None:
        both = walked(lambda x: torch.minimum(x[:, :1], x[:, 1:]), row(*x), method(name))
        assert_close(both.relevance, shares, 1e-5)


@pytest.mark.parametrize(
    ("x", "x0", "shares"),
    [
        ((3, 1), (0, 0), [0.5, 0.5]),  # a rise is due to the smaller of the baseline: here both
        ((3, 1), (0, 2), [1, 0]),
        ((3, 1), (4, 5), [0, -3]),  # a fall is due to the smaller of the image
    ],
)
def test_a_minimum_by_the_operator_goes_by_who_was_and_is_the_smaller(
    x: tuple[float, float], x0: tuple[float, float], shares: list[float]
) -> None:
    found = walked(lambda x: torch.minimum(x[:, :1], x[:, 1:]), row(*x), method("deeplift-rescale"), row(*x0))
    assert_close(found.relevance, shares)


@pytest.mark.parametrize("name", LRP)
def test_a_decision_by_a_bias_alone_is_booked_to_that_bias(name: str) -> None:
    """All pixels meet a weight of 0; of the four biases one reaches the score, 2·0.5 = 1, and one beside it, 0.25."""
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.copy_(torch.tensor([0.5, -1.0]))
        model[2].weight.copy_(torch.tensor([[2.0, 7.0], [1.0, 1.0]]))
        model[2].bias.copy_(torch.tensor([0.25, 9.0]))
    found = walked(model, row(1, -2, 3), method(name))
    assert_close(found.relevance, [0, 0, 0])
    assert_close(found.books.biases["0.bias"], [1, 0], 1e-5)
    assert_close(found.books.biases["2.bias"], [0.25, 0], 1e-5)
    assert_close(found.left, [0])


@pytest.mark.parametrize("name", SECANT)
def test_a_square_is_told_apart_from_its_gradient(name: str) -> None:
    """x·x from 0: each factor half, x² in all, where input × gradient says 2x². From 1 to 3: 9 − 1."""
    assert_close(walked(lambda x: x * x, row(3), method(name)).relevance, [9])
    assert_close(walked(lambda x: x * x, row(3), method(name), row(1)).relevance, [8])
    assert_close(walked(lambda x: x**2, row(3), method(name), row(1)).relevance, [8])
    assert_close(walked(lambda x: x * x, row(3), method("input-x-gradient")).relevance, [18])


@pytest.mark.parametrize("name", SECANT)
@pytest.mark.parametrize(
    ("function", "x", "expected"),
    [
        (lambda x: x + torch.relu(x), 2.0, 4.0),
        (lambda x: x + torch.relu(x), -2.0, -2.0),
        (lambda x: torch.relu(torch.relu(x - 1) - 1), 5.0, 5.0),
        (lambda x: torch.relu(x) + torch.relu(-x), -3.0, 3.0),
        (lambda x: torch.cat([x, x, x], 1).sum(1, keepdim=True), 2.0, 6.0),
    ],
    ids=["x+relu(x)>0", "x+relu(x)<0", "relu twice", "two sides", "read thrice"],
)
def test_a_value_read_twice_collects_both_shares(
    name: str, function: Callable[[Tensor], Tensor], x: float, expected: float
) -> None:
    assert_close(walked(function, row(x), method(name)).relevance, [expected], 1e-5)


class Twice(nn.Module):
    """One ReLU module at two places, and a functional one."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.first = nn.ReLU()
        self.second = self.first if shared else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.c(functional.relu(self.b(self.second(self.b(self.first(self.a(x)))))))


@pytest.mark.parametrize("name", CORE)
def test_a_relu_used_twice_is_two_operators(name: str) -> None:
    """Sharing an activation module changes nothing: module identity does not exist in a graph."""
    torch.manual_seed(0)
    shared = Twice(shared=True)
    apart = Twice(shared=False)
    apart.load_state_dict(shared.state_dict())
    batch = images(3, shape=(4,))
    baseline = torch.full_like(batch, 0.2) if METHODS[name].baseline == "zero" else None
    found, expected = (walked(m, batch, method(name), baseline).relevance for m in (shared, apart))
    assert torch.equal(found, expected)
    assert found.abs().max() > 0


@pytest.mark.parametrize("name", SECANT)
def test_a_linear_network_is_input_times_gradient(name: str) -> None:
    """Convolution, average pooling, upsampling, batch norm and dense layers in a row have one slope only."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AvgPool2d(2), nn.Upsample(scale_factor=2.0, mode="bilinear"),
        nn.ConvTranspose2d(4, 2, 2), nn.Flatten(), nn.Linear(98, 3),
    ).double().eval()  # fmt: skip
    batch = images(2, shape=(3, 8, 8)).double()
    x = batch.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x)[:, 1].sum(), x)
    for baseline in (None, torch.full_like(batch, 0.5)):
        found = walked(model, batch, method(name), baseline, target=1)
        assert_close(found.relevance, gradient * (batch if baseline is None else batch - baseline), 1e-4)
        assert found.left.abs().max() < 1e-9


# --- what the walk promises ---------------------------------------------------------------------------------------


def held(graph: Graph) -> list[Tensor]:
    """All tensors that a graph holds: the artifact's parameters, and what was computed of them."""
    offsets = [offset.value for op in graph.operators for offset in op.offsets]
    return [constant.value for op in graph.operators for constant in op.constants] + offsets


def unchanged(model: heatcli.Model, batch: Tensor, explained: Callable[[], heatcli.Explanation]) -> bool:
    """Whether the graph that is walked and the batch keep every bit and get no gradient."""
    graph = model.graph(batch.shape)
    tensors, kept, scores = held(graph), batch.clone(), output_of(graph, batch)
    before = [x.clone() for x in tensors]
    result = explained()
    assert model.graph(batch.shape) is graph, "another graph was walked"
    assert tensors
    assert result.relevance.shape == batch.shape
    assert not result.relevance.requires_grad
    free = all(x.grad is None for x in (*tensors, batch)) and not batch.requires_grad
    same = all(torch.equal(a, b) for a, b in zip(before, tensors, strict=True))
    return free and same and torch.equal(batch, kept) and torch.equal(output_of(graph, batch), scores)


@pytest.mark.parametrize("name", [name for name in CORE if name != "guided-backprop"])
@pytest.mark.parametrize("which", list(NETWORKS))
def test_model_and_batch_are_bit_identical_afterwards(name: str, which: str, tmp_path: Path) -> None:
    model, batch = load(network(which), tmp_path), images(2)
    content = model.path.read_bytes()
    assert unchanged(model, batch, lambda: heatcli.explain(model, batch, name))
    assert model.path.read_bytes() == content


def test_what_is_written_into_weights_or_pixels_is_noticed(tmp_path: Path) -> None:
    class Writing(Adjoint):
        """Overwrites the first constant of an operator."""

        def __call__(self, step: Step, multiplier: Tensor) -> Sent:
            step.operator.constants[0].value.mul_(1.5)
            return super().__call__(step, multiplier)

    model, batch = load(network("plain"), tmp_path), images(2)
    bad = replace(method("lrp-0"), rules={**method("lrp-0").rules, "convolution": Writing()})
    assert not unchanged(model, batch, lambda: heatcli.explain(model, batch, bad))
    assert not unchanged(model, batch, lambda: heatcli.explain(model, batch.add_(1), "lrp-0"))
    assert unchanged(model, batch, lambda: heatcli.explain(model, batch, "lrp-0"))


def test_explaining_twice_says_the_same(tmp_path: Path) -> None:
    """The captured graph is reused and remembers nothing of the first run."""
    model, batch = load(network("residual"), tmp_path), images(3)
    first = heatcli.explain(model, batch, "lrp-eps", target=2)
    heatcli.explain(model, images(3, seed=9), "deeplift-rescale")
    again = heatcli.explain(model, batch, "lrp-eps", target=2)
    assert torch.equal(first.relevance, again.relevance)
    assert all(torch.equal(first.biases[name], again.biases[name]) for name in first.biases)


UNKNOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "cumprod": lambda x: torch.cumprod(x, 1),
    "logcumsumexp": lambda x: torch.logcumsumexp(x, 1),
}


@pytest.mark.parametrize("name", SECANT)
@pytest.mark.parametrize("based", [False, True], ids=["none", "baseline"])
@pytest.mark.parametrize("title", list(UNKNOWN))
def test_an_unknown_operator_is_told_with_its_own_imbalance(title: str, based: bool, name: str) -> None:
    """Walked by its gradient; what z − z0 − ∇·(x − x0) leaves, worked out by autograd here, is unexplained there.

    Without a baseline z0 and x0 are 0: what such an operator adds at zero input is no bias of anybody's.
    """
    function = UNKNOWN[title]
    weights = torch.tensor([0.5, -1.0, 2.0, 1.5], dtype=torch.float64)
    batch, baseline = images(3, 1, (4,)).double(), images(3, 2, (4,)).double()
    reference = baseline if based else None
    found = walked(lambda x: (function(x) * weights).sum(1, keepdim=True), batch, METHODS[name], reference)
    x = batch.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((function(x) * weights).sum(), x)
    rise = (function(batch) - function(baseline) if based else function(batch)) * weights
    left = rise.sum(1) - (gradient * (batch - baseline if based else batch)).sum(1)
    ((operator, booked),) = found.books.unexplained.items()
    assert operator.startswith(title)
    assert_close(booked, left, 1e-4)
    assert left.abs().min() > 0.01, "there is something to tell"


def test_an_unknown_operator_is_told_through_the_public_call(tmp_path: Path) -> None:
    """It enters `unexplained` of the ledger, so the books close to the digit; `relative_error` shows it."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(torch.cumprod(torch.relu(self.conv(x)).mean((2, 3)), 1))

    torch.manual_seed(0)
    result = heatcli.explain(load(Odd(), tmp_path), images(3), "lrp-0", target=1)
    assert [name.rpartition("_")[0] for name in result.unexplained] == ["cumprod"]
    ledger = result.ledger
    assert torch.equal(next(iter(result.unexplained.values())), ledger.unexplained)
    accounted = ledger.pixels + ledger.biases + ledger.absorbed + ledger.unexplained
    assert_close(accounted, ledger.output - ledger.output_baseline, 1e-6)
    assert (ledger.relative_error > 1e-3).all()


DIFFERENTIABLE = [name for name in CORE if name not in ("guided-backprop", "deep-taylor")]


@pytest.mark.parametrize(
    ("name", "which"),
    [*((n, w) for n in DIFFERENTIABLE for w in ("residual", "normed")), *((n, "excited") for n in SECANT)],
)
def test_the_walk_can_be_differentiated(name: str, which: str) -> None:
    """d Σ w·relevance / d input, by autograd through the walk, against central differences in float64.

    (The gradient of `excited` is left out: torch has no second derivative of hardsigmoid.)
    """
    model = network(which).double()
    batch = images(1, 4).double()
    graph = graph_of(model, batch)
    weights = images(1, 5).double()
    chosen = method(name, epsilon=0.05) if name == "lrp-eps" else METHODS[name]

    def loss(x: Tensor, differentiable: bool) -> Tensor:
        tape = forward(graph, x, torch.zeros_like(x) if chosen.baseline == "zero" else None, differentiable)
        seed = torch.zeros_like(tape.output)
        seed[:, 0] = 1
        return (walk(tape, chosen.rules, seed, None) * x * weights).sum()

    x = batch.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(x, True), x)
    for index in [(0, 0, 3, 5), (0, 1, 8, 8), (0, 2, 15, 0)]:
        step = torch.zeros_like(batch)
        step[index] = 1e-6
        expected = (loss(batch + step, False) - loss(batch - step, False)) / 2e-6
        assert found[index].item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("which", RELU_NETWORKS)
def test_relevance_is_of_the_input_that_the_network_sees(which: str, tmp_path: Path) -> None:
    """[N, C, H, W] of the batch's dtype, and for lrp-0 in a ReLU network exactly input × gradient of the artifact."""
    module, batch = network(which), images(2)
    result = heatcli.explain(load(module, tmp_path), batch, "lrp-0", target=3)
    x = batch.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(module(x)[:, 3].sum(), x)
    assert result.relevance.shape == (2, 3, SIZE, SIZE)
    assert_close(result.relevance, gradient * batch, 1e-5)


@pytest.mark.parametrize("name", CORE)
def test_a_channel_shuffle_is_walked(name: str) -> None:
    """transpose → contiguous → view, as in ShuffleNet: the copy in between is what makes the view possible."""
    torch.manual_seed(0)
    conv, fc = nn.Conv2d(3, 6, 3).double(), nn.Linear(6, 3).double()

    def network(x: Tensor, shuffled: bool = True) -> Tensor:
        x = conv(x)
        n, c, h, w = x.shape
        if shuffled:
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        else:
            x = x[:, [0, 3, 1, 4, 2, 5]]
        return fc(torch.relu(x).mean((2, 3)))

    batch = images(2).double()
    baseline = torch.zeros_like(batch) if METHODS[name].baseline == "zero" else None
    expected = walked(lambda x: network(x, shuffled=False), batch, METHODS[name], baseline).relevance
    assert_close(walked(network, batch, METHODS[name], baseline).relevance, expected)
