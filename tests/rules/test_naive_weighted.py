"""Rules of layers with weights, each beside a dense replica: contributions c_ij = x_i w_ij as one big table."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from dense import REFERENCES, Function, assert_same, booked, dense, inputs, multiplier_for
from networks import graph_of
from torch import Tensor, nn

from heatcli.engine.forward import forward
from heatcli.errors import UsageError
from heatcli.rules.affine import AlphaBeta, Gamma, ZPlus
from heatcli.rules.first_layer import Flat, WSquare, ZBox
from heatcli.rules.rule import Rule, Step

pytestmark = pytest.mark.usefixtures("way")

torch.manual_seed(0)
LAYERS: dict[str, tuple[tuple[int, ...], Function]] = {
    "convolution": ((2, 4, 4), nn.Conv2d(2, 3, 3, padding=1).double()),
    "grouped": ((4, 3, 3), nn.Conv2d(4, 4, 2, groups=2).double()),
    "transposed": ((2, 3, 3), nn.ConvTranspose2d(2, 3, 2).double()),
    "sequence": ((4, 6), nn.Conv1d(4, 3, 3).double()),
    "dense": ((5,), nn.Linear(5, 4).double()),
    "without a bias": ((5,), nn.Linear(5, 4, bias=False).double()),
}
EPS = 1e-6
# contributions [N, in, out], biases [N, out], relevance [N, out] → shares [N, in, out], what the bias takes [N, out]
Replica = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def of_sign(c: Tensor, b: Tensor, positive: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Contributions of one sign, the bias of that sign, and the stabilised sum of both."""
    c, b = (v.clamp(min=0) if positive else v.clamp(max=0) for v in (c, b))
    return c, b, c.sum(1) + b + (EPS if positive else -EPS)


