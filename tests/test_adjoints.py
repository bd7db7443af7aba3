"""Vector-Jacobian products in closed form are torch's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from networks import graph_of, images, randomised
from torch import Tensor, nn

from heatcli.graph.adjoints import closed, relu_over_output
from heatcli.walk import forward

NORM = randomised(nn.BatchNorm2d(3), 3).double()
CASES: dict[str, Callable[[Tensor], Tensor]] = {
    "mean of pixels": lambda x: x.mean((2, 3), keepdim=True),
    "mean of channels": lambda x: x.mean(1, keepdim=True),
    "mean of all": lambda x: x.mean((1, -1, -2), keepdim=True),
    "batch norm": NORM,
    "batch norm of rows": lambda x: randomised(nn.BatchNorm1d(3), 4).double()(x[:, :, 0]),
    "batch norm without weights": randomised(nn.BatchNorm2d(3, affine=False), 5).double(),
}


def assert_torchs(function: Callable[[Tensor], Tensor], x: Tensor, channels_last: bool, atol: float) -> None:
    """The last operator's closed form is torch's product, in float64, of a random multiplier."""
    x = x.double().contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    step = forward(graph_of(function, x), x).steps[-1]
    m = torch.randn_like(step.output)
    found = closed(step.operator, step.inputs[0], m)
    assert found is not None
    (expected,) = step.gradient(step.output, step.inputs, m)
    assert expected is not None
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=atol)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("case", list(CASES))
def test_closed_forms(case: str, channels_last: bool) -> None:
    """Of random multipliers, in either layout."""
    assert_torchs(CASES[case], images(2, 1, (3, 4, 5)), channels_last, atol=1e-15)


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


@pytest.mark.parametrize("function", [lambda x: x.mean((2, 3)), lambda x: x.mean(), nn.InstanceNorm2d(3), torch.tanh])
def test_others_are_left_to_torch(function: Callable[[Tensor], Tensor]) -> None:
    """Means that lose their dimensions, norms by the input's own statistics, and what is not in the table."""
    x = images(2, 1, (3, 4, 5))
    for step in forward(graph_of(function, x), x).steps:
        if step.operator.title in ("mean", "native_batch_norm", "tanh"):
            assert closed(step.operator, step.inputs[0], torch.ones_like(step.output)) is None


def test_relu_from_its_output() -> None:
    """Nothing where it is 0; the output is gone."""
    output = torch.tensor([0.0, 2.0])
    found = relu_over_output(output, torch.tensor([3.0, 4.0]))
    assert found is output
    assert found.tolist() == [0, 4]
