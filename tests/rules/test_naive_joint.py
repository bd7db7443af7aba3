"""Winner, Share and HeldStatistics against naive float64 replicas: loops over windows, halves, explicit secants."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from dense import REFERENCES, assert_same, booked, inputs, multiplier_for
from networks import graph_of, images, randomised, step_of, walked
from torch import Tensor, nn
from torch.nn import functional

from heatcli.engine.forward import forward
from heatcli.methods.table import METHODS
from heatcli.rules.maximum import Winner
from heatcli.rules.normaliser import HeldStatistics, SoftmaxTaylor
from heatcli.rules.product import Share, SignalTakesAll
from heatcli.rules.rule import Step

pytestmark = pytest.mark.usefixtures("way")

# --- maxima -------------------------------------------------------------------------------------------------------

Windows = list[tuple[tuple[int, ...], list[tuple[int, ...]]]]


def pooled(shape: tuple[int, ...], kernel: int, stride: int, padding: int, dilation: int) -> Windows:
    """For each output place of a 2-d pooling [C, H, W] the input places of its window."""
    c, h, w = shape
    reach = dilation * (kernel - 1) + 1
    out_h, out_w = ((n + 2 * padding - reach) // stride + 1 for n in (h, w))
    windows: Windows = []
    for k, i, j in product(range(c), range(out_h), range(out_w)):
        rows = [i * stride - padding + dilation * a for a in range(kernel)]
        columns = [j * stride - padding + dilation * b for b in range(kernel)]
        places = [(k, r, q) for r in rows for q in columns if 0 <= r < h and 0 <= q < w]
        windows.append(((k, i, j), places))
    return windows


def adaptive(shape: tuple[int, ...], out: int) -> Windows:
    c, h, w = shape
    spans = [[range(i * n // out, -(-(i + 1) * n // out)) for i in range(out)] for n in (h, w)]
    return [
        ((k, i, j), [(k, r, q) for r in spans[0][i] for q in spans[1][j]])
        for k, i, j in product(range(c), range(out), range(out))
    ]


def along(shape: tuple[int, ...]) -> Windows:
    """The maximum over the channels."""
    c, h, w = shape
    return [((i, j), [(k, i, j) for k in range(c)]) for i, j in product(range(h), range(w))]


SHAPE = (2, 6, 5)
MAXIMA: dict[str, tuple[Callable[[Tensor], Tensor], Windows, bool]] = {
    "max_pool2d": (lambda x: functional.max_pool2d(x, 2), pooled(SHAPE, 2, 2, 0, 1), False),
    "overlapping": (lambda x: functional.max_pool2d(x, 3, 1, 1), pooled(SHAPE, 3, 1, 1, 1), False),
    "dilated": (lambda x: functional.max_pool2d(x, 2, 2, 1, 2), pooled(SHAPE, 2, 2, 1, 2), False),
    "adaptive": (lambda x: functional.adaptive_max_pool2d(x, 3), adaptive(SHAPE, 3), False),
    "amax": (lambda x: x.amax(1), along(SHAPE), False),
    "amin": (lambda x: x.amin(1), along(SHAPE), True),
    "max": (lambda x: x.max(1)[0], along(SHAPE), False),
    "min": (lambda x: x.min(1)[0], along(SHAPE), True),
}


def naive_winner(m: Tensor, x: Tensor, x0: Tensor | None, windows: Windows, least: bool) -> Tensor:
    """Relevance of one image: a window's goes to its winner; of a difference, the part above max(y, y0) to …

    y − y0 = (max(y, y0) − y0) + (y − max(y, y0)): the first term to the image's winner, the second to the baseline's
    (for a minimum the other way round, as min x = −max −x).
    """
    sign = -1 if least else 1
    relevance = torch.zeros_like(x)
    for place, window in windows:
        winner = max(window, key=lambda p: sign * float(x[p]))
        if x0 is None:
            relevance[winner] += m[place] * x[winner]
            continue
        former = max(window, key=lambda p: sign * float(x0[p]))
        y, y0 = sign * x[winner], sign * x0[former]
        highest = max(y, y0)
        relevance[winner] += m[place] * sign * (highest - y0)
        relevance[former] += m[place] * sign * (y - highest)
    return relevance


@REFERENCES
@pytest.mark.parametrize("name", list(MAXIMA))
def test_winner(name: str, based: bool) -> None:
    function, windows, least = MAXIMA[name]
    x, x0 = inputs(SHAPE, based)
    step = step_of(function, x, x0)
    assert step.operator.kind == "maximum"
    m = multiplier_for(step)
    sent = Winner()(step, m)
    expected = [naive_winner(m[n], x[n], None if x0 is None else x0[n], windows, least) for n in range(2)]
    found = sent.multipliers[0]
    assert found is not None
    assert_same(found * (x if x0 is None else x - x0), torch.stack(expected))


@REFERENCES
@pytest.mark.parametrize("least", [False, True], ids=["maximum", "minimum"])
def test_winner_of_two_tensors(least: bool, based: bool) -> None:
    function = torch.minimum if least else torch.maximum
    x, x0 = inputs((2, 3, 4), based)
    step = step_of(lambda x: function(x[:, 0], x[:, 1]), x, x0, title=function.__name__)
    m = multiplier_for(step)
    sent = Winner()(step, m)
    windows: Windows = [((i, j), [(0, i, j), (1, i, j)]) for i, j in product(range(3), range(4))]
    expected = torch.stack([naive_winner(m[n], x[n], None if x0 is None else x0[n], windows, least) for n in range(2)])
    dx = x if x0 is None else x - x0
    assert_same(torch.stack([sent.multipliers[i] * dx[:, i] for i in range(2)], 1), expected)


@pytest.mark.parametrize("exchanged", [False, True], ids=["flat baseline", "flat image"])
@pytest.mark.parametrize("noise", [0.0, 1e-16], ids=["flat", "flat up to rounding"])
def test_a_change_is_shared_by_what_ties_at_its_upper_end(noise: float, exchanged: bool) -> None:
    """Every window of a flat baseline is all its largest: each input has an equal part, whatever rounding says.

    Where image and baseline are exchanged, each part changes its sign.
    """
    x, _ = inputs((2, 4, 6), based=False)
    x = x.abs() * torch.where(images(2, 9, (2, 4, 6)) > 0, 1, -1)
    flat = 2.5 + noise * images(2, 5, (2, 4, 6)).double().sign()
    x0 = flat.clone()
    x0[0, 0, 0, 0] = 3.0  # one window has a largest of its own
    ends = (x0, x) if exchanged else (x, x0)
    step = step_of(lambda x: functional.max_pool2d(x, 2), *ends, title="max_pool2d_with_indices")
    m = multiplier_for(step)
    (found,) = Winner()(step, m).multipliers
    dx, dy = x - x0, step.difference.detach() * (-1 if exchanged else 1)
    expected = torch.zeros_like(x)
    for n, c, h, w in product(range(2), range(2), range(2), range(3)):
        window = [(n, c, 2 * h + i, 2 * w + j) for i, j in product(range(2), range(2))]
        fell = min(float(dy[n, c, h, w]), 0)
        tied = [at for at in window if x0[at] > x0[window[0]] - 1e-9] if fell else []
        for at in tied:
            expected[at] += m[n, c, h, w] * fell / len(tied)
        winner = max(window, key=lambda at: float(x[at]))
        expected[winner] += m[n, c, h, w] * max(float(dy[n, c, h, w]), 0)
    assert bool((dy < 0).any())
    assert_same(found * dx, expected)


@pytest.mark.parametrize("title", ["max_pool2d_with_indices", "amax"])
def test_a_change_by_a_few_rounding_steps_is_divided(title: str) -> None:
    """One input of a constant window moves 0 to 40 steps of float32: finite, and the parts add up to its change."""
    start = images(1, 3, (1, 1, 810)).abs().float().add(0.5).repeat_interleave(2, 3).expand(1, 1, 2, -1)
    steps = torch.stack([torch.arange(-405, 405) % 81 - 40, torch.zeros(810)], 1).flatten().float()
    x = start + steps * torch.finfo(torch.float32).eps * start.log2().floor().exp2() * torch.tensor([[1.0], [0.0]])
    pool = (
        (lambda x: functional.max_pool2d(x, 2)) if title != "amax" else lambda x: x.unflatten(3, (-1, 2)).amax((2, 4))
    )
    step = step_of(pool, x, start, title=title)
    (found,) = Winner()(step, torch.ones_like(step.output)).multipliers
    assert isinstance(found, Tensor)
    assert found.isfinite().all()
    parts = found * step.input_difference(0)
    assert found.abs().max() <= 1 + 1e-5
    torch.testing.assert_close(parts.sum(), step.difference.sum(), rtol=1e-3, atol=1e-6)


# --- products -----------------------------------------------------------------------------------------------------


def halves(a: Tensor, b: Tensor, a0: Tensor, b0: Tensor) -> tuple[Tensor, Tensor]:
    """Of a·b − a0·b0 the half-half shares: Δa·(b + b0)/2 and Δb·(a + a0)/2."""
    return (a - a0) * (b + b0) / 2, (b - b0) * (a + a0) / 2


@REFERENCES
@pytest.mark.parametrize("broadcast", [False, True])
def test_share_of_a_product(broadcast: bool, based: bool) -> None:
    x, x0 = inputs((3, 4), based)

    def parts(x: Tensor) -> tuple[Tensor, Tensor]:
        return (x[:, :1], x[:, 1:]) if broadcast else (x[:, 0], x[:, 1])

    step = step_of(lambda x: torch.mul(*parts(x)), x, x0, title="mul")
    m = multiplier_for(step)
    sent = Share()(step, m)
    (a, b), (a0, b0) = parts(x), parts(torch.zeros_like(x) if x0 is None else x0)
    to_a, to_b = halves(a, b, a0, b0)
    assert_same(sent.multipliers[0] * (a - a0), (m * to_a).sum(1, keepdim=True) if broadcast else m * to_a)
    assert_same(sent.multipliers[1] * (b - b0), m * to_b)


@REFERENCES
@pytest.mark.parametrize("title", ["bmm", "mm"])
def test_share_of_a_matrix_product(title: str, based: bool) -> None:
    """Every single product a_ik·b_kj of it is shared by halves."""
    x, x0 = inputs((2, 3, 3), based)
    if title == "bmm":
        step = step_of(lambda x: torch.bmm(x[:, 0], x[:, 1]), x, x0, title="bmm")
        places = list(product(range(2), range(3), range(3), range(3)))
    else:
        step = step_of(lambda x: torch.mm(x[:, 0, 0], x[0, 1]), x, x0, title="mm")
        places = [(0, i, k, j) for i, k, j in product(range(2), range(3), range(3))]
    m = multiplier_for(step)
    sent = Share()(step, m)
    a, b = (v.detach() for v in step.inputs)
    a0, b0 = (torch.zeros_like(a), torch.zeros_like(b)) if step.reference_inputs is None else step.reference_inputs
    to_a, to_b = torch.zeros_like(a), torch.zeros_like(b)
    for n, i, k, j in places:
        left, right, out = ((n, i, k), (n, k, j), (n, i, j)) if title == "bmm" else ((i, k), (k, j), (i, j))
        share = halves(a[left], b[right], a0[left], b0[right])
        to_a[left] += m[out] * share[0]
        to_b[right] += m[out] * share[1]
    assert_same(sent.multipliers[0] * (a - a0), to_a)
    assert_same(sent.multipliers[1] * (b - b0), to_b)


@REFERENCES
@pytest.mark.parametrize("turned", [False, True], ids=["one sign", "two signs"])
def test_share_of_a_quotient(turned: bool, based: bool) -> None:
    """a = q·b by halves, of which q is told the rest; a·(1/b) by halves where b and b0 differ in sign.

    All to the numerator where 1/0 would be the reference.
    """
    x, x0 = inputs((2, 3, 4), based)
    x, x0 = x.abs() + 0.5, None if x0 is None else (x0.abs() + 0.5) * (-1 if turned else 1)
    step = step_of(lambda x: x[:, 0] / x[:, 1], x, x0, title="div")
    m = multiplier_for(step)
    sent = Share()(step, m)
    a, b = x[:, 0], x[:, 1]
    if x0 is None:
        assert_same(sent.multipliers[0] * a, m * a / b)
        assert_same(sent.multipliers[1], torch.zeros_like(b))
        return
    a0, b0 = x0[:, 0], x0[:, 1]
    if turned:
        to_a, to_b = halves(a, 1 / b, a0, 1 / b0)
    else:
        # Δa = Δq·(b + b0)/2 + Δb·(q + q0)/2, solved for Δq
        to_a = (a - a0) * 2 / (b + b0)
        to_b = -(b - b0) * (a / b + a0 / b0) / (b + b0)
    torch.testing.assert_close(to_a + to_b, a / b - a0 / b0)
    assert_same(sent.multipliers[0] * (a - a0), m * to_a)
    assert_same(sent.multipliers[1] * (b - b0), m * to_b)


# --- normalisers --------------------------------------------------------------------------------------------------


# --- gates --------------------------------------------------------------------------------------------------------

# (gate of x [N, 3, 4], signal of x): the gate is a weight, the signal takes all.
GATES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "sigmoid": (torch.sigmoid, lambda x: x * 2),
    "sigmoid and tanh": (torch.sigmoid, torch.tanh),
    "rest of a sigmoid": (lambda x: 1 - torch.sigmoid(x), torch.tanh),
    "part of a sigmoid": (lambda x: torch.sigmoid(torch.cat([x, x], 2))[:, :, 2:6], lambda x: x * 2),
    "tanh": (torch.tanh, lambda x: x * 2),
    "softmax": (lambda x: x.softmax(2), torch.tanh),
}


@REFERENCES
@pytest.mark.parametrize("first", [True, False], ids=["gate first", "signal first"])
@pytest.mark.parametrize("name", list(GATES))
def test_the_signal_takes_all(name: str, first: bool, based: bool) -> None:
    """Δ(gs) = g·Δs + Δg·s0."""
    gate, signal = GATES[name]
    x, x0 = inputs((3, 4), based)
    step = product_of(gate, signal, first, x, x0)
    m = multiplier_for(step)
    with torch.no_grad():
        sent = SignalTakesAll()(step, m).multipliers
    s0 = torch.zeros_like(x) if x0 is None else signal(x0)
    assert_same(sent[0 if first else 1], m * s0)
    assert_same(sent[1 if first else 0], m * gate(x))


@pytest.mark.parametrize(
    "factor", [torch.sigmoid, torch.tanh, lambda x: x * 2], ids=["two sigmoids", "two tanhs", "two signals"]
)
def test_without_one_gate_a_product_is_shared(factor: Callable[[Tensor], Tensor]) -> None:
    x, x0 = inputs((3, 4), True)
    step = product_of(factor, lambda x: factor(x.flip(2)), True, x, x0)
    m = multiplier_for(step)
    with torch.no_grad():
        found, expected = SignalTakesAll()(step, m).multipliers, Share()(step, m).multipliers
    assert_same(found[0], expected[0])
    assert_same(found[1], expected[1])


def product_of(
    a: Callable[[Tensor], Tensor], b: Callable[[Tensor], Tensor], forwards: bool, x: Tensor, x0: Tensor | None
) -> Step:
    """The step that multiplies a(x) and b(x), or b(x) and a(x)."""
    function = (lambda x: a(x) * b(x)) if forwards else (lambda x: b(x) * a(x))
    steps = forward(graph_of(function, x), x, x0).steps
    return next(step for step in steps if step.operator.kind == "product")


def standardiser(x: Tensor, x0: Tensor | None, eps: float, centred: bool = True) -> Tensor:
    """M [n, n] with Δy = M Δx for y = (x − mean)·(var + eps)^-½ of one group x [n], or y = x·(mean x² + eps)^-½.

    From reference 0 the deviation σ is held: M = (δ − 1/n)/σ. With a baseline c = y·σ is a product by halves, solved
    for Δy; σ is a function of the variance by its secant, the variance the mean of c², each c² by its secant c + c0.
    """
    n = len(x)
    centre = torch.eye(n, dtype=x.dtype) - (1 / n if centred else 0)
    c = centre @ x
    v = float((c**2).mean())
    if x0 is None:
        return centre / (v + eps) ** 0.5
    c0 = centre @ x0
    v0 = float((c0**2).mean())
    s, s0 = (v + eps) ** 0.5, (v0 + eps) ** 0.5
    slope = (s - s0) / (v - v0)
    to_c = torch.zeros(n, n, dtype=x.dtype)
    for j, k in product(range(n), range(n)):
        from_deviation = (c[j] / s + c0[j] / s0) / 2 * slope * (c[k] + c0[k]) / n
        to_c[j, k] = (float(j == k) - from_deviation) * 2 / (s + s0)
    torch.testing.assert_close(to_c @ (c - c0), c / s - c0 / s0)
    return to_c @ centre


NORMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "layer": (lambda: nn.LayerNorm(5), (3, 5), 5),
    "layer-over-two": (lambda: nn.LayerNorm((3, 4)), (2, 3, 4), 12),
    "layer-without-parameters": (lambda: nn.LayerNorm(5, elementwise_affine=False), (3, 5), 5),
    "rms": (lambda: nn.RMSNorm(5, eps=1e-5), (3, 5), 5),
    "rms-over-two": (lambda: nn.RMSNorm((3, 4), eps=1e-5), (2, 3, 4), 12),
    "rms-without-parameters": (lambda: nn.RMSNorm(5, eps=1e-5, elementwise_affine=False), (3, 5), 5),
    "group": (lambda: nn.GroupNorm(2, 4), (4, 3, 2), 12),
    "group-without-parameters": (lambda: nn.GroupNorm(2, 4, affine=False), (4, 3, 2), 12),
}


def per_element(norm: nn.Module, name: str, shape: tuple[int, ...]) -> Tensor | None:
    """An affine parameter of `norm`, repeated for every element of one image."""
    value = getattr(norm, name, None)
    if value is None:
        return None
    laid = value.detach().reshape(-1, 1, 1) if isinstance(norm, nn.GroupNorm) else value.detach()
    return laid.expand(shape).flatten()


@REFERENCES
@pytest.mark.parametrize("name", list(NORMS))
def test_held_statistics(name: str, based: bool) -> None:
    build, shape, group = NORMS[name]
    norm = randomised(build(), 5).double()
    x, x0 = inputs(shape, based)
    step = step_of(norm, x, x0)
    assert step.operator.kind == "normaliser"
    m = multiplier_for(step)
    sent = HeldStatistics()(step, m)
    weight = per_element(norm, "weight", shape)
    carried = (m.flatten(1) if weight is None else m.flatten(1) * weight).reshape(2, -1, group)
    expected = torch.zeros_like(carried)
    for n, g in product(range(2), range(carried.shape[1])):
        rows = x[n].reshape(-1, group)[g], None if x0 is None else x0[n].reshape(-1, group)[g]
        expected[n, g] = carried[n, g] @ standardiser(*rows, norm.eps, not isinstance(norm, nn.RMSNorm))
    assert_same(sent.multipliers[0].flatten(1), expected.flatten(1))
    bias = per_element(norm, "bias", shape)
    if bias is None:
        assert not booked(step, sent).biases
        return
    shares = (m * bias.reshape(shape)).flatten(1).reshape(2, *shape)
    kept = shares.sum((2, 3)) if name == "group" else shares.sum(1)
    (found,) = booked(step, sent).biases.values()
    assert_same(found, torch.zeros_like(found) if based else kept.flatten(1))


def softmaxed(x: Tensor, x0: Tensor, logarithm: bool) -> Tensor:
    """M [n, n] with Δy = M Δx for y = e^u (or u itself), u = x − log S, S = Σ e^x, each step by its secant."""
    total, total0 = float(torch.exp(x).sum()), float(torch.exp(x0).sum())
    to_log = (math.log(total) - math.log(total0)) / (total - total0)
    u, u0 = x - x.logsumexp(0), x0 - x0.logsumexp(0)
    matrix = torch.zeros(len(x), len(x), dtype=x.dtype)
    for j, k in product(range(len(x)), range(len(x))):
        exp_k = (x[k].exp() - x0[k].exp()) / (x[k] - x0[k])
        outer = 1.0 if logarithm else float((u[j].exp() - u0[j].exp()) / (u[j] - u0[j]))
        matrix[j, k] = outer * (int(j == k) - to_log * exp_k)
    return matrix


@REFERENCES
@pytest.mark.parametrize("logarithm", [False, True], ids=["softmax", "log-softmax"])
@pytest.mark.parametrize("scale", [0.3, 2.0, 8.0])
def test_softmax_inside_a_network(scale: float, logarithm: bool, based: bool) -> None:
    """From reference 0 its value is 1/n (−log n), booked as its offset; attention's softmax is one of these."""
    x, x0 = (None if v is None else v * scale for v in inputs((3, 4), based))
    assert x is not None
    function = functional.log_softmax if logarithm else functional.softmax
    step = step_of(lambda x: function(x, dim=2) * 2, x, x0, title="_log_softmax" if logarithm else "_softmax")
    m = multiplier_for(step)
    sent = HeldStatistics()(step, m)
    expected = torch.zeros_like(x)
    for n, i in product(range(2), range(3)):
        start = torch.zeros_like(x[n, i]) if x0 is None else x0[n, i]
        expected[n, i] = m[n, i] @ softmaxed(x[n, i], start, logarithm)
    size = float(expected.abs().max())
    # secants over differences below 1e-3 are replaced by the derivative halfway, exact to the square of that
    torch.testing.assert_close(sent.multipliers[0], expected, rtol=1e-7, atol=1e-7 * size)
    (found,) = booked(step, sent).biases.values()
    at_zero = -math.log(4) if logarithm else 0.25
    assert_same(found, torch.zeros_like(found) if based else (m * at_zero).sum((1, 2))[:, None])


