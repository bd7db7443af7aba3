"""Notes: remarks for the user that are no errors, collected where they arise and shown by the user interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Lock

Say = Callable[[str], None]


class Notes:
    """Sentences, each kept once. `tell` passes on the present and all later notes.

    Thread-safe.
    """

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._say: Say | None = None
        self._lock = Lock()

    def add(self, text: str, key: str | None = None) -> None:
        """Add a note, unless it is empty or a note of the same `key`, by default its text, exists."""
        with self._lock:
            if not text or (key or text) in self._texts:
                return
            self._texts[key or text] = text
        if self._say is not None:
            self._say(text)

    def get(self, key: str) -> str | None:
        """The note of that key, or None."""
        return self._texts.get(key)

    def tell(self, say: Say) -> None:
        """Call `say` with the present notes and with every later one."""
        self._say = say
        for text in self:
            say(text)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._texts.values()))

    def items(self) -> list[tuple[str, str]]:
        """Each key with its note, to add them to other notes."""
        return list(self._texts.items())
