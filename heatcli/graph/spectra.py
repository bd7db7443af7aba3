"""Complex numbers as pairs of real ones: Fourier transforms, and what networks make of them.

A recorded graph holds real numbers alone. So each complex tensor of the artifact carries a recorded pair, [..., 2], as
an attribute, and what is done with it is recorded as the same function of the pair. A Fourier transform is a product
with a matrix of cosines and sines: linear, so that relevance passes it as it passes a dense layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from heatcli.graph.nested import mapped
from heatcli.graph.schemas import pure_form, tensors_in, title_of
from heatcli.system.torch_private import unrecorded

_ATEN = torch.ops.aten
_PAIR = "_real_and_imaginary"  # attribute of a complex tensor: its recorded pair
_LONGEST = 4096  # values of a transform; its matrix has twice as many rows and columns at most


class UnknownError(RuntimeError):
    """An operator on complex numbers that has no form on pairs."""


def form_on_pairs(
    func: Any, title: str, args: Sequence[Any], kwargs: dict[str, Any]
) -> Callable[..., Any] | None:  # fmt: skip
    """What to run instead of an operator that makes or reads complex numbers of the picture; None for others.

    `title`: of the operator `func`. Raises `UnknownError` for one that has no form on pairs.
    """
    if title in _MAKING:
        return _MAKING[title]
    if not any(hasattr(x, _PAIR) for x in tensors_in(args, kwargs)):
        return None
    if title in _READING:
        return _READING[title]
    if title in _LAYOUTS:
        return partial(_laid_out, func, _LAYOUTS[title])
    if torch.Tag.inplace_view in func.tags and title.removesuffix("_") in _LAYOUTS:
        return partial(_turned, func)
    raise UnknownError(f"calls {func} on complex numbers, which heatcli does not know")


def _pair(x: Tensor) -> Tensor:
    """The pair [..., 2] of a complex tensor; of a real one with zeros."""
    known = getattr(x, _PAIR, None)
    if isinstance(known, Tensor):
        return known
    if x.is_complex():  # a constant of the artifact
        with unrecorded():
            return torch.view_as_real(x.resolve_conj())
    return _ATEN.stack([x, _ATEN.zeros_like(x)], -1)  # type: ignore[no-any-return]


def _complex(pair: Tensor) -> Tensor:
    """The complex tensor of a pair, which it carries."""
    with unrecorded():
        whole = torch.view_as_complex(pair.detach().contiguous())
    setattr(whole, _PAIR, pair)
    return whole


# --- Fourier transforms -----------------------------------------------------------------------------------------------


def _real_to_complex(x: Tensor, dims: Sequence[int], normalization: int, onesided: bool) -> Tensor:
    """`aten::_fft_r2c` of a real tensor along `dims`; along the last one, with half of the frequencies or all."""
    *others, last = (dim % x.dim() for dim in dims)
    n = x.shape[last]
    kept = n // 2 + 1 if onesided else n
    pair = _product(_ATEN.unsqueeze(x, -1), last, _matrix(n, "r2c", kept), kept)
    for dim in others:
        pair = _product(pair, dim, _matrix(x.shape[dim], "c2c", x.shape[dim]), x.shape[dim])
    return _complex(_scaled(pair, [x.shape[dim] for dim in (*others, last)], normalization))


def _complex_to_complex(x: Tensor, dims: Sequence[int], normalization: int, forward: bool) -> Tensor:
    """`aten::_fft_c2c` of a complex tensor along `dims`, forward or back."""
    pair, sides = _pair(x), [x.shape[dim] for dim in dims]
    for dim, n in zip(dims, sides, strict=True):
        pair = _product(pair, dim % x.dim(), _matrix(n, "c2c" if forward else "back", n), n)
    return _complex(_scaled(pair, sides, normalization))


def _complex_to_real(x: Tensor, dims: Sequence[int], normalization: int, last_dim_size: int) -> Tensor:
    """`aten::_fft_c2r` of half of the frequencies along `dims`; along the last one `last_dim_size` real values."""
    *others, last = (dim % x.dim() for dim in dims)
    pair = _pair(x)
    for dim in others:
        pair = _product(pair, dim, _matrix(x.shape[dim], "back", x.shape[dim]), x.shape[dim])
    real = _product(pair, last, _matrix(last_dim_size, "c2r", x.shape[last]), last_dim_size)
    sides = [*(x.shape[dim] for dim in others), last_dim_size]
    return _scaled(_ATEN.squeeze(real, -1), sides, normalization)


def _product(pair: Tensor, dim: int, matrix: Tensor, count: int) -> Tensor:
    """Values [..., n, ..., c] times a matrix [n·c, count·d] along `dim`: [..., count, ..., d]."""
    order = [d for d in range(pair.dim()) if d != dim]
    order.insert(-1, dim)
    turned = _ATEN.permute(pair, order)
    lead = list(turned.shape[:-2])
    rows = _ATEN.reshape(turned, [*lead, matrix.shape[0]])
    with unrecorded():
        matrix = matrix.to(pair)
    found = _ATEN.reshape(_ATEN.matmul(rows, matrix), [*lead, count, matrix.shape[1] // count])
    back = sorted(range(pair.dim()), key=order.__getitem__)
    return _ATEN.permute(found, back)  # type: ignore[no-any-return]


@cache
def _matrix(n: int, kind: str, kept: int) -> Tensor:
    """The matrix of a transform of n values, float64, without a scale.

    `r2c` [n, kept·2], `c2c` and `back` [n·2, n·2], `c2r` [kept·2, n] of the `kept` first frequencies. Raises
    `UnknownError` for a long one.
    """
    if n > _LONGEST:
        raise UnknownError(f"transforms {n:,} values at once (Fourier), and heatcli transforms up to {_LONGEST:,}")
    with unrecorded():
        times = torch.arange(n, dtype=torch.float64)
        turns = 2 * math.pi * ((times[:, None] * times[None, :kept]) % n) / n  # [time, frequency]
        cos, sin = turns.cos(), turns.sin()
        if kind == "r2c":
            return torch.stack([cos, -sin], 2).reshape(n, -1)
        if kind == "c2r":  # each frequency stands for its mirror, too, but for the first and the one in the middle
            twice = torch.full((kept, 1), 2.0, dtype=torch.float64)
            twice[0] = 1
            if n % 2 == 0 and kept == n // 2 + 1:
                twice[-1] = 1
            return torch.stack([twice * cos.T, -twice * sin.T], 1).reshape(-1, n)
        sign = 1 if kind == "back" else -1
        return torch.stack([torch.stack([cos, sign * sin], 2), torch.stack([-sign * sin, cos], 2)], 1).reshape(
            2 * n, -1
        )


def _scaled(x: Tensor, sides: Sequence[int], normalization: int) -> Tensor:
    """x, for torch's `normalization` 0; divided by √Π sides for 1, by Π sides for 2."""
    scale = (1.0, 1 / math.sqrt(math.prod(sides)), 1 / math.prod(sides))[normalization]
    return x if scale == 1 else _ATEN.mul.Tensor(x, scale)


