"""Readings put in the order of their seqs and cut into windows for models, within so many bytes. No I/O here.

A window is made of readings of one channel that follow each other: nothing that the device numbered between the first
and the last is missing. The clock is never asked.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_gateway.window_input import WindowSettings

PATIENCE = 256
"""So many events may have come ahead of a missing one; then it is not waited for any longer."""
WINDOWS_OF_A_WAVEFORM = 64
AHEAD_BYTES, RING_BYTES, SOURCE_BYTES = 600, 700, 900
"""What an event that came ahead of a missing one, a ring and a source take beside their numbers."""

Wanted = Mapping[int, WindowSettings]
"""What each model takes, by its place in the settings."""
Values = NDArray[np.float64]
Broken = Counter[str]
"""How many windows were broken off, or could not begin, by reason."""
SourceKey = tuple[str, str]
"""A device, and one of its epochs."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one reading gives to the models of its channel."""

    seq: int
    channel: str
    time: str
    rows: Mapping[int, tuple[float, ...] | None]
    """By a model's place its numbers; None where the reading does not fit that model."""
    answered: frozenset[int] = frozenset()
    """The models that have answered the window which it ended, of a reading that is put in once more."""


@dataclass(frozen=True, slots=True)
class Window:
    """What one model is to be asked: `values` has the shape (samples, numbers of a reading)."""

    model: int
    last: Reading
    first_seq: int
    values: Values
    offset: int | None = None
    """Where in a waveform it begins; None for one of readings."""


class Ring:
    """The last readings of one channel for one model; it takes the same room from the beginning."""

    def __init__(self, wanted: WindowSettings) -> None:
        self._samples, self._hop = wanted.samples, wanted.hop
        self._rows = np.empty((wanted.samples, wanted.numbers))
        self._seqs = np.empty(wanted.samples, np.int64)
        self._count = 0
        self._to_go = wanted.samples

    def put(self, seq: int, row: Sequence[float]) -> tuple[int, Values] | None:
        """Add a reading; return the first seq and the values of the window that it ends, or None."""
        at = self._count % self._samples
        self._rows[at], self._seqs[at] = row, seq
        self._count += 1
        self._to_go -= 1
        if self._to_go > 0 or self._count < self._samples:
            return None
        self.ended()
        oldest = (at + 1) % self._samples
        return int(self._seqs[oldest]), np.roll(self._rows, -oldest, axis=0)

    def ended(self) -> None:
        """Count from here to the end of the next window."""
        self._to_go = self._hop

    def clear(self) -> bool:
        """Begin anew; return whether there was anything."""
        had, self._count, self._to_go = self._count > 0, 0, self._samples
        return had


