"""What a rule must not do: change what it is given, keep something, mix images, or declare what no rule has."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass, fields, replace
from typing import ClassVar

import pytest
import torch
from dense import multiplier_for, steps_of
from networks import images
from test_properties import CASES, ONE_OF, claims
from torch import Tensor

from heatcli.errors import UsageError
from heatcli.rules.registry import RULES
from heatcli.rules.reveal_cancel import Pair
from heatcli.rules.rule import Rule, Sent, Step

pytestmark = pytest.mark.usefixtures("way")
EVERY = sorted({make for rules in RULES.values() for make in rules.values()}, key=str)


def answers(sent: Sent) -> list[Tensor]:
    """All tensors that a rule answers."""
    flat = [t for m in sent.multipliers for t in ((m.positive, m.negative) if isinstance(m, Pair) else (m,))]
    return [t for t in (*flat, sent.offsets_at, sent.absorbed, sent.unexplained, sent.relevance) if t is not None]


@torch.no_grad()
@pytest.mark.parametrize("based", [False, True], ids=["none", "baseline"])
@pytest.mark.parametrize(("kind", "case"), CASES)
def test_a_rule_changes_nothing_and_answers_the_same_again(kind: str, case: str, based: bool) -> None:
    x, x0 = (images(2, seed, (4, 4, 4)).double() for seed in (1, 2))
    for step in steps_of(ONE_OF[kind][case], x, x0 if based else None):
        step.bounds = torch.full_like(x, -20.0), torch.full_like(x, 20.0)
        m = multiplier_for(step)
        given = [m, *step.inputs, step.output, *step.others.values(), *(c.value for c in step.operator.constants)]
        given += [*(step.reference_inputs or []), *([] if step.reference_output is None else [step.reference_output])]
        before = [t.clone() for t in given]
        for name, make in claims(step.operator).items():
            rule = make()
            step.rule, step.parts = rule, None
            first = [t.clone() for t in answers(rule(step, m))]
            assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True)), (step.operator.name, name)
            again = answers(rule(step, m))
            assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True)), (step.operator.name, name)


@pytest.mark.parametrize("make", EVERY, ids=lambda make: make.__name__)
def test_a_rule_is_frozen_and_says_where_it_is_from(make: type[Rule]) -> None:
    rule = make()
    assert rule.source
    assert hash(rule) == hash(make())
    for f in fields(rule):
        with pytest.raises(FrozenInstanceError):
            setattr(rule, f.name, getattr(rule, f.name))
        if isinstance(getattr(rule, f.name), float):
            with pytest.raises(UsageError, match=f"{f.name}=-1 is not allowed"):
                replace(rule, **{f.name: -1.0})


def test_a_class_variable_that_no_rule_has_is_refused() -> None:
    with pytest.raises(TypeError, match="Misspelt: a rule has no read_output"):

        @dataclass(frozen=True)
        class Misspelt(Rule):
            read_output: ClassVar[bool] = False
            source: ClassVar[str] = "nowhere"


def test_a_product_without_a_tape_is_an_error() -> None:
    """It was answered with None, which became a blank map."""
    (step,) = steps_of(torch.exp, images(2).double(), None)
    assert step.taped
    untaped: Step = replace(step, taped=False, product=None)
    with pytest.raises(RuntimeError, match=r"operator exp\w* ran without a tape and has no product in closed form"):
        untaped.adjoint(torch.ones_like(step.output))
