"""Compression, fast: Intel's ISA-L where it is installed (5 to 10 times as fast, files as small), or else zlib."""

from __future__ import annotations

from typing import Any

try:
    from isal import isal_zlib as _zlib
except ImportError:  # no wheel for this machine
    import zlib as _zlib  # type: ignore[no-redef]

LEVEL = 1


def deflate(content: Any) -> bytes:
    """A zlib stream of some bytes."""
    return _zlib.compress(content, LEVEL)


def crc32(content: bytes | memoryview) -> int:
    """The check sum that PNG and ZIP use."""
    return _zlib.crc32(content)


def raw() -> Any:
    """An object with `compress` and `flush`, for a deflate stream without header."""
    return _zlib.compressobj(LEVEL, _zlib.DEFLATED, -15)
