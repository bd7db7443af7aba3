"""A ReLU writes over its input where the walk will not read that: less memory, and not one bit else changes."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from dense import REFERENCES, inputs, multiplier_for, steps_of
from networks import NETWORKS, graph_of, images, network, randomised
from torch import Tensor, nn
from torch.nn import functional

from heatcli.engine.fast.in_place import can_write_over, remade, written_in_place
from heatcli.engine.forward import forward
from heatcli.engine.ledger import Books
from heatcli.engine.plan import plan
from heatcli.engine.tape import Tape
from heatcli.engine.walk import walk
from heatcli.graph.facts import facts_of
from heatcli.graph.kinds import AFFINE
from heatcli.graph.operator import Graph
from heatcli.methods.table import METHODS, method
from heatcli.rules import maximum
from heatcli.rules.affine import AlphaBeta
from heatcli.rules.elementwise import Slope
from heatcli.rules.maximum import Winner
from heatcli.rules.rule import Rule

BACKWARD = [name for name, m in METHODS.items() if m.kind == "backward"]


def walked(tape: Tape, rules: Mapping[str, Rule]) -> tuple[Tensor, Books]:
    tape.bound(torch.full((1, 3, 1, 1), -4.0), torch.full((1, 3, 1, 1), 4.0))
    books = Books.open(tape.graph, tape.input)
    return walk(tape, rules, torch.ones_like(tape.output), books), books


class Dense(nn.Module):
    """As in a DenseNet: what was concatenated goes through a BatchNorm and a ReLU to a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm1, self.conv1 = nn.BatchNorm2d(9), nn.Conv2d(9, 4, 3, padding=1)
        self.norm2, self.conv2 = nn.BatchNorm2d(13), nn.Conv2d(13, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x, self.stem(x)]
        parts.append(self.conv1(functional.relu(self.norm1(torch.cat(parts, 1)))))
        return self.conv2(functional.relu(self.norm2(torch.cat(parts, 1)))).mean((2, 3))


def dense() -> nn.Module:
    torch.manual_seed(0)
    return randomised(Dense(), 1)


@pytest.mark.parametrize("which", [*NETWORKS, "dense"])
@pytest.mark.parametrize("name", BACKWARD)
def test_nothing_changes(name: str, which: str) -> None:
    """Output, multipliers and books, for every method of one walk, with a baseline and without."""
    x, rules = images(2, 3), method(name).rules
    graph = graph_of(dense() if which == "dense" else network(which), x)
    for baseline in (None, images(2, 4)):
        own, plain = forward(graph, x, baseline, rules=rules), forward(graph, x, baseline)
        assert not plain.overwritten
        assert torch.equal(own.output, plain.output)
        (m, books), (expected, others) = walked(own, rules), walked(plain, rules)
        assert torch.equal(m, expected)
        for part in ("biases", "absorbed", "unexplained"):
            found, wanted = getattr(books, part), getattr(others, part)
            assert found.keys() == wanted.keys()
            assert all(torch.equal(found[entry], wanted[entry]) for entry in found), part


def residual(x: Tensor) -> Tensor:
    """conv, relu, conv, + x, relu; then a value that two read, and one that nothing but a ReLU reads."""
    first, second = CONVOLUTIONS
    y = torch.relu(first(x))
    z = torch.relu(second(y) + x)
    shared = first(z)
    return torch.relu(shared) + shared


CONVOLUTIONS = [randomised(nn.Conv2d(3, 3, 3, padding=1), seed) for seed in (1, 2)]


def overwritten_by(graph: Graph, rules: Mapping[str, Rule], *keep: str) -> list[str]:
    by_name = {op.name: op.title for op in graph.operators}
    return [by_name[name] for name in plan(graph, rules, keep).overwritten]


