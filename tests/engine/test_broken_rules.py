"""The ledger is measured, never balanced by definition: whichever rule is broken, it shows in `relative_error`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from networks import CORE_CONSERVING, NETWORKS, images, load, network, randomised
from torch import Tensor, nn
from torch.nn import functional

import heatcli
from heatcli.engine import plan
from heatcli.graph.kinds import AFFINE, KINDS, ROLES
from heatcli.methods.table import METHODS, Method
from heatcli.rules.affine import Epsilon
from heatcli.rules.reveal_cancel import Pair
from heatcli.rules.rule import Carried, Rule, Sent, Step

pytestmark = pytest.mark.usefixtures("way")

BLAMING = [name for name in CORE_CONSERVING if METHODS[name].baseline == "none"]
CAUGHT = 3e-5


class EveryKind(nn.Module):
    """An operator of every kind on the only path to the output, so that a fault at any of them must show."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.gate = nn.Linear(8, 8)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.elu(self.norm(self.conv(x)))
        x = torch.cat([x, functional.max_pool2d(x, 3, stride=1, padding=1)], dim=1)
        x = functional.max_pool2d(x, 2)
        shallow, deep = x[:, :8], x[:, 8:]
        gate = torch.sigmoid(self.gate(shallow.mean((2, 3))))
        x = torch.cat([shallow, deep], dim=1).mean((2, 3))
        return self.fc(x * torch.cat([gate, gate], dim=1))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> heatcli.Model:
    torch.manual_seed(0)
    return load(randomised(EveryKind(), 1), tmp_path_factory.mktemp("every"))


@dataclass(frozen=True)
class Broken(Rule):
    """A rule with a fault in what it answers."""

    rule: Rule
    fault: Callable[[Sent], Sent]
    source: ClassVar[str] = "none: broken on purpose"

    def __post_init__(self) -> None:
        object.__setattr__(self, "accepts", self.rule.accepts)

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        return self.fault(self.rule(step, multiplier))


def scaled(sent: Sent) -> Sent:
    """Every multiplier one percent too large."""

    def more(m: Tensor | Carried | None) -> Tensor | Carried | None:
        if isinstance(m, Pair):
            return Pair(m.positive * 1.01, m.negative * 1.01)
        if isinstance(m, Carried):
            return replace(m, m=m.m * 1.01)
        return None if m is None else m * 1.01

    relevance = None if sent.relevance is None else sent.relevance * 1.01
    return replace(sent, multipliers=[more(m) for m in sent.multipliers], relevance=relevance)


def without_bias(sent: Sent) -> Sent:
    """What the operator adds at zero input is dropped."""
    return replace(sent, offsets_at=None)


def without_absorbed(sent: Sent) -> Sent:
    """What the stabiliser swallows is not booked."""
    return replace(sent, absorbed=None)


def doubled_bias(sent: Sent) -> Sent:
    """Biases are booked twice."""
    return replace(sent, offsets_at=None if sent.offsets_at is None else sent.offsets_at * 2)


def fast(rule: Rule) -> Rule:
    """What the walk uses for a rule."""
    return rule if plan.fast is None else plan.fast(rule)


def broken(method: Method, kind: str, fault: Callable[[Sent], Sent]) -> Method:
    """The method with a fault in the rule for that kind, and in those for roles within it."""
    own = [name for name in method.rules if name == kind or ROLES.get(name, "affine") == kind]
    return replace(method, rules={**method.rules, **{name: Broken(fast(method.rules[name]), fault) for name in own}})


def assert_caught(result: heatcli.Explanation) -> None:
    ledger = result.ledger
    assert (ledger.relative_error > CAUGHT).all(), ledger.relative_error
    assert not result.unexplained
    assert bool((ledger.unexplained == 0).all())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CORE_CONSERVING)
def test_multipliers_one_percent_too_large(model: heatcli.Model, name: str, kind: str) -> None:
    batch = images(4)
    assert kind in {operator.kind for operator in model.graph(batch.shape).operators}
    assert_caught(heatcli.explain(model, batch, broken(METHODS[name], kind, scaled), target=1))


@pytest.mark.parametrize("fault", [without_bias, doubled_bias])
@pytest.mark.parametrize("kind", ["affine", "elementwise", "normaliser"])
@pytest.mark.parametrize("name", BLAMING)
def test_biases_dropped_or_booked_twice(
    model: heatcli.Model, name: str, kind: str, fault: Callable[[Sent], Sent]
) -> None:
    """Convolutions and dense layers; the sigmoid's f(0) = 1/2; the group norm's beta."""
    assert_caught(heatcli.explain(model, images(4), broken(METHODS[name], kind, fault), target=1))


def test_epsilon_not_booked(model: heatcli.Model) -> None:
    coarse = METHODS["lrp-eps"].configured({"epsilon": 0.1})
    assert heatcli.explain(model, images(4), coarse, target=1).ledger.relative_error.max() < 1e-5
    assert_caught(heatcli.explain(model, images(4), broken(coarse, AFFINE, without_absorbed), target=1))


@dataclass(frozen=True)
class Unsigned(Epsilon):
    """ε added without the sign of z, and booked as if it had it."""

    def __call__(self, step: Step, multiplier: Tensor) -> Sent:
        sent = super().__call__(step, multiplier)
        s = multiplier * step.difference / (step.difference + self.epsilon)
        return replace(sent, multipliers=step.adjoint(s), offsets_at=s)


def test_a_stabiliser_with_the_wrong_sign(model: heatcli.Model) -> None:
    method = METHODS["lrp-eps"]
    faulty = replace(method, rules={**method.rules, AFFINE: Unsigned(0.01)})
    assert_caught(heatcli.explain(model, images(4), faulty, target=1))


@pytest.fixture(scope="module", params=list(NETWORKS))
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> heatcli.Model:
    """A network of nothing but kinds with rules."""
    return load(network(request.param), tmp_path_factory.mktemp("built"))


@pytest.mark.parametrize("name", CORE_CONSERVING)
def test_unbroken_the_books_balance(built: heatcli.Model, name: str) -> None:
    """The same yardstick, for none and for a baseline."""
    for baseline in ("none", "zero", "blur:2"):
        result = heatcli.explain(built, images(4), name, baseline=baseline, target=1)
        assert not result.unexplained
        assert result.ledger.relative_error.max() < 1e-5, baseline


@pytest.mark.parametrize("name", CORE_CONSERVING)
def test_unbroken_every_kind_balances(model: heatcli.Model, name: str) -> None:
    assert heatcli.explain(model, images(4), name, target=1).ledger.relative_error.max() < 1e-5
