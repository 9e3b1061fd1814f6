"""HTTP connections that cannot use the gateway up: so many at most, and each asks in time or goes.

uvicorn bounds neither: who connects and says nothing, or drips a request's head, is waited for as long as it likes.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar, cast

from uvicorn.protocols.http.h11_impl import H11Protocol


class Guarded(H11Protocol):
    """uvicorn's connection, which is cut when no whole head of a request has come in time.

    A new one beyond `most` takes the place of the one that has waited longest without a request; it is cut itself if
    all have one. A head's size is bounded by h11, an upload's time and size by who serves it.
    """

    most: ClassVar[int] = 64
    head_s: ClassVar[float] = 10.0
    _idle_since_s: float | None = None
    _cut: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._wait(self.head_s)
        if len(self.connections) > self.most:
            idle = [one for one in cast("set[Guarded]", self.connections) if one._idle_since_s is not None]
            min(idle, key=lambda one: one._idle_since_s or 0.0).cut()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._wait_no_more()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Work on what came; while there is a request, its own bounds hold."""
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._wait_no_more()

    def on_response_complete(self) -> None:
        """Wait for the next request: what uvicorn allows without a word, and the time of a head."""
        self._wait(self.timeout_keep_alive + self.head_s)
        super().on_response_complete()

    def cut(self) -> None:
        """End the connection at once, and count it no more."""
        self._wait_no_more()
        self.connections.discard(self)
        self.transport.abort()

    def _wait(self, most_s: float) -> None:
        self._wait_no_more()
        self._idle_since_s = self.loop.time()
        self._cut = self.loop.call_later(most_s, self.cut)

    def _wait_no_more(self) -> None:
        if self._cut is not None:
            self._cut.cancel()
        self._idle_since_s = self._cut = None
