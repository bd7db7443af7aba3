"""Arrays as files."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np


def npz(arrays: Mapping[str, Any]) -> bytes:
    """An `.npz` file of arrays by name, compressed."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()
