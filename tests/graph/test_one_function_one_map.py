"""One function has one map: however it is written, whichever exporter wrote it, as convolution or as matrix product.

In float64, where differences are not rounding: a sum near 0 that LRP divides by is another in float32 for each kernel.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from networks import FORMATS, graph_of, images, walked
from torch import Tensor, nn
from torch.nn import functional

import heatcli
from heatcli.engine.values import values_of
from heatcli.graph.kinds import CONVOLUTION, DENSE
from heatcli.methods.table import METHODS, Method

SAME = 1e-5  # largest difference of two maps of one function, relative to the largest value
SIZE, CHANNELS = 6, 6
BACKWARD = [method for method in METHODS.values() if method.kind == "backward"]
# With a baseline, and without where it may be left out.
WAYS = [(m, b) for m in BACKWARD for b in (False, True) if not b or m.baseline is not None or m.conserves]
FEW = 4  # ways of `WAYS` that a test tries where it is not to be slow, others each time
Function = Callable[[Tensor], Tensor]


def few(number: int, all_of_them: bool) -> Sequence[tuple[Method, bool]]:
    """The ways of test `number`: together the tests try them all."""
    start = FEW * number % len(WAYS)
    return WAYS if all_of_them else (WAYS + WAYS)[start : start + FEW]


def assert_same(found: Tensor, expected: Tensor, what: object) -> None:
    """Maps equal to 1e-5 of the largest value."""
    largest = float(expected.abs().max())
    assert largest > 0, what
    assert float((found - expected).abs().max()) <= SAME * largest, what


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Random numbers of that shape, none near 0: 0.5 to 1.5, of either sign."""
    g = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=g) + 0.5) * torch.where(torch.rand(shape, generator=g) > 0.5, 1.0, -1.0)


class Network(nn.Module):
    """A layer on [N, 6, 6, 6] twice, among convolutions: scores [N, 4]. Weights and biases are the same every time."""

    def __init__(self, layer: Function) -> None:
        super().__init__()
        self.stem, self.layer = nn.Conv2d(3, CHANNELS, 3, padding=1), layer
        self.inner, self.head = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.Linear(CHANNELS * SIZE**2, 4)
        g = torch.Generator().manual_seed(1)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=g) * 0.3
        for name, parameter in self.named_buffers():
            if parameter.is_floating_point():
                noise = torch.rand(parameter.shape, generator=g)
                parameter.data = noise + 0.5 if "var" in name else noise
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(self.inner(self.layer(self.stem(x))))
        return self.head(x.flatten(1))


# --- the same function, written in other ways ---------------------------------------------------------------------

SLOPES = torch.rand(CHANNELS, 1, 1, generator=torch.Generator().manual_seed(3))
WEIGHT, BIAS = drawn(CHANNELS), drawn(CHANNELS, seed=1)
LAST_WEIGHT, LAST_BIAS = drawn(SIZE, seed=2), drawn(SIZE, seed=3)
MATRIX = drawn(CHANNELS, CHANNELS, seed=4)
W, B = WEIGHT.reshape(-1, 1, 1), BIAS.reshape(-1, 1, 1)
MEAN, DEVIATION = drawn(CHANNELS, seed=5), drawn(CHANNELS, seed=6).abs()


def standardised(x: Tensor, dims: int | list[int], eps: float = 1e-5) -> Tensor:
    """(x − mean)/√(variance + ε), in parts."""
    c = x - x.mean(dims, keepdim=True)
    return c / torch.sqrt(c.pow(2).mean(dims, keepdim=True) + eps)


def by_variance(x: Tensor) -> Tensor:
    """The same over the last dimension, by var and rsqrt."""
    return (x - x.mean(-1, keepdim=True)) * torch.rsqrt(x.var(-1, unbiased=False, keepdim=True) + 1e-5)


def by_squares(x: Tensor) -> Tensor:
    """The same, the variance as E[x²] − E[x]²."""
    mean = x.mean(-1, keepdim=True)
    return (x - mean) * ((x * x).mean(-1, keepdim=True) - mean * mean + 1e-5) ** -0.5


