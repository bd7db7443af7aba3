"""The same function written in two ways: where rules must agree, and where they provably need not.

The table of consistencies in heatcli/help/rules.md is what these tests show.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from dense import REFERENCES
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import images, walked
from torch import Tensor, nn
from torch.nn import functional

from heatcli.graph.passes import DEFAULT
from heatcli.methods.table import method

pytestmark = pytest.mark.usefixtures("way")

DRAWN = settings(max_examples=10, deadline=None, derandomize=True)
EXACT = ["lrp-0", "deeplift-rescale"]
CONSERVING = ["winner", "radial", "proportional", "softmax-limit", "telescoping"]
values = st.lists(st.floats(-3, 3, allow_nan=False, width=32), min_size=3, max_size=3)


def row(given_values: list[float]) -> Tensor:
    return torch.tensor([given_values], dtype=torch.float64)


def relevance(function: Callable[[Tensor], Tensor], x: Tensor, x0: Tensor | None, *rules: str) -> Tensor:
    """Of `function`'s only output, by lrp-0 with those rules, as it is written: a maximum of lines stays a maximum."""
    passes = [name for name in DEFAULT if name != "join-activations"]
    return walked(function, x, method("lrp-0").with_rules(rules), x0, passes=passes).relevance.detach()


# --- a constant factor --------------------------------------------------------------------------------------------


