"""Every fact in the table of operators, tried on the operator itself over inputs and arguments.

`CHECKS` has one property for each fact and one for each kind. They are shown to fail, each on a false claim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace

import pytest
import torch
from recipes import RECIPES, A, Draw, X, call
from torch import Tensor

from heatcli.engine.fast.in_place import can_write_over, written_in_place
from heatcli.graph import facts as facts_module
from heatcli.graph.adjoints import closed_form
from heatcli.graph.facts import KINDS, TABLE, UNKNOWN, Facts, facts_of, row_of, table
from heatcli.graph.facts import row as a_row
from heatcli.graph.operator import Operator
from heatcli.rules.candidates import candidates

DRAWS = 30
ALWAYS_DRAWN = 5  # for operators whose facts have no conditions
FACTS = [fact.name for fact in fields(Facts)]


def samples(op: Operator, seed: int = 0) -> list[list[Tensor]]:
    """Inputs for each source: of usual size, with ties and zeros, tiny, large, and all positive."""
    g = torch.Generator().manual_seed(seed)

    def drawn() -> list[Tensor]:
        return [torch.randn(shape, generator=g, dtype=torch.float64) for shape in op.source_shapes]

    return [
        drawn(),
        [(x * 4).round() / 4 for x in drawn()],
        [x * 1e-3 for x in drawn()],
        [x * 6 for x in drawn()],
        [x.abs() + 0.01 for x in drawn()],
    ]


def same(a: Tensor, b: Tensor) -> bool:
    """Equal to 1e-9 of the largest, nan where nan."""
    size = float(torch.nan_to_num(b, 0, 0, 0).abs().max()) if b.numel() else 0.0
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-9, atol=1e-9 * size + 1e-300, equal_nan=True)


def at_zero(op: Operator) -> Tensor:
    return op.run({}, [torch.zeros(shape, dtype=torch.float64) for shape in op.source_shapes])


def slopes(op: Operator, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The vector-Jacobian product of ones, by torch."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    found = torch.autograd.grad(op.run({}, leaves).sum(), leaves)
    return list(found)


# --- properties: whether a fact holds of an operator, as far as samples tell ---------------------------------------


def zero_at_zero(op: Operator) -> bool:
    return not bool(at_zero(op).any())


def homogeneous(op: Operator) -> bool:
    return all(same(op.run({}, [a * v for v in x]), a * op.run({}, x)) for x in samples(op) for a in (0.25, 3.0))


def exact(op: Operator) -> bool:
    """Second differences vanish but at kinks and jumps, and slopes are those of the arguments."""
    step, bent, count = 2.0**-20, 0, 0
    for (x,) in samples(op):
        before, here, after = (op.run({}, [x + d]) for d in (-step, 0, step))
        rounding = 8 * torch.finfo(torch.float64).eps * (here.abs() + step)
        bent += int(((after - 2 * here + before).abs() > rounding).sum())
        count += here.numel()
    return bent <= count / 8  # places at kinks: samples with ties have zeros, where kinks are


def keeps_sign(op: Operator) -> bool:
    return not any(bool((op.run({}, [x]) * x < 0).any()) for (x,) in samples(op))


def keeps_order(op: Operator) -> bool:
    lower = samples(op)
    for (x,), (more,) in zip(lower, samples(op, 1), strict=True):
        low, high = op.run({}, [x]), op.run({}, [x + more.abs()])
        if bool((low > high + 1e-12).any()):
            return False
    return True


def steep(op: Operator) -> bool:
    """Some slope is large though the input is not."""
    tiny = 10.0 ** -torch.arange(3, 16, dtype=torch.float64)
    spread = torch.linspace(-30, 30, 601, dtype=torch.float64)
    points = torch.cat([tiny, -tiny, spread, torch.tensor([torch.pi / 2], dtype=torch.float64)])
    (slope,) = slopes(op, [points.expand(1, 4, 1, -1)])
    return float(torch.nan_to_num(slope, 0, torch.inf, torch.inf).abs().max()) > 1e4


def nonnegative(op: Operator) -> bool:
    return not any(bool((op.run({}, x) < 0).any()) for x in samples(op))


def preserves_nonnegative(op: Operator) -> bool:
    return not any(bool((op.run({}, [v.abs() for v in x]) < 0).any()) for x in samples(op))


def rectifier(op: Operator) -> bool:
    """max(x, 0) up to some bound above 0."""
    for (x,) in samples(op):
        y = op.run({}, [x])
        bound = op.run({}, [torch.full_like(x, 1e9)])
        if not bool((bound > 0).all()) or not same(y, torch.minimum(x.clamp(min=0), bound)):
            return False
    return True


def minimum(op: Operator) -> bool:
    """Nowhere above what it chooses from."""
    for x in samples(op):
        choice = candidates(op, x).amin(0) if op.kind == "maximum" else x[0]
        if bool((op.run({}, x) > choice).any()):
            return False
    return True


def indexed(op: Operator) -> bool:
    """The second output says where in the input the first is found, counted over the last dimensions."""
    space = int(op.title[op.title.index("pool") + 4])
    where = replace(op, index=1)
    for (x,) in samples(op):
        flat = x.flatten(-space)
        if not same(flat.gather(-1, where.run({}, [x]).flatten(-space)).reshape(op.shape), op.run({}, [x])):
            return False
    return True


def picks(op: Operator) -> bool:
    """Nothing is in the output that is not in the input."""
    return all(bool(torch.isin(op.run({}, [x]), x).all()) for (x,) in samples(op))


def gate(op: Operator) -> bool:
    """A weight is never far below 0."""
    return not any(bool((op.run({}, x) < -1).any()) for x in samples(op))


def diagonal(op: Operator) -> bool:
    return affine(op) and moves_only_itself(op)


def fixed_statistics(op: Operator) -> bool:
    """Each channel scaled and shifted by the same numbers, whatever the image."""
    if op.kind != "affine" or not affine(op):
        return False
    (slope,) = slopes(op, samples(op)[0])
    return bool((slope == slope[:1, :, :1, :1]).all())


def overwrites(op: Operator) -> bool:
    """The derivative is the same with nan for its input; written over its input, the output is."""
    product = closed_form(op)
    if not can_write_over(op) or product is None:
        return False
    for (x,) in samples(op):
        memory, expected = x.clone(), op.run({}, [x])
        m = torch.randn_like(expected)
        (slope,) = torch.autograd.grad(op.run({}, [leaf := x.clone().requires_grad_()]), leaf, m)
        (found,) = product(op, [torch.full_like(x, torch.nan)], expected, m)
        if not same(found, slope):
            return False
        written = written_in_place(op, memory)
        if written.data_ptr() != memory.data_ptr() or not same(written, expected):
            return False
    return True


def spare_output(op: Operator) -> bool:
    """Its output overwritten, both derivatives are the same: torch's and the closed form's."""
    x = samples(op)[0]
    leaves = [v.clone().requires_grad_() for v in x]
    output = op.run({}, leaves)
    m = torch.randn_like(output)
    expected = torch.autograd.grad(op.run({}, leaves), leaves, m)
    held = {v.untyped_storage().data_ptr() for v in [*leaves, *(c.value for c in op.constants)]}
    if output.untyped_storage().data_ptr() in held:
        return False
    output.detach().untyped_storage().fill_(255)  # behind autograd's back, as a kernel writes
    assert bool(output.isnan().all())
    found = [torch.autograd.grad(output, leaves, m)]
    product = closed_form(op)
    if product is not None:
        found.append(tuple(product(op, x, torch.full_like(m, torch.nan), m)))
    return all(same(a, b) for one in found for a, b in zip(one, expected, strict=True))


def rounds_once(op: Operator) -> bool:
    """In bfloat16: the same as in float32, rounded."""
    if op.constants:
        return True  # mixed precision leaves those alone
    for x in samples(op):
        low = [v.to(torch.bfloat16) for v in x]
        if not torch.equal(op.run({}, low), op.run({}, [v.float() for v in low]).to(torch.bfloat16)):
            return False
    return True


# --- kinds --------------------------------------------------------------------------------------------------------


def affine(op: Operator) -> bool:
    """f(a·x + b·y) − f(0) = a·(f(x) − f(0)) + b·(f(y) − f(0)), of all sources together."""
    base = at_zero(op)
    if not bool(base.isfinite().all()):
        return False
    for x, y in zip(samples(op), samples(op, 1), strict=True):
        mixed = op.run({}, [2.5 * v - 0.75 * w for v, w in zip(x, y, strict=True)]) - base
        if not same(mixed, 2.5 * (op.run({}, x) - base) - 0.75 * (op.run({}, y) - base)):
            return False
    return True


def moves_only_itself(op: Operator) -> bool:
    """Each element of the output depends on the element of the only source in its place alone."""
    (x,) = samples(op)[0]
    moved = x.clone()
    moved[:, 1] += 0.5
    moved[..., 0] += 0.25
    same_place = torch.broadcast_to(moved == x, op.shape)
    after, before = op.run({}, [moved]), op.run({}, [x])
    return bool(((after == before) | (after.isnan() & before.isnan()))[same_place].all())


def elementwise(op: Operator) -> bool:
    return len(op.sources) == 1 and moves_only_itself(op)


def maximum(op: Operator) -> bool:
    """Each output is the largest (smallest) of its candidates, which are elements of the input."""
    for x in samples(op):
        choice = candidates(op, x)
        best = choice.amin(0) if facts_of(op).minimum else choice.amax(0)
        if not same(op.run({}, x), best):
            return False
    return True


def joint_sum(op: Operator) -> bool:
    """Affine, and each weight is the same number for all elements of a source, or 0."""
    if not affine(op):
        return False
    weights = slopes(op, samples(op)[0])
    counted = {round(abs(w), 6) for weight in weights for w in weight.flatten().tolist()}
    alpha = abs(op.argument("alpha") or 0)
    # broadcast operands count once for each place; patches of col2im as often as they are read
    places = max(int(torch.tensor(op.shape).prod()) // max(1, weight.numel()) for weight in weights)
    return counted <= {0.0, 1.0, alpha, float(places), alpha * places}


def layout(op: Operator) -> bool:
    """Each element of the output is an element of an input, or what is there at zero."""
    fill = at_zero(op)
    for x in samples(op):
        y = op.run({}, x)
        if not bool((torch.isin(y, torch.cat([v.flatten() for v in x])) | (y == fill)).all()):
            return False
    return True


def product(op: Operator) -> bool:
    """Affine in each of two factors while the other is held; of a quotient, in a and in 1/b."""
    if len(op.sources) != 2 or affine(op):
        return False
    for a, b in samples(op):
        for i in (0, 1):

            def f(v: Tensor, i: int = i, a: Tensor = a, b: Tensor = b) -> Tensor:
                given = [v, b] if i == 0 else [a, 1 / v if op.title == "div" else v]
                return op.run({}, given)

            x, y = (a, a.roll(1)) if i == 0 else (b, b.roll(1))
            if op.title == "div" and i == 1:
                x, y = x.abs() + 0.5, y.abs() + 0.5
            mean = f((x + y) / 2)
            if bool(mean.isfinite().all()) and not same(mean, (f(x) + f(y)) / 2):
                return False
    return True


def normaliser(op: Operator) -> bool:
    """A common shift changes nothing; of Euclidean norms a factor comes out, of RMS norms signs alone do."""
    for (x,) in samples(op)[::3]:
        if op.title == "_fused_rms_norm":
            signs = torch.where(torch.arange(x.numel()).reshape(x.shape) % 3 == 0, -1.0, 1.0)
            if not torch.allclose(op.run({}, [2 * signs * x]), signs * op.run({}, [x]), rtol=1e-6, atol=1e-6):
                return False
        elif "norm" in op.title and not op.title.startswith("native"):
            if not same(op.run({}, [-2.0 * x]), 2 * op.run({}, [x])):
                return False
        elif not torch.allclose(op.run({}, [x + 1.5]), op.run({}, [x]), rtol=1e-6, atol=1e-6):
            return False
    return True


def refuses_channels_last(op: Operator) -> bool:
    """torch raises for an image in channels last memory, and for a multiplier in it."""
    (x,), refused = samples(op)[0], 0
    if x.dim() != 4:
        return False
    last = {"memory_format": torch.channels_last}
    for value, m in ((x.contiguous(**last), None), (x, torch.ones(op.shape, dtype=x.dtype).contiguous(**last))):
        leaf = value.requires_grad_()
        try:
            output = op.run({}, [leaf])
            torch.autograd.grad(output, leaf, torch.ones_like(output) if m is None else m)
        except RuntimeError as error:
            refused += "memory format" in str(error)
    return refused == 2


PROPERTIES: dict[str, Callable[[Operator], bool]] = {
    "zero_at_zero": zero_at_zero, "homogeneous": homogeneous, "exact": exact, "keeps_sign": keeps_sign,
    "keeps_order": keeps_order, "steep": steep, "nonnegative": nonnegative,
    "preserves_nonnegative": preserves_nonnegative, "rectifier": rectifier, "minimum": minimum, "indexed": indexed,
    "picks": picks, "gate": gate, "diagonal": diagonal, "fixed_statistics": fixed_statistics, "overwrites": overwrites,
    "spare_output": spare_output, "rounds_once": rounds_once, "refuses_channels_last": refuses_channels_last,
}  # fmt: skip
KIND: dict[str, Callable[[Operator], bool]] = {
    "affine": affine, "elementwise": elementwise, "maximum": maximum, "sum": joint_sum, "product": product,
    "normaliser": normaliser, "layout": layout,
}  # fmt: skip
# What relies on these asks one source of the input's shape, or operators of one kind.
ASKED: dict[str, Callable[[Operator], bool]] = {
    **dict.fromkeys(
        ("homogeneous", "exact", "keeps_sign", "keeps_order", "steep", "rectifier"),
        lambda op: op.kind == "elementwise" and len(op.sources) == 1,
    ),
    "picks": lambda op: op.kind == "layout" and len(op.sources) == 1,
    "minimum": lambda op: op.kind in ("elementwise", "maximum"),
    "diagonal": lambda op: op.kind == "affine" and len(op.sources) == 1,
    "fixed_statistics": lambda op: op.kind in ("affine", "normaliser"),
    "spare_output": lambda op: op.kind != UNKNOWN,
}


def is_asked(fact: str, op: Operator) -> bool:
    return op.kind != UNKNOWN and ASKED.get(fact, lambda _: True)(op)


def drawn(title: str, draws: int | None = None) -> list[Operator]:
    """Calls of that operator, with arguments drawn anew."""
    conditional = any(callable(fact) for fact in TABLE[title].facts.values())
    return [RECIPES[title](Draw(seed)) for seed in range(draws or (DRAWS if conditional else ALWAYS_DRAWN))]


def false_claims(operators: Sequence[Operator]) -> set[str]:
    """The facts and kinds that the table claims of some of these calls, and that do not hold."""
    wrong = set()
    for op in operators:
        if op.kind != UNKNOWN and not KIND[op.kind](op):
            wrong.add(op.kind)
        claimed = (fact for fact in FACTS if getattr(facts_of(op), fact) and is_asked(fact, op) and fact != "steep")
        wrong.update(fact for fact in claimed if not PROPERTIES[fact](op))
    return wrong


# --- tests --------------------------------------------------------------------------------------------------------


def test_every_operator_has_a_recipe_and_every_fact_and_kind_a_property() -> None:
    assert set(RECIPES) == set(TABLE)
    assert set(PROPERTIES) == set(FACTS)
    assert set(KIND) == set(KINDS)


def test_every_operator_is_atens_or_torchvisions() -> None:
    pytest.importorskip("torchvision")
    libraries = torch.ops.aten, torch.ops.torchvision
    assert [name for name in TABLE if not any(hasattr(one, name) for one in libraries)] == []
    assert all(op.title == title for title in TABLE for op in drawn(title, 1))


@pytest.mark.parametrize("title", list(TABLE))
def test_what_the_table_claims_holds(title: str) -> None:
    operators = drawn(title)
    assert false_claims(operators) == set()
    kinds = {op.kind for op in operators} - {UNKNOWN}
    assert TABLE[title].kind in kinds


# These say no now and then where it would hold: it depends on numbers that nobody looks at.
CAUTIOUS = {("add", "rounds_once"), ("where", "zero_at_zero")}
CONDITIONAL = [(title, fact) for title, row in TABLE.items() for fact, holds in row.facts.items() if callable(holds)]


@pytest.mark.parametrize(("title", "fact"), CONDITIONAL, ids=lambda x: x)
def test_conditions_are_neither_too_wide_nor_too_narrow(title: str, fact: str) -> None:
    """On both sides of a condition; where it says no, the operator shows why."""
    operators = [op for op in drawn(title, 2 * DRAWS) if is_asked(fact, op)]
    held = [op for op in operators if getattr(facts_of(op), fact)]
    denied = [op for op in operators if not getattr(facts_of(op), fact)]
    assert held
    assert denied
    assert all(PROPERTIES[fact](op) for op in held)
    if (title, fact) not in CAUTIOUS:
        assert not any(PROPERTIES[fact](op) for op in denied if op.kind == TABLE[title].kind)


@pytest.mark.parametrize("title", [t for t, row in TABLE.items() if row.kind == "elementwise"])
def test_slopes_are_bounded_where_they_are_not_called_steep(title: str) -> None:
    operators = [op for op in drawn(title) if op.kind == "elementwise"]
    assert not any(steep(op) for op in operators if not facts_of(op).steep)
    assert any(map(steep, operators)) is any(facts_of(op).steep for op in operators)


FALSE = {
    "zero_at_zero": "sigmoid", "homogeneous": "silu", "exact": "gelu", "keeps_sign": "abs", "keeps_order": "silu",
    "nonnegative": "gelu", "preserves_nonnegative": "neg", "rectifier": "silu", "minimum": "amax",
    "picks": "constant_pad_nd", "gate": "sub", "diagonal": "cumsum", "fixed_statistics": "cumsum", "overwrites": "silu",
    "spare_output": "sigmoid", "rounds_once": "add", "refuses_channels_last": "max_pool2d",
}  # fmt: skip
FALSE_KINDS = {
    "affine": "relu", "elementwise": "cumsum", "sum": "mul", "product": "add", "normaliser": "relu", "layout": "mean",
    "maximum": "avg_pool2d",
}  # fmt: skip


@pytest.mark.parametrize("fact", list(FALSE))
def test_a_false_claim_is_seen(fact: str, monkeypatch: pytest.MonkeyPatch) -> None:
    title = FALSE[fact]
    claimed = replace(TABLE[title], facts={**TABLE[title].facts, fact: True})
    assert false_claims(drawn(title)) == set()
    monkeypatch.setitem(facts_module.TABLE, title, claimed)
    assert fact in false_claims(drawn(title))


def test_a_false_index_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a pooling whose second output does not say which input won."""
    (op,) = drawn("max_pool2d_with_indices", 1)
    monkeypatch.setattr(Operator, "run", lambda self, values, inputs, run=Operator.run: (
        run(self, values, inputs).flip(-1) if self.index == 1 else run(self, values, inputs)
    ))  # fmt: skip
    assert false_claims([op]) == {"indexed"}


