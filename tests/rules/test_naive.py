"""Adjoint, Epsilon, Slope and Booked against naive dense float64 replicas, written from the papers' formulas."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest
import torch
from dense import REFERENCES, Function, assert_same, booked, dense, inputs, multiplier_for, steps_of
from networks import images, randomised, step_of
from torch import Tensor, nn
from torch.nn import functional

from heatcli.engine.fast import secants
from heatcli.rules.affine import Epsilon
from heatcli.rules.elementwise import Slope
from heatcli.rules.rule import Adjoint, Booked, Sent, Step

pytestmark = pytest.mark.usefixtures("way")

# --- affine -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Affine:
    """An affine function, its input's shape, and over which dimensions of its output one bias element is shared."""

    function: Function
    shape: tuple[int, ...]
    shared: tuple[int, ...] | None = None  # None: it has no bias


def module(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(3)
    return randomised(build(), 4).double()


TERM = images(1, 11, (4, 1, 1)).double()[0]
PIXELS = (2, 3)
AFFINE: dict[str, Affine] = {
    "conv": Affine(module(lambda: nn.Conv2d(2, 3, 3, stride=2, padding=1)), (2, 5, 5), PIXELS),
    "conv-grouped-dilated": Affine(module(lambda: nn.Conv2d(4, 4, 2, dilation=2, groups=2)), (4, 5, 4), PIXELS),
    "conv-transposed": Affine(
        module(lambda: nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1)), (2, 3, 3), PIXELS
    ),
    "conv-without-bias": Affine(module(lambda: nn.Conv2d(2, 3, 3, bias=False)), (2, 4, 4)),
    "conv1d": Affine(module(lambda: nn.Conv1d(2, 3, 3)), (2, 6), (2,)),
    "linear": Affine(module(lambda: nn.Linear(5, 4)), (5,), ()),
    "linear-without-bias": Affine(module(lambda: nn.Linear(5, 4, bias=False)), (5,)),
    "batch-norm": Affine(module(lambda: nn.BatchNorm2d(4)), (4, 3, 2), PIXELS),
    "average-pool": Affine(lambda x: functional.avg_pool2d(x, 3, 2, 1), (2, 5, 5)),
    "average-pool-of-real-pixels": Affine(
        lambda x: functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False), (2, 5, 5)
    ),
    "adaptive-average": Affine(lambda x: functional.adaptive_avg_pool2d(x, (2, 3)), (2, 5, 5)),
    "mean": Affine(lambda x: x.mean((2, 3)), (3, 2, 4)),
    "sum": Affine(lambda x: x.sum(1), (3, 2, 4)),
    "bilinear": Affine(
        lambda x: functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False), (2, 3, 3)
    ),
    "bicubic": Affine(lambda x: functional.interpolate(x, size=(5, 7), mode="bicubic", align_corners=True), (1, 3, 4)),
    "nearest": Affine(lambda x: functional.interpolate(x, scale_factor=2.0, mode="nearest"), (2, 3, 3)),
    "cumsum": Affine(lambda x: torch.cumsum(x, 1), (6,)),
    "negative": Affine(lambda x: -x, (4, 2)),
    "times-constant": Affine(lambda x: x * TERM, (4, 2, 2)),
    "by-constant": Affine(lambda x: x / TERM, (4, 2, 2)),
    "plus-constant": Affine(lambda x: x + TERM, (4, 2, 2), PIXELS),
    "minus-constant": Affine(lambda x: torch.sub(x, TERM, alpha=3), (4, 2, 2), PIXELS),
    "constant-minus": Affine(lambda x: TERM - x, (4, 2, 2), PIXELS),
    "plus-number": Affine(lambda x: x + 0.75, (4, 2, 2), (1, 2, 3)),
    "number-minus": Affine(lambda x: 0.75 - x, (4, 2, 2), (1, 2, 3)),
}


def assert_offsets(step: Step, sent: Sent, case: Affine, b: Tensor, s: Tensor, based: bool) -> None:
    """b_j·s_j, summed over the outputs that share an element of the bias; nothing with a baseline."""
    entries = booked(step, sent).biases
    if case.shared is None:
        assert not entries
        return
    (found,) = entries.values()
    shares = b.reshape(step.output[:1].shape) * s.reshape(step.output.shape)
    expected = (shares.sum(case.shared) if case.shared else shares).reshape(2, -1)
    assert_same(found, torch.zeros_like(expected) if based else expected, "bias")
    assert bool((expected != 0).any())


