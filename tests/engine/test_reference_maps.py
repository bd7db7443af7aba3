"""Right maps, not only right sums: real architectures against an independent walk in float64, map against map.

The reference passes on relevance, not multipliers, by per-operator autograd at the inputs; it shares nothing with
`heatcli.rules`. The slow set has more than twenty architectures: `pytest -m slow tests/engine/test_reference_maps.py`.
"""

from __future__ import annotations

import pytest
import torch
import torchvision
from networks import calibrated, graph_of, images, randomised, walked
from torch import Tensor
from torch.nn import functional

from heatcli.graph.operator import Graph, Operator
from heatcli.methods.table import method

FAST = ("resnet18", "mobilenet_v3_small")
SLOW = (
    "alexnet", "vgg11", "vgg13_bn", "vgg16_bn", "resnet34", "resnet50", "resnext50_32x4d", "wide_resnet50_2",
    "densenet121", "googlenet", "inception_v3", "squeezenet1_0", "squeezenet1_1", "mobilenet_v2", "mobilenet_v3_large",
    "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "mnasnet0_5", "mnasnet1_0", "efficientnet_b0", "efficientnet_v2_s",
    "regnet_x_400mf", "regnet_y_400mf",
)  # fmt: skip
SIZES = {"inception_v3": 96, "alexnet": 96}


def vjp(operator: Operator, at: list[Tensor], cotangent: Tensor) -> list[Tensor]:
    """Jᵀ·cotangent for each source, at the inputs `at`."""
    inputs = [x.detach().clone().requires_grad_() for x in at]
    with torch.enable_grad():
        output = operator.run({}, inputs)
    return list(torch.autograd.grad(output, inputs, cotangent))


def over(a: Tensor, b: Tensor) -> Tensor:
    """a/b, and 0 where b is 0."""
    return torch.where(b == 0, 0, a / torch.where(b == 0, 1, b))


def sent(
    operator: Operator, z: Tensor, z0: Tensor, x: list[Tensor], x0: list[Tensor], relevance: Tensor,
    epsilon: float | None, blame: bool, positive: bool,
) -> list[Tensor]:  # fmt: skip
    """The relevance that each source gets of the operator's; `positive`: of convolutions' and dense layers' by z⁺."""
    if positive and operator.title in ("convolution", "linear"):
        return [of_positive(operator, x[0] - x0[0], relevance, blame)]
    dz, dx = z - z0, [a - b for a, b in zip(x, x0, strict=True)]
    if operator.kind == "elementwise":
        bend = dz - operator.run({}, [torch.zeros_like(a) for a in x]) if blame else dz
        return [relevance * over(bend, dz)]
    if operator.kind == "maximum" and not blame:
        up, down = vjp(operator, x, relevance * (dz > 0))[0], vjp(operator, x0, relevance * (dz < 0))[0]
        return [up + down]
    if operator.kind == "affine" and epsilon is not None:
        dz = dz + epsilon * torch.where(dz >= 0, 1.0, -1.0).to(dz)
    at = [(a + b) / 2 for a, b in zip(x, x0, strict=True)] if operator.kind == "product" else x
    return [d * g for d, g in zip(dx, vjp(operator, at, over(relevance, dz)), strict=True)]


def of_positive(operator: Operator, dx: Tensor, relevance: Tensor, blame: bool) -> Tensor:
    """α = 1, β = 0 from the formula: (x_i w_ij)⁺ / (Σ_k (x_k w_kj)⁺ + b_j⁺ + 1e-6), by autograd of its numerators."""
    up, down = (dx.clamp(min=0).requires_grad_(), dx.clamp(max=0).requires_grad_())
    weights, bias = operator.args[1].value, operator.args[2]
    with torch.enable_grad():
        if operator.title == "convolution":
            more = operator.args[3:]
            z = sum(torch.ops.aten.convolution(a, w, None, *more) for a, w in halves(up, down, weights))
        else:
            z = sum(a @ w.mT for a, w in halves(up, down, weights))
    total = z.detach()
    if blame and bias is not None:
        shape = (1, -1, *(1,) * (z.dim() - 2))
        total = total + bias.value.clamp(min=0).reshape(shape)
    to_up, to_down = torch.autograd.grad(z, (up, down), relevance / (total + 1e-6))
    return (up * to_up + down * to_down).detach()


def halves(up: Tensor, down: Tensor, weights: Tensor) -> list[tuple[Tensor, Tensor]]:
    """What makes positive contributions: positive inputs at positive weights, negative at negative ones."""
    return [(up, weights.clamp(min=0)), (down, weights.clamp(max=0))]


@torch.no_grad()
def reference(
    graph: Graph, image: Tensor, based: Tensor | None, target: int, epsilon: float | None, positive: bool
) -> Tensor:
    """Relevance of one image [1, C, H, W]."""
    values, starts = ({graph.input: start} for start in (image, image if based is None else based))
    for operator in graph.operators:
        values[operator.name] = operator.run(values)
        starts[operator.name] = operator.run(starts)
    if based is None:
        starts = {name: torch.zeros_like(value) for name, value in values.items()}
    pick = functional.one_hot(torch.tensor([target]), values[graph.output].shape[1])
    relevance = {graph.output: pick * (values[graph.output] - starts[graph.output])}
    for operator in reversed(graph.operators):
        if operator.name not in relevance:
            continue
        z, z0 = values[operator.name], starts[operator.name]
        x, x0 = ([found[name] for name in operator.sources] for found in (values, starts))
        parts = sent(operator, z, z0, x, x0, relevance.pop(operator.name), epsilon, based is None, positive)
        for name, part in zip(operator.sources, parts, strict=True):
            relevance[name] = relevance.get(name, 0) + part
    return relevance[graph.input]


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's, over all elements."""
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_maps_are_those_of_an_independent_walk(name: str) -> None:
    """lrp-eps, lrp-alpha1-beta0 and deeplift-rescale, element by element, with non-zero biases."""
    size = SIZES.get(name, 64)
    torch.manual_seed(0)
    more = {"init_weights": True, "aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    module = calibrated(randomised(getattr(torchvision.models, name)(weights=None, **more), 1), size).double()
    batch, based = images(1, 2, (3, size, size)).double(), images(1, 5, (3, size, size)).double()
    graph = graph_of(module, batch)
    top = int(module(batch).argmax())
    for chosen, epsilon, start in (
        ("lrp-eps", 1e-3, None),
        ("lrp-eps", 1e-3, based),
        ("lrp-alpha1-beta0", 1e-6, None),
        ("lrp-alpha1-beta0", 1e-6, based),
        ("deeplift-rescale", None, based),
    ):
        parameters = {} if epsilon is None else {"epsilon": epsilon}
        found = walked(module, batch, method(chosen, **parameters), start, target=top).relevance
        expected = reference(graph, batch, start, top, epsilon, chosen == "lrp-alpha1-beta0")
        assert float(expected.abs().max()) > 0
        assert correlation(found, expected) >= 0.9999
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