def test_softmax_where_nothing_differs_is_the_gradient() -> None:
    x = images(2, 0, (3, 4)).double()
    step = step_of(lambda x: x.softmax(2) * 2, x, x.clone(), title="_softmax")
    m = multiplier_for(step)
    y = x.softmax(2)
    assert_same(HeldStatistics()(step, m).multipliers[0], y * (m - (m * y).sum(2, keepdim=True)))


@pytest.mark.parametrize("scale", [0.3, 2.0, 8.0])
def test_the_taylor_expansion_of_a_softmax(scale: float) -> None:
    """R_i = x_i (R_i − s_i Σ_j R_j), in loops; the constant s − J x of each row is booked as its offset."""
    x = inputs((3, 4), False)[0] * scale
    step = step_of(lambda x: x.softmax(2) * 2, x, title="_softmax")
    m = multiplier_for(step)
    sent = SoftmaxTaylor()(step, m)
    expected, constant = torch.zeros_like(x), torch.zeros(2, 1, dtype=x.dtype)
    for n, i in product(range(2), range(3)):
        s = x[n, i].exp() / x[n, i].exp().sum()
        arriving = m[n, i] * s
        for k in range(4):
            expected[n, i, k] = x[n, i, k] * (arriving[k] - s[k] * arriving.sum())
            jacobian = torch.tensor([s[k] * (float(j == k) - s[j]) for j in range(4)], dtype=x.dtype)
            constant[n] += m[n, i, k] * (s[k] - (jacobian * x[n, i]).sum())
    assert_same(sent.multipliers[0] * x, expected)
    (found,) = booked(step, sent).biases.values()
    assert_same(found, constant)