# --- what is done with complex numbers --------------------------------------------------------------------------------


def _parts(x: Tensor) -> tuple[Tensor, Tensor]:
    pair = _pair(x)
    return _ATEN.select(pair, -1, 0), _ATEN.select(pair, -1, 1)


def _mul(a: Any, b: Any) -> Tensor:
    """a·b, of which one may be real or a number."""
    if isinstance(a, Tensor) and not hasattr(a, _PAIR):
        a, b = b, a
    if not isinstance(b, Tensor):
        if isinstance(b, complex):
            raise UnknownError("multiplies complex numbers by one that is written in its code")
        return _complex(_ATEN.mul.Tensor(_pair(a), b))
    if not b.is_complex():
        return _complex(_ATEN.mul.Tensor(_pair(a), _ATEN.unsqueeze(b, -1)))
    (x, y), (u, v) = _parts(a), _parts(b)
    real = _ATEN.sub.Tensor(_ATEN.mul.Tensor(x, u), _ATEN.mul.Tensor(y, v))
    return _complex(_ATEN.stack([real, _ATEN.add.Tensor(_ATEN.mul.Tensor(x, v), _ATEN.mul.Tensor(y, u))], -1))


def _div(a: Tensor, b: Any) -> Tensor:
    """a/b of a real b."""
    if not isinstance(b, Tensor):
        return _mul(a, 1 / b)
    if b.is_complex():
        raise UnknownError("divides by complex numbers, which heatcli does not know")
    return _complex(_ATEN.div.Tensor(_pair(a), _ATEN.unsqueeze(b, -1)))


