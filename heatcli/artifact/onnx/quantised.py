"""Quantised values: real numbers with the scale of their integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from heatcli.artifact.onnx.tensors import RANGES
from heatcli.artifact.onnx.value import Value


@dataclass(frozen=True, eq=False)
class Quantised:
    """The real numbers of quantised integers: `real` = (integer − zero_point)·scale.

    The scale is a single one, or one for each index of `axis`. An explanation follows `real`. The integers, of `dtype`,
    are computed only for operators that need them.
    """

    real: Tensor
    scale: Tensor
    zero_point: Tensor | None
    dtype: torch.dtype
    axis: int | None = None

    @property
    def counts(self) -> Tensor:
        """The integers as real numbers that depend on `real`, so that relevance can pass."""
        scale, zero = (along(x, self.real, self.axis) for x in (self.scale, self.zero_point))
        assert scale is not None
        return self.real / scale if zero is None else self.real / scale + zero.to(self.real.dtype)

    @property
    def whole(self) -> Tensor:
        """The integers."""
        scale, zero = (along(x, self.real, self.axis) for x in (self.scale, self.zero_point))
        assert scale is not None
        if self.dtype.is_floating_point:
            return (self.real / scale).to(self.dtype)
        number = torch.round(self.real / scale)
        number = number if zero is None else number + zero.to(number.dtype)
        low, high = RANGES[self.dtype]
        return number.clamp(low, high).to(self.dtype)

    def with_real(self, real: Tensor) -> Quantised:
        """Other numbers, of any shape, with the same scale."""
        return replace(self, real=real)

    def same_scale(self, other: Value) -> bool:
        """Whether `other` is quantised with the same scale and zero point."""
        if not isinstance(other, Quantised) or (self.axis, other.axis) != (None, None) or self.dtype != other.dtype:
            return False
        zeros = [torch.zeros(()) if q.zero_point is None else q.zero_point for q in (self, other)]
        return _equal(self.scale, other.scale) and _equal(zeros[0], zeros[1])


def _equal(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.numel() == b.numel() and bool((a.reshape(-1) == b.reshape(-1)).all()))


def along(value: Tensor | None, like: Tensor, axis: int | None) -> Tensor | None:
    """A scale or zero point, [size of the axis] or a single one, broadcast along `axis` of `like`."""
    if value is None or value.numel() == 1:
        return value if value is None else value.reshape(())
    if value.dim() != 1:
        return value
    shape = [1] * like.dim()
    shape[axis if axis is not None else 1] = -1
    return value.reshape(shape)


@dataclass(frozen=True, eq=False)
class Scaled:
    """`real`·scale^power, where `scale` depends on the image (dynamic quantisation).

    A network divides by such a scale and later multiplies by it. The two cancel here, so no relevance passes the scale.
    """

    real: Tensor
    scale: Tensor
    power: int

    @property
    def value(self) -> Tensor:
        """The number that this stands for."""
        return self.real * self.scale if self.power > 0 else self.real / self.scale

    def times(self, other: Value) -> Value:
        """The product with a tensor or another `Scaled`."""
        if not isinstance(other, Scaled):
            return Scaled(self.real * plain(other), self.scale, self.power)
        if other.scale is self.scale and other.power == -self.power:
            return self.real * other.real
        return self.value * other.value


def plain(value: Value) -> Value:
    """A value for an operator that accepts `Quantised` but not `Scaled`."""
    return value.value if isinstance(value, Scaled) else value


def whole(value: Value) -> Value:
    """A value for an operator that accepts tensors only: integers for quantised values."""
    if isinstance(value, Quantised):
        return value.whole
    if isinstance(value, Scaled):
        return value.value
    return [whole(v) for v in value] if isinstance(value, list) else value


def preserving(values: Sequence[Value]) -> tuple[list[Value], Callable[[Value], Value]]:
    """Real inputs for an operator that only moves or selects numbers, and the function that wraps its outputs."""
    scales = [v for v in values if isinstance(v, Quantised)]
    if any(isinstance(v, Scaled) for v in values) and not scales:
        first = values[0]
        if (
            isinstance(first, Scaled)
            and not any(isinstance(v, Scaled) for v in values[1:])
            and first.scale.numel() == 1
        ):
            return [first.real, *values[1:]], lambda y: replace(first, real=y)
    if not scales or not all(q.same_scale(scales[0]) for q in scales):
        return [whole(v) for v in values], lambda y: y
    keep = scales[0]
    return [v.real if isinstance(v, Quantised) else v for v in values], (
        lambda y: keep.with_real(y) if isinstance(y, Tensor) and y.dtype.is_floating_point else y
    )