@REFERENCES
@pytest.mark.parametrize("epsilon", [0.0, 1e-6, 0.1])
@pytest.mark.parametrize("name", list(AFFINE))
def test_epsilon(name: str, epsilon: float, based: bool) -> None:
    """R_i = Σ_j x_i w_ij R_j / (z_j + ε sign z_j); the bias takes b_j R_j / (…), ε takes ε sign(z_j) R_j / (…)."""
    case = AFFINE[name]
    x, x0 = inputs(case.shape, based)
    step = step_of(case.function, x, x0)
    m = multiplier_for(step)
    sent = Epsilon(epsilon)(step, m)
    w, b = dense(case.function, x)
    dx = (x if x0 is None else x - x0).flatten(1)
    z = dx @ w.T + (0 if based else b)
    relevance = m.flatten(1) * z
    sign = torch.where(z >= 0, 1.0, -1.0).to(z)
    denominator = z + epsilon * sign
    shares = torch.where(denominator == 0, 0, relevance / torch.where(denominator == 0, 1, denominator))
    expected = torch.einsum("ni,ji,nj->ni", dx, w, shares)
    assert_same(sent.multipliers[0].flatten(1) * dx, expected, "pixels")
    assert_same(sent.absorbed, (epsilon * sign * shares).sum(1), "absorbed")
    assert_offsets(step, sent, case, b, shares, based)


@REFERENCES
@pytest.mark.parametrize("name", list(AFFINE))
def test_adjoint(name: str, based: bool) -> None:
    """LRP-0: R_i = Σ_j x_i w_ij R_j / z_j, which in multipliers is Wᵀm, and b_j m_j for the bias."""
    case = AFFINE[name]
    x, x0 = inputs(case.shape, based)
    step = step_of(case.function, x, x0)
    m = multiplier_for(step)
    sent = Adjoint()(step, m)
    w, b = dense(case.function, x)
    assert_same(sent.multipliers[0].flatten(1), m.flatten(1) @ w)
    assert sent.absorbed is None
    assert_offsets(step, sent, case, b, m, based)


# --- sums and layouts ---------------------------------------------------------------------------------------------

INDEX = torch.tensor([2, 0, 2])
LAYOUT: dict[str, Function] = {
    "view": lambda x: x.view(x.shape[0], 12, 2),
    "permute": lambda x: x.permute(0, 3, 1, 2),
    "transpose": lambda x: x.transpose(1, 2),
    "slice": lambda x: x[:, 1:, ::2],
    "select": lambda x: x[:, 2],
    "expand": lambda x: x[:, :1].expand(-1, 5, -1, -1),
    "index": lambda x: x[:, INDEX],
    "index_select": lambda x: torch.index_select(x, 2, INDEX),
    "constant_pad_nd": lambda x: functional.pad(x, (1, 0, 2, 1)),
    "reflection_pad2d": lambda x: functional.pad(x, (1, 1, 2, 1), mode="reflect"),
    "replication_pad2d": lambda x: functional.pad(x, (1, 1, 2, 1), mode="replicate"),
    "roll": lambda x: x.roll((1, 2), (2, 3)),
    "flip": lambda x: x.flip(2, 3),
    "repeat": lambda x: x.repeat(1, 2, 1, 2),
    "pixel_shuffle": lambda x: functional.pixel_shuffle(x.expand(-1, 4, -1, -1), 2),
    "im2col": lambda x: functional.unfold(x, 2),
}


@REFERENCES
@pytest.mark.parametrize("name", list(LAYOUT))
def test_adjoint_of_a_layout(name: str, based: bool) -> None:
    """Each output element is a copy of one input element: its multiplier goes there, several are summed."""
    shape = (1, 4, 4) if name == "pixel_shuffle" else (3, 4, 2) if name == "view" else (3, 4, 4)
    x, x0 = inputs(shape, based)
    function = LAYOUT[name]
    steps = [s for s in steps_of(function, x, x0) if s.operator.kind]
    m = multiplier_for(steps[-1])
    found: Tensor = m
    for step in reversed(steps):
        assert step.operator.kind == "layout"
        assert not step.operator.offsets
        found = Adjoint()(step, found).multipliers[0]  # type: ignore[assignment]
    expected = torch.zeros_like(x).flatten(1)
    positions = function(torch.arange(x[0].numel(), dtype=torch.float64).reshape(1, *x.shape[1:]) + 1)
    for j, place in enumerate(positions.flatten().long().tolist()):
        if place:  # 0 is padding
            expected[:, place - 1] += m.flatten(1)[:, j]
    assert_same(found.flatten(1), expected)


TWO: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], float, float]] = {
    "add": (lambda a, b: torch.add(a, b, alpha=2), 1, 2),
    "sub": (lambda a, b: a - b, 1, -1),
}


@REFERENCES
@pytest.mark.parametrize("name", list(TWO))
def test_adjoint_of_a_sum(name: str, based: bool) -> None:
    function, to_a, to_b = TWO[name]
    step = step_of(lambda x: function(x[:, 0], x[:, 1]), *inputs((2, 3, 4), based), title=name)
    m = multiplier_for(step)
    sent = Adjoint()(step, m)
    assert step.operator.kind == "sum"
    assert_same(sent.multipliers[0], to_a * m)
    assert_same(sent.multipliers[1], to_b * m)


