"""A second walk, slow and from scratch, that shares nothing with `heatcli.rules`: it reads only the graph's operators.

Relevance, not multipliers, is passed on, by dense Jacobians of each operator, image by image, in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from networks import CLASSES, graph_of, images, randomised, walked
from torch import Tensor, nn
from torch.autograd.functional import jacobian
from torch.nn import functional

from heatcli.graph.operator import Graph, Operator
from heatcli.methods.table import method

pytestmark = pytest.mark.usefixtures("way")

NOT_AFFINE = frozenset("relu silu elu gelu sigmoid hardsigmoid hardswish leaky_relu tanh".split())
MAXIMA = frozenset("max_pool2d_with_indices max_pool2d".split())


def values(graph: Graph, image: Tensor) -> dict[str, Tensor]:
    """Every value of the graph on one image [1, …]."""
    found = {graph.input: image}
    for operator in graph.operators:
        found[operator.name] = operator.run(found)
    return found


def dense(operator: Operator, seen: dict[str, Tensor], at: list[Tensor]) -> list[Tensor]:
    """One Jacobian [out, in] for each source, at the inputs `at`."""
    matrices = jacobian(lambda *inputs: operator.run(seen, inputs).flatten(), tuple(at), vectorize=True)
    return [m.reshape(m.shape[0], -1) for m in matrices]


def shares(operator: Operator, z: Tensor, z0: Tensor, x: list[Tensor], x0: list[Tensor], w: list[Tensor],
           epsilon: float | None) -> list[Tensor]:  # fmt: skip
    """Relevance fractions [out, in] of each source: how much of R_j goes to x_i."""
    dz = (z - z0).flatten()
    dx = [(a - b).flatten() for a, b in zip(x, x0, strict=True)]
    if operator.title in NOT_AFFINE:
        at_zero = operator.run({}, [torch.zeros_like(a) for a in x]).flatten() if not any(b.any() for b in x0) else None
        rise = dz if at_zero is None or bool(z0.any()) else dz - at_zero
        return [torch.diag(torch.where(dz == 0, 0, rise / torch.where(dz == 0, 1, dz)))]
    stabilised = dz
    if epsilon is not None and operator.kind == "affine":
        stabilised = dz + epsilon * torch.where(dz >= 0, 1.0, -1.0).to(dz)
    scale = torch.where(stabilised == 0, 0, 1 / torch.where(stabilised == 0, 1, stabilised))
    return [scale[:, None] * m * d for m, d in zip(w, dx, strict=True)]


def reference_relevance(
    graph: Graph, image: Tensor, target: int, epsilon: float | None, based: Tensor | None
) -> Tensor:
    """Relevance of one image [1, C, H, W]."""
    seen = values(graph, image)
    start = None if based is None else values(graph, based)
    relevance = {name: torch.zeros_like(value).flatten() for name, value in seen.items()}
    score = seen[graph.output][0, target] - (0 if start is None else start[graph.output][0, target])
    relevance[graph.output].reshape(seen[graph.output].shape)[0, target] = score
    for operator in reversed(graph.operators):
        z, x = seen[operator.name], [seen[name] for name in operator.sources]
        z0 = torch.zeros_like(z) if start is None else start[operator.name]
        x0 = [torch.zeros_like(v) if start is None else start[n] for n, v in zip(operator.sources, x, strict=True)]
        middle = [(a + b) / 2 for a, b in zip(x, x0, strict=True)] if operator.kind == "product" else x
        if operator.title in MAXIMA and start is not None:
            passed = [relevance_of_maximum(operator, seen, z, z0, x, x0, relevance[operator.name])]
        else:
            w = [] if operator.title in NOT_AFFINE else dense(operator, seen, middle)
            fractions = shares(operator, z, z0, x, x0, w, epsilon)
            passed = [relevance[operator.name] @ fraction for fraction in fractions]
        for name, part in zip(operator.sources, passed, strict=True):
            relevance[name] = relevance[name] + part
    return relevance[graph.input].reshape(image.shape)


def relevance_of_maximum(
    operator: Operator, seen: dict[str, Tensor], z: Tensor, z0: Tensor, x: list[Tensor], x0: list[Tensor], r: Tensor
) -> Tensor:
    """The part of R that max(z, z0) − z0 is of z − z0 to the image's winners, the rest to the baseline's."""
    here, there = dense(operator, seen, x)[0], dense(operator, seen, x0)[0]
    dz = (z - z0).flatten()
    per = torch.where(dz == 0, 0, r / torch.where(dz == 0, 1, dz))
    highest = torch.maximum(z, z0)
    return (per * (highest - z0).flatten()) @ here + (per * (z - highest).flatten()) @ there


class Tiny(nn.Module):
    """A ReLU network with batch norm, a residual sum, a concatenation and average pooling, on 3 × 6 × 6."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.side, self.fc = nn.Conv2d(4, 2, 3, stride=2), nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn(self.conv1(x)))
        x = functional.relu(self.conv2(x) + x)
        return self.fc(torch.cat([functional.avg_pool2d(x, 3).flatten(1), self.side(x).relu().flatten(1)], 1))


class Gated(nn.Module):
    """SiLU, ELU, a gate behind a sigmoid, bilinear upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate, self.fc = nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 4, 1), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.silu(self.conv(x))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        x = functional.interpolate(functional.elu(x), scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.fc(x.mean((2, 3)))


class Pooled(nn.Module):
    """Overlapping max pooling, a grouped and a transposed convolution, leaky ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up = nn.Conv2d(3, 6, 3, groups=3), nn.ConvTranspose2d(6, 3, 2, stride=2)
        self.fc = nn.Linear(48, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.leaky_relu(self.conv(x), 0.2), 3, stride=1)
        return self.fc(functional.relu(self.up(x)).flatten(1))


NETS: dict[str, Callable[[], nn.Module]] = {"tiny": Tiny, "gated": Gated, "pooled": Pooled}


@pytest.mark.parametrize(
    ("name", "epsilon", "based"),
    [
        ("lrp-0", None, False),
        ("lrp-eps", 1e-6, False),
        ("lrp-eps", 0.1, False),
        ("lrp-eps", 0.1, True),
        ("deeplift-rescale", None, True),
    ],
)
@pytest.mark.parametrize("which", list(NETS))
def test_the_walk_agrees_with_a_walk_from_scratch(which: str, name: str, epsilon: float | None, based: bool) -> None:
    torch.manual_seed(0)
    module, batch = randomised(NETS[which](), 1).double(), images(2, 3, (3, 6, 6)).double()
    baseline = images(2, 4, (3, 6, 6)).double() if based else None
    chosen = method(name) if epsilon is None else method(name, epsilon=epsilon)
    found = walked(module, batch, chosen, baseline, target=2)
    graph = graph_of(module, batch[:1])
    start = None if baseline is None else baseline[1:]
    with torch.no_grad():
        expected = reference_relevance(graph, batch[1:], 2, epsilon, start)
    size = float(expected.abs().max())
    assert size > 0
    torch.testing.assert_close(found.relevance[1:], expected, rtol=1e-6, atol=1e-6 * size)
