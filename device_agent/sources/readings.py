"""A CSV file played back row after row in its own time; it is streamed, never held."""

from __future__ import annotations

import csv
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from device_agent.sources.pace import Pace
from device_agent.sources.source import Capture, Reading, Scalar, SourceFailed, SourceFinished
from device_agent.sources.tables import chosen_columns, number, seconds, wire_name

if TYPE_CHECKING:
    from pathlib import Path

    from millrace.clock import Clock

_MAX_TEXT_CHARS = 256
_ROW_S = 1.0


@dataclass(frozen=True, slots=True)
class _Row:
    """One row: its own time in seconds, where it has one, and what is sent."""

    time_s: float | None
    values: dict[str, Scalar]


class Readings:
    """A Source of a CSV file's rows. A cell that is no number is left out and counted in `skipped_cells`.

    `speed` 1 keeps the file's own time, 60 is sixty times faster, 0 as fast as it is read. Without a `time_column` a
    row is a second. The capture's instant is now; the row's own time stands in the reading under its column's name.
    """

    def __init__(
        self,
        clock: Clock,
        path: Path,
        *,
        time_column: str | None = None,
        columns: Sequence[str] | None = None,
        delimiter: str = ",",
        speed: float = 1.0,
        loop: bool = False,
        count: int | None = None,
    ) -> None:
        self._clock = clock
        self._path = path
        self._time_column = time_column
        self._columns = columns
        self._delimiter = delimiter
        self._speed = speed
        self._loop = loop
        self._left = count
        self._pace = Pace(clock)
        self._rows = self._played()
        self._next: _Row | None = None
        self._row_s: float | None = None
        self._step_s = _ROW_S
        self.skipped_cells = 0

    def read(self, timeout_s: float) -> Capture | None:
        """Return the next row, or None if none is due within `timeout_s`.

        Errors: SourceFinished after the last row, SourceFailed if the file or its columns are not there.
        """
        if self._left == 0:
            raise SourceFinished(f"{self._path}: as many readings as were asked for")
        if self._next is None:
            self._next = self._scheduled()
        if not self._pace.reached(timeout_s):
            return None
        values, self._next = self._next.values, None
        if self._left is not None:
            self._left -= 1
        return Capture(self._clock.now(), Reading(values))

    def close(self) -> None:
        """Close the file and let no row be due any more."""
        self._pace.end()
        self._rows.close()

    def _scheduled(self) -> _Row:
        """Return the next row after setting when it is due; where time runs backwards, the last step is kept."""
        row = next(self._rows, None)
        if row is None:
            raise SourceFinished(f"{self._path} is at its end")
        if row.time_s is not None and self._row_s is not None and row.time_s >= self._row_s:
            self._step_s = row.time_s - self._row_s
        first = self._row_s is None
        self._row_s = self._row_s or 0.0 if row.time_s is None else row.time_s
        if not first:
            self._pace.advance(self._step_s / self._speed if self._speed > 0 else 0.0)
        return row

    def _played(self) -> Generator[_Row, None, None]:
        """Yield the rows with at least one number, pass after pass where that was asked for."""
        while True:
            numbers = 0
            try:
                with self._path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
                    for row in self._parsed(csv.reader(file, delimiter=self._delimiter)):
                        numbers += 1
                        yield row
            except (OSError, csv.Error, ValueError) as error:
                raise SourceFailed(f"{self._path}: {error}") from None
            if numbers == 0:
                raise SourceFailed(f"{self._path} has no row with a number; is the delimiter {self._delimiter!r}?")
            if not self._loop:
                return

    def _parsed(self, lines: Iterator[list[str]]) -> Iterator[_Row]:
        header, first = next(lines, []), next(lines, [])
        if len(first) == len(header) + 1:
            header = ["", *header]  # The row names that R writes have no heading.
        columns = chosen_columns(header, self._columns, self._time_column)
        time_place = None if self._time_column is None else header.index(self._time_column)
        line = first
        while line:
            cells = {name: number(line[place]) for place, name in columns if place < len(line)}
            values: dict[str, Scalar] = {name: value for name, value in cells.items() if value is not None}
            self.skipped_cells += len(columns) - len(values)
            if values and time_place is not None and time_place < len(line):
                text = line[time_place].strip()
                stamp = number(text)
                values[wire_name(header[time_place])] = text[:_MAX_TEXT_CHARS] if stamp is None else stamp
                yield _Row(seconds(text), values)
            elif values:
                yield _Row(None, values)
            line = next((line for line in lines if line), [])
