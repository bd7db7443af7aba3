"""Vector-Jacobian products in closed form are torch's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from networks import graph_of, images, randomised
from torch import Tensor, nn
from torch.nn import functional

from heatcli.engine.forward import forward
from heatcli.graph.adjoints import closed_form
from heatcli.graph.kinds import LAYOUT

NORM = randomised(nn.BatchNorm2d(3), 3).double()
ROWS = randomised(nn.BatchNorm1d(3), 4).double()
CASES: dict[str, Callable[[Tensor], Tensor]] = {
    "mean of pixels": lambda x: x.mean((2, 3), keepdim=True),
    "mean of channels": lambda x: x.mean(1, keepdim=True),
    "mean of all": lambda x: x.mean((1, -1, -2), keepdim=True),
    "batch norm": NORM,
    "batch norm of rows": lambda x: ROWS(x[:, :, 0]),
    "batch norm without weights": randomised(nn.BatchNorm2d(3, affine=False), 5).double(),
    "sum": lambda x: x + x.mean(1, keepdim=True),
    "sum with a constant": lambda x: x + torch.arange(5.0),
    "sum of a value with itself": lambda x: x + x,
    "product": lambda x: x * x.mean((2, 3), keepdim=True),
    "product of a value with itself": lambda x: x * x,
    "channels side by side": lambda x: torch.cat([x, x.relu(), x[:, :1]], 1),
    "rows side by side": lambda x: torch.cat([x, x[:, :, 1:]], dim=-2),
    "flattened": lambda x: x.flatten(1),
    "one dimension more": lambda x: x.unsqueeze(1),
    "one dimension less": lambda x: x.mean((2, 3), keepdim=True).squeeze(-1),
    "relu": torch.relu,
    "sigmoid": lambda x: x.sigmoid().unsqueeze(1),  # at the end it would be taken off
    "tanh": torch.tanh,
    "silu": functional.silu,
    "hardswish": functional.hardswish,
    "hardsigmoid": functional.hardsigmoid,
}


def assert_torchs(function: Callable[[Tensor], Tensor], x: Tensor, channels_last: bool, atol: float) -> None:
    """The last operator, as it is written, has a closed form; each that has one has torch's products, in float64."""
    x = x.double().contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    steps = forward(graph_of(function, x, passes=()), x).steps
    products = [closed_form(step.operator) for step in steps]
    assert products[-1] is not None
    for step, product in zip(steps, products, strict=True):
        m = torch.randn_like(step.output)
        expected = step.gradient(*step.run(step.operator, step.inputs), m)
        found = expected if product is None else product(step.operator, step.inputs, step.output, m)
        for own, torchs in zip(found, expected, strict=True):
            torch.testing.assert_close(own, torchs, rtol=1e-12, atol=atol)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("case", list(CASES))
def test_closed_forms(case: str, channels_last: bool) -> None:
    """Of random multipliers, in either layout."""
    assert_torchs(CASES[case], images(2, 1, (3, 4, 5)), channels_last, atol=1e-15)


@pytest.mark.parametrize("case", ["product", "sigmoid", "tanh", "silu", "batch norm", "flattened"])
def test_products_have_derivatives_where_they_are_wanted(case: str) -> None:
    """By the input, for losses on relevance."""
    x = images(2, 1, (3, 2, 2)).double()
    graph, m = graph_of(CASES[case], x), torch.randn(30, dtype=torch.float64)

    def products(x: Tensor) -> tuple[Tensor, ...]:
        """Of each operator, of its output times numbers: none is constant."""
        steps = forward(graph, x, differentiable=True).steps
        found = [step.adjoint(m[: step.output.numel()].reshape(step.output.shape) * step.output) for step in steps]
        return tuple(part.contiguous() for parts in found for part in parts if part is not None)

    assert torch.autograd.gradcheck(products, x.requires_grad_())


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("kernel", "step", "padding", "channels"),
    [(7, 2, 3, 3), (4, 4, 0, 3), ((5, 11), 4, (2, 1), 1), (6, 5, 0, 4), (4, 7, (3, 0), 2)],
)
def test_convolutions_of_pictures(
    kernel: int | tuple[int, int], step: int, padding: int | tuple[int, int], channels: int, channels_last: bool
) -> None:
    """Wide windows some steps apart, and pixels at the far ends that none of them sees."""
    layer = randomised(nn.Conv2d(channels, 5, kernel, step, padding), 6).double()
    assert_torchs(layer, images(2, 1, (channels, 24, 19)), channels_last, atol=1e-13)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 4, 3, 2), nn.Conv2d(3, 4, 5, 1), nn.Conv2d(8, 4, 7, 2), nn.Conv2d(3, 6, 5, 2, groups=3),
        nn.Conv2d(3, 4, 4, 2, dilation=2), nn.Conv2d(3, 4, 5, (2, 1)), nn.ConvTranspose2d(3, 4, 4, 2),
    ],
    ids=repr,
)  # fmt: skip
def test_other_convolutions(layer: nn.Conv2d | nn.ConvTranspose2d, channels_last: bool) -> None:
    """Narrow windows, no steps, many channels, groups, holes, uneven steps, transposed ones."""
    assert_torchs(randomised(layer, 7).double(), images(2, 1, (layer.in_channels, 12, 12)), channels_last, atol=1e-13)


@pytest.mark.parametrize("transposed", [False, True])
def test_dense_layers(transposed: bool) -> None:
    """Rows times a matrix, and times its transpose as a linear layer has it."""
    matrix = torch.randn(5, 5, dtype=torch.float64)
    function = (lambda x: nn.functional.linear(x, matrix)) if transposed else (lambda x: torch.mm(x, matrix))
    assert_torchs(function, images(2, 1, (5,)), channels_last=False, atol=1e-13)


OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "a mean that loses dimensions": lambda x: x.mean((2, 3)),
    "a mean of all": torch.mean,
    "a norm by the image's own statistics": nn.InstanceNorm2d(3),
    "a sum with a factor": lambda x: torch.add(x, x.relu(), alpha=2),
    "a product with a constant": lambda x: x * 2,
    "a constant beside the image": lambda x: torch.cat([x, torch.ones(len(x), 1, 4, 5)], 1),
    "a convolution by weights of the image": lambda x: functional.conv2d(torch.ones(1, 3, 4, 5), x[:1]),
    "a matrix of the image": lambda x: torch.mm(torch.ones(2, 3), x[:, 0, 0, :3].mT),
    "not in the table": torch.erf,
}


@pytest.mark.parametrize("case", list(OTHERS))
def test_others_are_left_to_torch(case: str) -> None:
    """What is like them, but that the form does not fit."""
    x = images(2, 1, (3, 4, 5))
    step = next(s for s in reversed(forward(graph_of(OTHERS[case], x), x).steps) if s.operator.kind != LAYOUT)
    assert closed_form(step.operator) is None
    assert step.output.requires_grad  # it has a tape
    assert step.adjoint(torch.ones_like(step.output))[0] is not None


def test_what_has_a_closed_form_needs_no_tape() -> None:
    """Nothing of an ordinary network but its max pooling keeps one, and a second walk's tape is whole."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 2)
    )
    x = images(2, 1, (3, 4, 5))
    graph = graph_of(network.eval(), x)
    taped = {s.operator.title for s in forward(graph, x).steps if s.output.requires_grad}
    assert taped == {"max_pool2d_with_indices"}
    assert all(s.output.requires_grad for s in forward(graph, x, differentiable=True).steps)