def last(f: Function) -> Function:
    """f on [N, H, W, C], of [N, C, H, W]."""
    return lambda x: f(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def attention(scores: Callable[[Tensor, Tensor], Tensor]) -> Function:
    """Attention among positions, on [N, C, H, W]."""

    def attend(x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return (torch.softmax(scores(tokens, tokens.transpose(1, 2)), -1) @ tokens).transpose(1, 2).reshape(x.shape)

    return attend


def zero(x: Tensor) -> Tensor:
    return torch.zeros((), dtype=x.dtype)


def like(constant: Tensor, x: Tensor) -> Tensor:
    return constant.to(x.dtype)


ROOT = math.sqrt(2)
TANH = math.sqrt(2 / math.pi)
# Name → the function as torch has it, and other ways of writing it.
SPELLINGS: dict[str, tuple[Function, dict[str, Function]]] = {
    "relu": (torch.relu, {
        "clamp_min": lambda x: x.clamp_min(0), "maximum": lambda x: torch.maximum(x, zero(x)),
        "where": lambda x: torch.where(x > 0, x, 0.0), "largest": lambda x: x.clamp(0, 3.4028234663852886e38),
        "mask": lambda x: x * (x > 0).to(x.dtype),
    }),
    "relu6": (functional.relu6, {
        "clamp": lambda x: x.clamp(0, 6), "min of max": lambda x: x.clamp_min(0).clamp_max(6),
        "max of min": lambda x: x.clamp_max(6).clamp_min(0),
        "minimum": lambda x: torch.minimum(torch.maximum(x, torch.zeros_like(x)), torch.full_like(x, 6.0)),
        "of relu": lambda x: torch.relu(x).clamp_max(6),
    }),
    "leaky relu": (lambda x: functional.leaky_relu(x, 0.2), {
        "relus": lambda x: torch.relu(x) - 0.2 * torch.relu(-x), "maximum": lambda x: torch.maximum(x, 0.2 * x),
        "where": lambda x: torch.where(x < 0, 0.2 * x, x),
    }),
    "prelu": (lambda x: functional.prelu(x, like(SLOPES, x).flatten()), {
        "relus": lambda x: torch.relu(x) - like(SLOPES, x) * torch.relu(-x),
        "where": lambda x: torch.where(x >= 0, x, like(SLOPES, x) * x),
        "abs": lambda x: torch.relu(x) + like(SLOPES, x) * (x - x.abs()) * 0.5,
    }),
    "gelu": (functional.gelu, {
        "div": lambda x: x * 0.5 * (1 + torch.erf(x / ROOT)), "mul": lambda x: (1 + torch.erf(x * ROOT / 2)) * x * 0.5,
        "half last": lambda x: (x * (torch.erf(x / ROOT) + 1)) / 2,
        "half within": lambda x: x * (0.5 * torch.erf(x / ROOT) + 0.5),
    }),
    "gelu tanh": (lambda x: functional.gelu(x, approximate="tanh"), {
        "pow": lambda x: 0.5 * x * (1 + torch.tanh(TANH * (x + 0.044715 * torch.pow(x, 3)))),
        "mul": lambda x: x * (torch.tanh(TANH * (x + 0.044715 * (x * x * x))) + 1) * 0.5,
        "factored": lambda x: 0.5 * x * (1 + torch.tanh(x * TANH * (1 + 0.044715 * x * x))),
    }),
    "mish": (functional.mish, {
        "softplus": lambda x: x * torch.tanh(functional.softplus(x)),
        "log": lambda x: torch.tanh(torch.log(1 + torch.exp(x))) * x,
        "log1p": lambda x: x * torch.tanh(torch.log1p(torch.exp(x))),
    }),
    "silu": (functional.silu, {
        "sigmoid": lambda x: torch.sigmoid(x) * x, "quotient": lambda x: x / (1 + torch.exp(-x)),
        "tanh": lambda x: x * (torch.tanh(x * 0.5) + 1) * 0.5,
    }),
    "hardswish": (functional.hardswish, {
        "hardsigmoid": lambda x: x * functional.hardsigmoid(x), "relu6": lambda x: x * functional.relu6(x + 3) / 6,
        "clamp": lambda x: (x + 3).clamp(0, 6) * (1 / 6) * x, "unit": lambda x: x * (x / 6 + 0.5).clamp(0, 1),
    }),
    "hardsigmoid": (functional.hardsigmoid, {
        "relu6": lambda x: functional.relu6(x + 3) / 6, "unit": lambda x: (x * (1 / 6) + 0.5).clamp(0, 1),
    }),
    "softplus": (functional.softplus, {
        "log": lambda x: torch.log(1 + torch.exp(x)), "log1p": lambda x: torch.log1p(torch.exp(x)),
    }),
    "elu": (functional.elu, {"where": lambda x: torch.where(x > 0, x, torch.exp(x) - 1)}),
    "hardshrink": (lambda x: functional.hardshrink(x, 0.3), {
        "where": lambda x: torch.where((x > 0.3) | (x < -0.3), x, 0.0),
    }),
    "softshrink": (lambda x: functional.softshrink(x, 0.3), {
        "relus": lambda x: torch.relu(x - 0.3) - torch.relu(-x - 0.3),
    }),
    "layer norm": (lambda x: functional.layer_norm(x, (SIZE,), like(LAST_WEIGHT, x), like(LAST_BIAS, x)), {
        "sqrt": lambda x: standardised(x, -1) * like(LAST_WEIGHT, x) + like(LAST_BIAS, x),
        "var": lambda x: like(LAST_BIAS, x) + by_variance(x) * like(LAST_WEIGHT, x),
        "squares": lambda x: by_squares(x) * like(LAST_WEIGHT, x) + like(LAST_BIAS, x),
    }),
    "layer norm of channels": (
        last(lambda x: functional.layer_norm(x, (CHANNELS,), like(WEIGHT, x), like(BIAS, x), 1e-6)),
        {"in place": lambda x: standardised(x, 1, 1e-6) * like(W, x) + like(B, x)},
    ),
    "RMS norm": (lambda x: functional.rms_norm(x, (SIZE,), like(LAST_WEIGHT, x), 1e-5), {
        "rsqrt": lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * like(LAST_WEIGHT, x),
        "quotient": lambda x: like(LAST_WEIGHT, x) * (x / ((x * x).mean(-1, keepdim=True) + 1e-5).sqrt()),
        "sum": lambda x: x / (x.square().sum(-1, keepdim=True) + SIZE * 1e-5) ** 0.5 * (
            like(LAST_WEIGHT, x) * SIZE ** 0.5
        ),
    }),
    "RMS norm of channels": (last(lambda x: functional.rms_norm(x, (CHANNELS,), like(WEIGHT, x), 1e-6)), {
        "in place": lambda x: x * torch.rsqrt((x * x).mean(1, keepdim=True) + 1e-6) * like(W, x),
    }),
    "group norm": (lambda x: functional.group_norm(x, 2, like(WEIGHT, x), like(BIAS, x)), {
        "parts": lambda x: (
            standardised(x.reshape(len(x), 2, -1), -1).reshape(x.shape) * like(W, x) + like(B, x)
        ),
        "instance norm": lambda x: (
            functional.instance_norm(x.reshape(len(x), 2, -1)).reshape(x.shape) * like(W, x) + like(B, x)
        ),
    }),
    "instance norm": (lambda x: functional.instance_norm(x, weight=like(WEIGHT, x), bias=like(BIAS, x)), {
        "parts": lambda x: standardised(x, [2, 3]) * like(W, x) + like(B, x),
    }),
    "softmax": (lambda x: torch.softmax(x, 1), {
        "exp": lambda x: torch.exp(x) / torch.exp(x).sum(1, keepdim=True),
        "shifted": lambda x: (e := torch.exp(x - x.amax(1, keepdim=True))) / e.sum(1, keepdim=True),
    }),
    "log softmax": (lambda x: torch.log_softmax(x, 1), {
        "shifted": lambda x: (c := x - x.amax(1, keepdim=True)) - torch.log(torch.exp(c).sum(1, keepdim=True)),
    }),
    "batch norm": (lambda x: functional.batch_norm(
        x, like(MEAN, x), like(DEVIATION, x) ** 2, like(WEIGHT, x), like(BIAS, x), eps=0.0,
    ), {
        "steps": lambda x: (
            (x - like(MEAN, x)[:, None, None]) / like(DEVIATION, x)[:, None, None] * like(W, x) + like(B, x)
        ),
        "scale and shift": lambda x: (
            x * like(WEIGHT / DEVIATION, x)[:, None, None]
            + like(BIAS - MEAN * WEIGHT / DEVIATION, x)[:, None, None]
        ),
    }),
    "convolution": (lambda x: functional.conv2d(x, like(MATRIX, x)[:, :, None, None], like(BIAS, x)), {
        "bias behind": lambda x: functional.conv2d(x, like(MATRIX, x)[:, :, None, None]) + like(B, x),
    }),
    "dense": (last(lambda x: functional.linear(x, like(MATRIX, x), like(BIAS, x))), {
        "matmul": last(lambda x: x @ like(MATRIX, x).mT + like(BIAS, x)),
        "bias before": last(lambda x: like(BIAS, x) + torch.matmul(x, like(MATRIX, x).mT)),
        "rows": last(lambda x: torch.addmm(like(BIAS, x), x.reshape(-1, CHANNELS), like(MATRIX, x).mT).view(x.shape)),
        "bias behind a view": last(
            lambda x: (x.reshape(-1, CHANNELS) @ like(MATRIX, x).mT).view(x.shape) + like(BIAS, x)
        ),
        "tokens": lambda x: (
            (x.flatten(2).mT @ like(MATRIX, x).mT + like(BIAS, x)).mT.reshape(x.shape)
        ),
        "batched": lambda x: (
            torch.bmm(x.flatten(2).mT, like(MATRIX, x).mT.expand(len(x), -1, -1)) + like(BIAS, x)
        ).mT.reshape(x.shape),
    }),
    "attention": (attention(lambda q, k: q @ k / 4), {
        "queries": attention(lambda q, k: (q * 0.25) @ k), "both": attention(lambda q, k: (q * 0.5) @ (k * 0.5)),
        "keys": attention(lambda q, k: q @ (k / 4)), "twice": attention(lambda q, k: (q * 0.5) @ k * 0.5),
    }),
}  # fmt: skip
PAIRS = [(name, other) for name, (_, others) in SPELLINGS.items() for other in others]


def assert_one_map(name: str, other: str, ways: Sequence[tuple[Method, bool]]) -> None:
    """The map of the function written the other way is that of the function."""
    original, others = SPELLINGS[name]
    batch, baseline = (images(2, seed, (3, SIZE, SIZE)).double() for seed in (4, 5))
    for method, compared in ways:
        reference = baseline if compared else torch.zeros_like(batch) if method.baseline == "zero" else None
        found, expected = (walked(Network(f).double(), batch, method, reference) for f in (others[other], original))
        assert_same(found.relevance, expected.relevance, (name, other, method.name, compared))


@pytest.mark.parametrize(("name", "other"), PAIRS)
def test_however_it_is_written(name: str, other: str) -> None:
    """Four ways of explaining for each pair, in turn; the slow test tries them all."""
    assert_one_map(name, other, few(PAIRS.index((name, other)), all_of_them=False))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "other"), PAIRS)
