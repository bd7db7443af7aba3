"""The errors heatcli raises on purpose; every message is one line: what, which file, what to do.

HeatcliError            base; ``status`` is the command's exit status
├── UsageError     (2)  a wrong flag, name, parameter or path to write to
├── ModelError     (3)  the artifact cannot be used
│   ├── OutOfMemoryError    it needs more memory than there is
│   ├── DiffersError        its captured graph is another function than the artifact
│   ├── NotComparedError     its own runtime cannot run it here
│   └── OtherBranchError    it decides otherwise on these values than on the image it was captured on
└── ImageError     (1)  one image (or baseline image) cannot be used; the others still can
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HeatcliError(Exception):
    """Base of all errors that a user can mend; its text is one line, whatever names of other people's it quotes."""

    status = 1

    def __init__(self, message: str) -> None:
        super().__init__(_one_line(message))


class UsageError(HeatcliError):
    """The request itself is wrong: an unknown name, an impossible value, an unwritable folder."""

    status = 2


class ModelError(HeatcliError):
    """The artifact cannot be loaded, captured or run."""

    status = 3


class OutOfMemoryError(ModelError):
    """The artifact needs more memory than there is, for so many images."""


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


def _one_line(text: str) -> str:
    """The text without line breaks and without characters that steer a terminal, and not longer than a screen.

    Bytes of a path that are no UTF-8 stay what Python makes of them.
    """
    line = "".join(c if c.isprintable() or "\udc80" <= c <= "\udcff" else " " for c in text)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} … {line[-_LONGEST // 2 :]}"


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