def test_the_taylor_expansion_of_a_masked_softmax_is_that_of_the_rest() -> None:
    x = inputs((3, 4), False)[0]
    mask = torch.tensor([False, True, False, False])
    step, short = (
        step_of(f, x, title="_softmax")
        for f in (lambda x: x.masked_fill(mask, -torch.inf).softmax(2) * 2, lambda x: x[:, :, [0, 2, 3]].softmax(2) * 2)
    )
    m = multiplier_for(step)
    with torch.no_grad():
        sent, alone = SoftmaxTaylor()(step, m), SoftmaxTaylor()(short, m[:, :, [0, 2, 3]])
    assert_same(sent.multipliers[0][:, :, [0, 2, 3]], alone.multipliers[0])
    assert not sent.multipliers[0][:, :, 1].any()
    (found,), (other,) = booked(step, sent).biases.values(), booked(short, alone).biases.values()
    assert_same(found, other)


def test_a_difference_of_softmaxes_goes_by_the_secant() -> None:
    x, x0 = inputs((3, 4), True)
    step = step_of(lambda x: x.softmax(2) * 2, x, x0, title="_softmax")
    m = multiplier_for(step)
    with torch.no_grad():
        assert_same(SoftmaxTaylor()(step, m).multipliers[0], HeldStatistics()(step, m).multipliers[0])


