"""The range of numbers in an array or a deep picture: 0..1, 0..255, another range, or data used unchanged."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatcli.errors import UsageError

DATA = "data"
_BITS = (8, 10, 12, 14)


def parse_range(text: str) -> tuple[float, float]:
    """`LOW..HIGH` as the values that become 0 and 1; `data` keeps all values. Raises `UsageError`."""
    if text == DATA:
        return 0.0, 1.0
    low, dots, high = text.partition("..")
    try:
        ends = float(low), float(high)
    except ValueError:
        ends = (0.0, 0.0)
    if not dots or not ends[0] < ends[1] or not np.isfinite(ends).all():
        raise UsageError(f"range {text!r} is not known; give LOW..HIGH, such as 0..255 or 0..4095, or data")
    return ends


def in_range(array: NDArray[Any], stated: str, colours: bool) -> tuple[NDArray[np.float32], str]:
    """An array, of any shape, of finite numbers as float32, in 0..1 if it holds pixels, and a remark on it, or "".

    The range is 0..255 for 8-bit values, and 0..65535 for 16-bit ones unless `stated` (`LOW..HIGH`, `data`). Otherwise
    the values decide: values within 0..1 stay; pictures' (`colours`) values within 0..255 are divided by 255; all
    others are data and stay. Raises `UsageError` for a malformed range.
    """
    low, high, said = 0.0, 1.0, ""
    if array.dtype == np.uint8:
        high = 255.0
    elif array.dtype.kind != "b" and array.size:
        low, high, said = (*parse_range(stated), "") if stated else _by_values(array, colours)
    scaled = np.ascontiguousarray(array, dtype=np.float32)
    if low:
        scaled = scaled - np.float32(low)
    return (scaled / np.float32(high - low) if high - low != 1 else scaled), said


def _by_values(array: NDArray[Any], colours: bool) -> tuple[float, float, str]:
    """The values that become 0 and 1, and a remark on them, or ""."""
    least, most = float(array.min()), float(array.max())
    if array.dtype == np.uint16:
        bits = next((b for b in _BITS if most < 2**b), 16)
        few = f"uses {bits} of its 16 bits at most (largest value {most:g}) and is read as 0..65535"
        return 0.0, 65535.0, f"{few}; --range 0..{2**bits - 1} if it has {bits}" if bits < 16 and most > 1 else ""
    if least >= 0 and most <= 1:
        return 0.0, 1.0, ""
    whole = array.dtype.kind in "iu"
    what = "whole numbers" if whole else "floating-point values"
    full = 255.0 if most <= 255 else 65535.0
    if colours and least >= 0 and (most <= 255 or (whole and most <= 65535)):
        return 0.0, full, f"its {what} up to {most:.6g} are read as 0..{full:g}; --range says otherwise"
    said = f"its {what} from {least:.6g} to {most:.6g} are no pixels, and go in as they are"
    return 0.0, 1.0, f"{said}; --range data if that is meant"