def test_however_it_is_written_by_every_method(name: str, other: str) -> None:
    assert_one_map(name, other, WAYS)


@pytest.mark.parametrize(("name", "other"), PAIRS)
def test_the_passes_keep_the_output(name: str, other: str) -> None:
    """To 1e-9, in float64 on inputs ten times as large, and the module's own output, too."""
    module = Network(SPELLINGS[name][1][other]).double()
    batch = 10 * images(3, 6, (3, SIZE, SIZE)).double()
    graph = graph_of(module, batch)
    output = values_of(graph, batch)[graph.output]
    torch.testing.assert_close(output, module(batch).detach(), rtol=1e-9, atol=1e-9)


def titles(function: Function, shape: tuple[int, ...] = (2, 3, 4, 4)) -> list[str]:
    """The operators of a function's graph."""
    return [op.title for op in graph_of(lambda x: function(x * 2).flatten(1), torch.randn(shape)).operators][1:-1]


def test_what_is_another_function_is_left_alone() -> None:
    """Quick GELU, a hardsigmoid of other constants, a root mean square with a shift, GELU 1 % off."""
    assert "silu" not in titles(lambda x: x * torch.sigmoid(1.702 * x))
    assert titles(lambda x: (0.2 * x + 0.5).clamp(0, 1))[-1] != "hardsigmoid"
    assert titles(lambda x: x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5)) == ["_fused_rms_norm"]
    assert not {"_fused_rms_norm", "native_layer_norm"} & set(
        titles(lambda x: (x + 1) * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5))
    )
    assert "gelu" not in titles(lambda x: x * 0.5 * (1 + torch.erf(x / 1.4)))
    assert titles(lambda x: functional.hardtanh(x, 0.2, 0.7)) == ["clamp"]  # not 0 at 0