class Scaled(nn.Module):
    """Three times a convolution's output, as a factor or as a matrix."""

    def __init__(self, matrix: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)
        self.diagonal = nn.Conv2d(4, 4, 1, bias=False)
        self.matrix = matrix
        with torch.no_grad():
            self.diagonal.weight.copy_(3 * torch.eye(4)[:, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = self.diagonal(x) if self.matrix else x * 3
        return self.head(torch.relu(x).mean((2, 3)))


@REFERENCES
@pytest.mark.parametrize("name", EXACT)
@given(seed=st.integers(0, 1000))
@DRAWN
def test_scaling_is_scaling(name: str, based: bool, seed: int) -> None:
    """A factor is a matrix with the factor on its diagonal."""
    x, x0 = images(2, seed, (3, 5, 5)).double(), images(2, seed + 1, (3, 5, 5)).double() if based else None
    one, other = (walked(Scaled(matrix).double(), x, method(name), x0, 1).relevance for matrix in (True, False))
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_scaling_is_not_scaling_for_rules_of_weights() -> None:
    """As a matrix it has weights: z⁺ finds no positive part in −1·3, and RevealCancel forgets the parts before it."""
    matrix = torch.tensor([[3.0]], dtype=torch.float64)
    factor, dense = (walked(f, row([-1.0]), method("lrp-z-plus")) for f in (lambda x: x * 3, lambda x: x @ matrix))
    assert factor.relevance.item() == pytest.approx(-3.0, rel=1e-5)
    assert dense.relevance.tolist() == [[0.0]]
    assert float(dense.books.absorbed["mm_0"]) == -3.0
    x = images(2, 3, (3, 5, 5)).double()
    one, other = (
        walked(Scaled(matrix).double(), x, method("deeplift-reveal-cancel"), x * 0, 1).relevance
        for matrix in (True, False)
    )
    assert float((one - other).abs().max()) > 1e-3 * float(other.abs().max())


# --- functions of one variable ------------------------------------------------------------------------------------

ONE: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "relu": (torch.relu, lambda x: torch.maximum(x, x * 0)),
    "leaky": (lambda x: functional.leaky_relu(x, 0.1), lambda x: torch.maximum(x, x * 0.1)),
    "abs": (torch.abs, lambda x: torch.maximum(x, -x)),
}


@REFERENCES
@pytest.mark.parametrize("rule", CONSERVING)
@pytest.mark.parametrize("name", list(ONE))
@given(x=values, x0=values)
@DRAWN
def test_a_function_of_one_variable_leaves_conservation_no_choice(
    name: str, rule: str, based: bool, x: list[float], x0: list[float]
) -> None:
    """Built as a maximum of lines, under any rule that conserves, it is the slope: Δy is all it has to give."""
    function, maximum = ONE[name]
    start = row(x0) if based else None
    expected = relevance(lambda v: function(v).sum(1, keepdim=True), row(x), start)
    found = relevance(lambda v: maximum(v).sum(1, keepdim=True), row(x), start, f"maximum={rule}")
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_rules_that_do_not_conserve_are_free_to_differ() -> None:
    """A finite softmax is not the ReLU; the gradient is not its slope from a baseline."""
    x, x0 = row([0.5]), row([-1.5])
    slope = relevance(torch.relu, x, x0)
    for rule in ("softmax:t=2", "gradient"):
        found = relevance(ONE["relu"][1], x, x0, f"maximum={rule}")
        assert float((found - slope).abs().max()) > 1e-2, rule
    for rule in ("repeat", "gradient"):
        assert float((relevance(torch.relu, x, x0, f"elementwise={rule}") - slope).abs().max()) > 1e-2, rule


# --- functions of several -----------------------------------------------------------------------------------------


def largest(v: Tensor) -> Tensor:
    return v.amax(1, keepdim=True)


def telescoped(v: Tensor) -> Tensor:
    """a + relu(b − a), one after the other."""
    best = v[:, :1]
    for i in range(1, v.shape[1]):
        best = best + torch.relu(v[:, i : i + 1] - best)
    return best


def soft(t: float) -> Callable[[Tensor], Tensor]:
    return lambda v: torch.log(torch.exp(v * t).sum(1, keepdim=True)) / t


@REFERENCES
@given(x=values, x0=values)
@DRAWN
def test_telescoping_is_the_slope_of_what_it_says(based: bool, x: list[float], x0: list[float]) -> None:
    start = row(x0) if based else None
    expected = relevance(telescoped, row(x), start)
    torch.testing.assert_close(relevance(largest, row(x), start, "maximum=telescoping"), expected, rtol=1e-6, atol=1e-9)


@given(x=values, x0=values)
@DRAWN
def test_softmax_is_the_slope_of_what_it_says(x: list[float], x0: list[float]) -> None:
    expected = relevance(soft(3.0), row(x), row(x0))
    found = relevance(largest, row(x), row(x0), "maximum=softmax:t=3")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@given(x=st.lists(st.floats(0.125, 3, width=32), min_size=3, max_size=3, unique=True))
@DRAWN
def test_from_reference_none_the_winner_of_a_positive_maximum_takes_all(x: list[float]) -> None:
    """Winner, softmax-limit and telescoping agree there; radial and proportional share with the losers."""
    winner = relevance(largest, row(x), None)
    for rule in ("softmax-limit", "telescoping"):
        torch.testing.assert_close(relevance(largest, row(x), None, f"maximum={rule}"), winner, rtol=1e-6, atol=1e-9)
    for rule in ("radial", "proportional"):
        assert float((relevance(largest, row(x), None, f"maximum={rule}") - winner).abs().max()) > 1e-3


def test_where_maximum_rules_provably_differ() -> None:
    """A negative maximum falls, from reference none, from a tie of zeros: softmax-limit divides it, winner does not."""
    x = row([-1.0, -2.0, -3.0])
    assert torch.allclose(relevance(largest, x, None), row([-1, 0, 0]))
    assert torch.allclose(relevance(largest, x, None, "maximum=softmax-limit"), row([-1 / 3] * 3))
    # telescoping goes from the first candidate on, so it depends on their order; the others do not
    a, b = row([1.0, 2.0, 3.0]), row([3.0, 0.0, 2.0])
    swapped = relevance(largest, a.flip(1), b.flip(1), "maximum=telescoping").flip(1)
    assert not torch.allclose(relevance(largest, a, b, "maximum=telescoping"), swapped)
    for rule in ("winner", "radial", "proportional", "softmax-limit"):
        swapped = relevance(largest, a.flip(1), b.flip(1), f"maximum={rule}").flip(1)
        assert torch.allclose(relevance(largest, a, b, f"maximum={rule}"), swapped), rule