def _add(sign: int, a: Tensor, b: Any, alpha: float = 1) -> Tensor:
    """a ± alpha·b."""
    if not isinstance(b, Tensor):
        raise UnknownError("adds a number to complex ones, which heatcli does not know")
    return _complex(_ATEN.add.Tensor(_pair(a), _pair(b), alpha=sign * alpha))


def _power(x: Tensor, exponent: float) -> Tensor:
    if exponent != 2:
        raise UnknownError(f"raises complex numbers to the power {exponent:g}, which heatcli does not know")
    return _mul(x, x)


def _mirrored(x: Tensor) -> Tensor:
    """The conjugate."""
    with unrecorded():
        signs = torch.tensor([1.0, -1.0]).to(_pair(x))
    return _complex(_ATEN.mul.Tensor(_pair(x), signs))


def _same(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return _complex(_ATEN.alias(_pair(x)))


def _laid_out(func: Any, places: tuple[int, ...], *args: Any, **kwargs: Any) -> Any:
    """A layout of complex numbers on pairs. `places`: of the arguments that are dimensions; −1: a shape is one."""
    whole = args[0][0] if isinstance(args[0], list | tuple) else args[0]
    given = list(mapped(lambda x: _pair(x) if isinstance(x, Tensor) and x.is_complex() else x, list(args)))
    for place in (place for place in places if 0 < place < len(given)):
        given[place] = mapped(lambda d: d % (whole.dim() + (title_of(func) in _NEW)), given[place])
    if -1 in places:
        given[1] = [*given[1], 2]
    if title_of(func) == "permute":
        given[1] = [*given[1], whole.dim()]
    if title_of(func) in _NEW and len(given) < 2:
        given.append(0)
    found = func(*given, **kwargs)
    return [_complex(x) for x in found] if isinstance(found, list | tuple) else _complex(found)


def _turned(func: Any, x: Tensor, *others: Any, **kwargs: Any) -> Tensor:
    """A layout that changes the shape of its argument (`transpose_`): the argument carries another pair."""
    pure = pure_form(func)
    if pure is None:
        raise UnknownError(f"calls {func} on complex numbers, which heatcli does not know")
    pair = _pair(_laid_out(pure, _LAYOUTS[title_of(pure)], x, *others, **kwargs))
    with unrecorded():
        func(x, *others, **kwargs)
    setattr(x, _PAIR, pair)
    return x


_NEW = frozenset("unsqueeze stack".split())  # make a dimension
_LAYOUTS = {  # title → places of dimensions among the arguments
    **dict.fromkeys("view unsafe_view reshape expand".split(), (-1,)),
    **dict.fromkeys("permute select slice squeeze unsqueeze flip cat stack index_select narrow unbind".split(), (1,)),
    **dict.fromkeys("mean sum".split(), (1,)),
    "transpose": (1, 2),
    **dict.fromkeys("split split_with_sizes".split(), (2,)),
}
_MAKING: dict[str, Callable[..., Any]] = {
    "fft_r2c": _real_to_complex,
    "fft_c2c": _complex_to_complex,
    "fft_c2r": _complex_to_real,
    "view_as_complex": lambda pair: _complex(_ATEN.alias(pair)),
    "complex": lambda real, imaginary: _complex(_ATEN.stack([real, imaginary], -1)),
}
_READING: dict[str, Callable[..., Any]] = {
    "view_as_real": lambda x: _ATEN.alias(_pair(x)),
    "abs": lambda x: _ATEN.linalg_vector_norm(_pair(x), 2, [-1]),
    "angle": lambda x: _ATEN.atan2(*reversed(_parts(x))),
    "mul": _mul,
    "div": _div,
    "add": partial(_add, 1),
    "sub": partial(_add, -1),
    "neg": lambda x: _complex(_ATEN.neg(_pair(x))),
    "pow": _power,
    **dict.fromkeys("conj conj_physical".split(), _mirrored),
    **dict.fromkeys("alias clone detach resolve_conj resolve_neg lift_fresh contiguous".split(), _same),
}
