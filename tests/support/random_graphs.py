"""Small random networks from a grammar: each seed is a module's source text, the same every time.

A network is a straight list of steps over one feature map `x` [N, C, H, W] and the maps kept of it so far. Each step is
a few lines of code; it is drawn, run once, and dropped where it fails or where its values leave the range of float32
networks. Source text, because TorchScript compiles that, and because a part of it is a reproduction.
"""

from __future__ import annotations

import linecache
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

N, C, SIZE = 2, 3, 9
LINES = ("import torch", "import torch.nn.functional as F", "from torch import Tensor, nn", "")
_NUMBERS = count()


@dataclass(frozen=True)
class Step:
    """One step: its name, the lines that make its layers, and the lines that run it."""

    name: str
    layers: tuple[str, ...]
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Network:
    """The steps of a network, its head last."""

    seed: int
    steps: tuple[Step, ...]

    @property
    def source(self) -> str:
        """The module `Net` as Python."""
        layers = [line for step in self.steps for line in step.layers]
        lines = [line for step in self.steps for line in (f"# {step.name}", *"\n".join(step.lines).split("\n"))]
        return "\n".join([
            *LINES, "", "class Net(nn.Module):",
            "    def __init__(self):", "        super().__init__()", *(f"        {line}" for line in layers), "",
            "    def forward(self, x: Tensor) -> Tensor:", "        n = x.shape[0]",
            *(f"        {line}" for line in lines), "        return x", "",
        ])  # fmt: skip

    def module(self) -> nn.Module:
        """The module in evaluation mode, its weights drawn by the seed."""
        return compiled(self.source, self.seed)


def compiled(source: str, seed: int) -> nn.Module:
    """The module `Net` of that source text, which torch can find again, its weights drawn by the seed."""
    name = f"<random graph {next(_NUMBERS)}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    scope: dict[str, Any] = {"__name__": __name__}
    exec(compile(source, name, "exec"), scope)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _drawn(scope["Net"](), seed).eval()


def _drawn(module: nn.Module, seed: int) -> nn.Module:
    """The same module, the weights and statistics of its norms drawn anew: they start as zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if "Norm" in type(part).__name__:
            for name, tensor in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
                if tensor.dtype.is_floating_point:
                    drawn = torch.rand(tensor.shape, generator=generator)
                    tensor.data.copy_(drawn + 0.5 if "var" in name or "weight" in name else drawn - 0.5)
    return module


def inputs(seed: int, number: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Input `number` of a network, [N, C, SIZE, SIZE]; 0 is what it is exported on."""
    generator = torch.Generator().manual_seed(1000 * seed + number)
    return torch.randn(N, C, SIZE, SIZE, generator=generator).to(dtype)


def network(seed: int) -> Network:
    """The network of that seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _Drawing(seed).network()


def without(net: Network, index: int) -> Network | None:
    """The network less one of its steps, its head fitted; None where it cannot run so."""
    steps = [step for i, step in enumerate(net.steps[:-1]) if i != index]
    drawing = _Drawing(net.seed)
    if not all(drawing.takes(step) for step in steps):
        return None
    return replace(net, steps=(*steps, drawing.head()))


# --- drawing ------------------------------------------------------------------------------------------------------

Maker = Callable[["_Drawing"], list[str]]
STEPS: dict[str, tuple[Maker, float]] = {}


def step(weight: float = 1.0) -> Callable[[Maker], Maker]:
    """A sort of step; `weight` says how often it comes up."""

    def known(make: Maker) -> Maker:
        STEPS[make.__name__.strip("_")] = make, weight
        return make

    return known


class _Drawing:
    """A network under way: `x` is its present feature map, `c`, `h` and `w` are its sizes."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.seed = seed
        self.steps: list[Step] = []
        self.layers: list[str] = []
        self.self = nn.Module()
        self.values: dict[str, Any] = {"x": inputs(seed, 0), "n": N}
        self.names = count()

    def network(self) -> Network:
        names, weights = list(STEPS), [weight for _, weight in STEPS.values()]
        length = self.random.randint(3, 9)
        for _ in range(200):
            if len(self.steps) >= length:
                break
            name = self.random.choices(names, weights)[0]
            self.layers = []
            try:
                lines = STEPS[name][0](self)
            except (IndexError, ValueError):  # nothing of that sort fits these sizes
                continue
            self.takes(Step(name, tuple(filter(_read_by(lines), self.layers)), tuple(lines)))
        return Network(self.seed, (*self.steps, self.head()))

    def takes(self, step: Step) -> bool:
        """Run a step; keep it where it runs and its values are fit for more."""
        values = {name: x.clone() if isinstance(x, Tensor) else x for name, x in self.values.items()}
        aliases = [name for name, x in self.values.items() if x is self.values["x"]]
        values |= dict.fromkeys(aliases, values["x"])
        scope = {"torch": torch, "F": nn.functional, "nn": nn, "Tensor": Tensor, "self": self.self}
        try:
            with torch.no_grad():
                for line in step.layers:
                    exec(line, scope)
                self.self.eval()
                exec("\n".join(step.lines), scope, values)
        except Exception:  # whatever torch raises where the step does not fit
            return False
        x = values["x"]
        if x.dim() != 4 or x.shape[0] != N or x.dtype != torch.float32 or not 4 <= x[0].numel() <= 3000:
            return False
        largest = float(x.abs().max())
        if not math.isfinite(largest) or min(x.shape[2:]) < 1 or x.shape[1] > 24 or not 1e-3 < float(x.std()) < 1e2:
            return False
        if float((x[0] - x[1]).abs().max()) < 1e-3:  # the picture must still count
            return False
        self.steps.append(step)
        self.values = {k: v for k, v in values.items() if k in "xn" or k.startswith("r")}
        return True

    def head(self) -> Step:
        """From the present map to a few classes."""
        classes = self.random.randint(3, 6)
        kind = self.random.choice(("mean", "flatten", "pool", "amax"))
        features = self.c * self.h * self.w if kind == "flatten" else self.c
        pooled = {
            "mean": "x.mean((2, 3))", "flatten": "x.reshape(n, -1)", "amax": "x.amax((2, 3))",
            "pool": "F.adaptive_avg_pool2d(x, 1).flatten(1)",
        }[kind]  # fmt: skip
        return Step("head", (f"self.head = nn.Linear({features}, {classes})",), (f"x = self.head({pooled})",))

    # --- what steps draw from ---

    @property
    def c(self) -> int:
        return int(self.values["x"].shape[1])

    @property
    def h(self) -> int:
        return int(self.values["x"].shape[2])

    @property
    def w(self) -> int:
        return int(self.values["x"].shape[3])

    def one(self, *choices: Any) -> Any:
        return self.random.choice(choices)

    def yes(self, share: float = 0.5) -> bool:
        return self.random.random() < share

    def int(self, low: int, high: int) -> int:
        return self.random.randint(low, high)

    def number(self) -> float:
        return float(self.one(-1.5, -0.5, -0.1, 0.1, 0.3, 0.5, 0.9, 1.0, 1.3, 2.0))

    def layer(self, text: str) -> str:
        """A layer made by that expression; what calls it."""
        name = f"self.m{len(self.steps)}_{len(self.layers)}"
        self.layers.append(f"{name} = {text}")
        return name

    def parameter(self, *shape: int) -> str:
        return self.layer(f"nn.Parameter(torch.randn({', '.join(map(str, shape))}))")

    def buffer(self, text: str) -> str:
        name = f"b{len(self.steps)}_{len(self.layers)}"
        self.layers.append(f'self.register_buffer("{name}", {text})')
        return f"self.{name}"

    def divisor(self, size: int) -> int:
        return int(self.one(*[k for k in range(1, size + 1) if size % k == 0]))

    def kept(self) -> str:
        """A map of the shape of `x`: one kept earlier, or one made of `x`."""
        shape = self.values["x"].shape
        same = [k for k, v in self.values.items() if k.startswith("r") and v.shape == shape and v.dim() == 4]
        made = (
            "x.flip(3)",
            "x.roll(1, 1)",
            "(x * 0.7 + 0.2)",
            "torch.sigmoid(x)",
            "x.tanh()",
            self.parameter(*shape[1:]),
        )
        return str(self.one(*same, *same, *same, *made))


