"""What the store's last rows say of a device's windows, so that they go on where they were."""

from __future__ import annotations

from collections import Counter, defaultdict

from edge_gateway.store import Answer, Store
from edge_gateway.streams import Stream
from edge_gateway.window_models import WindowModels
from edge_gateway.windows import Reading
from millrace import events, topics
from millrace.entries import Entry

LOOKED_BACK = 4096
"""So many of a device's last events are looked at, at most."""


def read(store: Store, models: WindowModels, stream: Stream, accounted: int) -> list[tuple[int, Reading | None]]:
    """Return the last events of a stream, the lowest seq first, as far back as each is known and as is needed.

    What is above `accounted` waits for what is missing, and may need all that is below.
    """
    answered: defaultdict[int, set[int]] = defaultdict(set)
    known: list[tuple[int, events.Event | None]] = []
    enough: Counter[str] = Counter()
    for seq, answer, entry in store.latest(stream, LOOKED_BACK):
        event = _own_event(entry, stream)
        is_frame = _note_results(store, models, answer, answered)
        if event is None and not is_frame:
            break  # nobody knows what it was
        is_reading = event is not None and event.type == events.READING
        known.append((seq, event if is_reading else None))
        if event is not None and is_reading and seq <= accounted:
            enough[_channel(event)] += 1
        if enough and min(enough.values()) >= models.longest:
            break
    found: list[tuple[int, Reading | None]] = []
    for seq, event in reversed(known):
        answers = frozenset(answered[seq])
        found.append((seq, models.reading(stream.device, _channel(event), event, answers) if event else None))
    return found


def _note_results(store: Store, models: WindowModels, answer: Answer, answered: defaultdict[int, set[int]]) -> bool:
    """Note by an answer's results which models answered the windows that end where; say whether it is a frame's."""
    for result in store.results_of(answer):
        event = events.decode_json(result.body)
        data = event.data or {}
        if not events.is_of_window(data):
            return True
        _, seq = events.parse_id(str(event.subject).rpartition("/")[2])
        answered[seq] |= models.named(str(data["model"]))
    return False


def _own_event(entry: Entry | None, stream: Stream) -> events.Event | None:
    """Return the device's own event that stands in a row; None if another's does."""
    if entry is None:
        return None
    event = events.decode_json(entry.body)
    return event if topics.origin_of(event.key.source) == f"device/{stream.device}" else None


def _channel(event: events.Event) -> str:
    """Return on which channel of its device an event came."""
    return event.key.source.rpartition("/")[2]
