"""The errors heatcli raises on purpose; every message is one line: what, which file, what to do.

HeatcliError            base; ``status`` is the command's exit status
├── UsageError     (2)  a wrong flag, name, parameter or path to write to
├── ModelError     (3)  the artifact cannot be used
│   ├── DiffersError        its captured graph is another function than the artifact
│   ├── NotComparedError     its own runtime cannot run it here
│   └── OtherBranchError    it decides otherwise on these values than on the image it was captured on
└── ImageError     (1)  one image (or baseline image) cannot be used; the others still can
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator

LONGEST = 4000  # letters of a message; names from a list of images may be of any length


class HeatcliError(Exception):
    """Base of all errors that a user can mend; its text is one line, whatever the names in it hold."""

    status = 1

    def __init__(self, message: str) -> None:
        text = one_line(message)
        super().__init__(text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}")


class UsageError(HeatcliError):
    """The request itself is wrong: an unknown name, an impossible value, an unwritable folder."""

    status = 2


class ModelError(HeatcliError):
    """The artifact cannot be loaded, captured or run."""

    status = 3


class DiffersError(ModelError):
    """The graph that was captured computes something else than the artifact on its own runtime."""


class NotComparedError(ModelError):
    """The artifact's own runtime cannot run it here, so that nothing can be compared."""


class OtherBranchError(ModelError):
    """The artifact decides by the picture's values, and here it decides otherwise than where it was captured."""


class ImageError(HeatcliError):
    """An image cannot be read, or does not fit the model."""

    status = 1


@contextlib.contextmanager
def boundary(source: object, kind: type[HeatcliError], what: str = "cannot be read") -> Iterator[None]:
    """The boundary of one source (an image, a baseline, a sidecar, …): any exception inside is that source's error.

    Raises `kind`, in one line that begins with the source's name; an error of heatcli's own passes as it is. Decoders
    raise what they like on damaged files, `MemoryError` and `RecursionError` too, so no list of exceptions is whole.
    """
    try:
        yield
    except HeatcliError:
        raise
    except Exception as error:
        raise kind(f"{source}: {what}: {reason(error)}") from error


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
    """`text` with line breaks, control characters and bytes that are no UTF-8 escaped, so that it is one line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def is_text(name: str) -> bool:
    """Whether a file's name is Unicode: bytes that are no UTF-8 come as lone surrogates, which JSON cannot hold."""
    return not any("\ud800" <= c <= "\udfff" for c in name)


def printable(name: str) -> str:
    """A file's name as JSON can hold it: as it is where it is Unicode."""
    return name if is_text(name) else one_line(name)


def unknown_name(what: str, name: str, known: Iterable[str], ways: str = "") -> UsageError:
    """The usage error for a name that is not in `known`, with the nearest ones suggested."""
    known = sorted(known)
    near = difflib.get_close_matches(name.lower(), [k.lower() for k in known], n=1, cutoff=0.5)
    suggestion = next((f"; did you mean {k!r}?" for k in known if near and k.lower() == near[0]), "")
    listed = ", ".join(known[:24]) + (f", … ({len(known)} in all)" if len(known) > 24 else "")
    return UsageError(
        f"unknown {what} {name!r}{suggestion} Known: {listed}{ways}"
        if suggestion
        else f"unknown {what} {name!r}; known: {listed}{ways}"
    )


def first_line(error: BaseException, limit: int = 240) -> str:
    """The first line with text of an exception's message, for use inside a one-line error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
