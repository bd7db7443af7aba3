"""How each ATen operator of the table of facts is called: with arguments drawn anew each time, as artifacts have them.

Arguments are drawn from few numbers, so that those at which a condition changes come up often.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from heatcli.graph.kinds import classified
from heatcli.graph.operator import Constant, Operator, Ref

A = torch.ops.aten
SHAPE = (2, 4, 6, 6)


@dataclass(frozen=True)
class Image:
    """Stands for an argument that carries the image, of that shape."""

    shape: tuple[int, ...] = SHAPE


X = Image()


def call(target: Any, *args: Any, index: int | None = None, **kwargs: Any) -> Operator:
    """The classified operator that calls `target` on those arguments; tensors among them are constants."""
    sources: list[str] = []
    shapes: list[tuple[int, ...]] = []

    def held(x: Any) -> Any:
        if isinstance(x, Image):
            sources.append(f"x{len(sources)}")
            shapes.append(x.shape)
            return Ref(sources[-1])
        return Constant("constant", x) if isinstance(x, Tensor) else x

    given, named = pytree.tree_map(held, (args, kwargs))
    operator = Operator(
        name="f", target=target, args=tuple(given), kwargs=named, index=index, shape=(), dtype=torch.float64,
        sources=tuple(sources), source_shapes=tuple(shapes),
    )  # fmt: skip
    output = operator.run({}, [torch.ones(shape, dtype=torch.float64) for shape in shapes])
    return classified(Operator(
        name="f", target=target, args=operator.args, kwargs=named, index=index, shape=tuple(output.shape),
        dtype=output.dtype, sources=operator.sources, source_shapes=operator.source_shapes,
    ))  # fmt: skip


class Draw:
    """Arguments, drawn by a seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.torch = torch.Generator().manual_seed(seed)

    def one(self, *choices: Any) -> Any:
        return self.random.choice(choices)

    def yes(self) -> bool:
        return self.random.random() < 0.5

    def number(self) -> float:
        return float(self.one(-2.0, -0.7, -0.2, 0.0, 0.0, 0.2, 0.7, 1.0, 6.0))

    def tensor(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.torch, dtype=torch.float64)

    def bound(self) -> float | Tensor | None:
        """A bound as `clamp` takes it: absent, a number, or one for each channel or for all."""
        kind = self.one("absent", "number", "number", "filled", "each")
        if kind == "each":
            return self.tensor(4, 1, 1)
        number = self.number()
        return None if kind == "absent" else torch.tensor([number], dtype=torch.float64) if kind == "filled" else number

    def mask(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.torch) < 0.5


Recipe = Callable[[Draw], Operator]
RECIPES: dict[str, Recipe] = {}


def plain(names: str, *args: Any) -> None:
    """Operators that are called with the image and always the same arguments."""
    for name in names.split():
        target = getattr(A, name).default
        RECIPES[name] = lambda d, target=target: call(target, X, *args)  # noqa: ARG005 - nothing is drawn


def recipe(names: str) -> Callable[[Callable[[Draw, Any], Operator]], None]:
    """Of operators that are called alike: a function of what draws arguments and the operator's packet."""

    def known(function: Callable[[Draw, Any], Operator]) -> None:
        for name in names.split():
            packet = getattr(A, name)
            RECIPES[name] = lambda d, packet=packet: function(d, packet)

    return known


plain(
    "relu abs hardsigmoid hardswish silu mish tanh sigmoid exp exp2 expm1 square sqrt log1p tan sinh rsqrt reciprocal"
)
plain("log log2 log10 cosh sin atan asinh erf cos erfc sinc sign floor ceil trunc neg")
plain("clone alias detach contiguous lift_fresh_copy")
RECIPES["t"] = lambda d: call(A.t.default, Image((3, 5)))  # noqa: ARG005
RECIPES["log_sigmoid_forward"] = lambda d: call(A.log_sigmoid_forward.default, X, index=0)  # noqa: ARG005


@recipe("round")
def _(d: Draw, f: Any) -> Operator:
    return call(f.decimals, X, decimals=1) if d.yes() else call(f.default, X)


# --- nonlinearities with arguments --------------------------------------------------------------------------------


