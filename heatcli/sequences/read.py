"""Reading sequences: FASTA, or one-hot arrays."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heatcli.errors import ImageError, UsageError, boundary, first_line, is_text
from heatcli.system.compress import read_array
from heatcli.system.files import is_folder, read_regular

FASTA = frozenset(".fa .fasta .fna .ffn .faa .txt".split())
SUFFIXES = FASTA | {".npy"}
UNKNOWN = "N"
LARGEST = 1 << 28  # bytes of a file: enough for a chromosome, and its one-hot form still fits in memory


@dataclass(frozen=True, eq=False)
class Sequence:
    """A sequence of a file.

    `letters`: an unknown letter is N. `onehot`: float32 [letters of the alphabet, length]; the column of an unknown
    letter has equal values. `alone`: whether the file holds a single sequence.
    """

    path: Path
    name: str
    sha256: str
    letters: str
    onehot: NDArray[np.float32]
    alone: bool


def read_sequences(path: Path, alphabet: str, length: int | None = None) -> list[Sequence]:
    """The sequences in a FASTA file, or in an `.npy` of shape [A, L], [L, A] or [N, A, L].

    `alphabet`: the letters of the model. `length`: the length that the model takes; None for any. Raises `ImageError`.
    """
    with boundary(path, ImageError):
        if not is_text(str(path)):
            raise ImageError(f"{path}: its name is not UTF-8, so no report could give it; rename it")
        try:
            content = read_regular(path, LARGEST)
        except FileNotFoundError as error:
            raise ImageError(f"{path}: no such file") from error
        return _sequences(path, content, alphabet, length)


def _sequences(path: Path, content: bytes, alphabet: str, length: int | None) -> list[Sequence]:
    """As `read_sequences`, from a file's bytes. Raises `ImageError`."""
    digest = hashlib.sha256(content).hexdigest()
    if content.startswith(b"\x93NUMPY"):
        found = [(str(i), *_of_array(one, alphabet)) for i, one in enumerate(_arrays(path, content, alphabet))]
    else:
        found = [(name, text, onehot(text, alphabet)) for name, text in _records(path, content, alphabet)]
    for name, letters, _ in found:
        if length is not None and len(letters) != length:
            raise ImageError(f"{path}: sequence {name} has {len(letters)} letters, the model takes {length}")
    return [Sequence(path, name, digest, letters, hot, len(found) == 1) for name, letters, hot in found]


def sequence_files(given: Path) -> list[Path]:
    """The file itself, or the sequence files of a folder by name. Raises `UsageError` if there are none."""
    if not is_folder(given):
        return [given]
    with boundary(given, UsageError, "cannot be listed"):
        found = sorted(path for path in given.iterdir() if path.suffix.lower() in SUFFIXES and not is_folder(path))
    if not found:
        raise UsageError(f"{given}: no sequences in this folder ({', '.join(sorted(SUFFIXES))})")
    return found


def onehot(letters: str, alphabet: str) -> NDArray[np.float32]:
    """Letters as float32 [A, L]: 1 at each letter; equal values for a letter outside the alphabet."""
    codes = np.array([alphabet.find(letter) for letter in letters], dtype=np.int64)
    hot = np.concatenate([np.eye(len(alphabet)), np.full((1, len(alphabet)), 1 / len(alphabet))])
    return np.ascontiguousarray(hot[codes].T, dtype=np.float32)


def _records(path: Path, content: bytes, alphabet: str) -> Iterator[tuple[str, str]]:
    """Name and letters of each record of a FASTA file; U is read as T. Raises `ImageError`."""
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError as error:
        raise ImageError(f"{path}: is no FASTA file: {first_line(error)}") from error
    if not text.lstrip().startswith(">"):
        raise ImageError(f"{path}: is no FASTA file: it does not start with >NAME")
    for number, record in enumerate(re.split(r"^>", text, flags=re.MULTILINE)[1:]):
        head, _, body = record.partition("\n")
        name = (head.split() or [str(number)])[0]
        letters = "".join(body.split()).upper().replace("U", "T" if "U" not in alphabet else "U")
        if not letters:
            raise ImageError(f"{path}: sequence {name} is empty")
        foreign = sorted(set(letters) - set(alphabet) - {UNKNOWN})
        if foreign:
            raise ImageError(f"{path}: sequence {name} holds {foreign[0]!r}; the model reads {alphabet} (and N)")
        yield name, letters


def _arrays(path: Path, content: bytes, alphabet: str) -> NDArray[np.float32]:
    """The arrays in an `.npy` as float32 [N, A, L]. Raises `ImageError`."""
    with boundary(path, ImageError, "is no array of numbers"):
        array = read_array(content)
    n = len(alphabet)
    if array.ndim == 2:
        array = array[None] if array.shape[0] == n else array.T[None]
    if array.ndim != 3 or array.shape[1] != n or not array.size:
        raise ImageError(f"{path}: has the shape {array.shape}; the model takes {n} letters, [{n}, length]")
    if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
        raise ImageError(f"{path}: holds values that are not finite numbers")
    with np.errstate(over="ignore"):
        narrow = np.ascontiguousarray(array, dtype=np.float32)
        if not np.isfinite(narrow.sum(1)).all():
            raise ImageError(f"{path}: holds values beyond those of float32, which networks compute in")
    return narrow


def _of_array(array: NDArray[np.float32], alphabet: str) -> tuple[str, NDArray[np.float32]]:
    """The letters of an array [A, L], and the array. A position without a single 1 is N."""
    single = (array.max(0) == 1) & (array.sum(0) == 1)
    letters = (alphabet[i] if sure else UNKNOWN for i, sure in zip(array.argmax(0), single, strict=True))
    return "".join(letters), array
