"""Operators written in those that every runtime has are torch's, and so are their vector-Jacobian products."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from heatcli.graph.exportable import exportable, without_strides
from heatcli.system.torch_private import make_fx, name_of


def _convolution(stride: int, padding: int, dilation: int, groups: int, kernel: int, transposed: bool) -> nn.Module:
    if transposed:
        return nn.ConvTranspose2d(
            4, 6, kernel, stride, padding, output_padding=stride - 1, groups=groups, dilation=dilation
        ).double()
    return nn.Conv2d(4, 6, kernel, stride, padding, dilation, groups).double()


def _resized(x: Tensor, mode: str, size: Any, corners: bool | None = None, antialias: bool = False) -> Tensor:
    """x [N, C, H, W], its rows or its channels as a depth, resized to a size or by a factor."""
    x = {"linear": x[:, 0], "trilinear": x[:, None]}.get(mode, x)
    to = {"scale_factor": size} if isinstance(size, float) else {"size": size}
    return functional.interpolate(x, **to, mode=mode, align_corners=corners, antialias=antialias)


def _by_weights(x: Tensor, stride: int, padding: int, dilation: int, groups: int, transposed: bool) -> Tensor:
    """A convolution of a constant by weights that the picture makes, 3 × 2."""
    weights = x[:, :, :3, :2].repeat(2, 1, 1, 1)[:, : 4 // groups]
    read = torch.linspace(-1, 1, 2 * 4 * 8 * 7, dtype=torch.float64).reshape(2, 4, 8, 7)
    function = functional.conv_transpose2d if transposed else functional.conv2d
    return function(read, weights, None, stride, padding, dilation=dilation, groups=groups)


def _sampled(x: Tensor, mode: int, padding: int, corners: bool) -> Tensor:
    """`x` at places beyond its edges, too, that it says itself."""
    axes = x.dim() - 2
    grid = x.flatten(1)[:, : 24 * axes].reshape(len(x), *((4, 6) if axes == 2 else (2, 3, 4)), axes) * 0.8
    return getattr(ATEN, f"grid_sampler_{axes}d")(x, grid, mode, padding, corners)


ATEN = torch.ops.aten
MASK = torch.tensor([True, False, False, True])
MASKS = torch.zeros(7, 9, dtype=torch.bool).index_fill(1, torch.tensor([2, 5]), True)
ZEROS = (torch.arange(7) % 4 != 1).double()[:, None]
PLACES = torch.tensor([0, 3, 3, 1, 0, 3, 8, 8, 2])
ROWS = torch.arange(24.0).double().reshape(2, 4, 3)
CASES: dict[str, Callable[[Tensor], Tensor]] = {
    **{
        f"convolution {given}": _convolution(*given)
        for given in [
            (1, 0, 1, 1, 3, False), (2, 1, 1, 1, 3, False), (2, 3, 1, 2, 7, False), (1, 2, 2, 1, 3, False),
            (3, 0, 1, 1, 1, False), (2, 0, 2, 2, 2, False), (2, 1, 1, 1, 3, True), (1, 1, 1, 2, 3, True),
            (1, 1, 1, 2, 3, False), (1, 2, 1, 2, 5, False), (1, 4, 1, 1, 3, False),
        ]
    },
    "depthwise convolution": nn.Conv2d(4, 8, 3, 1, 1, groups=4).double(),
    "strided depthwise convolution": nn.Conv2d(4, 4, 3, 2, 1, groups=4).double(),
    "wide depthwise convolution": nn.Conv2d(4, 4, 5, (3, 2), 2, groups=4).double(),
    "depthwise convolution of stride and hole": nn.Conv2d(4, 4, 2, (2, 1), 1, 2, groups=4).double(),
    "convolution by single numbers": lambda x: torch.ops.aten.convolution(
        x, ROWS.reshape(2, 4, 3, 1), None, [2], [1], [1], False, [0], 1
    ),
    "convolution of rows": lambda x: functional.conv1d(x[:, :, 0], ROWS, stride=2),
    "max pool": lambda x: functional.max_pool2d(x, 3, 2, 1),
    "max pool without overlap": lambda x: functional.max_pool2d(x, 2, ceil_mode=True),
    "dilated max pool": lambda x: functional.max_pool2d(x, 2, 1, 0, 2),
    "max pool of volumes": lambda x: functional.max_pool3d(x[:, None], (2, 3, 3), 2, 1),
    "average pool of volumes": lambda x: functional.avg_pool3d(x[:, None], 2, 2, 1, count_include_pad=False),
    "adaptive average pool of volumes": lambda x: functional.adaptive_avg_pool3d(x[:, None], (3, 2, 4)),
    "convolution of volumes": nn.Sequential(
        nn.Unflatten(1, (2, 2)), nn.Conv3d(2, 2, 2, (1, 2, 2), 1, groups=2)
    ).double(),
    "max pool of one volume": lambda x: functional.max_pool3d(x, 2, 1),
    "average pool of one volume": lambda x: functional.avg_pool3d(x, 2, 1, ceil_mode=True),
    "adaptive pools of one volume": lambda x: functional.adaptive_avg_pool3d(x, (3, 2, 4)),
    "replicate padding of one volume": lambda x: functional.pad(x, (1, 2, 0, 1, 1, 0), mode="replicate"),
    "max pool of rows": lambda x: functional.max_pool1d(x[:, :, 0], 3, 2),
    "average pool of rows": lambda x: functional.avg_pool1d(x[:, :, 0], 3, 2, 1),
    "average pool of all that a window begins": lambda x: functional.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "the same with a divisor": lambda x: functional.avg_pool2d(x, (3, 2), 2, ceil_mode=True, divisor_override=5),
    "adaptive max pool": lambda x: functional.adaptive_max_pool2d(x, (7, 3)),
    "relu": torch.relu,
    "relu6": functional.relu6,
    "average pool": lambda x: functional.avg_pool2d(x, 3, 2, 1),
    "average pool of what is there": lambda x: functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "average pool with a divisor": lambda x: functional.avg_pool2d(x, (2, 3), divisor_override=5),
    "adaptive average pool": lambda x: functional.adaptive_avg_pool2d(x, (3, 4)),
    "sigmoid": torch.sigmoid,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "hardswish": functional.hardswish,
    "hardsigmoid": functional.hardsigmoid,
    "elu": functional.elu,
    "leaky relu": functional.leaky_relu,
    "softplus": functional.softplus,
    "layer norm": lambda x: functional.layer_norm(x, x.shape[2:]),
    "softmax": lambda x: x.softmax(1),
    "rrelu": functional.rrelu,
    **{
        f"{mode} padding of {what}": lambda x, mode=mode, what=what: functional.pad(
            {"rows": x[:, 0], "volumes": x[:, None]}.get(what, x),
            {"rows": (2, 1), "pictures": (1, 0, 2, 3), "volumes": (1, 2, 0, 1, 3, 1)}[what], mode=mode,
        )
        for mode in ("reflect", "replicate", "circular")
        for what in ("rows", "pictures", "volumes")
    },
    "bilinear": lambda x: functional.bilinear(x[:, 0], x[:, 1], ROWS.reshape(-1)[:9 * 2].repeat(9).reshape(2, 9, 9)),
    **{
        f"resize of {', '.join(map(str, given))}": lambda x, given=given: _resized(x, *given)
        for given in [
            ("nearest", (5, 13)), ("nearest", 1.7), ("nearest-exact", (5, 13)), ("nearest-exact", 1.7),
            ("bilinear", (5, 13)), ("bilinear", 1.7), ("bilinear", (5, 13), True), ("bicubic", 1.7),
            ("bicubic", (5, 13), True), ("bilinear", (5, 13), False, True), ("bicubic", (3, 20), False, True),
            ("linear", 5), ("linear", 1.7, True), ("trilinear", (3, 4, 13)), ("trilinear", (3, 4, 13), True),
        ]
    },
    "slice": lambda x: x[:, 1:3, ::2],
    **{
        f"weights of a convolution {given}": lambda x, given=given: _by_weights(x, *given)
        for given in [
            (1, 0, 1, 1, False), (2, 1, 1, 2, False), (1, 2, 2, 1, False), (2, 1, 1, 1, True), (1, 0, 2, 2, True),
        ]
    },
    "bias of a convolution": lambda x: functional.conv2d(x, torch.ones(4, 4, 3, 3).double(), x.mean((0, 2, 3))),
    **{
        f"{what} max pool to {sizes}": lambda x, pool=pool, sizes=sizes: pool(x, sizes)
        for what, pool, sizes in [
            ("adaptive", functional.adaptive_max_pool2d, (3, 4)), ("adaptive", functional.adaptive_max_pool2d, (9, 2)),
            ("adaptive volume", functional.adaptive_max_pool3d, (3, 2, 4)),
        ]
    },
    **{
        f"samples {given}": lambda x, given=given: _sampled(x, *given)
        for given in product((0, 1, 2), (0, 1, 2), (False, True))
    },
    **{
        f"samples of volumes {given}": lambda x, given=given: _sampled(x[:, None], *given)
        for given in product((0, 1), (0, 1, 2), (False, True))
    },
    **{
        f"distances {p}": lambda x, p=p: torch.cdist(x[:, 0], x[:, 1, :4] * 2, p=p)
        for p in (0.0, 0.7, 1.0, 2.0, 3.0, math.inf)
    },
    "distances of equal rows": lambda x: torch.cdist(x[:, 0], x[:, 0, :4].detach()),
    "product": lambda x: x.prod(2),
    "product with zeros": lambda x: (x * ZEROS).prod(2),
    "product of all": lambda x: x[:, 0, 0].prod(),
    "cumulative product": lambda x: x.cumprod(2),
    "cumulative product with zeros": lambda x: (x * ZEROS).cumprod(2),
    "cumulative maximum": lambda x: x.cummax(3)[0],
    "cumulative minimum": lambda x: x.round().cummin(1)[0],
    "median": lambda x: x.median(3)[0],
    "median of all": lambda x: x.median(),
    "third smallest": lambda x: x.kthvalue(3, 2, keepdim=True)[0],
    "hypotenuse": lambda x: torch.hypot(x, x.flip(3) + 1),
    "the larger one": lambda x: torch.fmax(x, x.flip(3)),
    "the smaller one": lambda x: torch.fmin(x, torch.where(x > 1, math.nan, x.flip(3))),
    "softshrink": functional.softshrink,
    "hardshrink": functional.hardshrink,
    "between": lambda x: torch.lerp(x, x.flip(3), 0.7),
    "between by weights": lambda x: torch.lerp(x, x.flip(3), x.sigmoid()),
    "windows": lambda x: x.unfold(2, 3, 2),
    "overlapping windows": lambda x: x.unfold(-1, 4, 1),
    "diagonal": lambda x: x.diagonal(0, 2, 3),
    "lower diagonal of others": lambda x: x.diagonal(-2, 3, 1),
    "written diagonal": lambda x: x.diagonal_scatter(x[..., 1] * 2, 0, 2, 3),
    "written upper diagonal": lambda x: x.diagonal_scatter(x[:, :1, :, :4].transpose(1, 2)[:, :, 0] * 2, 3, 1, 3),
    "rows by booleans": lambda x: x[:, MASK],
    "written by booleans": lambda x: ATEN.index_put(x, [None, MASK], x[:, :2] * 2),
    "written by booleans of two axes": lambda x: ATEN.index_put(x, [None, None, MASKS], x[:, :, 0, :1]),
    "one number written by booleans": lambda x: ATEN.index_put(x, [x > 0.5], x.mean()),
    "added by booleans": lambda x: ATEN.index_put(x, [None, MASK], x[:, :2] * 2, True),
    "filled": lambda x: x.index_fill(3, torch.tensor([0, -2]), 0.5),
    "filled by a value": lambda x: x.index_fill(1, torch.tensor([2]), x.mean()),
    "masked scatter": lambda x: (x * 2).masked_scatter(MASKS, x[:, 1:]),
    "reduced by indices": lambda x: x.index_reduce(3, torch.tensor([0, 2, 0]), x[..., :3] * 2, "amax"),
    "means by indices": lambda x: x.index_reduce(3, torch.tensor([0, 2, 0]), x[..., :3] * 2, "mean"),
    "means of places": lambda x: x.scatter_reduce(3, PLACES.expand(x.shape), x * 2, "mean"),
    "means of others": lambda x: x.scatter_reduce(3, PLACES.expand(x.shape), x * 2, "mean", include_self=False),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:index_reduce:UserWarning")
@pytest.mark.parametrize("case", CASES)
def test_it_is_torchs(case: str) -> None:
    """Output and product in float64, and no backward operator is left in what is recorded."""
    function = CASES[case]

    def both(x: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            y = function(x)
            return y.detach(), torch.autograd.grad(y, x, m)[0]

    x = torch.randn(2, 4, 7, 9, dtype=torch.float64)
    m = torch.randn_like(function(x))
    record = make_fx(both, exportable())(x, m)
    left = [name_of(n.target) for n in record.graph.nodes if n.op == "call_function" and "backward" in str(n.target)]
    assert not left
    x, m = torch.randn_like(x), torch.randn_like(m)
    for found, expected in zip(record(x, m), both(x, m), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)  # torch has 1/6 in float32


def test_the_sign_of_a_number_is_copied() -> None:
    x = torch.tensor([-2.0, -1e-30, 1e-30, 3.0])
    copied = exportable()[torch.ops.aten.copysign.Tensor](torch.tensor(0.5), x)
    assert torch.equal(copied, torch.copysign(torch.tensor(0.5), x))


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [([2, 4, 2], [252, 63, 9], 3), ([2, 252], [252, 1], 0), ([5, 5], [9, 1], 300), ([3, 2], [1, 100], 7)],
)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_places_in_memory(size: list[int], stride: list[int], offset: int, memory: torch.memory_format) -> None:
    """Reads, of images alone or across them, and writes, in either memory layout."""
    x = torch.randn(2, 4, 7, 9).contiguous(memory_format=memory)
    read, write = (without_strides()[op.default] for op in (ATEN.as_strided, ATEN.as_strided_scatter))
    assert torch.equal(read(x, size, stride, offset), x.as_strided(size, stride, offset))
    part = torch.randn(size)
    written = x.clone()
    written.as_strided(size, stride, offset).copy_(part)
    assert torch.equal(write(x, part, size, stride, offset), written)


def test_a_view_of_what_lies_otherwise_is_a_copy() -> None:
    x = torch.randn(2, 3, 4)
    view = without_strides()[ATEN.view.default]
    assert view(x, [6, 4]) is NotImplemented
    assert torch.equal(view(x.mT, [2, 12]), x.mT.reshape(2, 12))
