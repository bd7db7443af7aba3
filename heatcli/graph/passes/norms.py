"""The graph pass `join-norms`: layer, group, instance and RMS norms, softmax, log-softmax become one operator each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from heatcli.graph.offsets import uses_own_statistics
from heatcli.graph.operator import Constant, Graph, Operator, Ref
from heatcli.graph.passes.regions import Region, Regions, is_pointwise
from heatcli.graph.passes.rewriting import made, replaced

_ATEN = torch.ops.aten
_REDUCTIONS = frozenset(
    """mean sum var std var_mean std_mean amax max logsumexp norm linalg_vector_norm native_batch_norm
    native_group_norm native_layer_norm _fused_rms_norm _softmax _log_softmax _safe_softmax""".split()
)
_LAYOUTS = frozenset("view _unsafe_view reshape permute transpose t squeeze unsqueeze expand".split())
_NORMS = frozenset("native_batch_norm native_group_norm native_layer_norm _fused_rms_norm".split())
_OWN = frozenset("native_group_norm native_layer_norm _fused_rms_norm _softmax _log_softmax _safe_softmax".split())
_SAME = 1e-6  # tolerance for equal functions, relative to the largest value
_LARGE, _SMALL = 1e4, 1e-7  # input scales at which the variance is far above, and far below, any ε


def _is_allowed(op: Operator) -> bool:
    """Whether the operator may be part of a norm or softmax."""
    if op.title == "native_batch_norm":
        return uses_own_statistics(op)
    return is_pointwise(op) or op.title in _REDUCTIONS or op.title in _LAYOUTS


def join_norms(graph: Graph) -> Graph:
    """(x − mean)/√(variance + ε)·w + b becomes native_layer_norm or native_group_norm, exp(x)/Σ exp(x) _softmax.

    x/√(mean x² + ε)·w becomes _fused_rms_norm.
    """
    regions, by, gone = Regions(graph), dict[str, tuple[Operator, ...]](), set[str]()
    for end in reversed(graph.operators):
        if end.name in gone or not end.dtype.is_floating_point or len(end.shape) < 2:
            continue
        matches: list[tuple[Region, tuple[Operator, ...]]] = []
        for region in regions.ending_in(end, _is_allowed):
            joined = _joined(region)
            if joined is not None and (not matches or _numbers(joined) == _numbers(matches[0][1])):
                matches.append((region, joined))
        if matches:  # the largest region: with the maximum that a softmax subtracts, without a factor that changes ε
            region, by[end.name] = matches[-1]
            gone.update(op.name for op in region.operators)
    return replaced(graph, by) if by else graph


def _numbers(operators: tuple[Operator, ...]) -> list[Any]:
    """The operators' titles and the numbers among their arguments. An RMS norm of x − mean is a layer norm of x."""
    titles = [op.title.replace("_fused_rms_norm", "native_layer_norm") for op in operators]
    numbers = [[x for x in op.args if not isinstance(x, Ref | Constant | None)] for op in operators]
    return list(zip(titles, numbers, strict=True))


