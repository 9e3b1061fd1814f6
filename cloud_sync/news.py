"""What the cloud is told besides rows: how far everyone has minted, and which rows were buried; no I/O here."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from cloud_sync.progress import DAMAGED
from millrace import events, jsontext, topics

log = logging.getLogger(__name__)

Minted = dict[str, dict[str, int]]
Untold = Sequence[tuple[str, int, bytes, str, str, int]]
"""Of each buried row the gateway's epoch, its position, its bytes, the reason, and the row's own epoch and seq."""
MINTED_AT_ONCE = 1000


class MintedNews:
    """How far everyone has minted where the cloud was not told it yet, a bounded number of epochs at a time."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], int] = {}

    def among(self, known: Mapping[str, Mapping[str, int]]) -> Minted:
        """Return of `known` (origin -> epoch -> seq) what is news, or a part of it."""
        changed = (
            (origin, epoch, seq)
            for origin, epochs in known.items()
            for epoch, seq in epochs.items()
            if self._told.get((origin, epoch)) != seq
        )
        news: Minted = {}
        for origin, epoch, seq in islice(changed, MINTED_AT_ONCE):
            news.setdefault(origin, {})[epoch] = seq
        return news

    def told(self, minted: Minted) -> None:
        """Take note that the cloud has committed this."""
        for origin, epochs in minted.items():
            self._told |= {(origin, epoch): seq for epoch, seq in epochs.items()}


def burials(untold: Untold, own_origin: str, known: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """Return what the cloud is told of buried rows: whose each was, and why it does not come.

    It takes no word of another gateway from us, such as one that this gateway was named before. A damaged row is named
    only where its bytes and its columns give the same key, of an epoch that is `known` (origin -> epoch -> seq) to be
    that origin's. Where its bytes give none its columns are believed if they fit one origin; what is held in the cloud
    beats such a word. Of any other its position here is all that is known, and the cloud goes on to miss its key.
    """
    told = []
    for _, position, body, reason, row_epoch, row_seq in untold:
        try:
            origin, epoch, seq = _key_in(body) or _owner(row_epoch, row_seq, known)
            if origin.startswith("gateway/") and origin != own_origin:
                raise ValueError(f"{origin} is not {own_origin}")
            if reason == DAMAGED and (
                (epoch, seq) != (row_epoch, row_seq) or seq > known.get(origin, {}).get(epoch, 0)
            ):
                raise ValueError(f"the damaged row's key {origin} {epoch}-{seq} cannot be believed")
            told.append({"origin": origin, "epoch": epoch, "seq": seq, "reason": reason})
        except ValueError as error:
            log.warning("burial_untold position=%d error=%s", position, error)
    return told


def _key_in(body: bytes) -> tuple[str, str, int] | None:
    """Return the (origin, epoch, seq) that a row's bytes give; None if they give none."""
    try:
        value = jsontext.parse(body)
        source, event_id = (str(value["source"]), str(value["id"])) if isinstance(value, dict) else ("", "")
        return topics.origin_of(source), *events.parse_id(event_id)
    except (ValueError, KeyError):
        return None


def _owner(epoch: str, seq: int, known: Mapping[str, Mapping[str, int]]) -> tuple[str, str, int]:
    """Return (origin, epoch, seq) for the only origin that is known to have minted it; ValueError if there is none."""
    if isinstance(seq, int):  # an older program kept of a damaged row whatever stood there
        origins = [origin for origin, epochs in known.items() if 1 <= seq <= epochs.get(epoch, 0)]
        if len(origins) == 1:
            return origins[0], epoch, seq
    raise ValueError(f"its bytes give no key, and its columns {epoch}-{seq} fit no origin or several")
