"""The strict account of a line under fault: the devices' own ledgers against what the cloud has, key by key.

It looks at nothing that the programs count of themselves, but for the cloud's audit, which must agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from millrace import events
from millrace.ranges import RangeSet

Minted = Mapping[str, Mapping[str, int]]
Keys = Counter[tuple[str, int]]


@dataclass(slots=True)
class Account:
    """What was promised and what became of it. Each complaint names keys, as ranges."""

    promised: int = 0
    missing: int = 0
    doubled: int = 0
    out_of_order: int = 0
    complaints: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether every promise was kept, once and in order, and the cloud's own audit says so."""
        return not self.complaints


def settle(
    minted: Minted,
    held_origins: Iterable[str],
    held: Mapping[str, Sequence[Mapping[str, Any]]],
    results: Sequence[Mapping[str, Any]],
    audit: Mapping[str, Any],
) -> Account:
    """Return the account.

    `minted` are the ledgers of devices and gateway, `held` each device's events in the order in which the cloud gives
    them (it gives none behind a gap: the audit's complaint tells how wide that is). Every event must be held or be
    answered by a result, every held frame be answered too, and every event of `held_origins` be held itself.
    """
    account = Account()
    answered: dict[str, Keys] = {}
    for result in results:
        device, _, event_id = result["subject"].split("/")
        answered.setdefault(f"device/{device}", Counter())[events.parse_id(event_id)] += 1
    for origin, epochs in minted.items():
        if not origin.startswith("device/"):
            continue
        own = Counter(events.parse_id(event["id"]) for event in held[origin])
        spoken_of = answered.get(origin, Counter())
        _compare(account, origin, epochs, own if origin in set(held_origins) else own | spoken_of)
        frames = {events.parse_id(event["id"]) for event in held[origin] if event["type"] == events.FRAME}
        if silent := frames - spoken_of.keys():
            account.missing += len(silent)
            account.complaints.append(f"{origin}: held frames without an answer: {_spelled_keys(silent)}")
        _note_repeats(account, f"{origin} events", own)
        _note_disorder(account, origin, list(epochs), held[origin])
    for origin, keys in answered.items():
        _note_repeats(account, f"{origin} results", keys)
        if strangers := {epoch for epoch, _ in keys} - set(minted.get(origin, {})):
            account.complaints.append(f"{origin}: results for epochs that it never had: {sorted(strangers)}")
    _note_audit(account, minted, audit)
    return account


def _compare(account: Account, origin: str, epochs: Mapping[str, int], found: Keys) -> None:
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


def _note_repeats(account: Account, what: str, keys: Keys) -> None:
    repeated = {key for key, times in keys.items() if times > 1}
    account.doubled += len(repeated)
    if repeated:
        account.complaints.append(f"{what}: more than once {_spelled_keys(repeated)}")


def _note_disorder(account: Account, origin: str, epochs: list[str], held: Sequence[Mapping[str, Any]]) -> None:
    """Order is that of the keys, and within a channel the keys' order is that in which things were captured."""
    number = {epoch: place for place, epoch in enumerate(epochs)}
    keys = [events.parse_id(event["id"]) for event in held]
    places = [(number.get(epoch, len(number)), seq) for epoch, seq in keys]
    if steps_back := _steps_back(places):
        account.out_of_order += steps_back
        account.complaints.append(f"{origin}: the cloud gives its events out of order {steps_back} times")
    for channel in sorted({event["source"] for event in held}):
        captured_ns = [int(event["uptimens"]) for event in held if event["source"] == channel]
        if steps_back := _steps_back(captured_ns):
            account.out_of_order += steps_back
            account.complaints.append(f"{channel}: a later seq was captured earlier, {steps_back} times")


def _steps_back(values: Sequence[Any]) -> int:
    return sum(later < earlier for earlier, later in pairwise(values))


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


def _spelled_keys(keys: Iterable[tuple[str, int]]) -> str:
    found: dict[str, RangeSet] = {}
    for epoch, seq in keys:
        found.setdefault(epoch, RangeSet()).add(seq)
    return "; ".join(f"{epoch} {_spelled(found[epoch])}" for epoch in sorted(found))


def _spelled(ranges: Iterable[Sequence[int]]) -> str:
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