@REFERENCES
def test_adjoint_of_a_concatenation_and_of_a_broadcast_sum(based: bool) -> None:
    x, x0 = inputs((3, 4), based)
    step = step_of(lambda x: torch.cat([x[:, :1], x[:, 1:]], 1), x, x0, title="cat")
    m = multiplier_for(step)
    for found, expected in zip(Adjoint()(step, m).multipliers, (m[:, :1], m[:, 1:]), strict=True):
        assert_same(found, expected)
    step = step_of(lambda x: x[:, :1] + x[:, 1:], x, x0, title="add")
    m = multiplier_for(step)
    for found, expected in zip(Adjoint()(step, m).multipliers, (m.sum(1, keepdim=True), m), strict=True):
        assert_same(found, expected)


# --- elementwise --------------------------------------------------------------------------------------------------

ELEMENTWISE: dict[str, Function] = {
    "relu": torch.relu,
    "relu6": functional.relu6,
    "narrow": lambda x: functional.hardtanh(x, -0.3, 0.4),
    "clamp": lambda x: x.clamp(-0.5, 0.7),
    "clamp-above-zero": lambda x: x.clamp(0.2, 0.7),
    "leaky": lambda x: functional.leaky_relu(x, 0.2),
    "prelu": lambda x: functional.prelu(x, torch.tensor([0.1, -0.4, 2.0]).to(x)),
    "elu": functional.elu,
    "celu": lambda x: functional.celu(x, 0.7),
    "selu": functional.selu,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu-tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "hardswish": functional.hardswish,
    "hardsigmoid": functional.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": functional.softplus,
    "mish": functional.mish,
    "exp": torch.exp,
    "abs": torch.abs,
    "square": torch.square,
    "cube": lambda x: x**3,
    "erf": torch.erf,
    "cos": torch.cos,
    "maximum": lambda x: torch.maximum(x, torch.tensor(0.3, dtype=x.dtype)),
    "hardshrink": lambda x: functional.hardshrink(x, 0.3),
    "log-sigmoid": functional.logsigmoid,
}
POSITIVE: dict[str, Function] = {"sqrt": torch.sqrt, "log1p": torch.log1p}
NO_VALUE_AT_ZERO: dict[str, Function] = {"log": torch.log, "reciprocal": torch.reciprocal, "rsqrt": torch.rsqrt}


def secant(function: Function, x: Tensor, x0: Tensor) -> Tensor:
    """(f(x) − f(x0))/(x − x0), element by element."""
    rise = function(x) - function(x0)
    out = torch.zeros_like(x).flatten()
    for i, (dy, dx) in enumerate(zip(rise.flatten().tolist(), (x - x0).flatten().tolist(), strict=True)):
        out[i] = dy / dx if dx else torch.nan
    return out.reshape(x.shape)


