"""Small networks without pretrained weights, and ways to turn one into an artifact, a `Model` or a `Graph`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

import heatcli
from heatcli.engine.forward import forward
from heatcli.engine.ledger import Books, total
from heatcli.engine.walk import walk
from heatcli.graph.capture import record
from heatcli.graph.operator import Graph
from heatcli.graph.passes import DEFAULT, apply
from heatcli.methods.table import METHODS, Method
from heatcli.rules.rule import Step

SIZE = 16
CLASSES = 5
# Methods of one walk whose answer balances; of those, the ones that are exact on anything linear; and for what is
# tried with many networks, one method of each set of rules.
CONSERVING = [name for name, m in METHODS.items() if m.kind == "backward" and m.conserves]
SECANT = ["lrp-0", "lrp-eps", "deeplift-rescale"]
CORE = [
    "gradient", "input-x-gradient", "guided-backprop", "lrp-0", "lrp-eps", "lrp-gamma", "lrp-alpha2-beta1",
    "deep-taylor", "deeplift-rescale", "deeplift-reveal-cancel",
]  # fmt: skip
CORE_CONSERVING = [name for name in CORE if METHODS[name].conserves]


class Linear(nn.Module):
    """Two scores, each a weighted sum of the pixels and a bias."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(3 * 16 * 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1))


