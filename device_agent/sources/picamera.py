"""A camera program that writes JPEG after JPEG to its standard output, such as rpicam-vid; its JPEGs stay untouched."""

from __future__ import annotations

import os
import selectors
import subprocess
from collections.abc import Sequence
from typing import TYPE_CHECKING

from device_agent.sources.jpegs import JpegSplitter
from device_agent.sources.newest import Newest
from device_agent.sources.source import Capture, Picture, SourceFailed

if TYPE_CHECKING:
    from millrace.clock import Clock, Instant

_MAX_JPEG_BYTES = 32 << 20
_CHUNK_BYTES = 256 << 10
_POLL_S = 0.2
_EXIT_WAIT_S = 2.0
_STDERR_KEPT_BYTES = 4096


def open_picamera(
    clock: Clock,
    command: Sequence[str],
    *,
    width_px: int | None = None,
    height_px: int | None = None,
    fps: float | None = None,
) -> Newest:
    """Return a Source of what `command` writes; sizes and rate that are set are added to it as rpicam-vid's options."""
    options = (("--width", width_px), ("--height", height_px), ("--framerate", fps))
    full = [*command, *(text for name, value in options if value is not None for text in (name, f"{value:g}"))]
    return Newest(f"camera program {command[0]}", lambda: JpegPipe(clock, full))


class JpegPipe:
    """A running camera program as a Device; its error output is read too, or it would block on it one day."""

    def __init__(self, clock: Clock, command: Sequence[str]) -> None:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        except OSError as error:
            raise SourceFailed(f"camera program {command[0]} cannot be started: {error.strerror}") from None
        assert process.stdout is not None
        assert process.stderr is not None
        self._clock = clock
        self._name = command[0]
        self._process = process
        self._out, self._err = process.stdout, process.stderr
        self._splitter = JpegSplitter(_MAX_JPEG_BYTES)
        self._complaints = b""
        self._newest: tuple[Instant, bytes] | None = None
        self._ready = selectors.DefaultSelector()
        self._ready.register(self._out, selectors.EVENT_READ)
        self._ready.register(self._err, selectors.EVENT_READ)

    def grab(self) -> bool:
        """Read what is there; True if it completed a JPEG. SourceFailed with its last words once the program ended."""
        grabbed = False
        for key, _ in self._ready.select(_POLL_S):
            chunk = os.read(key.fd, _CHUNK_BYTES)
            if key.fileobj is self._err:
                self._heard(chunk)
            elif not chunk:
                raise SourceFailed(f"camera program {self._name} ended: {self._last_words()}")
            elif pictures := self._splitter.feed(chunk):
                self._newest = self._clock.now(), pictures[-1]
                grabbed = True
        return grabbed

    def retrieve(self) -> Capture | None:
        """Return the newest JPEG."""
        return None if self._newest is None else Capture(self._newest[0], Picture(encoded=self._newest[1]))

    def release(self) -> None:
        """End the program."""
        self._ready.close()
        self._process.terminate()
        try:
            self._process.wait(_EXIT_WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._out.close()
        self._err.close()

    def _heard(self, chunk: bytes) -> None:
        self._complaints = (self._complaints + chunk)[-_STDERR_KEPT_BYTES:]
        if not chunk:
            self._ready.unregister(self._err)

    def _last_words(self) -> str:
        """Return the exit status and the last line of the error output, for which a dying program has a moment."""
        try:
            status = self._process.wait(_EXIT_WAIT_S)
        except subprocess.TimeoutExpired:
            return "it closed its output and runs on"
        os.set_blocking(self._err.fileno(), False)
        self._complaints += self._err.read(_CHUNK_BYTES) or b""
        lines = self._complaints.decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no word on its error output")
        return f"{last} (exit {status})"
