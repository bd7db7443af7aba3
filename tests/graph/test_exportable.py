"""Backward operators written as forward ones are torch's vector-Jacobian products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from heatcli.graph.exportable import exportable
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
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_it_is_torchs(case: str) -> None:
    """In float64, and no backward operator is left in what is recorded."""
    function = CASES[case]

    def product(x: Tensor, m: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(function(x), x, m)[0]

    x = torch.randn(2, 4, 7, 9, dtype=torch.float64)
    m = torch.randn_like(function(x))
    record = make_fx(product, exportable())(x, m)
    left = [name_of(n.target) for n in record.graph.nodes if n.op == "call_function" and "backward" in str(n.target)]
    assert not left
    x, m = torch.randn_like(x), torch.randn_like(m)
    torch.testing.assert_close(record(x, m), product(x, m), rtol=1e-7, atol=1e-7)  # torch has 1/6 in float32


def test_the_sign_of_a_number_is_copied() -> None:
    x = torch.tensor([-2.0, -1e-30, 1e-30, 3.0])
    copied = exportable()[torch.ops.aten.copysign.Tensor](torch.tensor(0.5), x)
    assert torch.equal(copied, torch.copysign(torch.tensor(0.5), x))