class Plain(nn.Module):
    """Convolutions, ReLU modules, max pooling and dense layers, all with biases."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(8 * (SIZE // 4) ** 2, 12), nn.ReLU(), nn.Linear(12, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Residual(nn.Module):
    """BatchNorm (one beside a bias), a residual sum, a concatenation, one ReLU module used twice and a functional."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(6)
        self.side = nn.Conv2d(6, 4, 1)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(10, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.stem(x)))
        x = self.relu(self.bn2(self.conv2(x)) + x)
        x = torch.cat([x, functional.relu(self.side(x))], dim=1)
        return self.fc(functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Excited(nn.Module):
    """SiLU and a squeeze-and-excitation product behind a hard sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.squeeze = nn.Conv2d(8, 4, 1)
        self.excite = nn.Conv2d(4, 8, 1)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.silu(self.bn(self.conv1(x)))
        gate = functional.hardsigmoid(self.excite(functional.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.fc(functional.hardswish(x * gate).mean((2, 3)))


class Hourglass(nn.Module):
    """A U-Net in small, with a classifier's head: average pooling, bilinear upsampling, concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 4, 3, padding=1)
        self.deep = nn.Conv2d(4, 6, 3, padding=1)
        self.merge = nn.Conv2d(10, 6, 3, padding=1)
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        shallow = functional.relu(self.down(x))
        deep = functional.relu(self.deep(functional.avg_pool2d(shallow, 2)))
        deep = functional.interpolate(deep, scale_factor=2.0, mode="bilinear", align_corners=False)
        merged = functional.relu(self.merge(torch.cat([shallow, deep], dim=1)))
        return self.fc(functional.max_pool2d(merged, 3, stride=2, padding=1).mean((2, 3)))


class Normed(nn.Module):
    """GroupNorm and LayerNorm, GELU, PReLU and ELU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4)
        self.group = nn.GroupNorm(2, 8)
        self.prelu = nn.PReLU(8)
        self.conv2 = nn.Conv2d(8, 8, 1)
        self.layer = nn.LayerNorm(8)
        self.fc1 = nn.Linear(8, 12)
        self.fc2 = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.elu(self.conv2(self.prelu(self.group(self.conv(x)))))
        x = self.layer(x.permute(0, 2, 3, 1))
        return self.fc2(functional.gelu(self.fc1(x)).mean((1, 2)))


class Strided(nn.Module):
    """Grouped, dilated, strided and transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3)
        self.dilated = nn.Conv2d(6, 6, 3, padding=2, dilation=2)
        self.up = nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1)
        self.fc = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.leaky_relu(self.grouped(x), 0.1)
        x = functional.relu(self.dilated(x))
        return self.fc(functional.relu(self.up(x)).mean((2, 3)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": Plain,
    "residual": Residual,
    "excited": Excited,
    "hourglass": Hourglass,
    "normed": Normed,
    "strided": Strided,
}
RELU_NETWORKS = ("plain", "residual", "hourglass", "strided")  # piecewise linear: LRP-0 is input × gradient


def randomised(module: nn.Module, seed: int) -> nn.Module:
    """The same module in eval mode, its BatchNorm statistics, affine parameters and all biases drawn at random."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            weight = getattr(part, "weight", None)
            if isinstance(part, nn.BatchNorm2d):
                assert part.running_mean is not None
                assert part.running_var is not None
                part.running_mean.copy_(torch.randn(part.running_mean.shape, generator=g) * 0.3)
                part.running_var.copy_(torch.rand(part.running_var.shape, generator=g) + 0.5)
            if isinstance(part, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm) and weight is not None:
                weight.copy_(torch.rand(weight.shape, generator=g) + 0.5)
            if isinstance(getattr(part, "bias", None), Tensor):
                part.bias.copy_(torch.randn(part.bias.shape, generator=g) * 0.3)
    return module.eval()


def network(name: str, seed: int = 0) -> nn.Module:
    """The small network of that name: the same weights every time, none of its biases zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return randomised(NETWORKS[name](), seed + 1)


ARCHITECTURES = ("resnet18", "vgg16_bn", "densenet121", "mobilenet_v3_small", "efficientnet_b0")


def architecture(name: str, size: int = 64, seed: int = 0) -> nn.Module:
    """A torchvision classifier for `size` × `size` with random weights, BatchNorm statistics and biases; fixed."""
    import torchvision

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return calibrated(randomised(torchvision.models.get_model(name, weights=None), seed + 1), size)


def calibrated(module: nn.Module, size: int) -> nn.Module:
    """The same module with BatchNorm statistics near those of random images, 10 % off.

    With any others a deep network forgets its image: all of the output would be biases, and no test would see a pixel.
    (And far off, EfficientNet's activations grow a thousandfold and cancel: beyond what float32 can balance.)
    """
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        module(images(8, 99, (3, size, size)))
        for norm in norms:
            norm.running_mean += 0.1 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
            norm.running_var *= 0.9 + 0.2 * torch.rand_like(norm.running_var)
    return module.eval()


def images(n: int, seed: int = 0, shape: tuple[int, ...] = (3, SIZE, SIZE)) -> Tensor:
    """Random inputs [n, *shape], standard normal: the same every time."""
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


# --- artifacts ----------------------------------------------------------------------------------------------------


def _scripted(module: nn.Module, example: Tensor, path: Path) -> None:  # noqa: ARG001 - writers share one signature
    torch.jit.script(module).save(str(path))


def _traced(module: nn.Module, example: Tensor, path: Path) -> None:
    with torch.no_grad():
        torch.jit.trace(module, example, check_trace=False).save(str(path))


def _onnx_old(module: nn.Module, example: Tensor, path: Path) -> None:
    axes = {"input": {0: "batch"}, "output": {0: "batch"}}
    torch.onnx.export(
        module, (example,), str(path), dynamo=False, opset_version=17, verbose=False,
        input_names=["input"], output_names=["output"], dynamic_axes=axes,
    )  # fmt: skip


def _onnx_new(module: nn.Module, example: Tensor, path: Path) -> None:
    batch = ({0: torch.export.Dim("batch", min=1)},)
    torch.onnx.export(
        module, (example,), str(path), dynamo=True, external_data=False, verbose=False, dynamic_shapes=batch
    )


def _pt2(module: nn.Module, example: Tensor, path: Path) -> None:
    batch = ({0: torch.export.Dim("batch", min=1)},)
    torch.export.save(torch.export.export(module, (example,), dynamic_shapes=batch), str(path))


FORMATS: dict[str, tuple[str, Callable[[nn.Module, Tensor, Path], None]]] = {
    "scripted": ("scripted.pt", _scripted),
    "traced": ("traced.pt", _traced),
    "onnx-old": ("old.onnx", _onnx_old),
    "onnx-new": ("new.onnx", _onnx_new),
    "pt2": ("exported.pt2", _pt2),
}


def save(module: nn.Module, folder: Path, form: str = "scripted", shape: tuple[int, ...] = (3, SIZE, SIZE)) -> Path:
    """Write `module` as an artifact of a form in `FORMATS` with a free batch size; the file's path."""
    name, write = FORMATS[form]
    path = folder / name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # exporters announce their own deprecations; they are not under test
        write(module, images(2, shape=shape), path)
    return path


def load(
    module: nn.Module, folder: Path, form: str = "scripted", shape: tuple[int, ...] = (3, SIZE, SIZE)
) -> heatcli.Model:
    """`module`, saved as an artifact and loaded as users do."""
    return heatcli.load(save(module, folder, form, shape), size=(shape[-2], shape[-1]), channels=shape[0])


def graph_of(module: Callable[[Tensor], Tensor], example: Tensor, passes: Collection[str] = DEFAULT) -> Graph:
    """The captured graph of an eager module or function, in the example's own dtype, after those passes."""
    names = dict(module.named_parameters()) | dict(module.named_buffers()) if isinstance(module, nn.Module) else {}
    return apply(record(module, example, names, "test"), passes)


@dataclass(frozen=True, eq=False)
class Walked:
    """One score of each image walked back by a method: `relevance` [N, …] and `books`; `left` [N] has no account."""

    graph: Graph
    relevance: Tensor
    books: Books
    output: Tensor
    left: Tensor


def walked(
    module: Callable[[Tensor], Tensor], batch: Tensor, method: Method, baseline: Tensor | None = None, target: int = 0,
    passes: Collection[str] = DEFAULT,
) -> Walked:  # fmt: skip
    """Walk score `target` of an eager module or function [N, …] → [N, classes] back by `method`, no artifact needed."""
    graph = graph_of(module, batch, passes)
    tape = forward(graph, batch, baseline)
    seed = torch.zeros_like(tape.output)
    seed[:, target] = 1
    books = Books.open(graph, batch)
    tape.bound(*(torch.full_like(batch[:1], end) for end in (-4.0, 4.0)))
    multiplier = walk(tape, method.rules, seed, books)
    relevance = multiplier * (batch if baseline is None else batch - baseline)
    relevance = relevance if books.direct is None else relevance + books.direct
    score = tape.output[:, target].double()
    if tape.reference_output is not None:
        score = score - tape.reference_output[:, target].double()
    booked = sum(total(entries, score) for entries in (books.biases, books.absorbed, books.unexplained))
    return Walked(graph, relevance, books, tape.output, score - relevance.double().flatten(1).sum(1) - booked)


def step_of(
    function: Callable[[Tensor], Tensor], batch: Tensor, baseline: Tensor | None = None, title: str | None = None
) -> Step:
    """The one step of `function` whose operator is called `title` (None: it has only one), as a walk would meet it."""
    steps = forward(graph_of(function, batch), batch, baseline).steps
    (step,) = (s for s in steps if title in (None, s.operator.title))
    return step
