"""What a user should know of a run and is no error: collected where it is found, told by whoever talks to the user."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Lock

Say = Callable[[str], None]


class Notes:
    """Sentences, each kept once; `tell` hands over those that are there and each that comes.

    Threads may share them.
    """

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._say: Say | None = None
        self._lock = Lock()

    def add(self, text: str, key: str | None = None) -> None:
        """A note, unless it is empty or there is one of the same `key`, by default its text."""
        with self._lock:
            if not text or (key or text) in self._texts:
                return
            self._texts[key or text] = text
        if self._say is not None:
            self._say(text)

    def get(self, key: str) -> str | None:
        """The note of that key, if there is one."""
        return self._texts.get(key)

    def tell(self, say: Say) -> None:
        """Say what is there, and from now on what comes."""
        self._say = say
        for text in self:
            say(text)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._texts.values()))

    def items(self) -> list[tuple[str, str]]:
        """Each key with its note, to add them elsewhere."""
        return list(self._texts.items())
