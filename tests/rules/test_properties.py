"""What every rule promises, on drawn inputs: it conserves, it is a chain rule, and it never mixes images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from dense import Function
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import CORE, NETWORKS, RELU_NETWORKS, SECANT, graph_of, images, network, walked
from torch import Tensor, nn
from torch.nn import functional

from heatcli.engine.fast.passed import Passed
from heatcli.engine.forward import forward
from heatcli.engine.ledger import Books, total
from heatcli.engine.walk import walk
from heatcli.graph.kinds import KINDS
from heatcli.graph.operator import Operator
from heatcli.methods.table import METHODS
from heatcli.rules.registry import RULES
from heatcli.rules.reveal_cancel import Pair
from heatcli.rules.rule import Adjoint, Rule, Step

pytestmark = pytest.mark.usefixtures("way")

# z⁺ and zB choose by sign or range, so what raised the score is not divided as what lowers it.
ANTISYMMETRIC = ["lrp-0", "lrp-eps", "lrp-gamma", "deeplift-rescale", "deeplift-reveal-cancel"]
SHAPE = (4, 4, 4)
DRAWN = settings(max_examples=8, deadline=None, derandomize=True)

torch.manual_seed(0)
CONV = nn.Conv2d(4, 3, 3).double().eval()
NORM, LAYER = nn.GroupNorm(2, 4).double(), nn.LayerNorm(4).double()
with torch.no_grad():
    for norm in (NORM, LAYER):
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_()

ONE_OF: dict[str, dict[str, Function]] = {
    "affine": {
        "conv": CONV,
        "bilinear": lambda x: functional.interpolate(x, size=(7, 7), mode="bilinear"),
        "pool": lambda x: functional.avg_pool2d(x, 2),
        "shift": lambda x: 1.5 - x,
    },
    "elementwise": {
        "relu": torch.relu,
        "silu": functional.silu,
        "gelu": functional.gelu,
        "elu": functional.elu,
        "sigmoid": lambda x: torch.sigmoid(x) * 1.5,  # at the very end it would be taken off as the final activation
        "softplus": functional.softplus,
        "exp": torch.exp,
        "hardsigmoid": functional.hardsigmoid,
        "relu6": functional.relu6,
        "abs": torch.abs,
    },
    "maximum": {
        "windows": lambda x: functional.max_pool2d(x, 3, 1, 1),
        "amax": lambda x: x.amax((2, 3)),
        "pair": lambda x: torch.maximum(x[:, :2], x[:, 2:]),
        "smaller": lambda x: torch.minimum(x[:, :2], x[:, 2:]),
    },
    "sum": {"add": lambda x: x[:, :1] + x[:, 1:], "sub": lambda x: x[:, :2] - x[:, 2:]},
    "product": {
        "mul": lambda x: x[:, :1] * x[:, 1:],
        "bmm": lambda x: torch.bmm(x[:, 0], x[:, 1]),
        "div": lambda x: x[:, :2] / (x[:, 2:].abs() + 0.5),
    },
    "normaliser": {
        "group": NORM,
        "layer": LAYER,
        "softmax": lambda x: x.softmax(1) * 1.5,
        "log-softmax": lambda x: x.log_softmax(1) * 1.5,
    },
    "layout": {"shuffle": lambda x: functional.pixel_shuffle(x, 2), "pad": lambda x: functional.pad(x, (1, 2, 0, 1))},
}
CASES = [(kind, name) for kind, functions in ONE_OF.items() for name in functions]


@st.composite
def batches(draw: st.DrawFn, n: int = 2) -> Tensor:
    """[n, *SHAPE] in float64: of any size, with repeated and zero elements now and then."""
    x = images(n, draw(st.integers(0, 10_000)), SHAPE).double() * draw(st.sampled_from([0.01, 1.0, 5.0]))
    if draw(st.booleans()):
        x = (x * 4).round() / 4  # ties, zeros
    return x


# These say nothing of conservation, except where the operator is affine, a sum or a layout.
FREE = {"gradient", "repeat", "deconvnet", "guided"}


def claims(operator: Operator) -> dict[str, Callable[..., Rule]]:
    """The rules that say they conserve at such an operator, by name."""
    rules = {name: rule for key in (operator.kind, operator.role) for name, rule in RULES.get(key, {}).items()}
    if operator.kind == "affine":
        return {**rules, **({name: RULES["first"][name] for name in ("w2", "flat", "zb")} if operator.role else {})}
    return {name: rule for name, rule in rules.items() if name not in FREE} or {"adjoint": Adjoint}


def imbalance(step: Step, rule: Rule, m: Tensor) -> tuple[Tensor, Tensor]:
    """m·dz less all that the rule passes on and books at this one operator, [N]; and the size of what it handled."""
    step.rule, step.parts = rule, None
    with torch.no_grad():  # as a walk calls it
        sent = rule(step, m)
    n = len(m)
    books = Books(n, {o.name: m.new_zeros(n, o.size) for o in step.operator.offsets})
    books.enter(step.operator, sent, step.without_reference)
    dz = m * step.difference
    left, size = dz.flatten(1).sum(1), dz.abs().flatten(1).sum(1)
    shares = [] if sent.relevance is None else [sent.relevance]
    for i, passed in enumerate(sent.multipliers):
        dx = step.input_difference(i)
        if isinstance(passed, Passed):
            passed = passed.multiplier()
        if isinstance(passed, Pair):
            shares += [passed.positive * dx.clamp(min=0), passed.negative * dx.clamp(max=0)]
        elif passed is not None:
            shares.append(passed * dx)
    for share in shares:
        left, size = left - share.reshape(n, -1).sum(1), size + share.abs().reshape(n, -1).sum(1)
    for entries in (books.biases, books.absorbed, books.unexplained):
        left = left - total(entries, left)
    return left.detach(), size.detach()


def test_there_is_a_case_of_every_kind() -> None:
    assert set(ONE_OF) == set(KINDS)


@pytest.mark.parametrize(("kind", "case"), CASES)
@given(data=st.data())
@DRAWN
def test_every_rule_conserves_at_every_operator(kind: str, case: str, data: st.DataObject) -> None:
    """m·(z − z0) = Σ m_in·(x − x0) + booked + absorbed + unexplained, with either reference, whatever the rule."""
    x = data.draw(batches())
    x0 = data.draw(batches()) if data.draw(st.booleans()) else None
    tape = forward(graph_of(ONE_OF[kind][case], x), x, x0)
    tape.bound(torch.full_like(x[:1], -20.0), torch.full_like(x[:1], 20.0))
    assert kind in {step.operator.kind for step in tape.steps}
    stabilizer = data.draw(st.sampled_from([1e-6, 0.1]))
    for step in tape.steps:
        m = images(2, data.draw(st.integers(0, 99)), tuple(step.output.shape[1:])).double()
        for name, make in claims(step.operator).items():
            rule = make()
            for parameter in ("epsilon", "stabilizer"):
                rule = replace(rule, **{parameter: stabilizer}) if hasattr(rule, parameter) else rule
            if name == "zb" and step.bounds is None:
                continue
            left, size = imbalance(step, rule, m)
            assert (left.abs() <= 1e-7 * size + 1e-12).all(), (step.operator.name, name, left, size)


@pytest.mark.parametrize("name", ANTISYMMETRIC)
@pytest.mark.parametrize("which", list(NETWORKS))
@given(seed=st.integers(0, 10_000))
@settings(DRAWN, max_examples=3)
def test_swapping_image_and_baseline_only_turns_the_sign(which: str, name: str, seed: int) -> None:
    """What raised the score by so much lowers it by as much: shares of a difference are antisymmetric."""
    module = network(which).double()
    a, b = images(2, seed).double(), images(2, seed + 1).double()
    forth, back = (walked(module, *pair, 1) for pair in ((a, METHODS[name], b), (b, METHODS[name], a)))
    size = float(forth.relevance.abs().max())
    torch.testing.assert_close(back.relevance, -forth.relevance, rtol=1e-7, atol=1e-7 * size)


@pytest.mark.parametrize("which", RELU_NETWORKS)
@given(seed=st.integers(0, 10_000))
@settings(DRAWN, max_examples=5)
def test_from_reference_none_a_relu_network_is_its_gradient(which: str, seed: int) -> None:
    """f(c·x) = c·f(x): the slope from 0 is the derivative, so lrp-0 is input × gradient (Shrikumar et al. 2016)."""
    module, batch = network(which).double(), images(2, seed).double()
    x = batch.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(module(x)[:, 1].sum(), x)
    found = walked(module, batch, METHODS["lrp-0"], target=1)
    size = float((gradient * batch).abs().max())
    torch.testing.assert_close(found.relevance, gradient * batch, rtol=1e-9, atol=1e-9 * size)


@pytest.mark.parametrize("name", SECANT)
@pytest.mark.parametrize("based", [False, True], ids=["none", "baseline"])
@given(seed=st.integers(0, 10_000))
@settings(DRAWN, max_examples=3)
def test_the_walk_is_a_chain_rule(name: str, based: bool, seed: int) -> None:
    """Back to a place that all goes through, and on from there with the multiplier found, is back in one go."""
    batch = images(2, seed).double()
    graph = graph_of(network("excited").double(), batch)
    x0 = torch.full_like(batch, 0.3) if based else None
    rules = METHODS[name].rules
    ones = torch.ones(graph.output_shape, dtype=torch.float64)
    whole = walk(forward(graph, batch, x0), rules, ones, None)
    cuts = [i for i, o in enumerate(graph.operators) if o.title in ("silu", "hardswish", "mean")]
    for at in (cuts[0], cuts[-2], cuts[-1]):
        place = graph.operators[at].name
        upper, lower = forward(graph, batch, x0), forward(graph, batch, x0)
        upper = replace(upper, graph=replace(graph, input=place), steps=upper.steps[at + 1 :])
        lower = replace(lower, graph=replace(graph, output=place), steps=lower.steps[: at + 1])
        found = walk(lower, rules, walk(upper, rules, ones, None), None)
        torch.testing.assert_close(found, whole, rtol=1e-9, atol=1e-12)
        assert whole.abs().max() > 0


@pytest.mark.parametrize("name", CORE)
@pytest.mark.parametrize("which", list(NETWORKS))
@given(seed=st.integers(0, 10_000))
@settings(DRAWN, max_examples=2)
def test_images_are_explained_together_as_one_by_one(which: str, name: str, seed: int) -> None:
    module, batch = network(which).double(), images(3, seed).double()
    x0 = images(3, seed + 5).double() if METHODS[name].baseline == "zero" else None
    together = walked(module, batch, METHODS[name], x0, 1)
    for i in range(3):
        alone = walked(module, batch[i : i + 1], METHODS[name], None if x0 is None else x0[i : i + 1], 1)
        size = float(together.relevance[i].abs().max())
        torch.testing.assert_close(alone.relevance[0], together.relevance[i], rtol=1e-8, atol=1e-8 * size)
        for bias, entries in together.books.biases.items():
            torch.testing.assert_close(alone.books.biases[bias][0], entries[i], rtol=1e-7, atol=1e-9)
