"""Operators with arguments other than the usual ones, between a convolution and a dense layer: the books close.

Where f(0) is not 0, it is booked to a bias; where there is no f(0), what it explains is booked as unexplained.
"""

from __future__ import annotations

import math

import pytest
import torch
from dense import Function
from networks import CORE_CONSERVING, images, walked
from torch import Tensor, nn
from torch.nn import functional as F

from heatcli.graph.kinds import FIRST, UNKNOWN
from heatcli.methods.table import METHODS

pytestmark = pytest.mark.usefixtures("way")

A = torch.ops.aten
SIZE, CHANNELS = 6, 4
g = torch.Generator().manual_seed(3)
EACH = torch.randn(CHANNELS, 1, 1, generator=g, dtype=torch.float64)
EVERYWHERE = torch.randn(CHANNELS, SIZE, SIZE, generator=g, dtype=torch.float64)
MASK = torch.rand(SIZE, SIZE, generator=g) < 0.5
MATRIX = torch.randn(SIZE, SIZE, generator=g, dtype=torch.float64)
WEIGHT = torch.randn(CHANNELS, 2, 3, 3, generator=g, dtype=torch.float64)
VECTOR = torch.randn(CHANNELS, generator=g, dtype=torch.float64)


def rows(function: Function) -> Function:
    """`function` of the maps as rows of a matrix, [N·C·H, W]."""
    return lambda x: function(x.reshape(-1, SIZE)).reshape(len(x), CHANNELS, SIZE, -1)