def test_which_values_are_overwritten() -> None:
    """Those that nothing reads but a ReLU: no rule, no other operator, nobody who wants to keep them."""
    graph = graph_of(residual, images(2))
    eps = method("lrp-eps")
    assert overwritten_by(graph, eps.rules) == ["convolution", "add"]
    assert overwritten_by(graph, method("gradient").rules) == ["convolution", "add"]
    assert overwritten_by(graph, method("lrp-z-plus").rules) == ["convolution", "add"]
    assert overwritten_by(graph, method("lrp-gamma").rules) == ["add"], "γ looks at the sign of z"
    assert overwritten_by(graph, eps.configured({"bias": "ignore"}).rules) == ["add"], "z less the bias divides"
    for changed in ("elementwise=repeat", "elementwise=pass"):
        assert overwritten_by(graph, eps.with_rules([changed]).rules) == []
    assert overwritten_by(graph, eps.with_rules(["elementwise=gradient"]).rules) == ["add"], "undivided, ε divides by z"
    kept = next(iter(plan(graph, eps.rules).overwritten))
    assert overwritten_by(graph, eps.rules, kept) == ["add"]


def test_a_plan_is_made_once_and_goes_with_its_graph() -> None:
    """For equal tables of rules, and the same values to keep in any order."""
    graph, rules = graph_of(residual, images(2)), method("lrp-eps").rules
    first = plan(graph, rules, ["relu_1", "add_3"])
    assert plan(graph, dict(method("lrp-eps").rules), ["add_3", "relu_1"]) is first
    assert plan(graph, rules) is not first
    assert plan(graph, rules, compared=True) is not plan(graph, rules)
    assert plan(graph, method("lrp-eps", epsilon=0.1).rules) is not plan(graph, rules)
    gone = weakref.ref(first)
    del graph, first
    gc.collect()
    assert gone() is None


def test_what_is_concatenated_is_overwritten_twice() -> None:
    """By the BatchNorm, then by the ReLU, unless a rule reads it; with a baseline, not by the BatchNorm."""
    x = images(2)
    graph = graph_of(dense(), x)
    for name in ("gradient", "guided-backprop", "lrp-0", "lrp-eps", "lrp-z-plus"):
        assert overwritten_by(graph, method(name).rules) == ["cat", "native_batch_norm"] * 2
    rules = method("lrp-eps").rules
    for changed in ({AFFINE: AlphaBeta()}, {AFFINE: Slope()}):
        assert "cat" not in overwritten_by(graph, {**rules, **changed})
    tape = forward(graph, x, rules=rules)
    steps = {step.operator.name: step for step in tape.steps}
    for value, taker in tape.overwritten.items():
        assert steps[value].output.data_ptr() == steps[taker].output.data_ptr()
    compared = forward(graph, x, torch.zeros_like(x), rules=method("deeplift-rescale").rules)
    assert [name.rpartition("_")[0] for name in compared.overwritten] == ["native_batch_norm"] * 2


LEGIT = torch.ops.aten._native_batch_norm_legit_no_training
NORMS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "pictures": (nn.BatchNorm2d(3), (3, 4, 5)),
    "signals": (nn.BatchNorm1d(3), (3, 7)),
    "features": (nn.BatchNorm1d(5), (5,)),
    "volumes": (nn.BatchNorm3d(2), (2, 3, 4, 5)),
    "no weights": (nn.BatchNorm2d(3, affine=False), (3, 4, 5)),
}


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("case", list(NORMS))
def test_batch_norm_over_its_input(case: str, last: bool) -> None:
    """The same to the last bit, in that memory, wherever the channels lie; so too what torch.export makes of it."""
    module, shape = NORMS[case]
    x = torch.randn(2, *shape)
    x = x.contiguous(memory_format=torch.channels_last) if last and x.dim() == 4 else x
    randomised(module, 1)
    weights = (module.weight, module.bias, module.running_mean, module.running_var)
    for function in (module, lambda x: LEGIT(x, *weights, 0.1, module.eps)[0]):
        (operator,) = graph_of(function, x).operators
        assert can_write_over(operator)
        given = x.clone(memory_format=torch.preserve_format)
        written = written_in_place(operator, given)
        assert written.data_ptr() == given.data_ptr()
        assert written.stride() == x.stride()
        assert torch.equal(written, operator.run({}, [x]))


def test_what_cannot_be_written_over() -> None:
    """A BatchNorm with statistics of its own: its derivative reads its input."""
    x = images(2)
    (operator,) = graph_of(lambda x: functional.batch_norm(x, None, None, training=True), x).operators
    assert not can_write_over(operator)


