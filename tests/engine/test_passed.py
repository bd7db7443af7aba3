"""Relevance that a nonlinearity passes on undivided gives what its multiplier gives, and quotients what masks give."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from dense import REFERENCES, assert_same, booked, inputs, multiplier_for, steps_of
from hypothesis import given
from hypothesis import strategies as st
from networks import randomised
from torch import Tensor, nn
from torch.nn import functional

from heatcli.engine.fast import fast, numerics
from heatcli.engine.fast.numerics import above_zero, below_zero
from heatcli.engine.fast.passed import Passed
from heatcli.rules.affine import AlphaBeta, Epsilon, Gamma, ZPlus
from heatcli.rules.elementwise import Slope
from heatcli.rules.first_layer import Flat, WSquare, ZBox
from heatcli.rules.numerics import quotient
from heatcli.rules.rule import Rule

RULES: dict[str, Rule] = {
    "epsilon": Epsilon(),
    "coarse epsilon": Epsilon(0.3),
    "no epsilon": Epsilon(0.0),
    "without biases": Epsilon(0.1, "ignore"),
    "alpha-beta": AlphaBeta(),
    "z-plus": ZPlus(),
    "gamma": Gamma(),
    "w2": WSquare(),
    "flat": Flat(),
    "zb": ZBox(),
}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "relu6": functional.relu6,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "hardswish": functional.hardswish,
    "mish": functional.mish,
    "tanh": torch.tanh,
    "elu": functional.elu,
    "sigmoid": torch.sigmoid,
}


@torch.no_grad()
@REFERENCES
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("name", list(RULES))
def test_a_rule_takes_relevance_as_it_takes_its_multiplier(name: str, activation: str, based: bool) -> None:
    """m·Δy, shared out at once, is (m·Δy/Δz)·Δz: multipliers, biases and what is absorbed."""
    layer = randomised(nn.Conv2d(3, 4, 3, padding=1), 5).double()
    x, x0 = inputs((3, 5, 4), based)
    affine, nonlinear, *_ = steps_of(lambda x: ACTIVATIONS[activation](layer(x)) * 2, x, x0)
    affine.bounds = x.new_full((1, 3, 1, 1), -4.0), x.new_full((1, 3, 1, 1), 4.0)
    (passed,) = fast(Slope())(nonlinear, multiplier_for(nonlinear)).multipliers
    falls = activation in ("silu", "gelu", "hardswish", "mish")
    assert isinstance(passed, Passed) == (not falls if based else activation != "sigmoid")
    if not isinstance(passed, Passed):
        return
    rule = fast(RULES[name])
    if Passed not in rule.accepts:  # as the walk does
        return
    one, other = rule(affine, passed), rule(affine, passed.multiplier())
    for a, b in ((one.multipliers[0], other.multipliers[0]), (one.relevance, other.relevance)):
        assert (a is None) == (b is None)
        if a is not None:
            assert isinstance(b, Tensor)
            assert_same(a, b)
    assert_same(one.absorbed, other.absorbed)
    for bias, entry in booked(affine, other).biases.items():
        assert_same(booked(affine, one).biases[bias], entry, bias)


@torch.no_grad()
def test_what_is_passed_adds_up_with_multipliers() -> None:
    x, _ = inputs((3, 5, 4), based=False)
    (step,) = steps_of(torch.relu, x, None)
    m = multiplier_for(step)
    (passed,) = fast(Slope())(step, m).multipliers
    assert isinstance(passed, Passed)
    for total in (passed + m, m + passed, passed + passed - m * (x > 0) + m):
        assert_same(total, m * (x > 0) + m)


VALUES = st.lists(st.floats(-1e6, 1e6, width=32, allow_subnormal=False), min_size=1, max_size=40)


@given(VALUES)
def test_selection_by_sign(values: list[float]) -> None:
    """Each element is in one of the two, as it was."""
    x = torch.tensor(values)
    m = torch.arange(1.0, len(x) + 1)
    m[0] = torch.inf
    assert torch.equal(above_zero(m, x), torch.where(x >= 0, m, 0))
    assert torch.equal(below_zero(m, x), torch.where(x < 0, m, 0))


@given(VALUES, st.sampled_from([0.0, 1e-3, 2.0]))
def test_a_quotient_chooses_without_dividing_by_nothing(values: list[float], tolerance: float) -> None:
    bottom = torch.tensor(values)
    top, level = bottom.cos(), torch.full_like(bottom, 7.0)
    near = bottom.abs() <= tolerance
    expected = torch.where(near, level, top / torch.where(near, 1, bottom))
    for fixed in (False, True):
        assert torch.equal(numerics.quotient(top, bottom, level, tolerance, fixed), expected)
    assert torch.equal(quotient(top, bottom, level, tolerance), expected)


def test_a_quotient_is_differentiable_where_it_does_not_divide() -> None:
    bottom = torch.tensor([0.0, 2.0], requires_grad=True)
    quotient(torch.ones(2), bottom, torch.zeros(2)).sum().backward()
    assert bottom.grad is not None
    assert bottom.grad.tolist() == [0.0, -0.25]