def test_one_image_is_no_proof_of_a_norm() -> None:
    """A weight for each element makes any function a layer norm of the one image that it was fitted on."""

    def root_mean_square(x: Tensor) -> Tensor:
        return x * torch.rsqrt((x * x).mean((1, 2, 3), keepdim=True) + 1e-5)

    assert "native_layer_norm" not in titles(root_mean_square, (1, 3, 4, 4))
    weight = drawn(3, 4, 4)
    assert "native_layer_norm" in titles(
        lambda x: root_mean_square(x - x.mean((1, 2, 3), keepdim=True)) * weight, (1, 3, 4, 4)
    )


def test_what_is_read_elsewhere_stays() -> None:
    """A gate that something else reads too is not taken away with the product it belongs to."""

    def gated(x: Tensor) -> Tensor:
        gate = torch.sigmoid(x)
        return torch.cat([x * gate, gate], 1)

    assert titles(gated) == ["sigmoid", "mul", "cat"]


# --- a dense layer is a convolution of 1 × 1 ----------------------------------------------------------------------

ALIKE = [m for m in BACKWARD if m.rules.get(CONVOLUTION) == m.rules.get(DENSE) and m.name != "deeplift-genomics"]


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("method", ALIKE, ids=lambda m: m.name)
def test_a_dense_layer_is_a_convolution(method: Method, first: bool) -> None:
    """On [N, H, W, C] the same map as the convolution's; as the first layer, too. For methods that treat them alike."""
    matrix, bias, stem, head = (x.double() for x in (drawn(8, 3), drawn(8), drawn(3, 3, 3, 3), drawn(4, 8, 2, 2)))

    def network(layer: Function) -> Function:
        def scores(x: Tensor) -> Tensor:
            x = x if first else torch.relu(functional.conv2d(x, stem))
            return functional.conv2d(torch.relu(layer(x)), head).mean((2, 3))

        return scores

    dense = network(last(lambda x: functional.linear(x, matrix, bias)))
    convolution = network(lambda x: functional.conv2d(x, matrix[:, :, None, None], bias))
    batch = images(2, 7, (3, SIZE, SIZE)).double()
    reference = torch.zeros_like(batch) if method.baseline == "zero" else None
    found, expected = (walked(f, batch, method, reference).relevance for f in (dense, convolution))
    assert_same(found, expected, method.name)