def alpha_beta(alpha: float, beta: float) -> Replica:
    def replica(c: Tensor, b: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        (up, b_up, rise), (down, b_down, fall) = (of_sign(c, b, positive) for positive in (True, False))
        shares = up * (alpha * r / rise)[:, None] - down * (beta * r / fall)[:, None]
        return shares, b_up * alpha * r / rise - b_down * beta * r / fall

    return replica


def gamma(strength: float) -> Replica:
    def replica(c: Tensor, b: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        z = c.sum(1) + b
        favoured = torch.where((z > 0)[:, None], c.clamp(min=0), c.clamp(max=0))
        favoured_bias = torch.where(z > 0, b.clamp(min=0), b.clamp(max=0))
        c, b = c + strength * favoured, b + strength * favoured_bias
        total = c.sum(1) + b
        s = r / (total + EPS * torch.where(total >= 0, 1.0, -1.0))
        return c * s[:, None], b * s

    return replica


RULES: dict[str, tuple[Rule, Replica]] = {
    "z-plus": (ZPlus(), alpha_beta(1, 0)),
    "alpha1-beta0": (AlphaBeta(1.0, 0.0), alpha_beta(1, 0)),
    "alpha2-beta1": (AlphaBeta(2.0, 1.0), alpha_beta(2, 1)),
    "alpha3-beta2": (AlphaBeta(3.0, 2.0), alpha_beta(3, 2)),
    "gamma": (Gamma(0.25), gamma(0.25)),
    "gamma, large": (Gamma(10.0), gamma(10.0)),
}


def prepared(layer: str, based: bool, positive: bool) -> tuple[Step, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A step, differences [N, in], weights [in, out], biases [N, out], multipliers of the output and its relevance."""
    shape, function = LAYERS[layer]
    x, x0 = inputs(shape, based)
    if positive:
        x, x0 = x.abs(), None if x0 is None else x0 * 0
    tape = forward(graph_of(function, x), x, x0)
    tape.bound(torch.full_like(x[:1], -5.0), torch.full_like(x[:1], 4.0))
    step = next(s for s in tape.steps if s.operator.role)
    x, x0 = step.inputs[0].detach(), None if step.reference_inputs is None else step.reference_inputs[0]
    dx = (x if x0 is None else x - x0).flatten(1)
    weights, bias = dense(function, x)
    b = (bias * 0 if based else bias).expand(len(x), -1)
    m = multiplier_for(step)
    return step, dx, weights.T, b, m, (m * step.difference).flatten(1).detach()


@REFERENCES
@pytest.mark.parametrize("positive", [True, False], ids=["x ≥ 0", "any x"])
@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("layer", list(LAYERS))
def test_shares_are_those_of_the_formula(layer: str, rule: str, positive: bool, based: bool) -> None:
    """Relevance of every input, what biases take in all, and what is absorbed."""
    step, dx, w, b, m, r = prepared(layer, based, positive)
    with torch.no_grad():  # as a walk calls it
        sent = RULES[rule][0](step, m)
    shares, to_bias = RULES[rule][1](dx[:, :, None] * w, b, r)
    (found,) = sent.multipliers
    assert isinstance(found, Tensor)
    assert_same(found.flatten(1) * dx, shares.sum(2), "inputs")
    biases = sum((v.sum(1) for v in booked(step, sent).biases.values()), torch.zeros(len(dx), dtype=torch.float64))
    torch.testing.assert_close(biases, to_bias.sum(1), rtol=1e-9, atol=1e-9)
    left = r.sum(1) - shares.sum((1, 2)) - to_bias.sum(1)
    torch.testing.assert_close(sent.absorbed, left, rtol=1e-6, atol=1e-9)


@REFERENCES
@pytest.mark.parametrize("layer", list(LAYERS))
def test_first_layers_answer_in_relevance(layer: str, based: bool) -> None:
    """w², flat and zB, from the same table of contributions; zB between −5 and 4."""
    step, _, w, b, m, r = prepared(layer, based, positive=False)
    x = step.inputs[0].detach().flatten(1)

    def sign(z: Tensor) -> Tensor:
        return torch.where(z >= 0, EPS, -EPS)

    def agrees(rule: Rule, table: Tensor, bias: Tensor) -> None:
        total = table.sum(1) + bias
        expected = (table * (r / (total + sign(total)))[:, None]).sum(2)
        with torch.no_grad():  # as a walk calls it
            found = rule(step, m).relevance
        assert found is not None
        assert_same(found.flatten(1), expected, repr(rule))

    agrees(Flat(), (w != 0).double().expand(len(x), -1, -1), torch.zeros_like(b))
    agrees(WSquare(), (w**2).expand(len(x), -1, -1), b**2)
    agrees(WSquare(bias="ignore"), (w**2).expand(len(x), -1, -1), torch.zeros_like(b))
    low, high = torch.full_like(x, -5.0), torch.full_like(x, 4.0)
    box = x[:, :, None] * w - low[:, :, None] * w.clamp(min=0) - high[:, :, None] * w.clamp(max=0)
    assert bool((box >= -1e-12).all()), "what makes zB a z⁺: all terms are positive within the range"
    agrees(ZBox(), box, torch.zeros_like(b))


@pytest.mark.parametrize("rule", [ZPlus(bias="ignore"), AlphaBeta(2.0, 1.0, bias="ignore"), Gamma(bias="ignore")])
def test_an_ignored_bias_gets_nothing(rule: Rule) -> None:
    """As published variants do: it is left out of denominators, and the inputs share everything."""
    step, dx, w, b, m, r = prepared("convolution", based=False, positive=False)
    with torch.no_grad():  # as a walk calls it
        sent = rule(step, m)
    assert sent.offsets_at is None
    (found,) = sent.multipliers
    assert isinstance(found, Tensor)
    assert sent.absorbed is not None
    torch.testing.assert_close((found.flatten(1) * dx).sum(1) + sent.absorbed, r.sum(1))
    replica = {"ZPlus": alpha_beta(1, 0), "AlphaBeta": alpha_beta(2, 1)}.get(type(rule).__name__)
    if replica is not None:
        assert_same(found.flatten(1) * dx, replica(dx[:, :, None] * w, b * 0, r)[0].sum(2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AlphaBeta(2.0, 2.0), "alpha=2, beta=2 is not allowed; alpha − beta must be 1"),
        (lambda: AlphaBeta(0.5, -0.5), "beta=-0.5 is not allowed; it must be a number ≥ 0"),
        (lambda: Gamma(-1.0), "gamma=-1 is not allowed; it must be a number ≥ 0"),
        (lambda: ZPlus(stabilizer=float("nan")), "stabilizer=nan is not allowed; it must be a number ≥ 0"),
        (lambda: ZPlus(bias="drop"), "bias=drop is not allowed; use book or ignore"),
    ],
)
def test_impossible_parameters(make: Callable[[], Rule], message: str) -> None:
    with pytest.raises(UsageError) as error:
        make()
    assert str(error.value) == message
