"""The end of a run: the feeds fall silent, the line drains, and its account is settled."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from millrace.chaos.line import Line
from millrace.chaos.oracle import Account, settle


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to."""

    account: Account
    kills: int
    duplicates_refused: int
    drain_s: float | None
    story: str


def reckon(line: Line) -> Outcome:
    """End the feeds, wait until the line is drained, and settle its account.

    The plan's guests are left out of it: what they promised, their players know.
    """
    strangers = {f"device/{guest}" for guest in line.plan.guests}
    line.hush()
    drain_s = line.drain()
    audit = line.cloud.audit()
    held = {f"device/{device}": list(line.cloud.events(f"device/{device}")) for device in line.plan.names}
    results, _ = line.cloud.results()
    audit["origins"] = [finding for finding in audit["origins"] if finding["origin"] not in strangers]
    results = [result for result in results if f"device/{result['subject'].split('/')[0]}" not in strangers]
    account = settle(line.minted(), line.plan.held_origins, held, results, audit)
    if drain_s is None:
        account.complaints.append(f"not drained\n{line.last_words()}")
    story = f"killed {dict(Counter(line.kills))}; " + "; ".join(account.complaints)
    return Outcome(account, len(line.kills), audit["totals"]["duplicates_refused"], drain_s, story)