class Flat(nn.Module):
    """Layer norms with nothing but zeros at a black image, where 1/σ0 is a thousand, in blocks with a shortcut."""

    def __init__(self, depth: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norms = nn.ModuleList(nn.LayerNorm(12, eps=1e-6) for _ in range(depth))
        self.layers = nn.ModuleList(nn.Linear(12, 12, bias=False) for _ in range(depth))
        self.fc = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + functional.gelu(layer(norm(x)))
        return self.fc(x)


@pytest.mark.parametrize("divided", [False, True], ids=["whole", "as a quotient"])
def test_a_flat_baseline_closes_in_float32(divided: bool) -> None:
    """Shares of a thousand times the score, layer upon layer, would cancel beyond what float32 holds."""
    module, batch = Flat(), images(3, 1, (12,)) * 0.1
    if divided:
        for i, norm in enumerate(module.norms):
            module.norms[i] = Quotient(norm.eps)
    one, other = (walked(module.to(x), batch.to(x), METHODS["deeplift-rescale"], torch.zeros_like(batch).to(x))
                  for x in (torch.float32, torch.float64))  # fmt: skip
    assert one.relevance.abs().sum() < 100 * one.output.abs().sum()
    assert one.left.abs().max() < 1e-5 * one.output.abs().max()
    torch.testing.assert_close(one.relevance.double(), other.relevance, rtol=1e-3, atol=1e-4)


class Quotient(nn.Module):
    """A layer norm as older exporters write it down: c/√(v + e)."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        c = x - x.mean(-1, keepdim=True)
        return c / ((c * c).mean(-1, keepdim=True) + self.eps).sqrt()