def _read_by(lines: Sequence[str]) -> Callable[[str], bool]:
    """Whether a line makes a layer that `lines` use."""
    used = set(re.findall(r"self\.(\w+)", "\n".join(lines)))
    return lambda layer: not used.isdisjoint(re.findall(r"^self\.(\w+) =|register_buffer\(\"(\w+)\"", layer)[0])


# --- layers with weights ------------------------------------------------------------------------------------------


@step(3)
def conv(d: _Drawing) -> list[str]:
    groups = d.one(1, 1, 1, d.c, d.divisor(d.c))
    out = groups * d.int(1, max(1, 8 // groups))
    k = d.one(1, 2, 3, 3, (1, 3), (3, 2), 5)
    mode = d.one("zeros", "zeros", "zeros", "reflect", "replicate", "circular")
    padding = d.one(0, 1, 1, (1, 0), 2, "same", "valid")
    stride = 1 if padding == "same" else d.one(1, 1, 2, (2, 1))
    conv = d.layer(
        f"nn.Conv2d({d.c}, {out}, {k!r}, {stride!r}, {padding!r}, {d.one(1, 1, 2)}, {groups}, {d.yes(0.7)}, {mode!r})"
    )
    return [f"x = {conv}(x)"]


@step()
def transposed_conv(d: _Drawing) -> list[str]:
    groups = d.divisor(d.c)
    stride = d.one(1, 2)
    out = d.int(0, stride - 1)
    conv = d.layer(
        f"nn.ConvTranspose2d({d.c}, {groups * d.int(1, 3)}, {d.one(2, 3)}, {stride}, {d.int(0, 1)}, {out}, {groups}, "
        f"{d.yes()}, {d.one(1, 2)})"
    )
    return [f"x = {conv}(x)"]


@step()
def other_convs(d: _Drawing) -> list[str]:
    c, h, w = d.c, d.h, d.w
    kind = d.one("1d", "3d", "functional", "standardised", "separable", "transposed 1d", "per image")
    if kind == "1d":
        conv = d.layer(f"nn.Conv1d({c}, {d.int(1, 6)}, 3, padding=1)")
        return [f"x = {conv}(x.flatten(2))", f"x = x.view(n, x.shape[1], {h}, {w})"]
    if kind == "transposed 1d":
        conv = d.layer(f"nn.ConvTranspose1d({c}, 4, 3, padding=1)")
        return [f"x = {conv}(x.flatten(2)).unflatten(2, [{h}, {w}])"]
    if kind == "3d":
        conv = d.layer("nn.Conv3d(1, 2, 3, padding=1)")
        return [f"x = {conv}(x.unsqueeze(1)).flatten(1, 2)"]
    if kind == "separable":
        a, b = d.layer(f"nn.Conv2d({c}, {2 * c}, 3, padding=1, groups={c})"), d.layer(f"nn.Conv2d({2 * c}, 5, 1)")
        return [f"x = {b}(F.relu({a}(x)))"]
    weight = d.parameter(4, c, 3, 3)
    if kind == "standardised":
        return [
            f"k = {weight}", "k = (k - k.mean([1, 2, 3], keepdim=True)) / k.std([1, 2, 3], keepdim=True)",
            "x = F.conv2d(x, k, None, 1, 1) * 0.3",
        ]  # fmt: skip
    if kind == "per image":  # a kernel that the picture makes
        return [
            f"k = x.mean([2, 3]).view(n * {c}, 1, 1, 1) * {weight}[0, 0]",
            f"x = F.conv2d(x.reshape(1, n * {c}, {h}, {w}), k, None, 1, 1, 1, n * {c}).view(n, {c}, {h}, {w})",
        ]
    return [f"x = F.conv2d(x, {weight} * 0.3, {d.one('None', d.parameter(4))}, [1, {d.one(1, 2)}], [1, 1])"]


@step(1.5)
def linear(d: _Drawing) -> list[str]:
    kind = d.one("channels", "rows", "functional", "bilinear", "mixer")
    if kind == "channels":
        return [
            f"x = {d.layer(f'nn.Linear({d.c}, {d.int(2, 6)}, bias={d.yes()})')}(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)"
        ]
    if kind == "rows":
        return [f"x = {d.layer(f'nn.Linear({d.w}, {d.int(2, 8)})')}(x)"]
    if kind == "functional":
        return [f"x = F.linear(x, {d.parameter(5, d.w)} * 0.3, {d.parameter(5)})"]
    if kind == "bilinear":
        return [f"x = {d.layer(f'nn.Bilinear({d.w}, {d.w}, 4)')}(x, {d.kept()}.expand_as(x).contiguous())"]
    a = d.layer(f"nn.Linear({d.h * d.w}, {d.h * d.w})")
    return [f"x = x + {a}(x.flatten(2)).reshape(n, {d.c}, {d.h}, {d.w})"]


@step(2.5)
def norm(d: _Drawing) -> list[str]:
    c, h, w = d.c, d.h, d.w
    affine = d.yes(0.7)
    kind = d.one(
        "batch", "batch", "group", "instance", "layer", "layer last", "local", "normalize", "rms", "by hand", "tracked",
        "functional batch", "batch 1d", "l2",
    )  # fmt: skip
    last = "permute(0, 2, 3, 1)", "permute(0, 3, 1, 2)"
    if kind == "batch":
        return [f"x = {d.layer(f'nn.BatchNorm2d({c}, eps={d.one(1e-5, 1e-3)}, affine={affine})')}(x)"]
    if kind == "batch 1d":
        return [f"x = {d.layer(f'nn.BatchNorm1d({c})')}(x.flatten(2)).view(n, {c}, {h}, {w})"]
    if kind == "functional batch":
        mean, var = d.buffer(f"torch.randn({c}) * 0.2"), d.buffer(f"torch.rand({c}) + 0.5")
        return [f"x = F.batch_norm(x, {mean}, {var}, {d.one('None', d.parameter(c))}, None)"]
    if kind == "group":
        return [f"x = {d.layer(f'nn.GroupNorm({d.divisor(c)}, {c}, affine={affine})')}(x)"]
    if kind == "instance":
        return [f"x = {d.layer(f'nn.InstanceNorm2d({c}, affine={affine})')}(x)"]
    if kind == "tracked":
        return [f"x = {d.layer(f'nn.InstanceNorm2d({c}, affine={affine}, track_running_stats=True)')}(x)"]
    if kind == "layer":
        shape = d.one([w], [h, w], [c, h, w])
        return [f"x = {d.layer(f'nn.LayerNorm({shape}, elementwise_affine={affine})')}(x)"]
    if kind == "layer last":
        return [f"x = {d.layer(f'nn.LayerNorm({c}, elementwise_affine={affine})')}(x.{last[0]}).{last[1]}"]
    if kind == "local":
        return [
            f"x = {d.layer(f'nn.LocalResponseNorm({d.one(2, 3)}, alpha={d.one(1e-4, 0.5)}, k={d.one(1.0, 2.0)})')}(x)"
        ]
    if kind == "normalize":
        return [f"x = F.normalize(x, p={d.one(1.0, 2.0, 3.0)}, dim={d.one(1, 2, 3, -1)})"]
    if kind == "rms":
        return [f"x = {d.layer(f'nn.RMSNorm([{w}], eps=1e-5)')}(x)"]
    if kind == "l2":
        return [f"x = x / (x.norm(p=2, dim={d.one(1, 2)}, keepdim=True) + 0.1)"]
    dims = d.one("[1]", "[2, 3]", "[1, 2, 3]")
    spread = d.one(
        f"(x.var({dims}, unbiased=False, keepdim=True) + 1e-5).sqrt()", f"(x.std({dims}, keepdim=True) + 1e-3)",
        f"((x - x.mean({dims}, keepdim=True)).pow(2).mean({dims}, keepdim=True) + 1e-5).sqrt()",
    )  # fmt: skip
    return [f"x = (x - x.mean({dims}, keepdim=True)) / {spread} * {d.parameter(c, 1, 1)} + {d.parameter(c, 1, 1)}"]


# --- elementwise --------------------------------------------------------------------------------------------------


@step(3)
def activation(d: _Drawing) -> list[str]:
    inplace = d.yes(0.3)
    a = abs(d.number())
    name = d.one(
        f"ReLU({inplace})", f"ReLU6({inplace})", f"LeakyReLU({a}, {inplace})", f"PReLU({d.one(1, d.c)})",
        f"RReLU(0.1, 0.3, {inplace})", f"ELU({a}, {inplace})", f"CELU({a}, {inplace})", f"SELU({inplace})",
        f"GELU({d.one('none', 'tanh')!r})", f"SiLU({inplace})", f"Mish({inplace})", f"Hardswish({inplace})",
        f"Hardsigmoid({inplace})", f"Hardtanh({-a}, {a / 2}, {inplace})", f"Softplus({a}, {d.one(1, 20)})", "Softsign()",
        f"Softshrink({a})", f"Hardshrink({a / 2})", "Tanhshrink()", f"Threshold({d.number()}, {d.number()}, {inplace})",
        "Sigmoid()", "Tanh()", "LogSigmoid()", f"Softmax({d.one(1, 2, 3, -1)})", f"LogSoftmax({d.one(1, 3)})",
        f"Softmin({d.one(1, 3)})", "Softmax2d()", f"GLU({d.one(1, 2, 3)})", f"Dropout({d.one(0.0, 0.5)})",
        f"Dropout2d(0.3, {inplace})", "AlphaDropout(0.2)", "Identity()",
    )  # fmt: skip
    return [f"x = {d.layer(f'nn.{name}')}(x)"]


@step(2)
def elementwise(d: _Drawing) -> list[str]:
    a = abs(d.number())
    return ["x = " + d.one(
        "torch.sin(x)", "torch.cos(x)", "torch.exp(x.clamp(max=2.0))", "torch.log1p(x.abs())", "(x.abs() + 0.1).sqrt()",
        "torch.atan(x)", "torch.erf(x)", "x * x", "x.abs()", "-x", "x.pow(2)", "x.clamp(-3, 3) ** 3",
        "torch.rsqrt(x.abs() + 0.5)", "1 / (1 + x.abs())", "torch.expm1(x.clamp(max=1.5))", "x * torch.sigmoid(1.702 * x)",
        "0.5 * x * (1 + torch.erf(x / 1.41421356))", "x * torch.tanh(F.softplus(x))", "x * F.hardtanh(x + 3, 0., 6.) / 6",
        f"x.clamp(min=-{a})", f"x.clamp(max={a})", f"torch.clamp(x, -{a}, {a * 2})", f"torch.clamp_min(x, {d.number()})",
        f"torch.where(x > {d.number()}, x, x * {d.number()})", f"torch.where(x > {d.kept()}, x, {d.kept()})",
        f"torch.minimum(x, {d.parameter(d.c, 1, 1)})", f"torch.maximum(x, {d.parameter(1, 1, d.w)})",
        f"torch.max(x, {d.kept()})", f"torch.min(x, {d.kept()})", f"x.masked_fill(x < {d.number()}, {d.number()})",
        f"x * {d.number()} + {d.number()}", f"{d.number()} - x", f"x / {a}", f"x + {d.parameter(d.c, 1, 1)}",
        f"x * {d.parameter(d.c, 1, 1)}", "F.hardsigmoid(x)", "x * F.hardsigmoid(x)", "F.relu(x) - 0.5 * F.relu(-x)",
        "torch.logit(torch.sigmoid(x).clamp(0.05, 0.95))", "torch.sinh(x.clamp(-2, 2))", "torch.asinh(x)",
        "torch.logaddexp(x, -x)", "torch.square(x)", "x.sign() * x", "(x > 0).to(x.dtype) * x",
        "torch.nan_to_num(x)", "x.to(torch.float64).exp().log().to(x.dtype)", "x.frac()", "torch.fmod(x, 1.3)", "torch.remainder(x, 1.7)",
        "torch.special.expit(x)", "torch.xlogy(x, x.abs() + 0.5)", "torch.hypot(x, x + 1)", "torch.atan2(x, x.abs() + 1)",
        "torch.pow(1.5, x.clamp(-3, 3))", "torch.pow(x.abs() + 0.3, 0.7)", "torch.copysign(x, x.flip(3))",
        "torch.rsub(x, 1.5)", "torch.addcmul(x, x, torch.sigmoid(x), value=0.5)", "torch.reciprocal(x.abs() + 1.0)",
        "x.detach() * 0.5 + x", "torch.sgn(x) * x.abs().sqrt()",
    )]  # fmt: skip


@step(3)
def combine(d: _Drawing) -> list[str]:
    a, b = d.kept(), d.kept()
    return ["x = " + d.one(
        f"x + {a}", f"x + {a}", f"x * {a}", f"x - {a}", f"x / (1 + {a}.abs())", f"torch.lerp(x, {a}, {d.number()})",
        f"torch.lerp(x, {a}, torch.sigmoid({b}))", f"torch.addcmul(x, {a}, {b}, value=0.5)",
        f"torch.addcdiv(x, {a}, {b}.abs() + 1.0, value=0.3)", f"torch.add(x, {a}, alpha={d.number()})",
        f"torch.sub(x, {a}, alpha={d.number()})", f"torch.cat([x, {a}], 1)", f"torch.cat([{a}, x], {d.one(2, 3)})",
        f"torch.stack([x, {a}], 2).flatten(1, 2)", f"torch.stack([x, {a}, {b}], 0).sum(0)",
        f"torch.stack([x, {a}], -1).amax(-1)", f"torch.maximum(x, {a}) - {b}", f"sum([x, {a}, {b}])",
        f"torch.sigmoid({a}) * x + (1 - torch.sigmoid({a})) * {b}", f"torch.hstack([x, {a}])", f"torch.dstack([x, {a}])",
    )]  # fmt: skip


@step(2)
def keep(d: _Drawing) -> list[str]:
    name = f"r{len(d.steps)}"
    return [f"{name} = {d.one('x', 'x', 'x', 'x.clone()', 'x * 1.0', 'x.detach()')}"]


# --- pools, pads, resizes -----------------------------------------------------------------------------------------


@step(2)
def pool(d: _Drawing) -> list[str]:
    k = d.one(2, 2, 3, (2, 1), (1, 3))
    s = d.one("None", 1, 2, (2, 1))
    p, ceil = d.one(0, 0, (min(k) if isinstance(k, tuple) else k) // 2), d.yes(0.4)
    size = d.one(1, 2, 3, (2, 3), "(None, 2)", d.h)
    return [d.one(
        f"x = F.max_pool2d(x, {k}, {s}, {p}, {d.one(1, 1, 2)}, {ceil})",
        f"x = F.max_pool2d(x, {k}, {s}, {p}, {d.one(1, 1, 2)}, {ceil})",
        f"x = {d.layer(f'nn.MaxPool2d({k}, {s}, {p}, 1, False, {ceil})')}(x)",
        f"x = F.avg_pool2d(x, {k}, {s}, {p}, {ceil}, {d.yes()})",
        f"x = F.avg_pool2d(x, {k}, {s}, {p}, {ceil}, {d.yes()}, {d.one('None', 'None', 3)})",
        f"x = {d.layer(f'nn.AvgPool2d({k}, {s}, {p}, {ceil}, {d.yes()})')}(x)",
        f"x = {d.layer(f'nn.AdaptiveAvgPool2d({size})')}(x)", f"x = {d.layer(f'nn.AdaptiveMaxPool2d({size})')}(x)",
        f"x = {d.layer(f'nn.LPPool2d({d.one(1, 2)}, {k}, {s}, {ceil})')}(x.abs() + 0.01)",
        "x = F.max_pool1d(x.flatten(2), 2).unsqueeze(2)", f"x = F.avg_pool3d(x, {min(2, d.c)}, 1)",
        "x = F.max_pool3d(x, 2, 1)", f"x = F.adaptive_avg_pool1d(x.flatten(2), 6).view(n, {d.c}, 2, 3)",
        "v, i = F.max_pool2d(x, 2, 2, return_indices=True)\n"
        f"x = F.max_unpool2d(v, i, [2, 2], [2, 2], [0, 0], [{d.h}, {d.w}])",
    )]  # fmt: skip


@step(1.5)
def pad(d: _Drawing) -> list[str]:
    sizes = [d.int(0, 2) for _ in range(4)]
    return ["x = " + d.one(
        f"F.pad(x, {sizes}, 'constant', {d.number()})", f"F.pad(x, {sizes})", f"F.pad(x, {sizes}, mode='reflect')",
        f"F.pad(x, {sizes}, mode='replicate')", f"F.pad(x, {sizes}, mode='circular')", "F.pad(x, [-1, 0, 1, -1])",
        f"F.pad(x, [0, 0, 0, 0, 1, {d.int(0, 1)}], value={d.number()})", f"{d.layer('nn.ZeroPad2d((1, 0, 2, 1))')}(x)",
        f"{d.layer('nn.ReflectionPad2d(1)')}(x)", f"{d.layer('nn.ReplicationPad2d((0, 2, 1, 0))')}(x)",
        f"{d.layer(f'nn.ConstantPad2d(1, {d.number()})')}(x)", f"{d.layer('nn.CircularPad2d(1)')}(x)",
    )]  # fmt: skip


@step(2)
def resize(d: _Drawing) -> list[str]:
    factor = d.one("2.0", "1.5", "0.5", "0.7", "(1.3, 2.0)")
    to = d.one(f"scale_factor={factor}", f"size=({d.int(3, 12)}, {d.int(3, 12)})", f"size={d.int(3, 12)}")
    align = d.one("", "", ", align_corners=True", ", align_corners=False")
    again = d.one("", "", ", recompute_scale_factor=True") if "scale" in to else ""
    smooth = d.one("bilinear", "bilinear", "bicubic")
    return ["x = " + d.one(
        f"F.interpolate(x, {to}, mode='nearest'{again})", f"F.interpolate(x, {to}, mode='nearest-exact')",
        f"F.interpolate(x, {to}, mode={smooth!r}{align}{again})", f"F.interpolate(x, {to}, mode={smooth!r}{align})",
        f"F.interpolate(x, {to}, mode={smooth!r}, align_corners=False, antialias=True)",
        f"F.interpolate(x, {to}, mode='area')", f"{d.layer(f'nn.Upsample(scale_factor=2, mode={smooth!r})')}(x)",
        "F.interpolate(x.flatten(2), scale_factor=1.5, mode='linear').unsqueeze(2)",
        f"{d.layer('nn.PixelUnshuffle(2)')}(x[:, :, :{d.h // 2 * 2}, :{d.w // 2 * 2}])", f"{d.layer('nn.PixelShuffle(2)')}(x)",
        f"F.grid_sample(x, {d.buffer('torch.rand(1, 5, 6, 2) * 2 - 1')}.expand(n, -1, -1, -1), mode={d.one('bilinear', 'nearest', 'bicubic')!r}, "
        f"padding_mode={d.one('zeros', 'border', 'reflection')!r}, align_corners={d.yes()})",
        f"F.grid_sample(x, F.affine_grid({d.buffer('torch.tensor([[[0.9, 0.2, 0.1], [-0.2, 0.8, 0.0]]])')}.expand(n, -1, -1), "
        f"[n, {d.c}, {d.h}, {d.w}], align_corners=False), align_corners=False)",
    )]  # fmt: skip


# --- layout -------------------------------------------------------------------------------------------------------


@step(3)
def layout(d: _Drawing) -> list[str]:
    c, h, w = d.c, d.h, d.w
    g = d.divisor(c)
    a, b = sorted((d.int(0, c), d.int(0, c)))
    order = list(range(c))
    d.random.shuffle(order)
    index = d.buffer(f"torch.tensor({order})")
    return ["x = " + d.one(
        f"x.view(n, {g}, {c // g}, {h}, {w}).transpose(1, 2).reshape(n, {c}, {h}, {w})", f"x.view(n, {w}, {h}, {c})",
        f"F.channel_shuffle(x, {g})", "x.permute(0, 1, 3, 2)", "x.permute(0, 3, 1, 2)", "x.transpose(1, 2)", "x.mT",
        f"x.roll({d.int(-3, 3)}, {d.one(1, 2, 3)})", f"torch.roll(x, [{d.int(-2, 2)}, 2], [2, 3])", "x.flip([2])",
        "x.flip([1, 3])", f"torch.rot90(x, {d.int(1, 3)}, [2, 3])", f"x.narrow(1, {a}, {b - a})", f"x[:, {a}:{b}]",
        f"x[:, :, ::{d.int(1, 2)}, {d.int(0, 2)}:]", "x[..., 1:-1]", f"x.index_select(1, {index})", f"x[:, {index}]",
        f"torch.gather(x, 1, {index}.view(1, {c}, 1, 1).expand(n, {c}, {h}, {w}))",
        f"torch.take_along_dim(x, {index}.view(1, {c}, 1, 1), 1)", "x.repeat(1, 2, 1, 1)",
        f"x.repeat_interleave({d.int(2, 3)}, {d.one(1, 2, 3)})", f"x.mean(2, keepdim=True).expand(n, {c}, {h}, {w})",
        "x.tile(1, 1, 1, 2)", "x.movedim(1, 3).contiguous().movedim(3, 1)", "x.unsqueeze(2).squeeze(2)",
        f"x.unfold(2, {min(2, h)}, 1).mean(-1)", "x.contiguous(memory_format=torch.channels_last) * 1.0",
        f"x.as_strided([n, {c}, {h}, {w}], [{c * h * w}, {h * w}, 1, {h}])", "x.swapaxes(2, 3)", "x.adjoint()",
        f"torch.tril(x, {d.int(0, 2)})", f"x.triu({d.int(-2, 0)})", f"x.cumsum({d.one(1, 2, 3)}) * 0.4", "x.diff(dim=3)",
        f"x.sort({d.one(1, 3)})[0]", "x.sort(3, descending=True).values", f"x.topk({min(2, w)}, 3)[0]",
        "torch.cat(x.chunk(2, 1)[::-1], 1)", "torch.cat([x[:, :1], x[:, 1:] * 2], 1)", "torch.stack(x.unbind(1), 1)",
        f"torch.cat([p.relu() for p in x.split({d.int(1, 2)}, 2)], 2)", "torch.cat(torch.tensor_split(x, 2, 3), 1)",
        f"x.flatten(1).unflatten(1, [{h}, {w}, {c}])", f"x.reshape(n, -1, {h * w}, 1)", "x.expand_as(x)",
        f"F.fold(F.unfold(x, 3, padding=1), [{h}, {w}], 3, padding=1) * 0.2", "x.diagonal(0, 2, 3).unsqueeze(3)",
        f"F.unfold(x, 2).view(n, {4 * c}, {h - 1}, {w - 1})",
        f"(x.view(n, {c}, 1, {h}, {w}) * {d.parameter(1, 1, 2, 1, 1)}).flatten(1, 2)", f"x.broadcast_to([n, {c}, {h}, {w}])",
        f"torch.constant_pad_nd(x, [1, 1], {d.number()})", "x.cumprod(3).clamp(-3, 3)",
    )]  # fmt: skip


# --- products and attention ---------------------------------------------------------------------------------------


@step(1.5)
def product(d: _Drawing) -> list[str]:
    c, h, w = d.c, d.h, d.w
    small = round(1 / math.sqrt(max(h, w)), 3)
    return d.one(
        [f"x = torch.matmul(x, x.transpose(2, 3)) * {small}"], [f"x = x @ {d.parameter(w, 4)} * {small}"],
        [f"x = torch.einsum('nchw,cd->ndhw', x, {d.parameter(c, 4)}) * 0.5"],
        [f"x = torch.einsum('nchw,nchv->ncwv', x, {d.kept()}.expand_as(x)) * {small}"],
        ["f = x.flatten(2)", "x = torch.bmm(f, f.transpose(1, 2)).unsqueeze(1) * 0.1"],
        ["f = x.flatten(2)", f"x = torch.baddbmm({d.parameter(1, c, c)}, f, f.mT, alpha=0.1).unsqueeze(1)"],
        [f"x = torch.tensordot(x, {d.parameter(c, 3)}, dims=([1], [0])).permute(0, 3, 1, 2)"],
        [f"x = torch.matmul({d.parameter(5, h)} * 0.3, x)"],
        ["x = (x.mean(3, keepdim=True) * x.mean(2, keepdim=True))"],
        [f"x = torch.outer(x.flatten(), {d.parameter(2)}).view(n, {c}, {h}, {w * 2})"],
        ["x = torch.cdist(x, x + 0.5) * 0.3"], ["x = torch.cosine_similarity(x, x.flip(1) + 0.1, dim=2).unsqueeze(2)"],
        [f"x = torch.addmm({d.parameter(4)}, x.reshape(-1, {w}), {d.parameter(w, 4)}).view(n, {c}, {h}, 4) * 0.3"],
        [f"x = torch.mv(x.reshape(-1, {w}), {d.parameter(w)}).view(n, {c}, {h}, 1) * 0.3"],
    )  # fmt: skip


@step(1.5)
def attention(d: _Drawing) -> list[str]:
    c, h, w = d.c, d.h, d.w
    tokens, back = "t = x.flatten(2).transpose(1, 2)", f"x = t.transpose(1, 2).reshape(n, {c}, {h}, {w})"
    heads = d.divisor(c)
    kind = d.one("module", "sdpa", "masked", "causal", "by hand", "qkv", "encoder", "windows")
    if kind == "module":
        attend = d.layer(f"nn.MultiheadAttention({c}, {heads}, bias={d.yes()}, batch_first=True)")
        return [tokens, f"t = t + {attend}(t, t, t, need_weights={d.yes()})[0]", back]
    if kind == "sdpa":
        return [tokens, "t = F.scaled_dot_product_attention(t, t * 0.5, t)", back]
    if kind == "masked":
        return [tokens, f"t = F.scaled_dot_product_attention(t, t, t, attn_mask={d.parameter(h * w, h * w)})", back]
    if kind == "causal":
        return [tokens, "t = F.scaled_dot_product_attention(t, t, t, is_causal=True)", back]
    if kind == "by hand":
        return [
            tokens,
            "s = torch.softmax(t @ t.transpose(1, 2) * 0.3, -1)",
            f"t = s @ t + {d.parameter(h * w, c)}",
            back,
        ]
    if kind == "qkv":
        qkv, out = d.layer(f"nn.Linear({c}, {3 * c})"), d.layer(f"nn.Linear({c}, {c})")
        return [
            tokens, f"p = {qkv}(t).reshape(n, {h * w}, 3, {heads}, {c // heads}).permute(2, 0, 3, 1, 4)",
            "q, k, v = p[0], p[1], p[2]", f"s = (q @ k.transpose(-2, -1)) * {round((c // heads) ** -0.5, 4)}",
            f"t = {out}((s.softmax(-1) @ v).transpose(1, 2).reshape(n, {h * w}, {c}))", back,
        ]  # fmt: skip
    if kind == "encoder":
        layer = d.layer(
            f"nn.TransformerEncoderLayer({c}, {heads}, 8, 0.1, {d.one('relu', 'gelu')!r}, batch_first=True, "
            f"norm_first={d.yes()})"
        )
        return [tokens, f"t = {layer}(t)", back]
    a, b = d.divisor(h), d.divisor(w)
    size = f"{h // a}, {w // b}"
    return [
        f"t = x.view(n, {c}, {a}, {h // a}, {b}, {w // b}).permute(0, 2, 4, 3, 5, 1).reshape(-1, {h // a * (w // b)}, {c})",
        "t = torch.softmax(t @ t.mT, -1) @ t",
        f"x = t.view(n, {a}, {b}, {size}, {c}).permute(0, 5, 1, 3, 2, 4).reshape(n, {c}, {h}, {w})",
    ]


# --- reductions and gates -----------------------------------------------------------------------------------------


@step(2)
def reduce(d: _Drawing) -> list[str]:
    dims = d.one("[1]", "[2]", "[3]", "[2, 3]", "[1, 2, 3]", "[-1]")
    one = d.one(1, 2, 3, -1)
    found = d.one(
        f"x.mean({dims}, keepdim=True)", f"(x.sum({dims}, keepdim=True) * 0.1)", f"x.amax({dims}, keepdim=True)",
        f"x.amin({dims}, keepdim=True)", f"torch.logsumexp(x, {dims}, keepdim=True)", f"x.norm(p={d.one(1, 2)}, dim={one}, keepdim=True)",
        f"x.var({dims}, keepdim=True)", f"x.var({dims}, unbiased=False, keepdim=True)", f"x.std({one}, keepdim=True)",
        f"x.max({one}, keepdim=True)[0]", f"x.min({one}, keepdim=True)[0]", f"x.clamp(0.5, 1.2).prod({one}, keepdim=True)",
        f"x.median({one}, keepdim=True)[0]", f"torch.linalg.vector_norm(x, 2, {dims}, keepdim=True)", f"x.aminmax(dim={one}, keepdim=True)[1]",
        f"x.square().mean({dims}, keepdim=True)", f"x.to(x.dtype).mean({one}).unsqueeze({one})", f"x.kthvalue(1, {one}, keepdim=True)[0]",
        f"x.abs().sum({one}, True)", f"torch.sum(x, {one}, keepdim=True) / x.shape[{one}]", f"(x.argmax({one}, keepdim=True) * 0.1)",
        f"x.softmax({one}).sum({dims}, keepdim=True)", "torch.std_mean(x, [2, 3], keepdim=True)[0]", f"x.nanmean({one}, keepdim=True)",
    )  # fmt: skip
    return [d.one(
        f"x = x - {found}", f"x = x * {found} * 0.5", f"x = x / (1 + {found}.abs())", f"x = x + torch.sigmoid({found})",
        f"x = {found} + x * 0.5",
    )]  # fmt: skip


@step(1.5)
def gate(d: _Drawing) -> list[str]:
    c = d.c
    a, b = d.layer(f"nn.Conv2d({c}, 4, 1)"), d.layer(f"nn.Conv2d(4, {c}, 1)")
    fc, fd = d.layer(f"nn.Linear({c}, 4)"), d.layer(f"nn.Linear(4, {c})")
    act = d.one("torch.sigmoid", "F.hardsigmoid", "torch.tanh", "F.softplus")
    spatial = d.layer("nn.Conv2d(2, 1, 3, padding=1)")
    return d.one(
        [f"g = {act}({b}(F.relu({a}(F.adaptive_avg_pool2d(x, 1)))))", "x = x * g"],
        [f"g = {act}({b}(F.silu({a}(x.mean([2, 3], keepdim=True)))))", f"x = x * g + {d.kept()}"],
        [f"g = {act}({fd}(F.relu({fc}(x.mean([2, 3])))))", f"x = x * g.view(n, {c}, 1, 1)"],
        ["g = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)", f"x = x * {act}({spatial}(g))"],
        ["g = torch.softmax(x.flatten(2), -1).view_as(x)", "x = x + (x * g).sum([2, 3], keepdim=True)"],
        [f"x = x + {b}(F.gelu({a}(x)))"],
    )  # fmt: skip


# --- recurrences --------------------------------------------------------------------------------------------------


@step(1.5)
def recurrence(d: _Drawing) -> list[str]:
    c, h, w = d.c, d.h, d.w
    rows, hidden = f"s = x.permute(0, 2, 1, 3).reshape(n, {h}, {c * w})", d.int(2, 6)
    kind = d.one("lstm", "gru", "rnn", "lstm cell", "gru cell", "rnn cell", "by hand", "written", "columns")
    if kind in ("lstm", "gru", "rnn"):
        layers, both = d.one(1, 1, 2), d.yes(0.3)
        more = f", proj_size={hidden - 1}" if kind == "lstm" and d.yes(0.2) else ""
        more += f", nonlinearity={d.one('tanh', 'relu')!r}" if kind == "rnn" else ""
        cell = d.layer(
            f"nn.{kind.upper()}({c * w}, {hidden}, {layers}, bias={d.yes(0.8)}, batch_first=True, bidirectional={both}{more})"
        )
        return [rows, f"x = {cell}(s)[0].unsqueeze(1)"]
    if kind == "columns":  # time first
        cell = d.layer(f"nn.GRU({c * h}, {hidden})")
        return [
            f"o, last = {cell}(x.permute(3, 0, 1, 2).flatten(2))",
            "x = o.permute(1, 2, 0).unsqueeze(1) + last[0][:, None, :, None]",
        ]
    if "cell" in kind:
        cell = d.layer(f"nn.{kind.split()[0].upper()}Cell({c * w}, {hidden})")
        start, after = ("a = s.new_zeros(n, {0})", "a = {1}(s[:, i], a)") if kind != "lstm cell" else (
            "a, b = s.new_zeros(n, {0}), s.new_zeros(n, {0})", "a, b = {1}(s[:, i], (a, b))"
        )  # fmt: skip
        return [
            rows, start.format(hidden, cell), "o = []", f"for i in range({h}):", "    " + after.format(hidden, cell),
            "    o.append(a)", "x = torch.stack(o, 1).unsqueeze(1)",
        ]  # fmt: skip
    fc = d.layer(f"nn.Linear({w}, {w})")
    if kind == "by hand":
        return [
            "a = x[:, :, 0]", "o = [a]", f"for i in range(1, {h}):", f"    a = torch.tanh({fc}(a) + x[:, :, i])", "    o.append(a)",
            "x = torch.stack(o, 2)",
        ]  # fmt: skip
    return [
        "o = torch.zeros_like(x)", "a = x[:, :, 0] * 0.5", f"for i in range({h}):", f"    a = torch.tanh({fc}(a) + x[:, :, i])",
        "    o[:, :, i] = a", "x = o + x",
    ]  # fmt: skip


# --- writes in place ----------------------------------------------------------------------------------------------


def _target(d: _Drawing) -> str:
    """A tensor of the shape of `x` to write into."""
    shape = d.c, d.h, d.w
    return str(d.one(
        "x.clone()", "x * 1.0", "torch.zeros_like(x)", f"x.new_zeros(n, {d.c}, {d.h}, {d.w})", "torch.empty_like(x).fill_(0.5)",
        f"{d.parameter(1, *shape)}.expand(n, -1, -1, -1).clone()", f"{d.buffer(f'torch.randn{shape}')}.repeat(n, 1, 1, 1)",
        "torch.ones(x.shape, dtype=x.dtype) * 0.3", "x", "x.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)", "x.flip(1)",
        f"torch.full([n, {d.c}, {d.h}, {d.w}], 0.4, dtype=x.dtype)", "x.detach().clone()",
    ))  # fmt: skip


def _view(d: _Drawing) -> str:
    """A view of a map, as code behind its name."""
    c, h, w = d.c, d.h, d.w
    a, b = sorted((d.int(0, c - 1), d.int(1, c)))
    k, i, j = d.int(0, c - 1), d.int(0, h - 1), d.int(0, w - 1)
    flat = c * h * w
    return str(d.one(
        "", "", f"[:, {a}:{max(b, a + 1)}]", f"[:, {k}]", f"[:, :, {i}]", f"[..., {j}]", f"[:, {k}, {i}:]", "[:, ::2]", "[:, :, ::2, 1::2]",
        f".view(n, -1)[:, {d.int(0, flat // 2)}:{d.int(flat // 2 + 1, flat)}]", f".permute(0, 2, 3, 1)[..., {k}]",
        f".transpose(2, 3)[:, {j % h}:]" if h == w else ".transpose(2, 3)", f".select(1, {k})", f".narrow(2, {i}, {h - i})",
        ".unsqueeze(1)", ".flatten(2)", ".flatten(2)[:, :, 1::3]", ".diagonal(0, 2, 3)", ".chunk(2, 1)[0]", ".split(1, 2)[-1]",
        f".unbind(1)[{k}]", f".view(n, {c}, -1)[:, :, ::3]", f"[:, {a}:][:, :1]", f"[:, :, {i}:].transpose(1, 2)[:, 0]",
        ".swapaxes(1, 2)[:, :, 0]", f".view(n, {w}, {h}, {c})[:, 0]", ".movedim(1, 3)[:, :, :, 0]",
        ".expand_as(x)", ".unfold(2, 1, 1)[..., 0]", f"[:, None, {k}]", ".view_as(x)", ".squeeze(0)", ".mT",
    ))  # fmt: skip


def _write(d: _Drawing, into: str, value: str) -> str:
    """A call that writes `value`, a tensor of its shape, into a tensor."""
    a, b = d.number(), abs(d.number())
    return str(d.one(
        f"{into}.add_({value})", f"{into}.add_({value}, alpha={a})", f"{into}.mul_({value})", f"{into}.sub_({value})",
        f"{into}.div_({value}.abs() + 1.0)", f"{into}.copy_({value})", f"{into}.copy_({value})", f"{into}.fill_({a})", f"{into}.zero_()",
        f"{into}.masked_fill_({value} > {a}, {a})", f"{into}.clamp_(-{b}, {b})", f"{into}.clamp_min_({a})", f"{into}.relu_()",
        f"{into}.sigmoid_()", f"{into}.tanh_()", f"{into}.neg_()", f"{into}.abs_()", f"{into}.square_()", f"{into} += {value}",
        f"{into} *= {a}", f"{into} -= {value} * {a}", f"{into}.addcmul_({value}, {value}, value={a})", f"{into}.lerp_({value}, {b / 3})",
        f"{into}.mul_({a}).add_({value})", f"F.relu({into}, inplace=True)", f"F.leaky_relu({into}, 0.1, inplace=True)",
        f"F.elu({into}, 1.0, True)", f"F.hardtanh({into}, -0.5, 0.7, True)", f"{into}.sin_()", f"F.silu({into}, inplace=True)",
        f"torch.add({into}, {value}, out={into})", f"{into}.exp_().clamp_(max=3)", f"F.dropout({into}, 0.5, False, True)",
        f"F.threshold({into}, {a}, {b}, True)", f"{into}.atan_()", f"{into}.pow_(2)",
        f"F.hardswish({into}, inplace=True)", f"{into}.copy_({b})", f"{into}.erf_()", f"{into}.addcdiv_({value}, {value}.abs() + 1, value={a})",
    ))  # fmt: skip


@step(5)
def writes(d: _Drawing) -> list[str]:
    lines = [f"y = {_target(d)}"]
    for number in range(d.int(1, 3)):
        view = _view(d)
        value = f"(x{view} * 0.7)" if d.yes(0.8) else f"(y{view} + 0.1)"
        if d.yes(0.4) and view.startswith("["):
            lines.append(
                d.one(
                    f"y{view} = {value}", f"y{view} = {d.number()}", f"y{view} += {value}", f"y{view} *= {d.number()}"
                )
            )
        else:
            lines += [f"v{number} = y{view}", _write(d, f"v{number}", value)]
    return [*lines, d.one("x = y", "x = y", "x = x + y", "x = y * 1.0", "x = y * x", "x = x - y")]


@step(2)
def indexed_writes(d: _Drawing) -> list[str]:
    c, h, w = d.c, d.h, d.w
    index = d.buffer(f"torch.tensor({[d.int(0, c - 1) for _ in range(2)]})")
    other = d.buffer(f"torch.tensor({sorted(d.random.sample(range(c), min(2, c)))})")
    rows = d.buffer(f"torch.randint(0, {c}, (1, {c}, {h}, {w}))") + ".expand(n, -1, -1, -1)"
    mask = d.buffer(f"torch.rand({h}, {w}) > 0.5")
    line = d.one(
        f"y[:, {other}] = x[:, {other}] * {d.number()}", f"y[:, {other}] = {d.number()}", f"y[:, {other}] += 1.5",
        f"y.index_add_(1, {index}, x[:, :2] * 0.5)", f"y.index_copy_(1, {other}, x[:, :{min(2, c)}])",
        f"y.index_fill_(1, {index}, {d.number()})", f"y.scatter_(1, {rows}, x.flip(1))", f"y.scatter_(1, {rows}, {d.number()})",
        f"y.scatter_add_(1, {rows}, x)", f"y.scatter_reduce_(1, {rows}, x, reduce={d.one('sum', 'amax', 'mean')!r})",
        f"y[:, :, {mask}] = {d.number()}", f"y[:, :, {mask}] = x[:, :, {mask}] * 2", f"y[y > {d.number()}] = {d.number()}",
        f"y.masked_fill_({mask}, {d.number()})", f"y.transpose(0, 1).index_put_([{other}], x[:, :{min(2, c)}].transpose(0, 1))",
        f"y.transpose(0, 1).index_put_([{index}], x[:, :2].transpose(0, 1), accumulate=True)",
        f"y = torch.index_add(y, 1, {index}, x[:, :2], alpha=0.5)", f"y = y.scatter(1, {rows}, x)", f"y = y.index_fill(1, {index}, 0.0)",
        f"y = torch.where({mask}, y, x * 2)", f"y = y.masked_fill({mask}, {d.number()})", f"y = torch.select_scatter(y, x[:, 0], 1, {c - 1})",
        f"y = torch.slice_scatter(y, x[:, :, :1], 2, {h - 1}, {h})", "y = torch.diagonal_scatter(y, x.diagonal(0, 2, 3) * 2, 0, 2, 3)",
        "y.tril_()", "y.triu_(1)", "y.diagonal(0, 2, 3).fill_(0.5)", f"y.squeeze_(3)\ny = y.reshape(n, {c}, {h}, {w})",
        "y.transpose_(2, 3)", "y.unsqueeze_(1)\ny[:, :, 0] = 0.5\ny = y.squeeze(1)", "y.swapaxes_(2, 3)",
    )  # fmt: skip
    return [f"y = {_target(d)}", *line.split("\n"), d.one("x = y", "x = x + y", "x = y * 0.5")]


@step(1.5)
def shifts(d: _Drawing) -> list[str]:
    c, h, w = d.c, d.h, d.w
    k = max(1, c // 3)
    return d.one(
        ["y = torch.zeros_like(x)", "y[:, :, 1:] = x[:, :, :-1]", f"y[:, :{k}, :-1] = x[:, :{k}, 1:]", "x = y + x"],
        ["y = x.clone()", "y[..., 1:] += x[..., :-1]", "y[..., :-1] += x[..., 1:]", "x = y"],
        ["y = x", "y[:, :, 1:] = y[:, :, :-1].clone()", "x = y"],
        ["y = x.clone()", "p = y[:, 0]", "y[:, 0] = y[:, -1]", "y[:, -1] = p * 0.5", "x = y"],
        ["y = x.clone()", "y[:, :, 0], y[:, :, -1] = y[:, :, -1], y[:, :, 0]", "x = y"],
        ["y = F.pad(x, [1, 1, 1, 1])", "z = torch.zeros_like(x)", "for i in range(3):", "    for j in range(3):",
         f"        z += y[:, :, i:i + {h}, j:j + {w}] * {d.parameter(3, 3)}[i, j]", "x = z * 0.5"],
        ["y = torch.zeros_like(x)", "y[:, 0::2] = x[:, 0::2]", "y[:, 1::2] = x[:, 1::2] * -1", "x = y"],
        [f"y = torch.zeros([n, {2 * c}, {h}, {w}], dtype=x.dtype)", f"y[:, :{c}] = x", f"y[:, {c}:] = x.relu()", "x = y"],
        [f"y = torch.zeros([n, {c}, {2 * h}, {2 * w}], dtype=x.dtype)", "y[:, :, ::2, ::2] = x", "y[:, :, 1::2, 1::2] = x * 0.5", "x = y"],
    )  # fmt: skip


@step(0.3)
def batch_of_buffers(d: _Drawing) -> list[str]:
    """Writes into buffers that hold one map for each image of the batch, and are read again."""
    many = d.buffer(f"torch.zeros{(N, d.c, d.h, d.w)}")
    return d.one(
        [f"b = {many}", "b.copy_(x)", "b.mul_(0.5)", "x = x + b"],
        [f"b = {many}", "b.zero_()", "b[:, :1] += x[:, :1]", "x = x * 0.5 + b"],
        [f"{many}[:] = x.relu()", f"x = {many} + 0.1 * x"],
        [f"{many}.copy_(x)", "x.mul_(2)", f"x = x + {many}"],
        [f"b = {many}.view(n, -1)", "b.copy_(x.flatten(1))", f"x = {many}.clone() * 0.9"],
    )  # fmt: skip


@step()
def buffers(d: _Drawing) -> list[str]:
    """Writes into buffers of the module, and into what is made of them."""
    one, zero = d.buffer(f"torch.randn{(d.c, d.h, d.w)}"), d.buffer("torch.zeros(())")
    return d.one(
        [f"b = {one}.clone()", "b += 1.0", "x = x * b"],
        [f"b = {one}.expand(n, -1, -1, -1).clone()", "b[:, 0] = x[:, 0]", "x = b + x"],
        [f"{zero}.fill_(0.5)", f"x = x * {zero}"],
        [f"b = {one}", "b[0].fill_(0.7)", "b.clamp_(-1, 1)", "x = x + b"],
        [f"b = {one}.view(-1)", "b[::3] = 0.2", f"x = x * {one}"],
        [f"b = {one}.unsqueeze(0).repeat(n, 1, 1, 1)", "b.mul_(x).add_(x)", "x = b"],
    )  # fmt: skip