@recipe("leaky_relu")
def _(d: Draw, f: Any) -> Operator:
    return call(f.default, X, d.one(-0.5, 0.0, 0.01, 1.0, 2.0))


@recipe("prelu _prelu_kernel")
def _(d: Draw, f: Any) -> Operator:
    weight = d.tensor(4)
    return call(f.default, X, weight if "kernel" not in str(f) else weight.reshape(1, 4, 1, 1))


@recipe("hardtanh")
def _(d: Draw, f: Any) -> Operator:
    ends = sorted((d.number(), d.number() + 0.1))
    return call(f.default, X, *d.one((), ends[:1], ends, ends, (0.0, 6.0), (0.0, math.inf)))


@recipe("clamp")
def _(d: Draw, f: Any) -> Operator:
    low, high = d.bound(), d.bound()
    if low is None and high is None:
        low = 0.0
    if not isinstance(low, Tensor) and not isinstance(high, Tensor):
        return call(f.default, X, low, high) if d.yes() else call(f.default, X, min=low, max=high)
    low, high = (None if v is None else torch.as_tensor(v, dtype=torch.float64) for v in (low, high))
    return call(f.Tensor, X, low, high)


@recipe("clamp_min clamp_max")
def _(d: Draw, f: Any) -> Operator:
    bound = d.bound()
    return call(f.Tensor if isinstance(bound, Tensor) else f.default, X, 0.0 if bound is None else bound)


@recipe("maximum minimum")
def _(d: Draw, f: Any) -> Operator:
    other = d.one(X, d.tensor(4, 1, 1), torch.tensor(d.number(), dtype=torch.float64))
    return call(f.default, *d.one((X, other), (X, other), (other, X)))


@recipe("threshold")
def _(d: Draw, f: Any) -> Operator:
    return call(f.default, X, d.one(-0.3, 0.0, 0.3), d.one(-0.5, -0.3, 0.0, 0.3, 0.5))


@recipe("softshrink hardshrink")
def _(d: Draw, f: Any) -> Operator:
    return call(f.default, X, d.one(0.0, 0.5, 1.0))


@recipe("gelu")
def _(d: Draw, f: Any) -> Operator:
    return call(f.default, X, approximate=d.one("none", "tanh"))


@recipe("elu")
def _(d: Draw, f: Any) -> Operator:
    return call(f.default, X, *(d.one(-1.0, -0.5, 0.5, 1.0, 2.0) for _ in range(d.one(0, 1, 3))))


@recipe("celu")
def _(d: Draw, f: Any) -> Operator:
    return call(f.default, X, d.one(-1.0, 0.5, 1.0, 3.0))


@recipe("softplus")
def _(d: Draw, f: Any) -> Operator:
    return call(f.default, X, *d.one((), (d.one(-1.0, 0.5, 3.0), d.one(-5.0, 0.0, 1.0, 20.0))))


