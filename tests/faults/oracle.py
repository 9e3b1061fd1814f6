"""The strict account of a line that was killed: the devices' own ledgers against what the cloud has, key by key.

It is told who sends frames and who sends readings; it looks at nothing that the programs count of themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from millrace import events
from millrace.ranges import RangeSet

Minted = Mapping[str, Mapping[str, int]]


@dataclass(slots=True)
class Account:
    """What was promised and what became of it. Each complaint names keys, as ranges."""

    promised: int = 0
    missing: int = 0
    doubled: int = 0
    complaints: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether every promise was kept, once and in order, and the cloud's own audit says so."""
        return not self.complaints


def settle(
    minted: Minted,
    answered_origins: Iterable[str],
    held: Mapping[str, Sequence[Mapping[str, Any]]],
    results: Sequence[Mapping[str, Any]],
    audit: Mapping[str, Any],
) -> Account:
    """Return the account.

    `minted` are the ledgers of devices and gateway, `held` each device's events in the order in which the cloud gives
    them (it gives none behind a gap: the audit's complaint tells how wide that is); every event of `answered_origins`
    must have one result, every event of the other devices must itself be held.
    """
    account = Account()
    answered: dict[str, Counter[tuple[str, int]]] = {}
    for result in results:
        device, _, event_id = result["subject"].split("/")
        answered.setdefault(f"device/{device}", Counter())[events.parse_id(event_id)] += 1
    for origin, epochs in minted.items():
        if not origin.startswith("device/"):
            continue
        own = Counter(events.parse_id(event["id"]) for event in held[origin])
        found = answered.get(origin, Counter()) if origin in answered_origins else own
        _compare(account, origin, epochs, found)
        _note_repeats(account, f"{origin} events", own)
        _note_disorder(account, origin, list(epochs), held[origin])
    for origin, keys in answered.items():
        _note_repeats(account, f"{origin} results", keys)
    _note_audit(account, minted, audit)
    return account


def _compare(account: Account, origin: str, epochs: Mapping[str, int], found: Counter[tuple[str, int]]) -> None:
    account.promised += sum(epochs.values())
    for epoch, last in epochs.items():
        seqs = RangeSet((seq, seq) for name, seq in found if name == epoch)
        gaps = seqs.gaps(1, last)
        account.missing += sum(high - low + 1 for low, high in gaps)
        if gaps:
            account.complaints.append(f"{origin} {epoch}: missing {_spelled(gaps)} of 1-{last}")
        if (seqs.last() or 0) > last:
            account.complaints.append(f"{origin} {epoch}: holds up to {seqs.last()}, only 1-{last} were promised")
    if unknown := {epoch for epoch, _ in found} - set(epochs):
        account.complaints.append(f"{origin}: holds epochs that it never had: {sorted(unknown)}")


def _note_repeats(account: Account, what: str, keys: Counter[tuple[str, int]]) -> None:
    repeated = sorted(key for key, times in keys.items() if times > 1)
    account.doubled += len(repeated)
    for epoch in sorted({epoch for epoch, _ in repeated}):
        seqs = RangeSet((seq, seq) for name, seq in repeated if name == epoch)
        account.complaints.append(f"{what} {epoch}: more than once {_spelled(seqs)}")


def _note_disorder(account: Account, origin: str, epochs: list[str], held: Sequence[Mapping[str, Any]]) -> None:
    """Order is that of the keys, and the keys' order is that in which things were captured."""
    number = {epoch: place for place, epoch in enumerate(epochs)}
    keys = [events.parse_id(event["id"]) for event in held]
    places = [(number.get(epoch, len(number)), seq) for epoch, seq in keys]
    if places != sorted(places):
        account.complaints.append(f"{origin}: the cloud gives its events out of order")
    captured_ns = [int(event["uptimens"]) for event in held]
    if captured_ns != sorted(captured_ns):
        account.complaints.append(f"{origin}: a later seq was captured earlier")


def _note_audit(account: Account, minted: Minted, audit: Mapping[str, Any]) -> None:
    ledger = {(origin, epoch): seq for origin, epochs in minted.items() for epoch, seq in epochs.items() if seq}
    judged = {(finding["origin"], finding["epoch"]): finding for finding in audit["origins"]}
    for origin, epoch in ledger.keys() | judged.keys():
        where = f"audit of {origin} {epoch}"
        finding, promised = judged.get((origin, epoch)), ledger.get((origin, epoch), 0)
        if finding is None:
            account.complaints.append(f"{where}: the cloud has never heard of it")
            continue
        for fault in ("missing", "unproven"):
            if finding[fault]:
                account.complaints.append(f"{where}: {fault} {_spelled(finding[fault])}")
        if set(finding["declared"]) - {"local"}:
            account.complaints.append(f"{where}: given up {finding['declared']}")
        explained = finding["held"] + sum(finding["declared"].values())
        if not (finding["minted"] or 0) == explained == promised:
            account.complaints.append(
                f"{where}: promised {promised}, minted {finding['minted']}, held or declared {explained}"
            )
    if audit["totals"]["conflicts"]:
        account.complaints.append(f"audit: {audit['totals']['conflicts']} keys came with two contents")


def _spelled(ranges: Iterable[Sequence[int]]) -> str:
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
