"""Arrays of one shape, one a picture, in a temporary file; and samples of them."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
AT_ONCE = 2000  # arrays in memory


@dataclass(eq=False)
class Rows:
    """Arrays of one shape in a temporary file, so that memory does not grow with their number.

    `dtype`: of the file. `shape`: of each array; from the first.
    """

    dtype: type[np.floating[Any]]
    shape: tuple[int, ...] = ()
    count: int = 0
    _file: IO[bytes] = field(default_factory=tempfile.TemporaryFile)

    def __post_init__(self) -> None:
        weakref.finalize(self, self._file.close)

    def add(self, array: NDArray[Any]) -> int:
        """Keep an array; its number."""
        self.shape = self.shape or array.shape
        self._file.write(array.astype(self.dtype).tobytes())
        self.count += 1
        return self.count - 1

    def __call__(self, numbers: Sequence[int] | NDArray[np.int64]) -> Array:
        """The arrays of these numbers, float32 [N, *shape]."""
        self._file.flush()
        whole = np.memmap(self._file, self.dtype, "r", shape=(self.count, *self.shape))
        found: Array = np.asarray(whole[np.asarray(numbers, np.int64)], np.float32)
        return found

    def column(self, numbers: NDArray[np.int64], at: int) -> Array:
        """One value of each of the arrays [values] of these numbers, float32 [N]; few arrays are in memory at once."""
        parts = [self(numbers[start : start + AT_ONCE])[:, at] for start in range(0, len(numbers), AT_ONCE)]
        return np.concatenate([np.empty(0, np.float32), *parts])


def some(numbers: NDArray[np.int64], most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`numbers`, or a random sample of `most` of them in their order."""
    return numbers if len(numbers) <= most else np.sort(rng.choice(numbers, most, replace=False))
