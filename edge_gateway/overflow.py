"""What the gateway lets go of above high water: unsent rows, as each channel's policy says, every range declared.

Results, alarms and ledger records never go; nor does anything by its age.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edge_gateway.settings import GatewaySettings, PolicySettings
from edge_gateway.store import Store
from millrace import events, quota, topics
from millrace.entries import Entry, Lane
from millrace.quota import Held, Shedding
from millrace.ranges import RangeSet

PART_ROWS = 128
PARTS = 8
RECORD_BYTES = 512
"""What a ledger record takes, roughly: a range that frees less stays."""
SPARED_ROWS = 32
"""The oldest pictures that wait, which the sync worker may be sending: it begins anew if one goes under its hands."""

Declare = Callable[[str, str, int, int, str, str], None]
_KINDS = {events.TYPE_OF_KIND[kind]: kind for kind in (topics.Kind.FRAME, topics.Kind.READING, topics.Kind.WAVEFORM)}


class Overflow:
    """Sheds a part at a time, from the oldest on; used by the one thread that writes."""

    def __init__(self, settings: GatewaySettings, store: Store) -> None:
        """Begin at the oldest row. Without an uplink nothing is unsent, and nothing goes here."""
        self._settings, self._store = settings, store
        self._may_go = settings.uplink == "cloud" and any(map(_gives_up_held, settings.policies))
        self._high_water_bytes = settings.store.max_bytes * settings.store.high_water_ratio
        self._looked = dict.fromkeys((Lane.FRAME, Lane.BULK), 0)
        self._shedding = {lane: Shedding() for lane in self._looked}

    @property
    def excess_bytes(self) -> int:
        """How much should go; 0 if the store is below high water or no policy gives anything up."""
        return quota.excess_bytes(self._store.outbox.held_bytes, 0, self._high_water_bytes) if self._may_go else 0

    def shed(self, declare: Declare) -> int:
        """Forget rows inside the present transaction and declare them; return how many went.

        What is still too much goes at the next call.
        """
        gone = 0
        for lane in self._looked:
            settled = self._store.settled(lane)
            for _ in range(PARTS):
                excess = self.excess_bytes
                entries = self._part(lane, settled) if excess else []
                if not entries:
                    break
                held = {entry.position: self._held(entry, settled) for entry in entries}
                going, self._looked[lane] = self._shedding[lane].pick(held.values(), excess)
                chosen = {row.position: row for row in going}
                gone += self._let_go(
                    [(entry, chosen[entry.position]) for entry in entries if entry.position in chosen], declare
                )
        return gone

    def _part(self, lane: Lane, settled: RangeSet) -> list[Entry]:
        """Return the next rows of a lane; none at its end, and then it begins at the oldest again."""
        after = self._looked[lane]
        if lane is Lane.FRAME:
            first = next(iter(settled), None)  # what was sent ahead while it was live does not count
            sent_to = first[1] if first is not None and first[0] == 1 else 0
            spared = self._store.outbox.read(sent_to, SPARED_ROWS, lane)
            after = max(after, spared[-1].position if spared else 0)
        entries = self._store.outbox.read(after, PART_ROWS, lane)
        if not entries:
            self._looked[lane], self._shedding[lane] = 0, Shedding()
        return entries

    def _held(self, entry: Entry, settled: RangeSet) -> Held:
        size_bytes = self._store.outbox.size_bytes(entry)
        try:
            event = events.decode_json(entry.body, len(entry.body))
            kind = _KINDS[event.type]
        except (events.MalformedEvent, KeyError):  # the sync worker buries it
            return Held(entry.position, topics.Kind.DEVICE_LEDGER, "", "reject", size_bytes)
        device, channel = event.key.source.split("/")[-2:]
        policy = _policy(self._settings.policy(device, channel), kind)
        if not entry.intact or entry.position in settled:
            policy = "reject"
        return Held(entry.position, kind, f"{device}/{channel}", policy, size_bytes)

    def _let_go(self, rows: Sequence[tuple[Entry, Held]], declare: Declare) -> int:
        """Forget and declare the ranges that free more than their record takes."""
        sizes: dict[tuple[str, str, str], dict[int, tuple[int, int]]] = {}
        for entry, row in rows:
            of = row.channel.split("/")[0], entry.epoch, row.policy
            sizes.setdefault(of, {})[entry.seq] = entry.position, row.size_bytes
        gone = 0
        for (device, epoch, policy), places in sizes.items():
            for first, last in RangeSet((seq, seq) for seq in places):
                if sum(places[seq][1] for seq in range(first, last + 1)) < RECORD_BYTES:
                    continue
                gone += self._store.outbox.forget([places[seq][0] for seq in range(first, last + 1)])
                reason = f"{policy}: the store is above store.high_water_ratio"
                declare(device, epoch, first, last, "shed", reason)
        return gone


def _policy(chosen: PolicySettings, kind: topics.Kind) -> quota.Policy:
    """Return what may go of what is held; `keep_result_drop_frame` is a rule for what comes."""
    overflow = chosen.overflow
    if kind is topics.Kind.FRAME:
        return "reject" if overflow.frame == "keep_result_drop_frame" else overflow.frame
    return overflow.reading if kind is topics.Kind.READING else overflow.waveform


def _gives_up_held(chosen: PolicySettings) -> bool:
    return any(_policy(chosen, kind) != "reject" for kind in _KINDS.values())
