"""One channel's thread: read its source, let the gate decide, encode, hand over; reopen a source that fails."""

from __future__ import annotations

import importlib
import logging
import random
import threading
from collections.abc import Callable
from typing import Literal

from device_agent.gate import Gate, signature
from device_agent.packing import Admission
from device_agent.settings import Channel
from device_agent.sources.opening import open_source
from device_agent.sources.source import Capture, Picture, Reading, Source, SourceFailed, SourceFinished, Unencodable
from millrace import events, images
from millrace.clock import Clock
from millrace.service import Beat

log = logging.getLogger(__name__)

READ_TIMEOUT_S = 0.2
OUTSTANDING = 64
SENSORS = ("readings", "waveform")
State = Literal["opening", "running", "failed", "finished"]


class Feed:
    """An actor for one channel. It never ends by itself: a source that is finished or broken takes no other down."""

    def __init__(
        self, name: str, settings: Channel, clock: Clock, hand_over: Callable[[Feed, Admission], None]
    ) -> None:
        """`hand_over(feed, admission)` keeps it; `taken` must be called once for each."""
        self.name, self._settings, self._clock, self._hand_over = name, settings, clock, hand_over
        gate = settings.gate
        self._gate = Gate(gate.interval_s, gate.change_ratio, gate.keepalive_s)
        self._stop = threading.Event()
        self._outstanding = threading.BoundedSemaphore(OUTSTANDING)
        self.state: State = "opening"
        self.unencodable = 0
        self.beat = Beat(clock)

    def run(self) -> None:
        """Read until interrupted."""
        pause_s = self._settings.reopen_after_s
        if self._settings.source.kind not in SENSORS:
            # Now, and not at the first picture, which would wait for it; an agent of sensors alone never loads it.
            importlib.import_module("device_agent.encode")
        while not self._stop.is_set() and self.state != "finished":
            try:
                self._read_one_source()
            except SourceFinished:
                self.state = "finished"
                log.info("source_finished channel=%s", self.name)
            except SourceFailed as error:
                if self.state == "running":
                    pause_s = self._settings.reopen_after_s
                self.state = "failed"
                log.warning("source_failed channel=%s retry_s=%.1f error=%s", self.name, pause_s, error)
                self._rest(random.uniform(pause_s / 2, pause_s))
                pause_s = min(pause_s * 2, self._settings.reopen_max_s)
        while not self._stop.is_set():
            self._rest(1.0)

    def interrupt(self) -> None:
        """End `run`."""
        self._stop.set()

    def taken(self) -> None:
        """Take note that one admission was kept or refused: there is room for another."""
        self._outstanding.release()

    def _rest(self, seconds: float) -> None:
        deadline_s = self._clock.uptime_s() + seconds
        while not self._stop.is_set() and (left_s := deadline_s - self._clock.uptime_s()) > 0:
            self.beat.beat()
            self._stop.wait(min(left_s, 1.0))

    def _read_one_source(self) -> None:
        source: Source = open_source(self._settings.source, self._clock)
        try:
            fresh_s = self._clock.uptime_s()
            while not self._stop.is_set():
                self.beat.beat()
                capture = source.read(READ_TIMEOUT_S)
                now_s = self._clock.uptime_s()
                if capture is not None:
                    fresh_s, self.state = now_s, "running"
                    self._take(capture, now_s)
                elif now_s - fresh_s > self._settings.stall_after_s and self._paced():
                    raise SourceFailed(f"gave nothing for {now_s - fresh_s:.0f} s")
        finally:
            source.close()

    def _paced(self) -> bool:
        """Whether silence means trouble: a played-back file may rest for as long as its own times say."""
        return self._settings.source.kind in ("camera", "picamera", "stream")

    def _take(self, capture: Capture, now_s: float) -> None:
        try:
            if not self._gate.admits(lambda: signature(capture.content), now_s):
                return
            admission = self._admission(capture)
        except Unencodable as error:
            self.unencodable += 1
            log.warning("frame_unencodable channel=%s error=%s", self.name, error)
            return
        while not self._outstanding.acquire(timeout=READ_TIMEOUT_S):
            self.beat.beat()
            if self._stop.is_set():
                return
        self._hand_over(self, admission)

    def _admission(self, capture: Capture) -> Admission:
        content = capture.content
        if isinstance(content, Picture):
            from device_agent.encode import encode

            encoded = encode(content, self._settings.encode)
            picture = images.bare(encoded.payload)
            return Admission(
                self.name,
                events.FRAME,
                capture.instant,
                picture=picture,
                content_type=encoded.content_type,
                truth=capture.truth,
            )
        if isinstance(content, Reading):
            return Admission(self.name, events.READING, capture.instant, dict(content.values), truth=capture.truth)
        data: dict[str, object] = {
            "rate_hz": content.rate_hz,
            "unit": content.unit,
            "samples": list(content.samples),
        }
        return Admission(self.name, events.WAVEFORM, capture.instant, data, truth=capture.truth)