def _joined(region: Region) -> tuple[Operator, ...] | None:
    """The region as one operator, with layouts around it if needed; None if it is none, or is that operator already."""
    titles = {op.title for op in region.operators if op.title not in _LAYOUTS}
    is_canonical = len(titles) == 1 and titles <= _OWN
    if region.end.shape != region.source_shape or not titles & _REDUCTIONS or is_canonical:
        return None
    x = torch.randn(region.source_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    softmax = _softmax(region, x) if "exp" in titles else None
    return _norm(region, x) if softmax is None and titles & {"sqrt", "rsqrt", "pow", *_NORMS} else softmax


def _softmax(region: Region, x: Tensor) -> tuple[Operator, ...] | None:
    """The region as a softmax or log-softmax."""
    y = region(3 * x)
    for target in (_ATEN._softmax.default, _ATEN._log_softmax.default):
        for dim in range(x.dim() - 1, 0, -1):
            if _same(y, target(3 * x, dim, False)):
                return (made(region.end, target, (Ref(region.source), dim, False), _shapes(region)),)
    return None


def _same(computed: Tensor | None, expected: Tensor) -> bool:
    """Whether a region computed the expected values, up to rounding."""
    if computed is None or computed.shape != expected.shape:
        return False
    return bool((computed - expected).abs().max() <= _SAME * expected.abs().max())  # false for NaN


def _shapes(region: Region) -> dict[str, tuple[int, ...]]:
    return {region.source: region.source_shape}


# --- norms --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Form:
    """A norm of values [N, …].

    `grouped`: the shape whose last dimension is standardised over. `channels_last`: channels, dimension 1, are moved
    to the last dimension first. `constant_dims`: the dimensions along which weight and bias, of shape `affine`, are
    constant. `centred`: the mean is subtracted, as all but an RMS norm do.
    """

    grouped: tuple[int, ...]
    constant_dims: tuple[int, ...]
    affine: tuple[int, ...]
    groups: int = 0  # of a group norm
    channels_last: bool = False
    centred: bool = True

    def groups_of(self, x: Tensor) -> Tensor:
        """x in the shape `grouped`, centred where the norm does so."""
        g = (x.movedim(1, -1) if self.channels_last else x).reshape(self.grouped)
        return g - g.mean(-1, keepdim=True) if self.centred else g

    def standardised(self, x: Tensor, eps: float = 0) -> Tensor:
        """The norm without weight and bias."""
        g = self.groups_of(x)
        g = g * torch.rsqrt((g * g).mean(-1, keepdim=True) + eps)
        return g.reshape(x.movedim(1, -1).shape).movedim(-1, 1) if self.channels_last else g.reshape(x.shape)

    def operators(
        self, region: Region, weight: Constant | None, bias: Constant | None, eps: float
    ) -> tuple[Operator, ...]:
        """The operators that compute the norm."""
        end, shape, x = region.end, region.source_shape, Ref(region.source)
        if self.groups:
            n, channels, *rest = shape
            args: tuple[Any, ...] = (x, weight, bias, n, channels, prod(rest), self.groups, eps)
            return (made(end, _ATEN.native_group_norm.default, args, _shapes(region), index=0),)
        target = _ATEN.native_layer_norm.default if self.centred else _ATEN._fused_rms_norm.default
        affine = (list(self.affine), weight, *([bias] if self.centred else []), eps)
        if not self.channels_last:
            return (made(end, target, (x, *affine), _shapes(region), index=0),)
        dims = len(shape)
        last, names = (shape[0], *shape[2:], shape[1]), [f"{end.name}.{part}" for part in ("channels_last", "norm")]
        shapes = {**_shapes(region), **dict.fromkeys(names, last)}
        permute = _ATEN.permute.default
        return (
            made(end, permute, (x, [0, *range(2, dims), 1]), shapes, name=names[0], shape=last),
            made(end, target, (Ref(names[0]), *affine), shapes, name=names[1], shape=last, index=0),
            made(end, permute, (Ref(names[1]), [0, dims - 1, *range(1, dims - 1)]), shapes),
        )


def _forms(shape: tuple[int, ...]) -> Iterator[_Form]:
    """All norms of values of shape `shape`."""
    dims = len(shape)

    def layers(last: int, centred: bool = True) -> _Form:
        normalised = shape[dims - last :]
        grouped = (*shape[: dims - last], prod(normalised))
        return _Form(grouped, tuple(range(dims - last)), normalised, centred=centred)

    yield layers(1)
    yield layers(1, centred=False)
    if dims > 2:
        n, channels, *rest = shape
        constant_dims = (0, *range(2, dims))
        for groups in (g for g in range(1, channels + 1) if channels % g == 0):
            grouped = (n, groups, channels // groups * prod(rest))
            yield _Form(grouped, constant_dims, (channels,), groups=groups)
        for centred in (True, False):
            for last in range(2, dims):
                yield layers(last, centred)
            yield _Form((n, *rest, channels), constant_dims, (channels,), channels_last=True, centred=centred)


def _norm(region: Region, x: Tensor) -> tuple[Operator, ...] | None:
    """The region as a norm. The bias is the region's value at constant input, the weight the factor at large input."""
    at_zero, far = region(torch.zeros_like(x)), region(_LARGE * x)
    if at_zero is None or far is None or at_zero.shape != x.shape or not bool(at_zero.isfinite().all()):
        return None
    for form in _forms(region.source_shape):
        z = form.standardised(x)
        bias = at_zero.mean(form.constant_dims, keepdim=True)
        scaled = far - bias
        weight = (scaled * z).mean(form.constant_dims, keepdim=True) / (z * z).mean(form.constant_dims, keepdim=True)
        level = _SAME * float(scaled.abs().max())
        if float((at_zero - bias).abs().max()) > level or not float((scaled - weight * z).abs().max()) <= level:
            continue
        eps = _epsilon(region, form, x, weight, bias)
        if eps is None or not (form.centred or _is_neutral(bias, 0)):
            continue
        affine = [_constant(region, x.reshape(form.affine), *said) for x, said in ((weight, _WEIGHT), (bias, _BIAS))]
        return form.operators(region, affine[0], affine[1], eps)
    return None


_WEIGHT, _BIAS = ("weight", 1), ("bias", 0)  # default name and neutral value


def _constant(region: Region, value: Tensor, part: str, neutral: float) -> Constant | None:
    """The weight or the bias of a norm; None if it is neutral and is no tensor of the artifact."""
    name = region.name_of(value)
    if name is None and _is_neutral(value, neutral):
        return None
    return region.constant(name or f"{region.end.name}.{part}", value)


def _is_neutral(value: Tensor, neutral: float) -> bool:
    return bool(((value - neutral).abs() <= 1e-9).all())


def _epsilon(region: Region, form: _Form, x: Tensor, weight: Tensor, bias: Tensor) -> float | None:
    """The ε of a norm with known weight and bias; None if no ε fits."""
    near = region(_SMALL * x)
    if near is None:
        return None
    ratio = (near - bias) / (weight * form.standardised(x))  # σ/√(σ² + ε), σ² the variance of each group
    variance = (_SMALL * form.groups_of(x)).square().mean(-1, keepdim=True).expand(form.grouped)
    largest = int((weight * form.standardised(x)).abs().argmax())
    laid_out = (variance.reshape(x.movedim(1, -1).shape).movedim(-1, 1) if form.channels_last else variance).reshape(-1)
    square = float(ratio.reshape(-1)[largest]) ** 2
    if not 0 < square < 1:
        return None
    estimate = float(laid_out[largest]) * (1 / square - 1)
    numbers = [number for number in region.numbers if abs(number - estimate) <= 1e-3 * estimate]
    eps = min(numbers, key=lambda number: abs(number - estimate)) if numbers else float(f"{estimate:.6g}")
    other = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    for y in (x, eps**0.5 * x, other):  # at x alone, per-element weights fit any function of a single image
        if not _same(region(y), form.standardised(y, eps) * weight + bias):
            return None
    return eps
