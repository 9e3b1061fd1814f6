"""The models that take windows of readings: which look at what, and what an event gives to each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from fnmatch import fnmatchcase
from functools import lru_cache

from edge_gateway.admission import Outcome
from edge_gateway.engines.engine import Tensor
from edge_gateway.settings import ModelSettings
from edge_gateway.window_input import WindowSettings
from edge_gateway.windows import SOURCE_BYTES, Broken, Reading, Window, begins_in, cut, ring_bytes, row_of
from millrace import events
from millrace.settings import ConfigError

CHANNELS_KEPT = 1024


class WindowModels:
    """What is known of them, by their place in the settings."""

    def __init__(
        self,
        settings: Sequence[ModelSettings],
        wanted: Mapping[int, WindowSettings],
        names: Mapping[int, str],
        ask: Callable[[int, Tensor], Future[Outcome]],
    ) -> None:
        """`wanted` and `names` (without a version) are of those that take windows; `ask` begins an inference of one."""
        self._settings, self.wanted, self._names, self.ask = settings, wanted, names, ask
        self.longest = max(max(one.samples, one.hop) for one in wanted.values())
        """In how many readings of a channel a window of each model ends at least once."""
        self.of = lru_cache(CHANNELS_KEPT)(self._of)
        self.may_watch = lru_cache(CHANNELS_KEPT)(self._may_watch)

    def check_room(self, max_bytes: int) -> None:
        """Raise ConfigError if a single window takes more than all may."""
        for place, wanted in self.wanted.items():
            size_bytes = SOURCE_BYTES + ring_bytes(wanted)
            if size_bytes > max_bytes:
                raise ConfigError(
                    [
                        f"limits.windows_bytes: a window of {self._names[place]} takes {size_bytes} bytes,"
                        f" and all windows may take {max_bytes}: raise it"
                    ]
                )

    def named(self, model: str) -> set[int]:
        """Return where a model stands that a result names, whatever its version."""
        return {place for place, name in self._names.items() if name == model.partition("@")[0]}

    def reading(
        self, device: str, channel: str, event: events.Event, answered: frozenset[int] = frozenset()
    ) -> Reading:
        """Return what a reading gives to the models of its channel."""
        data = event.data or {}
        rows = {place: row_of(data, self.wanted[place]) for place in self.of(device, channel)}
        return Reading(event.key.seq, channel, event.time, rows, answered)

    def in_waveform(self, device: str, channel: str, event: events.Event, broken: Broken) -> list[Window]:
        """Return the windows in a waveform; a model for which there is none is counted."""
        windows, data = [], event.data or {}
        reading = Reading(event.key.seq, channel, event.time, {})
        for place in self.of(device, channel):
            wanted = self.wanted[place]
            fits = wanted.numbers == 1 and wanted.rate_hz in (None, data["rate_hz"])
            found = cut(data["samples"], wanted) if fits else []
            if not found:
                broken["waveform"] += 1
            windows += [Window(place, reading, event.key.seq, values, offset) for offset, values in found]
        return windows

    def weight(self, device: str, channel: str, samples: int | None) -> float:
        """Return how many windows a reading makes whole on the average; or a waveform of so many samples."""
        wanted = [self.wanted[place] for place in self.of(device, channel)]
        if samples is None:
            return sum(1 / one.hop for one in wanted)
        return float(sum(len(begins_in(samples, one)) for one in wanted))

    def _of(self, device: str, channel: str) -> tuple[int, ...]:
        """Return which models look at the readings and waveforms of a channel."""
        return tuple(place for place in self.wanted if self._settings[place].serves(device, channel))

    def _may_watch(self, device: str) -> bool:
        """Whether a channel of a device may have a model: then all that the device numbers has to be followed."""
        patterns = [pattern for place in self.wanted for pattern in self._settings[place].channels]
        return any("/" not in pattern or fnmatchcase(device, pattern.partition("/")[0]) for pattern in patterns)
