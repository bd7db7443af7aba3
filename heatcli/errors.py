"""The errors heatcli raises on purpose; every message is one line: what, which file, what to do.

HeatcliError            base; ``status`` is the command's exit status
├── UsageError     (2)  a wrong flag, name, parameter or path to write to
│   └── MissingError        nothing says what an artifact needs to run: its input's size, the values of its inputs
├── ModelError     (3)  the artifact cannot be used
│   ├── OutOfMemoryError    it needs more memory than there is
│   ├── ShapeError          it cannot be run on an input of this shape
│   ├── DiffersError        its captured graph is another function than the artifact
│   ├── NotComparedError    its own runtime cannot run it here
│   └── OtherBranchError    it decides otherwise on these values than on the image it was captured on
└── ImageError     (1)  one image (or baseline image) cannot be used; the others still can
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


class HeatcliError(Exception):
    """Base of all errors that a user can mend; its text is one line, whatever the names in it hold."""

    status = 1

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class UsageError(HeatcliError):
    """The request itself is wrong: an unknown name, an impossible value, an unwritable folder."""

    status = 2


class MissingError(UsageError):
    """Nothing says what an artifact needs to run; `opened`: its format and what its file says, where it was opened."""

    opened: Any = None


class ModelError(HeatcliError):
    """The artifact cannot be loaded, captured or run."""

    status = 3


class OutOfMemoryError(ModelError):
    """The artifact needs more memory than there is, for so many images."""


class ShapeError(ModelError):
    """The artifact cannot be run on an input of this shape."""


class DiffersError(ModelError):
    """The graph that was captured computes something else than the artifact on its own runtime."""


class NotComparedError(ModelError):
    """The artifact's own runtime cannot run it here, so that nothing can be compared."""


class OtherBranchError(ModelError):
    """The artifact decides by the picture's values, and here it decides otherwise than where it was captured."""


class ImageError(HeatcliError):
    """An image cannot be read, or does not fit the model."""

    status = 1


_LONGEST = 2000  # characters of a message


@contextlib.contextmanager
def boundary(
    source: object, kind: type[HeatcliError], what: str = "cannot be read", *, damaged: str = "", way_out: str = ""
) -> Iterator[None]:
    """The boundary of one source (an image, a baseline, a sidecar, …): any exception inside is that source's error.

    Raises `kind`, in one line that begins with the source's name; an error of heatcli's own passes as it is. Decoders
    raise what they like on damaged files, `MemoryError` and `RecursionError` too, so no list of exceptions is whole.
    `damaged`: what to say instead of `what` and the reason, where the system could read the source. `way_out`: what
    the user can do.
    """
    try:
        yield
    except HeatcliError:
        raise
    except Exception as error:
        problem = damaged if damaged and not isinstance(error, OSError) else f"{what}: {reason(error)}"
        raise kind(f"{source}: {problem}{way_out and f'; {way_out}'}") from error


@contextlib.contextmanager
def edge(path: Path, what: str) -> Iterator[None]:
    """Raise any exception of the block as a `ModelError` that names the artifact; `what` could not be done with it.

    An artifact is read by torch, protobuf, ONNX Runtime and code of the artifact's own. Which exceptions they raise for
    a damaged file, nobody can list.
    """
    try:
        yield
    except HeatcliError as error:
        if isinstance(error, ModelError) and str(path) not in str(error):
            raise type(error)(f"{path}: {error}") from error
        raise
    except Exception as error:
        raise ModelError(f"{path}: cannot be {what}: {type(error).__name__}: {first_line(error)}") from error


def reason(error: BaseException) -> str:
    """Why something failed, for use inside a one-line error."""
    if isinstance(error, MemoryError) and not str(error):
        return "there is not enough memory"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error)


def one_line(text: str) -> str:
    """`text` with line breaks, control characters and bytes that are no UTF-8 escaped, and not longer than a screen."""
    if not text.isprintable():
        text = "".join(map(_escaped, text))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"


def _escaped(c: str) -> str:
    """A character that is printed, or its escape: of a byte that is no UTF-8, the byte."""
    if c.isprintable():
        return c
    return f"\\x{ord(c) - 0xDC00:02x}" if "\udc80" <= c <= "\udcff" else c.encode("unicode_escape").decode("ascii")


def is_text(name: str) -> bool:
    """Whether a file's name is Unicode: bytes that are no UTF-8 come as lone surrogates, which JSON cannot hold."""
    return not any("\ud800" <= c <= "\udfff" for c in name)


def printable(name: str) -> str:
    """A file's name as JSON can hold it: as it is where it is Unicode."""
    return name if is_text(name) else one_line(name)


def unknown_name(
    what: str, name: str, known: Iterable[str], ways: str = "", also: Mapping[str, str] | None = None
) -> UsageError:  # fmt: skip
    """The usage error for a name that is not in `known`, the nearest one suggested; `also`: others' names → ours."""
    known, also = sorted(known), also or {}
    ours = {**{k.lower(): k for k in known}, **{a: k for a, k in also.items() if k in known}}
    near = [name.lower()] if name.lower() in ours else difflib.get_close_matches(name.lower(), list(ours), 1, 0.5)
    suggestion = f"; did you mean {ours[near[0]]!r}?" if near else ""
    listed = ", ".join(known[:24]) + (f", … ({len(known)} in all)" if len(known) > 24 else "")
    return UsageError(
        f"unknown {what} {name!r}{suggestion} Known: {listed}{ways}"
        if suggestion
        else f"unknown {what} {name!r}; known: {listed}{ways}"
    )


def counted(count: int, noun: str) -> str:
    """A number with its noun, such as `1 image` or `2,000 images`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def first_line(error: BaseException, limit: int = 240) -> str:
    """The first line with text of an exception's message, for use inside a one-line error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