class Source:
    """One epoch of a device: what came of it, in the order of its seqs, and a ring for each channel and model."""

    def __init__(self, wanted: Wanted, first_seq: int) -> None:
        """Begin with an event's seq; what is below it is of no interest."""
        self._wanted, self._next = wanted, first_seq
        self._ahead: dict[int, Reading | None] = {}
        self._rings: dict[tuple[str, int], Ring] = {}
        self._rings_bytes = 0

    @property
    def size_bytes(self) -> int:
        """How much it holds."""
        return (
            SOURCE_BYTES
            + self._rings_bytes
            + sum(
                AHEAD_BYTES + sum(8 * len(row or ()) for row in reading.rows.values()) if reading else AHEAD_BYTES
                for reading in self._ahead.values()
            )
        )

    def came(self, seq: int, reading: Reading | None, accounted: int, broken: Broken) -> list[Window]:
        """Take an event that was accepted, a reading or another; return the windows that are whole now.

        Up to `accounted` whatever did not come will not come any more. What came before changes nothing.
        """
        if seq < self._next:
            if reading is not None:
                broken["late"] += 1
            return []
        windows: list[Window] = []
        if seq > self._next or self._ahead:
            self._ahead[seq] = reading
            while self._ahead:
                if self._next not in self._ahead:
                    lowest = min(self._ahead)
                    if accounted < lowest - 1 and len(self._ahead) <= PATIENCE:
                        break
                    self._begin_anew(broken)
                    self._next = lowest
                windows += self._take(self._ahead.pop(self._next), broken)
                self._next += 1
            return windows
        self._next += 1
        return self._take(reading, broken)

    def _take(self, reading: Reading | None, broken: Broken) -> list[Window]:
        windows = []
        for model, row in reading.rows.items() if reading is not None else ():
            assert reading is not None
            ring = self._ring(reading.channel, model)
            if row is None:
                ring.clear()
                broken["values"] += 1
                continue
            if (found := ring.put(reading.seq, row)) is not None:
                windows.append(Window(model, reading, *found))
            if model in reading.answered:
                ring.ended()
        return windows

    def _ring(self, channel: str, model: int) -> Ring:
        ring = self._rings.get((channel, model))
        if ring is None:
            ring = self._rings[channel, model] = Ring(self._wanted[model])
            self._rings_bytes += ring_bytes(self._wanted[model])
        return ring

    def _begin_anew(self, broken: Broken) -> None:
        for ring in self._rings.values():
            if ring.clear():
                broken["gap"] += 1


class Sources:
    """All of them, within so many bytes: the one that was quiet longest makes room."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self.held_bytes = max_bytes, 0
        self._held: OrderedDict[SourceKey, Source] = OrderedDict()
        self._sizes: dict[SourceKey, int] = {}

    def came(
        self,
        key: SourceKey,
        begin: Callable[[], Source],
        seq: int,
        reading: Reading | None,
        accounted: int,
        broken: Broken,
    ) -> list[Window]:
        """Take an event as `Source.came` does; `begin` makes the source where none is held."""
        source = self._held.get(key)
        if source is None:
            source = self._held[key] = begin()
            if any(device == key[0] and epoch != key[1] for device, epoch in self._held):
                broken["epoch"] += 1
        self._held.move_to_end(key)
        windows = source.came(seq, reading, accounted, broken)
        size_bytes = source.size_bytes
        self.held_bytes += size_bytes - self._sizes.get(key, 0)
        self._sizes[key] = size_bytes
        while self.held_bytes > self._max_bytes:
            self.drop(next(iter(self._held)))
            broken["memory"] += 1
        return windows

    def drop(self, key: SourceKey) -> None:
        """Forget a source; nothing happens if it is not held."""
        if self._held.pop(key, None) is not None:
            self.held_bytes -= self._sizes.pop(key, 0)


def ring_bytes(wanted: WindowSettings) -> int:
    """Return what the readings of one channel take for a model."""
    return RING_BYTES + wanted.samples * (wanted.numbers + 1) * 8


def row_of(data: Mapping[str, object], wanted: WindowSettings) -> tuple[float, ...] | None:
    """Return the numbers of a reading that a model takes, or None if it does not fit: text is no number."""
    names = sorted(data) if isinstance(wanted.values, int) else wanted.values
    row = tuple([float(value) for name in names if isinstance(value := data.get(name), (int, float))])
    return row if len(row) == wanted.numbers else None


def cut(samples: Sequence[float], wanted: WindowSettings) -> list[tuple[int, Values]]:
    """Return the windows in a waveform, each with where it begins; at most WINDOWS_OF_A_WAVEFORM."""
    whole = np.asarray(samples, np.float64)
    begins = begins_in(len(samples), wanted)
    return [(begin, whole[begin : begin + wanted.samples, np.newaxis]) for begin in begins]


def begins_in(samples: int, wanted: WindowSettings) -> range:
    """Return where the windows begin in a waveform of so many samples."""
    return range(0, samples - wanted.samples + 1, wanted.hop)[:WINDOWS_OF_A_WAVEFORM]