@pytest.fixture(params=[False, True], ids=["together", "one by one"])
def _size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images as small as they are, and as if they were large."""
    if request.param:
        monkeypatch.setattr(secants, "_LARGE", 1)


@REFERENCES
@pytest.mark.usefixtures("_size")
@pytest.mark.parametrize("name", [*ELEMENTWISE, *POSITIVE])
def test_slope(name: str, based: bool) -> None:
    """Rescale: m·(f(x) − f(x0))/(x − x0); from reference 0 the bias f(0) is booked, channel by channel."""
    function = (ELEMENTWISE | POSITIVE)[name]
    x, x0 = inputs((3, 4, 2), based)
    if name in POSITIVE:
        x, x0 = x.abs(), None if x0 is None else x0.abs()
    (step,) = (s for s in steps_of(lambda x: function(x).flip(-1), x, x0) if s.operator.kind == "elementwise")
    m = multiplier_for(step)
    sent = Slope()(step, m)
    assert_same(sent.multipliers[0], m * secant(function, x, torch.zeros_like(x) if x0 is None else x0))
    at_zero = function(torch.zeros_like(x))
    entries = booked(step, sent).biases
    if not bool(at_zero.any()):
        assert not entries
        return
    (found,) = entries.values()
    assert_same(found, torch.zeros_like(found) if based else (m * at_zero).flatten(2).sum(2))


@pytest.mark.usefixtures("_size")
@pytest.mark.parametrize("name", [*ELEMENTWISE, *POSITIVE, *NO_VALUE_AT_ZERO])
def test_slope_where_nothing_differs_is_the_derivative(name: str) -> None:
    """The limit x → x0."""
    function = (ELEMENTWISE | POSITIVE | NO_VALUE_AT_ZERO)[name]
    x, _ = inputs((3, 4, 2), based=False)
    x = x.abs() + 0.01 if name in POSITIVE | NO_VALUE_AT_ZERO else x
    (step,) = (s for s in steps_of(lambda x: function(x).flip(-1), x, x.clone()) if s.operator.kind == "elementwise")
    m = multiplier_for(step)
    y = x.clone().requires_grad_()
    (derivative,) = torch.autograd.grad(function(y).sum(), y)
    assert_same(Slope()(step, m).multipliers[0], m * derivative)


@pytest.mark.parametrize("name", ["sqrt", "log", "reciprocal", "exp"])
def test_slope_of_a_steep_function_is_exact_beside_values_that_are_far_larger(name: str) -> None:
    """In float32 a spectrum has bins of 1e-6 beside bins of 1e3: each keeps its own secant, so the sum is exact."""
    function = {"exp": lambda x: torch.exp(x.log())}.get(name) or (POSITIVE | NO_VALUE_AT_ZERO)[name]
    x = torch.logspace(-6, 3, 60)[None, None]
    x0 = x.flip(2) * 1e-3 + 1e-9
    for step in (s for s in steps_of(lambda x: function(x).flip(-1), x, x0) if s.operator.kind == "elementwise"):
        (m,) = Slope()(step, torch.ones_like(step.output)).multipliers
        expected = step.difference.double()
        assert torch.allclose(m.double() * step.input_difference(0).double(), expected, rtol=2e-3, atol=0)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels first": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "images inside": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
}


@pytest.mark.usefixtures("_size")
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("places", [[0, -1], [63, 64, 65], range(0, 500, 41), range(400)])
@pytest.mark.parametrize("shape", [(5, 2, 3), (4, 16, 4), (7, 9, 11)])
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_slope_where_few_places_are_at_the_reference(
    layout: str, shape: tuple[int, ...], places: Iterable[int], rows: int
) -> None:
    """The derivative there, the secant elsewhere, wherever in memory they lie."""
    x, x0 = images(3, 0, shape).double(), images(3, 1, shape).double()[:rows]
    at = sorted({place % x[0].numel() for place in places})
    same = torch.zeros_like(x[0], dtype=torch.bool)
    same.view(-1)[at] = True
    x[1] = torch.where(same, x0[1 % rows], x[1])
    if rows == 3:
        x0 = LAYOUTS[layout](x0)
    step = next(s for s in steps_of(functional.silu, LAYOUTS[layout](x), x0))
    m = multiplier_for(step)
    expected = m * secant(functional.silu, x, x0.expand_as(x))
    sigmoid = x.sigmoid()
    derivative = sigmoid * (1 + x * (1 - sigmoid))
    expected[1] = torch.where(same, m[1] * derivative[1], expected[1])
    assert_same(Slope()(step, m).multipliers[0], expected)


@pytest.mark.parametrize("name", list(NO_VALUE_AT_ZERO))
def test_slope_without_a_value_at_zero(name: str) -> None:
    """log x, 1/x from reference 0: no secant exists, so the gradient, and all of m·y − m·f'(x)·x is unexplained."""
    function = NO_VALUE_AT_ZERO[name]
    x = images(2, 0, (3, 4)).double().abs() + 0.1
    step = step_of(function, x)
    m = multiplier_for(step)
    sent = Slope()(step, m)
    derivative = {"log": 1 / x, "reciprocal": -1 / x**2, "rsqrt": -0.5 * x**-1.5}[name]
    assert_same(sent.multipliers[0], m * derivative)
    assert_same(sent.unexplained, (m * function(x) - m * derivative * x).flatten(1).sum(1))
    other = images(2, 1, (3, 4)).double().abs() + 0.1
    with_baseline = Slope()(step_of(function, x, other), m)
    assert_same(with_baseline.multipliers[0], m * secant(function, x, other))
    assert with_baseline.unexplained is None


# --- what no rule knows -------------------------------------------------------------------------------------------


@REFERENCES
def test_booked(based: bool) -> None:
    """Jᵀm, and m·(z − z0) − Σ m_in (x − x0) is what it leaves."""
    x, x0 = inputs((5,), based)
    step = step_of(lambda x: torch.cumprod(x, 1), x, x0)
    m = multiplier_for(step)
    sent = Booked()(step, m)
    jacobians = torch.stack([torch.autograd.functional.jacobian(lambda v: torch.cumprod(v, 0), row) for row in x])
    to_x = torch.einsum("nji,nj->ni", jacobians, m)
    rise = torch.cumprod(x, 1) - (0 if x0 is None else torch.cumprod(x0, 1))
    assert_same(sent.multipliers[0], to_x)
    assert_same(sent.unexplained, (m * rise).sum(1) - (to_x * (x if x0 is None else x - x0)).sum(1))
    assert sent.offsets_at is None
