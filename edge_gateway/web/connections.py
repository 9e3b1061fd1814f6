"""HTTP connections that cannot use the gateway up: so many at most, and each asks and reads in time or goes.

uvicorn bounds none of it: who connects and says nothing, drips a request's head, or asks on and on and reads no answer,
is waited for as long as it likes.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from millrace import jsontext


class Guarded(H11Protocol):
    """uvicorn's connection, which is cut when no whole head of a request has come in time, or no answer is read.

    A new one beyond `most` takes the place of the one that has waited longest for its caller; it is cut itself if the
    gateway is at work for all. A head's size is bounded by h11, an upload's time and size by who serves it.
    """

    most: ClassVar[int] = 64
    head_s: ClassVar[float] = 10.0
    """For so long a head is waited for, and room in the socket for more of an answer."""
    end_s: ClassVar[float] = 2.0
    """For so long requests go on when the server ends."""
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
        if self._is_at_work() and not self.flow.write_paused:
            self._wait_no_more()

    def pause_writing(self) -> None:
        """Begin to wait for the caller to read."""
        super().pause_writing()
        self._wait(self.head_s)

    def resume_writing(self) -> None:
        """Go on: what was written before has gone."""
        super().resume_writing()
        if self._is_at_work():
            self._wait_no_more()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP in the words of every refusal; once an answer has begun there is none left to give."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            said = jsontext.dump({"error": msg})
            headers = [("content-type", "application/json"), ("connection", "close")]
            for event in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=said),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        if self.cycle is not None:
            self.cycle.disconnected = True  # it has no more to say
        self.transport.close()

    def shutdown(self) -> None:
        """End with the server: at once if there is no request, else with its answer, if that comes soon."""
        super().shutdown()
        self.loop.call_later(self.end_s, self.cut)

    def on_response_complete(self) -> None:
        """Wait for the next request: what uvicorn allows without a word, and the time of a head."""
        self._wait(self.timeout_keep_alive + self.head_s)
        super().on_response_complete()

    def cut(self) -> None:
        """End the connection at once, and count it no more."""
        self._wait_no_more()
        self.connections.discard(self)
        self.transport.abort()

    def _is_at_work(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait(self, most_s: float) -> None:
        self._wait_no_more()
        self._idle_since_s = self.loop.time()
        self._cut = self.loop.call_later(most_s, self.cut)

    def _wait_no_more(self) -> None:
        if self._cut is not None:
            self._cut.cancel()
        self._idle_since_s = self._cut = None
