"""A folder of pictures in the order of their names: JPEG and PNG files untouched, others as exact pixels."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from device_agent.sources.pace import Pace
from device_agent.sources.source import Capture, Picture, SourceFailed, SourceFinished
from millrace import images

if TYPE_CHECKING:
    from millrace.clock import Clock

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})
MAX_FILE_BYTES = 64 << 20
_MAX_TRUTH_CHARS = 64

log = logging.getLogger(__name__)


class Folder:
    """A Source of the pictures in a folder. With `truth_from_folder` a picture's folder names what it really shows.

    A file that is no picture is skipped, logged and counted in `skipped`.
    """

    def __init__(
        self,
        clock: Clock,
        path: Path,
        *,
        interval_s: float = 1.0,
        loop: bool = False,
        recursive: bool = False,
        truth_from_folder: bool = False,
    ) -> None:
        self._clock = clock
        self._path = path
        self._interval_s = interval_s
        self._loop = loop
        self._recursive = recursive
        self._truth_from_folder = truth_from_folder
        self._pace = Pace(clock)
        self._files = self._walk()
        self._found = 0
        self.skipped = 0

    def read(self, timeout_s: float) -> Capture | None:
        """Return the next picture, or None if none is due within `timeout_s`.

        Errors: SourceFinished after the last picture, SourceFailed if there is none at all.
        """
        if not self._pace.reached(timeout_s):
            return None
        file, picture = self._next_picture()
        self._pace.advance(self._interval_s)
        truth = file.parent.name[:_MAX_TRUTH_CHARS] if self._truth_from_folder else None
        return Capture(self._clock.now(), picture, truth)

    def close(self) -> None:
        """End a waiting read."""
        self._pace.end()

    def _next_picture(self) -> tuple[Path, Picture]:
        while True:
            for file in self._files:
                try:
                    picture = _load(file)
                except (OSError, images.BadPicture) as error:
                    self.skipped += 1
                    log.warning("picture skipped file=%s why=%s", file, error)
                    continue
                self._found += 1
                return file, picture
            if self._found == 0:
                raise SourceFailed(f"folder {self._path} has no picture ({', '.join(sorted(SUFFIXES))})")
            if not self._loop:
                raise SourceFinished(f"folder {self._path}: all pictures read")
            self._found = 0
            self._files = self._walk()

    def _walk(self) -> Iterator[Path]:
        for place, folders, names in os.walk(self._path):
            folders[:] = sorted(folders) if self._recursive else []
            yield from (Path(place, name) for name in sorted(names) if Path(name).suffix.lower() in SUFFIXES)


def _load(file: Path) -> Picture:
    """Return the file's picture; OSError if it cannot be read, BadPicture if it is none."""
    size_bytes = file.stat().st_size
    if size_bytes > MAX_FILE_BYTES:
        raise images.BadPicture(f"{size_bytes} bytes; at most {MAX_FILE_BYTES} are read")
    content = file.read_bytes()
    try:
        if images.read_header(content).content_type in {"image/jpeg", "image/png"}:
            return Picture(encoded=content)
    except images.BadPicture:
        pass  # Not one of the wire's formats, but perhaps one that can be decoded.
    return _decoded(content)


def _decoded(content: bytes) -> Picture:
    import cv2
    import numpy as np

    mode = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), mode) if content else None
    if pixels is None:
        raise images.BadPicture("it cannot be decoded")
    return Picture(pixels=np.asarray(pixels, np.uint8), lossless=True)
