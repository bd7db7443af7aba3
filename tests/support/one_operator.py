"""Networks of one operator between two dense layers: every operator of the table of facts, and others, as an artifact.

The dense layer before gives the operator tensors of the shapes that it needs, the dense layer behind makes scores of
what it returns. A network takes any number of images where the operator leaves the batch alone, else a single one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from recipes import RECIPES, SHAPE, Draw
from torch import Tensor, nn
from torch.nn import functional as f
from torch.utils import _pytree as pytree

from heatcli.graph.operator import Constant, Operator, Ref
from heatcli.model.model import Model, load

C, SIDE, CLASSES = 3, 5, 4
DRAWS = 12  # calls that are drawn of each recipe; those alike are left out

Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Case:
    """One call: its name, the function of as many tensors as there are `shapes`, the batch first, and constants."""

    name: str
    function: Function
    shapes: Sequence[tuple[int, ...]]
    constants: Sequence[Tensor] = ()


def cases(name: str, most: int) -> Iterator[Case]:
    """At most so many different calls of the operator of that name."""
    if name in OTHERS:
        function, *shapes = OTHERS[name]
        yield Case(name, function, shapes or [SHAPE])
        return
    known: set[str] = set()
    for seed in range(DRAWS):
        op = RECIPES[name](Draw(seed))
        said = ", ".join(filter(None, map(_said, [*op.args, *op.kwargs.values()])))
        if said not in known and len(known) < most:
            known.add(said)
            leaves, spec = pytree.tree_flatten((op.args, dict(op.kwargs)))
            constants = [_single(leaf.value) for leaf in leaves if isinstance(leaf, Constant)]
            yield Case(f"{name}({said})", _called(op, leaves, spec), op.source_shapes, constants)


def _called(op: Operator, leaves: list[Any], spec: Any) -> Function:
    """The operator as a function of the tensors that carry the image and then of its constants."""

    def function(*given: Tensor) -> Tensor:
        sources, constants = dict(zip(op.sources, given, strict=False)), iter(given[len(op.sources) :])
        args, kwargs = pytree.tree_unflatten(
            [
                sources[leaf.name] if isinstance(leaf, Ref) else next(constants) if isinstance(leaf, Constant) else leaf
                for leaf in leaves
            ],
            spec,
        )
        output = op.target(*args, **kwargs)
        return output if op.index is None else output[op.index]  # type: ignore[no-any-return]

    return function


def _said(x: Any) -> str:
    """An argument in short."""
    if isinstance(x, list | tuple):
        return f"[{', '.join(map(_said, x))}]"
    if isinstance(x, Ref):
        return ""
    return f"{list(x.value.shape)}" if isinstance(x, Constant) else str(x)


def _single(x: Tensor) -> Tensor:
    return x.float() if x.is_floating_point() else x


class One(nn.Module):
    """The operator between dense layers. `whole`: for a single image, of which every dimension of its inputs is made.

    `positive`: inputs are 0.1 or larger.
    """

    def __init__(self, case: Case, whole: bool, positive: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function, self.whole, self.positive = case.function, whole, positive
        self.shapes = [tuple(shape if whole else shape[1:]) for shape in case.shapes]
        self.before = nn.ModuleList(nn.Linear(C * SIDE * SIDE, math.prod(shape)) for shape in self.shapes)
        for i, constant in enumerate(case.constants):
            self.register_buffer(f"constant{i}", constant)
        self.count = len(case.constants)
        with torch.no_grad():
            made = self.made(torch.randn(1 if whole else 2, C, SIDE, SIDE))
        if not whole and (made.dim() == 0 or len(made) != 2):
            raise ValueError("the first dimension is not the batch")
        self.head = nn.Linear(made.numel() if whole else made[0].numel(), CLASSES)

    def made(self, x: Tensor) -> Tensor:
        """What the operator returns."""
        sources = [dense(x.flatten(1)) * 1.5 for dense in self.before]
        if self.positive:
            sources = [source.sigmoid() * 2 + 0.1 for source in sources]
        sources = [
            source.view(shape if self.whole else (x.shape[0], *shape))
            for source, shape in zip(sources, self.shapes, strict=True)
        ]
        return self.function(*sources, *(getattr(self, f"constant{i}") for i in range(self.count)))

    def forward(self, x: Tensor) -> Tensor:
        """Scores [N, CLASSES]."""
        return self.head(self.made(x).reshape(1 if self.whole else x.shape[0], -1).float())  # type: ignore[no-any-return]


def model(case: Case, folder: Path) -> Model:
    """The network of the case as a `.pt2` file, loaded: for any number of images where that is possible.

    Raises what torch raises where the operator cannot be exported at all.
    """
    positive = not bool(torch.isfinite(One(case, whole=True)(inputs(1, 0))).all())
    batch = torch.export.Dim("N", min=1, max=64)
    file = folder / "one.pt2"
    program = None
    if all(len(shape) > 1 and shape[0] == 2 for shape in case.shapes):
        try:
            net = One(case, whole=False, positive=positive).eval()
            program = torch.export.export(net, (inputs(2, 0),), dynamic_shapes=({0: batch},))
            for count in (1, 3):
                program.module()(inputs(count, 0))
        except Exception:  # a constant has rows of images, or sizes are numbers
            program = None
    if program is None:
        program = torch.export.export(One(case, whole=True, positive=positive).eval(), (inputs(1, 0),))
    torch.export.save(program, file)
    return load(file, size=(SIDE, SIDE), mean=0.5, std=0.5)


def inputs(count: int, seed: int) -> Tensor:
    """Noise, so many images."""
    return torch.randn(count, C, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def _sampled(mode: str, padding: str, corners: bool) -> Function:
    """Sampling at places that are computed."""
    return lambda x, g: f.grid_sample(x, g.tanh() * 1.3, mode=mode, padding_mode=padding, align_corners=corners)


_PLANE = (2, 2, 5, 4)
_ROWS = (2, 6, 5)
# Operators that no row of the table describes, which are walked by their exact adjoint; name → function, shapes.
OTHERS: dict[str, tuple[Any, ...]] = {
    **{
        f"grid_sampler_2d, {mode}, {padding}, {corners}": (_sampled(mode, padding, corners), _PLANE, (2, 3, 4, 2))
        for mode, padding, corners in (
            ("bilinear", "zeros", False), ("bilinear", "border", True), ("bilinear", "reflection", False),
            ("bilinear", "reflection", True), ("nearest", "zeros", False), ("bicubic", "zeros", False),
        )
    },
    "grid_sampler_3d": (_sampled("bilinear", "zeros", False), (2, 2, 3, 4, 3), (2, 2, 3, 2, 3)),
    "affine_grid_generator": (lambda t: f.affine_grid(t, [t.shape[0], 1, 3, 4], False), (2, 2, 3)),
    "spatial transformer": (
        lambda x, t: f.grid_sample(x, f.affine_grid(t, [t.shape[0], 1, 4, 4], False), align_corners=False),
        _PLANE, (2, 2, 3),
    ),
    "_cdist_forward": (torch.cdist, _ROWS, (2, 4, 5)),
    "_cdist_forward, p 1": (lambda a, b: torch.cdist(a, b, p=1.0), _ROWS, (2, 4, 5)),
    "_cdist_forward, p 3": (lambda a, b: torch.cdist(a, b, p=3.0), _ROWS, (2, 4, 5)),
    "_cdist_forward, p ∞": (lambda a, b: torch.cdist(a, b, p=math.inf), _ROWS, (2, 4, 5)),
    "pairwise_distance": (f.pairwise_distance, _ROWS, _ROWS),
    "cosine_similarity": (lambda a, b: f.cosine_similarity(a, b, -1), _ROWS, _ROWS),
    "prod": (lambda x: x.flatten(1).sigmoid().prod(1, keepdim=True), _ROWS),
    "prod along an axis": (lambda x: x.prod(2), _ROWS),
    "cumprod": (lambda x: x.cumprod(2), _ROWS),
    "cumsum": (lambda x: x.cumsum(2), _ROWS),
    "cummax": (lambda x: x.cummax(2)[0], _ROWS),
    "cummin": (lambda x: x.cummin(2)[0], _ROWS),
    "logcumsumexp": (lambda x: x.logcumsumexp(2), _ROWS),
    "logsumexp": (lambda x: x.logsumexp(2), _ROWS),
    "var": (lambda x: x.var(2), _ROWS),
    "std": (lambda x: x.std(2), _ROWS),
    "var_mean": (lambda x: torch.cat(torch.var_mean(x, 2), 1), _ROWS),
    "median": (lambda x: x.median(2)[0], _ROWS),
    "nanmedian": (lambda x: x.nanmedian(2)[0], _ROWS),
    "mode": (lambda x: x.round().mode(2)[0], _ROWS),
    "quantile": (lambda x: x.quantile(0.3, 2), _ROWS),
    "kthvalue": (lambda x: x.kthvalue(2, 2)[0], _ROWS),
    "sort": (lambda x: x.sort(2)[0], _ROWS),
    "topk": (lambda x: x.topk(2, 2)[0], _ROWS),
    "aminmax": (lambda x: torch.cat(torch.aminmax(x, dim=2), 1), _ROWS),
    "fmod": (lambda x: x.fmod(1.3), _ROWS),
    "remainder": (lambda x: x.remainder(1.3), _ROWS),
    "remainder of two": (lambda x, y: x.remainder(y.abs() + 1), _ROWS, _ROWS),
    "frac": (torch.frac, _ROWS),
    "atan2": (torch.atan2, _ROWS, _ROWS),
    "hypot": (torch.hypot, _ROWS, _ROWS),
    "xlogy": (lambda x, y: torch.xlogy(x, y.abs() + 0.5), _ROWS, _ROWS),
    "logit": (lambda x: torch.logit(x.sigmoid(), 1e-3), _ROWS),
    "logaddexp": (torch.logaddexp, _ROWS, _ROWS),
    "logaddexp2": (torch.logaddexp2, _ROWS, _ROWS),
    "lerp": (lambda x, y: torch.lerp(x, y, 0.3), _ROWS, _ROWS),
    "lerp of three": (torch.lerp, _ROWS, _ROWS, _ROWS),
    "addcdiv": (lambda x, y, z: torch.addcdiv(x, y, z.abs() + 1, value=0.3), _ROWS, _ROWS, _ROWS),
    "copysign": (torch.copysign, _ROWS, _ROWS),
    "nan_to_num": (torch.nan_to_num, _ROWS),
    "fmax": (torch.fmax, _ROWS, _ROWS),
    "fmin": (torch.fmin, _ROWS, _ROWS),
    "pow of two": (lambda x, y: (x.abs() + 0.3) ** y, _ROWS, _ROWS),
    "float_power": (lambda x: torch.float_power(x.abs() + 0.3, 1.5), _ROWS),
    "asin": (lambda x: x.tanh().mul(0.9).asin(), _ROWS),
    "acos": (lambda x: x.tanh().mul(0.9).acos(), _ROWS),
    "acosh": (lambda x: (x.abs() + 1.1).acosh(), _ROWS),
    "atanh": (lambda x: (x.tanh() * 0.9).atanh(), _ROWS),
    "erfinv": (lambda x: (x.tanh() * 0.9).erfinv(), _ROWS),
    "lgamma": (lambda x: (x.abs() + 0.5).lgamma(), _ROWS),
    "digamma": (lambda x: (x.abs() + 0.5).digamma(), _ROWS),
    "i0": (torch.i0, _ROWS),
    "special.entr": (lambda x: torch.special.entr(x.sigmoid()), _ROWS),
    "special.ndtr": (torch.special.ndtr, _ROWS),
    "special.log_ndtr": (torch.special.log_ndtr, _ROWS),
    "softsign": (f.softsign, _ROWS),
    "tanhshrink": (f.tanhshrink, _ROWS),
    "rrelu": (f.rrelu, _ROWS),
    "selu": (f.selu, _ROWS),
    "glu": (lambda x: f.glu(x, 1), SHAPE),
    "logsigmoid": (f.logsigmoid, _ROWS),
    "heaviside": (lambda x: torch.heaviside(x, x.new_zeros(1)) * x, _ROWS),
    "sgn": (lambda x: x.sgn() * x, _ROWS),
    "deg2rad": (torch.deg2rad, _ROWS),
    "renorm": (lambda x: x.renorm(2, 1, 1.0), _ROWS),
    "normalize": (lambda x: f.normalize(x, dim=1), _ROWS),
    "local_response_norm": (lambda x: f.local_response_norm(x, 3), SHAPE),
    "instance_norm": (f.instance_norm, SHAPE),
    "linalg.cross": (lambda x, y: torch.linalg.cross(x, y), (2, 6, 3), (2, 6, 3)),
    "linalg.det": (torch.linalg.det, (2, 3, 3)),
    "linalg.inv": (lambda x: torch.linalg.inv(x + 4 * torch.eye(3)), (2, 3, 3)),
    "linalg.solve": (lambda x, y: torch.linalg.solve(x + 4 * torch.eye(3), y), (2, 3, 3), (2, 3, 2)),
    "linalg.cholesky": (lambda x: torch.linalg.cholesky(x @ x.mT + torch.eye(3)), (2, 3, 3)),
    "linalg.svdvals": (torch.linalg.svdvals, (2, 3, 4)),
    "linalg.matrix_norm": (torch.linalg.matrix_norm, (2, 3, 4)),
    "linalg.matrix_power": (lambda x: torch.linalg.matrix_power(x, 3), (2, 3, 3)),
    "matrix_exp": (torch.linalg.matrix_exp, (2, 3, 3)),
    "trace": (lambda x: x.diagonal(0, 1, 2).sum(-1, keepdim=True), (2, 3, 3)),
    "kron": (lambda x: torch.kron(x, torch.arange(4.0).reshape(1, 2, 2)), _ROWS),
    "einsum": (lambda x, y: torch.einsum("nij,nkj->nik", x, y), _ROWS, (2, 4, 5)),
    "bilinear": (lambda x, y: f.bilinear(x, y, torch.arange(75.0).reshape(3, 5, 5) / 30), _ROWS, _ROWS),
    "fft of rows": (lambda x: torch.fft.rfft(x).abs(), _ROWS),
    "stft": (
        lambda x: torch.stft(x.flatten(1), 8, 4, window=torch.ones(8), return_complex=True).abs(), _ROWS),
    "max_unpool2d": (lambda x: f.max_unpool2d(*f.max_pool2d(x, 2, return_indices=True), 2), SHAPE),
    "lp_pool2d": (lambda x: f.lp_pool2d(x.abs() + 0.1, 2, 2), SHAPE),
    "scatter_reduce": (
        lambda x, y: x.scatter_reduce(1, torch.tensor([[[0], [1], [0]]]).expand(x.shape[0], 3, 5), y[:, :3], "amax"),
        _ROWS, _ROWS,
    ),
    "scatter_reduce, mean": (
        lambda x, y: x.scatter_reduce(1, torch.tensor([[[0], [1], [0]]]).expand(x.shape[0], 3, 5), y[:, :3], "mean"),
        _ROWS, _ROWS,
    ),
    "scatter_reduce, prod": (
        lambda x, y: x.scatter_reduce(1, torch.tensor([[[0], [1], [0]]]).expand(x.shape[0], 3, 5), y[:, :3], "prod"),
        _ROWS, _ROWS,
    ),
    "index_reduce": (lambda x, y: x.index_reduce(1, torch.tensor([0, 2, 0]), y[:, :3], "amin"), _ROWS, _ROWS),
    "index_fill": (lambda x: x.index_fill(1, torch.tensor([0, 2]), 0.3), _ROWS),
    "index by booleans": (lambda x: x[:, torch.tensor([True, False, True, True, False, True])], _ROWS),
    "index by two tables": (lambda x: x[:, torch.tensor([0, 2, 2]), torch.tensor([1, 1, 4])], _ROWS),
    "index_put by booleans": (
        lambda x, y: x.index_put([torch.ones(x.shape[0], dtype=torch.bool)[:, None] & (torch.arange(6) > 2)],
                                 y.new_tensor(0.3)), _ROWS, _ROWS),
    "index_put of rows by booleans": (
        lambda x, y: torch.ops.aten.index_put(x, [None, torch.arange(6) > 2], y[:, :3]), _ROWS, _ROWS),
    "index_put by booleans, added": (
        lambda x, y: torch.ops.aten.index_put(x, [None, torch.arange(6) > 2], y[:, :3], True), _ROWS, _ROWS),
    "index_put by two tables": (
        lambda x, y: torch.ops.aten.index_put(x, [None, torch.tensor([0, 2]), torch.tensor([1, 4])], y[:, :2, 0]),
        _ROWS, _ROWS,
    ),
    "masked_scatter": (lambda x, y: x.masked_scatter(torch.arange(5) > 2, y), _ROWS, _ROWS),
    "take_along_dim": (lambda x: x.take_along_dim(x.argsort(1), 1), _ROWS),
    "searched places": (lambda x: x.gather(2, x.argmax(2, keepdim=True)), _ROWS),
    "diag_embed": (lambda x: x.diag_embed(), _ROWS),
    "tril by an offset": (lambda x: x.tril(-1), (2, 4, 4)),
    "as_strided_scatter": (lambda x, y: x.as_strided_scatter(y[:, :2, :2], [2, 2, 2], [30, 5, 1]), _ROWS, _ROWS),
    "unfold_backward": (lambda x: f.fold(f.unfold(x, 3), (6, 6), 3), SHAPE),
    "embedding_bag": (lambda x: x @ torch.eye(5), _ROWS),
    "scaled_dot_product_attention": (
        f.scaled_dot_product_attention, (2, 2, 5, 4), (2, 2, 5, 4), (2, 2, 5, 4)),
    "conv of weights that are computed": (
        lambda x, w: f.conv2d(x.reshape(1, -1, 6, 6), w.reshape(-1, 1, 3, 3), groups=4 * x.shape[0]).reshape(
            -1, 4, 4, 4),
        SHAPE, (2, 4, 3, 3)),
    "upsample_bicubic2d_aa": (lambda x: f.interpolate(x, (4, 9), mode="bicubic", antialias=True), SHAPE),
    "upsample_nearest_exact3d": (lambda x: f.interpolate(x[:, None], (3, 4, 9), mode="nearest-exact"), SHAPE),
    "circular padding": (lambda x: f.pad(x, (1, 2, 2, 1), mode="circular"), SHAPE),
    "written diagonals": (lambda x, y: _written(x, lambda z: z.diagonal(0, 2, 3).copy_(y[..., 0])), SHAPE, SHAPE),
    "written parts": (lambda x, y: _written(x, lambda z: z[:, 1:3, ::2].mul_(y[:, 1:3, ::2])), SHAPE, SHAPE),
    "written views": (lambda x: _written(x, lambda z: z.permute(0, 2, 3, 1)[:, 1].fill_(0.4)), SHAPE),
}  # fmt: skip


def _written(x: Tensor, write: Callable[[Tensor], Any]) -> Tensor:
    """A copy of `x` that was written to."""
    y = x.clone()
    write(y)
    return y


NAMES = (*RECIPES, *OTHERS)
