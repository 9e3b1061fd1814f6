"""Cuts a stream of bytes into JPEGs by walking their markers, so that a thumbnail's end is not taken for the end."""

from __future__ import annotations

import re

_SOI = b"\xff\xd8\xff"
_START_OF_SCAN = 0xDA
_END_OF_IMAGE = 0xD9
_START_OF_IMAGE = 0xD8
# In a scan 0xFF00 is a stuffed byte, 0xFFD0 to 0xFFD7 restart it and 0xFFFF fills; any other marker ends it.
_SCAN_END = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")


class JpegSplitter:
    """Takes bytes as they come and gives each whole JPEG, untouched; holds at most `max_bytes` of one.

    Bytes between pictures, cut-off and oversize pictures are dropped; `broken` counts such pictures.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held = bytearray()
        self._place = 0
        self._in_scan = False
        self.broken = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the pictures that `chunk` completes, oldest first."""
        self._held += chunk
        pictures: list[bytes] = []
        while self._find_start():
            end = self._find_end()
            if end is not None:
                pictures.append(bytes(self._held[:end]))
                self._forget(end)
            elif self._place == 0:
                continue
            elif len(self._held) > self._max_bytes:
                self._give_up(2)
            else:
                break
        return pictures

    def _find_start(self) -> bool:
        """Bring a picture's first byte to the front; False if there is none."""
        if self._place > 0:
            return True
        start = self._held.find(_SOI)
        self._forget(start if start >= 0 else max(0, len(self._held) - 2))
        if start < 0:
            return False
        self._place = 2
        return True

    def _find_end(self) -> int | None:
        """Walk on and return where the picture ends; None if more bytes are needed or it turned out broken."""
        held = self._held
        while True:
            if self._in_scan:
                found = _SCAN_END.search(held, self._place)
                if found is None:
                    self._place = max(self._place, len(held) - 1)
                    return None
                self._place = found.start()
                self._in_scan = False
            if len(held) < self._place + 4 and held[self._place : self._place + 2] != b"\xff\xd9":
                return None
            marker = held[self._place + 1]
            if held[self._place] != 0xFF or marker in {0x00, _START_OF_IMAGE}:
                self._give_up(self._place if marker == _START_OF_IMAGE else 2)
                return None
            if marker == _END_OF_IMAGE:
                return self._place + 2
            if marker == 0xFF:
                self._place += 1
                continue
            self._in_scan = marker == _START_OF_SCAN
            self._place += 2 + int.from_bytes(held[self._place + 2 : self._place + 4])

    def _give_up(self, skip_bytes: int) -> None:
        self.broken += 1
        self._forget(skip_bytes)

    def _forget(self, first_bytes: int) -> None:
        del self._held[:first_bytes]
        self._place = 0
        self._in_scan = False


def first_jpeg(padded: bytes) -> bytes | None:
    """Return the JPEG that `padded` begins with, without what drivers leave behind it; None if it is not whole."""
    pictures = JpegSplitter(len(padded)).feed(padded) if padded.startswith(_SOI) else []
    return pictures[0] if pictures else None