# --- whichever exporter wrote it ----------------------------------------------------------------------------------


def onnx(opset: int, dynamo: bool) -> Callable[[nn.Module, Tensor, Path], None]:
    """What writes ONNX of that opset by one of torch's two exporters, for any number of images."""

    def write(module: nn.Module, example: Tensor, path: Path) -> None:
        if dynamo:
            shapes = ({0: torch.export.Dim("batch", min=1)},)
            more = {"external_data": False, "verbose": False, "dynamic_shapes": shapes}
        else:
            more = {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}}
        torch.onnx.export(module, (example,), str(path), opset_version=opset, dynamo=dynamo, **more)

    return write


EXPORTERS: dict[str, tuple[str, Callable[[nn.Module, Tensor, Path], None]]] = {
    "traced": FORMATS["traced"],
    "pt2": FORMATS["pt2"],
    "onnx 11": ("11.onnx", onnx(11, dynamo=False)),
    "onnx 17": ("17.onnx", onnx(17, dynamo=False)),
    "onnx 18 new": ("18.onnx", onnx(18, dynamo=True)),
    "onnx 20 new": ("20.onnx", onnx(20, dynamo=True)),
}


class Last(nn.Module):
    """A layer on the last dimension, given [N, C, H, W]."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Attention(nn.Module):
    """Two heads of attention among positions."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(CHANNELS, 3 * CHANNELS), nn.Linear(CHANNELS, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        qkv = self.qkv(x.flatten(2).transpose(1, 2)).reshape(n, h * w, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        return self.out(mixed.transpose(1, 2).reshape(n, h * w, c)).transpose(1, 2).reshape(n, c, h, w)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "relu6": nn.ReLU6, "leaky relu": nn.LeakyReLU, "prelu": lambda: nn.PReLU(CHANNELS),
    "gelu": nn.GELU, "gelu tanh": lambda: nn.GELU("tanh"), "mish": nn.Mish, "silu": nn.SiLU, "elu": nn.ELU,
    "selu": nn.SELU, "hardswish": nn.Hardswish, "hardsigmoid": nn.Hardsigmoid, "hardtanh": nn.Hardtanh,
    "softplus": nn.Softplus, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "log sigmoid": nn.LogSigmoid,
    "softsign": nn.Softsign, "hardshrink": nn.Hardshrink, "softshrink": nn.Softshrink,
    "batch norm": lambda: nn.BatchNorm2d(CHANNELS), "group norm": lambda: nn.GroupNorm(2, CHANNELS),
    "group norm of one": lambda: nn.GroupNorm(1, CHANNELS), "layer norm": lambda: Last(nn.LayerNorm(CHANNELS)),
    "instance norm": lambda: nn.InstanceNorm2d(CHANNELS, affine=True), "softmax": lambda: nn.Softmax(1),
    "log softmax": lambda: nn.LogSoftmax(1), "dense": lambda: Last(nn.Linear(CHANNELS, CHANNELS)),
    "attention": Attention,
}  # fmt: skip
# Networks of several layers, so that one file tries them all.
STACKS = {
    "activations": ["relu6", "gelu", "mish", "prelu", "hardswish"],
    "norms": ["group norm", "layer norm", "relu", "instance norm", "dense", "attention"],
}


