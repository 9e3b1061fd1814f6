"""A recorded signal played back window after window in its own rate; it is streamed, never held."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING

from device_agent.sources.pace import Pace
from device_agent.sources.source import Capture, SourceFailed, SourceFinished, Waveform
from device_agent.sources.tables import number

if TYPE_CHECKING:
    from pathlib import Path

    from millrace.clock import Clock

_BETWEEN_COLUMNS = re.compile(r"[,;\t]")


class Waveforms:
    """A Source of windows of `window_samples` samples; what is left over at the file's end is not sent.

    A .npy file holds samples, or samples x columns; any other file is text with a number, or columns, in each line.
    `column` is a place from 0 or, in text, a heading. A line without a number is skipped and counted.
    """

    def __init__(
        self,
        clock: Clock,
        path: Path,
        *,
        rate_hz: float,
        unit: str,
        window_samples: int = 2048,
        column: str | int = 0,
        realtime: bool = True,
        loop: bool = False,
        count: int | None = None,
    ) -> None:
        self._clock = clock
        self._path = path
        self._rate_hz = rate_hz
        self._unit = unit
        self._window_samples = window_samples
        self._column = column
        self._interval_s = window_samples / rate_hz if realtime else 0.0
        self._loop = loop
        self._left = count
        self._pace = Pace(clock)
        self._windows = self._played()
        self.skipped_lines = 0

    def read(self, timeout_s: float) -> Capture | None:
        """Return the next window, or None if none is due within `timeout_s`.

        Errors: SourceFinished after the last window, SourceFailed if the file cannot be read or is too short for one.
        """
        if self._left == 0:
            raise SourceFinished(f"{self._path}: as many windows as were asked for")
        if not self._pace.reached(timeout_s):
            return None
        samples = next(self._windows, None)
        if samples is None:
            raise SourceFinished(f"{self._path} is at its end")
        self._pace.advance(self._interval_s)
        if self._left is not None:
            self._left -= 1
        return Capture(self._clock.now(), Waveform(self._rate_hz, self._unit, samples))

    def close(self) -> None:
        """Close the file and let no window be due any more."""
        self._pace.end()
        self._windows.close()

    def _played(self) -> Generator[tuple[float, ...], None, None]:
        while True:
            whole = 0
            samples = self._array_samples() if self._path.suffix.lower() == ".npy" else self._text_samples()
            try:
                while len(window := tuple(islice(samples, self._window_samples))) == self._window_samples:
                    whole += 1
                    yield window
            except (OSError, EOFError, ValueError) as error:
                raise SourceFailed(f"{self._path}: {error}") from None
            finally:
                samples.close()
            if whole == 0:
                raise SourceFailed(f"{self._path}: fewer than window_samples {self._window_samples} samples")
            if not self._loop:
                return

    def _text_samples(self) -> Generator[float, None, None]:
        with self._path.open(encoding="utf-8-sig", errors="replace") as file:
            first = next(file, "")
            place = self._place(first)
            headed = _cell(first, place) is None
            lines: Iterator[str] = file if headed else chain([first], file)
            for line in lines:
                value = _cell(line, place)
                if value is None:
                    self.skipped_lines += 1
                else:
                    yield value

    def _place(self, first_line: str) -> int:
        headings = [heading.strip().strip('"') for heading in _BETWEEN_COLUMNS.split(first_line)]
        if isinstance(self._column, str):
            if self._column not in headings:
                raise ValueError(f"no column {self._column!r}; the first line has {', '.join(headings[:20])}")
            return headings.index(self._column)
        if self._column >= len(headings):
            raise ValueError(f"no column {self._column}; the first line has {len(headings)}, counted from 0")
        return self._column

    def _array_samples(self) -> Generator[float, None, None]:
        import numpy as np

        array = np.load(self._path, mmap_mode="r", allow_pickle=False)
        if array.ndim == 2 and isinstance(self._column, int) and self._column < array.shape[1]:
            array = array[:, self._column]
        if array.ndim != 1 or array.dtype.kind not in "fiu":
            raise ValueError(f"an array {array.shape} of {array.dtype} has no column {self._column!r} of numbers")
        for start in range(0, len(array), self._window_samples):
            part = array[start : start + self._window_samples].astype(np.float64)
            if not np.isfinite(part).all():
                raise ValueError(f"a sample after number {start} is not finite")
            yield from part.tolist()


def _cell(line: str, place: int) -> float | None:
    cells = _BETWEEN_COLUMNS.split(line)
    return number(cells[place]) if place < len(cells) else None