OPERATORS: dict[str, Function] = {
    "hardtanh above 0": lambda x: F.hardtanh(x, 0.2, 0.7),
    "hardtanh below 0": lambda x: F.hardtanh(x, -0.7, -0.2),
    "hardtanh to -inf": lambda x: F.hardtanh(x, -math.inf, 0.3),
    "clamp above 0": lambda x: x.clamp(0.2, 0.7),
    "clamp from 0": lambda x: x.clamp(0),
    "clamp to 0": lambda x: x.clamp(max=0),
    "clamp by tensors": lambda x: x.clamp(EACH, EACH + 0.5),
    "clamp from everywhere else": lambda x: x.clamp(min=EVERYWHERE),
    "clamp crossed": lambda x: x.clamp(0.5, -0.5) + x,
    "clamp_min": lambda x: x.clamp_min(0.1),
    "clamp_max": lambda x: x.clamp_max(-0.1),
    "threshold": lambda x: F.threshold(x, 0.3, 0.5),
    "threshold below 0": lambda x: F.threshold(x, -0.3, -0.5),
    "threshold as relu": lambda x: F.threshold(x, 0, 0),
    "elu": lambda x: A.elu(x, 0.7, 1.3, 2.0),
    "elu that falls": lambda x: A.elu(x, -0.7, 1.3, 2.0),
    "celu": lambda x: F.celu(x, 0.4),
    "selu": F.selu,
    "leaky slope above 1": lambda x: F.leaky_relu(x, 2.0),
    "leaky slope below 0": lambda x: F.leaky_relu(x, -0.5),
    "prelu": lambda x: F.prelu(x, VECTOR),
    "softplus": lambda x: F.softplus(x, 3.0, 1.0),
    "softplus turned": lambda x: F.softplus(x, -2.0),
    "hardshrink": lambda x: F.hardshrink(x, 0.3),
    "softshrink": lambda x: F.softshrink(x, 0.3),
    "tanhshrink": F.tanhshrink,
    "softsign": F.softsign,
    "log sigmoid": F.logsigmoid,
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "pow 3": lambda x: x.pow(3),
    "pow 0": lambda x: x.pow(0) + x,
    "pow 1.5": lambda x: (x * x).pow(1.5),
    "pow -1": lambda x: (x * x + 0.5).pow(-1),
    "pow -0.5": lambda x: (x * x + 0.5).pow(-0.5),
    "pow of a number": lambda x: torch.pow(1.5, x),
    "pow of a tensor": lambda x: torch.pow(EVERYWHERE.abs() + 0.5, x),
    "pow by a tensor": lambda x: torch.pow(x.abs(), EVERYWHERE.abs() + 0.5),
    "maximum": lambda x: torch.maximum(x, EVERYWHERE),
    "minimum": lambda x: torch.minimum(EACH, x),
    "exp, sinc, cos": lambda x: x.exp() + x.sinc() + x.cos(),
    "round, floor, sign": lambda x: (x * 3).round() + x.floor() + x.sign() + x,
    "add alpha": lambda x: torch.add(x, EACH, alpha=-2.0),
    "add alpha of the image": lambda x: torch.add(EVERYWHERE, x, alpha=-2.0),
    "add both": lambda x: torch.add(x, x.tanh(), alpha=-2.0),
    "sub alpha": lambda x: torch.sub(x, 0.7, alpha=3.0),
    "rsub alpha": lambda x: torch.rsub(x, EACH, alpha=3.0),
    "div of a constant": lambda x: EVERYWHERE / (x * x + 0.7),
    "mul by a negative": lambda x: F.relu(x) * -1.5,
    "add a negative": lambda x: F.relu(x) + (-0.5),
    "addcmul": lambda x: torch.addcmul(EACH, x, EVERYWHERE, value=0.5),
    "addcmul of both": lambda x: torch.addcmul(EACH, x, x.tanh(), value=0.5),
    "addmm": rows(lambda x: torch.addmm(VECTOR[0] + MATRIX[0], x, MATRIX, beta=0.5, alpha=-1.5)),
    "baddbmm": lambda x: torch.baddbmm(MATRIX, x[:, 0], MATRIX.expand(len(x), -1, -1), beta=2.0, alpha=0.5),
    "baddbmm of both": lambda x: torch.baddbmm(MATRIX.expand(len(x), -1, -1), x[:, 0], x[:, 1], beta=2.0, alpha=0.5),
    "mean over channels": lambda x: x.mean(1),
    "sum over columns": lambda x: x.sum(-1, keepdim=True),
    "average padding not counted": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "average divided": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, divisor_override=-2),
    "norm 2": lambda x: torch.linalg.vector_norm(x, dim=1),
    "pad by a value": lambda x: F.pad(x, (1, 0, 2, 0), value=0.7),
    "pad channels": lambda x: F.pad(x, (0, 0, 0, 0, 1, 1), value=-0.7),
    "masked fill": lambda x: x.masked_fill(MASK, 0.7),
    "masked fill by a tensor": lambda x: x.masked_fill(MASK, torch.tensor(-0.7, dtype=torch.float64)),
    "where a number": lambda x: torch.where(MASK, x, 0.7),
    "where a tensor": lambda x: torch.where(MASK, EVERYWHERE, x),
    "roll": lambda x: x.roll((1, -2), (2, 3)),
    "tril": lambda x: x.tril(1),
    "stack a constant": lambda x: torch.stack([x[:, 0], EVERYWHERE[0].expand(len(x), -1, -1)], 1),
    "cat a constant": lambda x: torch.cat([x, EVERYWHERE.expand(len(x), -1, -1, -1)], 1),
    "write into a constant": lambda x: EVERYWHERE.expand(len(x), -1, -1, -1).select_scatter(x[:, 0], 1, 0),
    "times a larger constant": lambda x: x[:, :, :1] * MATRIX,
    "cut to nothing and put back": lambda x: torch.cat([x, x[:, :, SIZE:].exp()], 2),
    "fold": lambda x: F.fold(F.unfold(x, 3), (SIZE, SIZE), 3),
    "cumsum": lambda x: x.cumsum(2),
    "convolution grouped": lambda x: F.conv2d(x, WEIGHT, VECTOR, 2, 2, 2, 2),
    "convolution transposed": lambda x: F.conv_transpose2d(x, WEIGHT, VECTOR[:2].repeat(2), 2, 1, 1, 2, 1),
    "layer norm": lambda x: F.layer_norm(x, (SIZE, SIZE), MATRIX, MATRIX.roll(1, 0), 0.1),
    "group norm": lambda x: F.group_norm(x, 2, VECTOR, VECTOR.roll(1), 0.1),
    "softmax": lambda x: x.softmax(1) * EACH,
    "softmax behind a mask": lambda x: x.masked_fill(MASK, -torch.inf).softmax(-1) * EACH,
    "softmax behind an added mask": lambda x: (x + torch.ones(SIZE, SIZE).tril().log().double()).softmax(-1) * EACH,
    "softmax behind a mask among biases": lambda x: (x + MATRIX.masked_fill(MASK, -torch.inf)).softmax(-1) * EACH,
    "log softmax": lambda x: x.log_softmax(-1) * EACH,
    "max pool": lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "max over a dimension": lambda x: x.max(2).values,
    "amin": lambda x: x.amin((2, 3), keepdim=True),
    "root of what a ReLU gave": lambda x: F.relu(x).sqrt(),
    "interpolate": lambda x: F.interpolate(x, scale_factor=1.7, mode="bicubic", align_corners=False),
}