def stacked(names: Sequence[str]) -> nn.Module:
    """The network of those layers, one after the other, in float64: what differs then differs by more than rounding."""
    return Network(nn.Sequential(*(LAYERS[name]() for name in names))).double()


def loaded(module: nn.Module, folder: Path, exporter: str) -> heatcli.Model:
    """The network as an exporter wrote it."""
    name, write = EXPORTERS.get(exporter) or FORMATS[exporter]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # exporters announce their own deprecations; they are not under test
        write(module, images(2, shape=(3, SIZE, SIZE)).double(), folder / name)
    return heatcli.load(folder / name, size=SIZE)


def assert_one_map_of(module: nn.Module, folder: Path, exporter: str, ways: Sequence[tuple[Method, bool]]) -> None:
    """The exporter's map is that of the network as TorchScript, scripted."""
    models = [loaded(module, folder, form) for form in (exporter, "scripted")]
    batch = images(2, 8, (3, SIZE, SIZE)).double()
    for method, compared in ways:
        baseline = "blur" if compared else None
        found, expected = (
            heatcli.explain(m, batch, method.name, target=1, baseline=baseline).relevance for m in models
        )
        assert_same(found, expected, (exporter, method.name, baseline))


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_whichever_exporter_wrote_it(tmp_path: Path, exporter: str) -> None:
    """A network of many layers for each exporter, a few ways of explaining each."""
    number = list(EXPORTERS).index(exporter)
    names = list(STACKS.values())[number % len(STACKS)]
    assert_one_map_of(stacked(names), tmp_path, exporter, few(number, all_of_them=False))


REFUSED = {("attention", "onnx 11")}  # the exporter writes attention from opset 14 on
WRITTEN = [(layer, exporter) for layer in LAYERS for exporter in EXPORTERS if (layer, exporter) not in REFUSED]


@pytest.mark.slow
@pytest.mark.parametrize(("layer", "exporter"), WRITTEN)
def test_every_layer_by_every_exporter_and_method(tmp_path: Path, layer: str, exporter: str) -> None:
    assert_one_map_of(stacked([layer, "relu"]), tmp_path, exporter, WAYS)  # guided backpropagation needs a ReLU
