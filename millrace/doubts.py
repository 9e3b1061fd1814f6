"""After damage or loss: which seqs may have been minted that the file knows nothing of, until ledger records say so."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NoReturn

from millrace import jsontext, notes
from millrace.counters import Counters
from millrace.database import Connection
from millrace.entries import Lane, ascend
from millrace.ranges import RangeSet
from millrace.reservation import Seen

KEYS_AT_ONCE = 4096
_SELECT_KEYS = "SELECT position, lane, epoch, seq FROM entry WHERE position > ? ORDER BY position LIMIT ?"


@dataclass(frozen=True, slots=True)
class Doubt:
    """After damage or loss: seqs of own epochs, of which only those that are held or were received are proven.

    `is_salvaged` says that rows in the midst may be missing, others' too. `own_last` names epochs whose seqs another
    file may share, and how far each had surely come as far as this file tells.
    """

    why: str
    is_salvaged: bool
    ranges: Mapping[str, tuple[int, int]]
    own_last: Mapping[str, int] = field(default_factory=dict)

    def alone(self) -> Doubt:
        """Return what is in doubt if no other file holds seqs of this numbering that are not accounted for."""
        ranges = {
            epoch: (first, min(last, self.own_last.get(epoch, last))) for epoch, (first, last) in self.ranges.items()
        }
        return replace(self, ranges=ranges)


def read(connection: Connection) -> Doubt | None:
    """Return what is in doubt, or None."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'doubt'").fetchone()
    try:
        value: Any = jsontext.parse(row[0]) if row else None
        return value and Doubt(
            str(value["why"]),
            bool(value["is_salvaged"]),
            {str(epoch): (int(first), int(last)) for epoch, (first, last) in value["ranges"].items()},
            {str(epoch): int(last) for epoch, last in value.get("own_last", {}).items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def write(connection: Connection, doubt: Doubt) -> None:
    """Note, inside the present transaction, what is in doubt."""
    notes.write(connection, "doubt", jsontext.dump(asdict(doubt)).decode())


def resolve(connection: Connection) -> None:
    """Note, inside the present transaction, that nothing is any more."""
    connection.execute("DELETE FROM meta WHERE key = 'doubt'")


def begin(connection: Connection, why: str, lost: Mapping[str, tuple[int, int]]) -> None:
    """Put what was lost in doubt, inside the present transaction; what is in doubt already stays so."""
    older = read(connection)
    ranges, is_salvaged = ({**lost, **older.ranges}, older.is_salvaged) if older else (lost, False)
    write(connection, Doubt(why, is_salvaged, ranges))


def find_lost(
    connection: Connection, counters: Counters, reserved: Mapping[str, int], seen: Seen | None
) -> dict[str, tuple[int, int]]:
    """Return the seqs that were minted or may have been, and of which this file knows nothing.

    It was set back, by a restored copy or a lost log, if it says less than was seen committed; its positions then go
    on from there. Errors: StorageFailed.
    """
    if counters.is_new:
        return {epoch: (1, last) for epoch, last in reserved.items() if last}
    minted, doubt = counters.minted(), read(connection)
    if seen is None or (doubt and seen.epoch in doubt.ranges):
        return {}
    epoch, next_seq, next_position, _ = seen
    if epoch in minted and next_seq <= minted[epoch] + 1 and next_position <= counters.next_position:
        return {}
    counters.next_position = max(counters.next_position, next_position)
    last = {**reserved, epoch: max(reserved.get(epoch, 0), next_seq - 1)}
    return {
        name: (minted.get(name, 0) + 1, last[name])
        for name in last
        if (name == counters.epoch or name not in minted) and last[name] > minted.get(name, 0)
    }


def unproven(
    connection: Connection, doubt: Doubt, own_lanes: Collection[Lane] | None, spoilt: Callable[[str], NoReturn]
) -> list[tuple[str, int, int]]:
    """Return of the own seqs in doubt those of which no row is held: (epoch, first, last), oldest epoch first.

    `spoilt` is told of rows out of their order.
    """
    held = {epoch: RangeSet() for epoch in doubt.ranges}
    for epoch, first, last in _runs(connection, own_lanes, spoilt):
        if epoch in held:
            held[epoch].add(first, last)
    return [
        (epoch, first, last)
        for epoch, (low, high) in doubt.ranges.items()
        for first, last in held[epoch].gaps(low, high)
    ]


def _runs(
    connection: Connection, own_lanes: Collection[Lane] | None, spoilt: Callable[[str], NoReturn]
) -> Iterator[tuple[str, int, int]]:
    """Yield the seqs of rows that are the owner's own, where their epoch is, as runs: (epoch, first, last)."""
    after, run = 0, ("", 0, 0)
    while rows := connection.execute(_SELECT_KEYS, (after, KEYS_AT_ONCE)).fetchall():
        if not ascend([position for position, *_ in rows], after):
            spoilt(f"rows above {after} are out of their order")
        after = rows[-1][0]
        for _, lane, epoch, seq in rows:
            is_own = own_lanes is None or lane in own_lanes
            if not is_own or not isinstance(seq, int):  # of a damaged row any column may be of any kind
                continue
            if (epoch, seq) != (run[0], run[2] + 1):
                yield run
                run = (epoch, seq, seq)
            run = (epoch, run[1], seq)
    yield run