# They have no value at zero: without a baseline their share is booked as unexplained, under their name.
NOT_AT_ZERO = ("pow -1", "pow -0.5", "div of a constant")


class Between(nn.Module):
    """A convolution, an operator, a dense layer."""

    def __init__(self, operator: Function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.operator = nn.Conv2d(3, CHANNELS, 3, padding=1).double(), operator
        with torch.no_grad():
            self.fc = nn.Linear(self.maps(images(1, 0, (3, SIZE, SIZE)).double()).shape[1], 3).double()

    def maps(self, x: Tensor) -> Tensor:
        return self.operator(self.conv(x)).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.maps(x))


@pytest.mark.parametrize("name", list(OPERATORS))
def test_books_close_without_a_baseline(name: str) -> None:
    module, batch = Between(OPERATORS[name]), images(3, 1, (3, SIZE, SIZE)).double()
    for method in CORE_CONSERVING:
        found = walked(module, batch, METHODS[method])
        assert not any(op.kind == UNKNOWN for op in found.graph.operators if op.sources), method
        size = found.output.abs().max() + sum(e.abs().sum() for e in found.books.biases.values())
        lost = sum(entry.abs().max() for entry in found.books.unexplained.values())
        assert found.left.abs().max() < 1e-9 * size, method
        assert (lost > 1e-3 * size) if name in NOT_AT_ZERO else (lost < 1e-9 * size), method


@pytest.mark.parametrize("name", [name for name in OPERATORS if name not in NOT_AT_ZERO])
def test_what_zero_gives_is_booked(name: str) -> None:
    """With the image at zero and no bias before it, all of the score is biases, by the operators between."""
    module = Between(OPERATORS[name])
    nn.init.zeros_(module.conv.bias)
    batch = torch.zeros(2, 3, SIZE, SIZE, dtype=torch.float64)
    found = walked(module, batch, METHODS["lrp-0"])
    booked = sum(entry.sum(1) for entry in found.books.biases.values())
    torch.testing.assert_close(booked, found.output[:, 0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", list(OPERATORS))
def test_books_close_with_a_baseline(name: str) -> None:
    """For any baseline; with image and baseline exchanged, the relevance changes its sign."""
    module = Between(OPERATORS[name])
    x, x0 = images(2, 1, (3, SIZE, SIZE)).double(), images(2, 2, (3, SIZE, SIZE)).double()
    for method in ("deeplift-rescale", "deeplift-reveal-cancel"):
        there, back = (walked(module, a, METHODS[method], b) for a, b in ((x, x0), (x0, x)))
        size = there.relevance.abs().sum() + there.output.abs().sum()
        assert float(there.left.abs().max()) < 1e-9 * float(size), method
        torch.testing.assert_close(there.relevance, -back.relevance, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if FIRST in method.rules])
def test_padding_before_the_first_layer_takes_its_share(method: str) -> None:
    """What a first layer's rule gives to places that no pixel fills is booked there."""
    module = Between(torch.relu)
    batch = images(2, 1, (3, SIZE - 2, SIZE - 1)).double()
    found = walked(lambda x: module(F.pad(x, (1, 0, 2, 0), value=0.5)), batch, METHODS[method])
    assert float(found.left.abs().max()) < 1e-9 * float(found.output.abs().max())
    assert any("constant_pad_nd" in name for name in found.books.absorbed)
