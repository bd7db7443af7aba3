"""Arrays as files."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from heatcli.deflate import raw


def npz(arrays: Mapping[str, Any]) -> bytes:
    """An `.npz` file of arrays by name, compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                file._compressor = raw()  # type: ignore[attr-defined]  # instead of zlib at level 6
                np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
    return buffer.getvalue()