@recipe("pow")
def _(d: Draw, f: Any) -> Operator:
    exponent = d.one(-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
    if d.yes():
        return call(f.Tensor_Scalar, X, exponent)
    return d.one(
        call(f.Scalar, 2.0, X),
        call(f.Tensor_Tensor, X, torch.tensor(exponent, dtype=torch.float64)),
        call(f.Tensor_Tensor, X, d.tensor(4, 1, 1).abs()),
        call(f.Tensor_Tensor, torch.tensor(2.0, dtype=torch.float64), X),
    )


# --- scales, shifts, layers with weights --------------------------------------------------------------------------


@recipe("add sub")
def _(d: Draw, f: Any) -> Operator:
    other, alpha = d.one(X, Image((4, 1, 1)), d.tensor(4, 1, 1)), d.one(-2.0, 0.0, 1.0, 3.0)
    if d.yes():
        return call(f.Scalar, X, 0.7, *d.one((), (alpha,)))
    return call(f.Tensor, *d.one((X, other), (other, X)), **d.one({}, {"alpha": alpha}))


@recipe("rsub")
def _(d: Draw, f: Any) -> Operator:
    other, alpha = d.one(X, d.tensor(4, 1, 1)), d.one(-2.0, 1.0, 3.0)
    return call(f.Scalar, X, 0.7, alpha) if d.yes() else call(f.Tensor, X, other, alpha=alpha)


@recipe("mul")
def _(d: Draw, f: Any) -> Operator:
    other = d.one(X, Image((2, 4, 1, 1)), d.tensor(4, 1, 1))
    return call(f.Scalar, X, -1.5) if d.yes() else call(f.Tensor, *d.one((X, other), (other, X)))


@recipe("div")
def _(d: Draw, f: Any) -> Operator:
    other = d.one(X, d.tensor(4, 1, 1).abs() + 0.5)
    return d.one(
        call(f.Scalar, X, -1.5),
        call(f.Tensor, X, other),
        call(f.Tensor, d.tensor(4, 1, 1), X),
        call(f.Tensor_mode, X, other, rounding_mode=None),
        call(f.Tensor_mode, X, other, rounding_mode="floor"),
    )


@recipe("addcmul")
def _(d: Draw, f: Any) -> Operator:
    factors = [d.one(X, d.tensor(4, 1, 1)) for _ in range(2)]
    first = X if not any(isinstance(x, Image) for x in factors) else d.one(X, d.tensor(4, 1, 1))
    return call(f.default, first, *factors, value=d.one(1.0, -0.5))


@recipe("convolution")
def _(d: Draw, f: Any) -> Operator:
    groups, transposed = d.one(1, 2), d.yes()
    stride, dilation = d.one([1, 1], [2, 1]), d.one([1, 1], [2, 2])
    shape = (4, 3 * groups // groups, 3, 3) if transposed else (6, 4 // groups, 3, 3)
    padded = [1, 0] if transposed and stride == [2, 1] else [0, 0]
    bias = d.one(None, d.tensor(3 * groups if transposed else 6))
    weight = d.one(d.tensor(*shape), d.tensor(*shape), Image(shape))
    return call(f.default, X, weight, bias, stride, [1, 1], dilation, transposed, padded, groups)


@recipe("linear")
def _(d: Draw, f: Any) -> Operator:
    return call(f.default, X, d.tensor(5, 6), d.one(None, d.tensor(5)))


def _factors(d: Draw, a: tuple[int, ...], b: tuple[int, ...]) -> tuple[Any, Any]:
    """Two matrices, of which one or both carry the image."""
    return d.one((Image(a), Image(b)), (Image(a), d.tensor(*b)), (d.tensor(*a), Image(b)))


@recipe("mm matmul")
def _(d: Draw, f: Any) -> Operator:
    return call(f.default, *_factors(d, (3, 4), (4, 5)))


@recipe("bmm")
def _(d: Draw, f: Any) -> Operator:
    return call(f.default, *_factors(d, (2, 3, 4), (2, 4, 5)))


@recipe("addmm")
def _(d: Draw, f: Any) -> Operator:
    more = {"beta": d.one(0.5, 1, 2), "alpha": d.one(-1.5, 1)} if d.yes() else {}
    return call(f.default, d.tensor(5), *_factors(d, (3, 4), (4, 5)), **more)


@recipe("baddbmm")
def _(d: Draw, f: Any) -> Operator:
    more = {"beta": d.one(0, 1, 2), "alpha": d.one(-1.5, 1)} if d.yes() else {}
    return call(f.default, d.tensor(2, 3, 5), *_factors(d, (2, 3, 4), (2, 4, 5)), **more)


@recipe("native_batch_norm")
def _(d: Draw, f: Any) -> Operator:
    weight, bias = d.one((None, None), (d.tensor(4), d.tensor(4)))
    own = d.yes()
    x = Image((1, 4, 6, 6)) if own else X
    return call(f.default, x, weight, bias, d.tensor(4), d.tensor(4).abs() + 0.5, own, 0.1, 1e-5, index=0)


@recipe("_native_batch_norm_legit_no_training")
def _(d: Draw, f: Any) -> Operator:
    weight, bias = d.one((None, None), (d.tensor(4), d.tensor(4)))
    return call(f.default, X, weight, bias, d.tensor(4), d.tensor(4).abs() + 0.5, 0.1, 1e-5, index=0)


# --- means, sums, maxima ------------------------------------------------------------------------------------------


@recipe("mean sum")
def _(d: Draw, f: Any) -> Operator:
    over = f.dim if "mean" in str(f) else f.dim_IntList
    return d.one(call(over, X, [1]), call(over, X, [-1, -2], True), call(over, X, [2, 3]))


@recipe("cumsum")
def _(d: Draw, f: Any) -> Operator:
    return call(f.default, X, d.one(1, 3))


@recipe("avg_pool1d")
def _(d: Draw, f: Any) -> Operator:
    return call(f.default, Image((2, 4, 7)), [3], [2], [1], d.yes(), d.yes())


def _shape_for(f: Any) -> tuple[int, ...]:
    """[N, C, …] with as many dimensions behind as the operator's name says."""
    return (2, 3, *(7, 6, 5)[: next(int(n) for n in "123" if f"{n}d" in str(f))])


@recipe("avg_pool2d avg_pool3d")
def _(d: Draw, f: Any) -> Operator:
    shape = _shape_for(f)
    n = len(shape) - 2
    return call(f.default, Image(shape), [3] * n, [2] * n, [1] * n, d.yes(), d.yes(), d.one(None, 2, -2))


def _roi_align(d: Draw) -> Operator:
    import torchvision  # noqa: F401

    boxes = torch.tensor([[0.0, 0.0, 0.0, 3.0, 2.0], [0.0, 1.2, 0.5, 4.0, 4.5]], dtype=torch.float64)
    return call(torch.ops.torchvision.roi_align.default, Image((1, 2, 5, 5)), boxes, 1.0, 2, 2, 2, d.yes())


RECIPES["roi_align"] = _roi_align


@recipe(
    "adaptive_avg_pool1d adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool3d "
    "adaptive_max_pool2d adaptive_max_pool3d"
)
def _(d: Draw, f: Any) -> Operator:
    shape = _shape_for(f)
    size = [d.one(1, 2, 3) for _ in shape[2:]]
    return call(f.default, Image(shape), size, index=0 if "max" in str(f) else None)


@recipe(
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d "
    "upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d _upsample_bilinear2d_aa"
)
def _(d: Draw, f: Any) -> Operator:
    shape = _shape_for(f)
    size = [n + d.one(-2, 1, 4) for n in shape[2:]]
    return call(f.default, Image(shape), size, *([] if "nearest" in str(f) else [d.yes()]))


@recipe("max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices")
def _(d: Draw, f: Any) -> Operator:
    shape = _shape_for(f)
    n = len(shape) - 2
    if n == 3 and d.yes():
        shape = shape[1:]  # a volume without batch dimension
    args = d.one(([2] * n,), ([3] * n, [2] * n, [1] * n, [1] * n, True), ([2] * n, [1] * n, [0] * n, [2] * n))
    return call(f.default, Image(shape), *args, index=0 if "indices" in str(f) else None)


@recipe("amax amin")
def _(d: Draw, f: Any) -> Operator:
    return call(f.default, X, *d.one(([1],), ([2, 3], True), ()))


@recipe("max min")
def _(d: Draw, f: Any) -> Operator:
    return call(f.default, X) if d.yes() else call(f.dim, X, d.one(1, 3), d.yes(), index=0)


# --- sums of tensors, normalisers ---------------------------------------------------------------------------------


@recipe("cat stack")
def _(d: Draw, f: Any) -> Operator:
    return call(f.default, d.one([X, X], [X, d.tensor(*SHAPE)], [d.tensor(*SHAPE), X, X]), d.one(1, -1))


@recipe("slice_scatter")
def _(d: Draw, f: Any) -> Operator:
    part = (2, 2, 6, 6)
    pair = d.one((X, Image(part)), (X, d.tensor(*part)), (d.tensor(*SHAPE), Image(part)))
    return call(f.default, *pair, 1, 0, 2)


@recipe("select_scatter")
def _(d: Draw, f: Any) -> Operator:
    part = (2, 6, 6)
    pair = d.one((X, Image(part)), (X, d.tensor(*part)), (d.tensor(*SHAPE), Image(part)))
    return call(f.default, *pair, 1, 2)


@recipe("diagonal_scatter")
def _(d: Draw, f: Any) -> Operator:
    part = (2, 4, 6)
    pair = d.one((X, Image(part)), (X, d.tensor(*part)), (d.tensor(*SHAPE), Image(part)))
    return call(f.default, *pair, 0, 2, 3)


@recipe("index_put")
def _(d: Draw, f: Any) -> Operator:
    places, part = torch.tensor([3, 0, 1]), (2, 3, 6, 6)
    x, values = d.one((X, Image(part)), (X, d.tensor(*part)), (d.tensor(*SHAPE), Image(part)))
    return call(f.default, x, [None, places], values, d.yes())


@recipe("index_copy index_add")
def _(d: Draw, f: Any) -> Operator:
    places, part = torch.tensor([3, 0, 1]), (2, 3, 6, 6)
    x, values = d.one((X, Image(part)), (X, d.tensor(*part)), (d.tensor(*SHAPE), Image(part)))
    return call(f.default, x, 1, places, values)


@recipe("scatter scatter_add")
def _(d: Draw, f: Any) -> Operator:
    part = (2, 4, 6, 3)  # of six places, three are written
    places = torch.stack([torch.randperm(6, generator=d.torch)[:3] for _ in range(48)]).reshape(part)
    x, values = d.one((X, Image(part)), (X, d.tensor(*part)), (d.tensor(*SHAPE), Image(part)))
    return call(f.default if "add" in str(f) else f.src, x, 3, places, values)


@recipe("col2im")
def _(d: Draw, f: Any) -> Operator:  # noqa: ARG001
    return call(f.default, Image((2, 8, 25)), [6, 6], [2, 2], [1, 1], [0, 0], [1, 1])


@recipe("native_layer_norm")
def _(d: Draw, f: Any) -> Operator:
    shape = d.one([6], [6, 6])
    weight, bias = d.one((None, None), (d.tensor(*shape), d.tensor(*shape)))
    return call(f.default, X, shape, weight, bias, 1e-9, index=0)


@recipe("_fused_rms_norm")
def _(d: Draw, f: Any) -> Operator:
    shape = d.one([6], [6, 6])
    return call(f.default, X, shape, d.one(None, d.tensor(*shape)), d.one(1e-9, None), index=0)


@recipe("native_group_norm")
def _(d: Draw, f: Any) -> Operator:
    weight, bias = d.one((None, None), (d.tensor(4), d.tensor(4)))
    return call(f.default, X, weight, bias, 2, 4, 36, d.one(1, 2), 1e-9, index=0)


@recipe("_softmax _log_softmax _safe_softmax")
def _(d: Draw, f: Any) -> Operator:
    return call(f.default, X, d.one(1, -1), *([] if "safe" in str(f) else [False]))


@recipe("norm")
def _(d: Draw, f: Any) -> Operator:
    p = d.one(0.5, 1, 2, 2, 2.0, 3)
    return call(f.ScalarOpt_dim, X, p, [1], d.yes()) if d.yes() else call(f.Scalar, X, p)


@recipe("linalg_vector_norm")
def _(d: Draw, f: Any) -> Operator:
    return d.one(call(f.default, X), call(f.default, X, d.one(1, 2, 3), [1], d.yes()))


# --- layouts ------------------------------------------------------------------------------------------------------


@recipe("view _unsafe_view reshape")
def _(d: Draw, f: Any) -> Operator:
    return call(f.default, X, d.one([2, -1], [8, 36]))


@recipe("permute")
def _(d: Draw, f: Any) -> Operator:
    return call(f.default, X, d.one([0, 2, 3, 1], [3, 2, 1, 0]))


@recipe("transpose")
def _(d: Draw, f: Any) -> Operator:
    return call(f.int, X, 1, d.one(2, -1))


@recipe("movedim")
def _(d: Draw, f: Any) -> Operator:
    return call(f.int, X, 1, -1) if d.yes() else call(f.intlist, X, [1, 2], [2, 1])


@recipe("squeeze unsqueeze")
def _(d: Draw, f: Any) -> Operator:
    if "unsqueeze" in str(f):
        return call(f.default, X, d.one(0, -1))
    return call(f.dim, Image((2, 1, 6)), 1) if d.yes() else call(f.default, Image((2, 1, 6)))


@recipe("flatten")
def _(d: Draw, f: Any) -> Operator:
    return call(f.using_ints, X, d.one(0, 1, 2))


@recipe("expand")
def _(d: Draw, f: Any) -> Operator:
    return call(f.default, Image((2, 1, 6)), [2, d.one(1, 4), -1])


@recipe("_to_copy")
def _(d: Draw, f: Any) -> Operator:  # noqa: ARG001
    return call(f.default, X, dtype=torch.float64)


@recipe("slice select narrow")
def _(d: Draw, f: Any) -> Operator:
    if "slice" in str(f):
        return call(f.Tensor, X, 3, 1, d.one(5, 9223372036854775807), d.one(1, 2))
    return call(f.int, X, 1, 2) if "select" in str(f) else call(f.default, X, 1, 1, 2)


@recipe("split split_with_sizes chunk unbind unsafe_split unsafe_split_with_sizes unsafe_chunk")
def _(d: Draw, f: Any) -> Operator:
    name = f.__name__.removeprefix("unsafe_")
    args = {"split_with_sizes": ([1, 3], 1), "unbind": (1,)}.get(name, (2, 1))
    overload = f.Tensor if name == "split" else f.int if f.__name__ == "unbind" else f.default
    return call(overload, X, *args, index=d.one(0, 1))


@recipe("index")
def _(d: Draw, f: Any) -> Operator:  # noqa: ARG001
    return call(f.Tensor, X, [None, torch.tensor([0, 2, 2])])


@recipe("index_select")
def _(d: Draw, f: Any) -> Operator:  # noqa: ARG001
    return call(f.default, X, 1, torch.tensor([3, 0, 0]))


@recipe("gather")
def _(d: Draw, f: Any) -> Operator:
    return call(f.default, X, 1, torch.randint(0, 4, (2, 3, 6, 6), generator=d.torch))


@recipe("diagonal tril triu")
def _(d: Draw, f: Any) -> Operator:
    return call(f.default, X, d.one(0, 1), *((2, 3) if "diagonal" in str(f) else ()))


@recipe("unfold")
def _(d: Draw, f: Any) -> Operator:
    return call(f.default, X, 3, 3, d.one(1, 2))


@recipe("im2col")
def _(d: Draw, f: Any) -> Operator:  # noqa: ARG001
    return call(f.default, X, [2, 3], [1, 1], [1, 0], [1, 2])


@recipe("as_strided")
def _(d: Draw, f: Any) -> Operator:
    return call(f.default, X, [2, 5, 5], [144, 6, 1], d.one(0, 7))


@recipe("repeat")
def _(d: Draw, f: Any) -> Operator:
    return call(f.default, X, [1, 2, 1, d.one(1, 3)])


@recipe("repeat_interleave")
def _(d: Draw, f: Any) -> Operator:
    return call(f.self_int, X, 2, d.one(1, 3))


@recipe("roll flip rot90")
def _(d: Draw, f: Any) -> Operator:
    if "roll" in str(f):
        return call(f.default, X, *d.one(([1, -2], [2, 3]), ([5],)))
    return call(f.default, X, [2, 3]) if "flip" in str(f) else call(f.default, X, d.one(1, 2), [2, 3])


@recipe("pixel_shuffle pixel_unshuffle channel_shuffle")
def _(d: Draw, f: Any) -> Operator:  # noqa: ARG001
    return call(f.default, X, 2)


@recipe("reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d")
def _(d: Draw, f: Any) -> Operator:
    shape = _shape_for(f)
    return call(f.default, Image(shape), [d.one(1, 2), 0] * (len(shape) - 2))


@recipe("constant_pad_nd")
def _(d: Draw, f: Any) -> Operator:
    return call(f.default, X, d.one([1, 2], [0, 1, 2, 0], [-1, 1]), *d.one((), (d.number(),)))


@recipe("masked_fill")
def _(d: Draw, f: Any) -> Operator:
    value = d.number()
    if d.yes():
        return call(f.Scalar, X, d.mask(6, 6), value)
    return call(f.Tensor, X, d.mask(*SHAPE), torch.tensor(value, dtype=torch.float64))


@recipe("where")
def _(d: Draw, f: Any) -> Operator:
    mask, value = d.mask(6, 6), d.number()
    if d.yes():
        return call(f.ScalarOther, mask, X, value) if d.yes() else call(f.ScalarSelf, mask, value, X)
    other: Sequence[Any] = d.one((X, X), (X, d.tensor(4, 1, 1)), (torch.full((6,), value, dtype=torch.float64), X))
    return call(f.self, mask, *other)