@pytest.mark.parametrize("kind", list(FALSE_KINDS))
def test_a_false_kind_is_seen(kind: str) -> None:
    joint = kind in ("sum", "product")
    (op, *_) = (op for op in drawn(FALSE_KINDS[kind], DRAWS) if len(op.sources) == 1 + joint)
    assert false_claims([replace(op, kind=kind)]) >= {kind}


def test_a_condition_that_is_too_wide_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The claim that this table replaced: hardtanh(x, 0.2, 0.7) as zero at zero."""
    monkeypatch.setitem(facts_module.TABLE, "hardtanh", a_row("elementwise", "zero_at_zero"))
    assert false_claims([call(A.hardtanh.default, X, -0.2, 0.7)]) == set()
    assert false_claims([call(A.hardtanh.default, X, 0.2, 0.7)]) == {"zero_at_zero"}


def test_mistakes_in_the_table_are_refused() -> None:
    with pytest.raises(ValueError, match="two rows for relu"):
        table([("abs relu", a_row("elementwise")), ("relu", a_row("elementwise"))])
    with pytest.raises(ValueError, match="no such fact: keeps_cool"):
        a_row("elementwise", "keeps_cool")


def test_nothing_is_known_of_other_operators() -> None:
    op = call(A.erfinv.default, X)
    assert facts_of(op) == Facts()
    assert op.kind == UNKNOWN
    assert row_of(op).kind == UNKNOWN
