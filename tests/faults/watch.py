"""A thread of its own for who looks on: it looks every so many seconds, from the begin of a `with` to its end."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import ClassVar, Self


class Watch(ABC):
    """Calls its `look` every `every_s` seconds."""

    every_s: ClassVar[float]

    def __enter__(self) -> Self:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @abstractmethod
    def look(self) -> None:
        """Look once."""

    def _watch(self) -> None:
        while not self._over.wait(self.every_s):
            self.look()