def test_memory_is_shared() -> None:
    """The ReLU's output lies where its input lay; with a baseline only what is cheap to make again is overwritten."""
    x, rules = images(2), method("lrp-eps").rules
    graph = graph_of(residual, x)
    tape = forward(graph, x, rules=rules)
    steps = {step.operator.name: step for step in tape.steps}
    for value, relu in tape.overwritten.items():
        assert steps[value].output.data_ptr() == steps[relu].output.data_ptr()
        assert float(steps[value].output.detach().min()) == 0
    assert len(tape.overwritten) == 2
    compared = forward(graph, x, torch.zeros_like(x), rules=rules)
    assert [name.rpartition("_")[0] for name in compared.overwritten] == ["add"]
    (again,) = (step for step in compared.steps if step.in_place)
    plain = {step.operator.name: step.output for step in forward(graph, x).steps}
    assert torch.equal(remade(again), plain[again.operator.sources[0]])
    for changed in ("elementwise=pass", "elementwise=gradient"):
        other = method("lrp-eps").with_rules([changed]).rules
        assert not forward(graph, x, torch.zeros_like(x), rules=other).overwritten
    assert not forward(graph, x, differentiable=True, rules=rules).overwritten


@pytest.mark.parametrize("end", [lambda y: y, lambda y: y.flatten(1), lambda y: y.flatten(2).transpose(1, 2)[:, :2]])
def test_what_is_read_behind_the_walk_stays(end: Callable[[Tensor], Tensor]) -> None:
    """A walk writes over the ReLUs it has passed, not over the output or what is kept, nor what these are views of."""
    x, first = images(2), CONVOLUTIONS[0]
    rules = method("lrp-eps").rules
    graph = graph_of(lambda x: end(torch.relu(first(x))), x)
    assert overwritten_by(graph, rules) == []
    behind = graph_of(lambda x: end(torch.relu(first(x))).sum(1), x)
    for keep in ([], [behind.operators[-2].name]):
        tape = forward(behind, x, rules=rules, keep=keep)
        assert bool(tape.overwritten) is not bool(keep)
        (relu,) = (step.output for step in tape.steps if step.operator.title == "relu")
        seen, before = tape.values(keep), relu.detach().clone()
        kept = {name: value.clone() for name, value in seen.items()}
        walked(tape, rules)
        assert torch.equal(relu, before) is bool(keep)
        assert all(torch.equal(seen[name], kept[name]) for name in keep)


@REFERENCES
@pytest.mark.parametrize("case", ["windows", "overlapping", "padded", "volumes", "adaptive"])
def test_winners_by_index_are_the_winners(monkeypatch: pytest.MonkeyPatch, case: str, based: bool) -> None:
    """Maxima that say who won are divided window by window; the others element by element: the same, ties too.

    But for ties within a baseline, which share: `test_naive_joint` has those.
    """
    shape, pool = {
        "windows": ((3, 6, 8), lambda x: functional.max_pool2d(x, 2)),
        "overlapping": ((3, 7, 9), lambda x: functional.max_pool2d(x, 3, 2)),
        "padded": ((2, 6, 6), lambda x: functional.max_pool2d(x, 3, 1, padding=1)),
        "volumes": ((2, 4, 6, 4), lambda x: functional.max_pool3d(x, 2)),
        "adaptive": ((2, 7, 7), lambda x: functional.adaptive_max_pool2d(x, (3, 2))),
    }[case]
    x, x0 = inputs(shape, based)
    x = x.round()  # so that images tie with themselves and, here and there, with baselines
    if x0 is not None:
        x0[..., 0, 0] = x[..., 0, 0]
    for start in (x0, None if x0 is None else x0[:1]):
        (step,) = steps_of(pool, x, start)
        m = multiplier_for(step)
        (found,) = Winner()(step, m).multipliers
        with monkeypatch.context() as patched:
            patched.setattr(maximum, "facts_of", lambda op: replace(facts_of(op), indexed=False))
            (expected,) = Winner()(step, m).multipliers
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
