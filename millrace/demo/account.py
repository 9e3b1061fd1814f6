"""The account of a run: what was promised, answered and held in the cloud, by key; every figure is counted here."""

from __future__ import annotations

import http.client
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from millrace import events, jsontext
from millrace.entries import Lane
from millrace.outbox_reader import Reader
from millrace.ranges import RangeSet
from millrace.tail import SpoolReader

PAGE = 1000


@dataclass(frozen=True, slots=True)
class Account:
    """What a run came to. `accuracy` is None where the truth is not known."""

    captured: int
    inferred: int
    cloud: int
    lost: int
    duplicated: int
    accuracy: float | None
    offline_s: float
    drain_s: float | None
    p50_ms: float | None
    p99_ms: float | None
    readings: int
    waveforms: int

    @property
    def whole(self) -> bool:
        """Whether nothing was lost or doubled."""
        return self.lost == 0 and self.duplicated == 0 and self.cloud == self.captured

    def line(self) -> str:
        """Return it as one line for a person."""
        accuracy = "not known" if self.accuracy is None else f"{self.accuracy:.1%}"
        drained = "not drained" if self.drain_s is None else f"drained in {self.drain_s:.1f} s"
        return (
            f"captured {self.captured} · inferred {self.inferred} · in the cloud {self.cloud} · lost {self.lost} · "
            f"duplicated {self.duplicated} · accuracy {accuracy} · offline {self.offline_s:.1f} s · {drained}"
        )

    def json(self) -> str:
        """Return it as one JSON object."""
        return json.dumps(asdict(self))


class CloudView:
    """Reads the cloud as a supervisor would: with a reader's token, over HTTP."""

    def __init__(self, port: int, token: str) -> None:
        self._port, self._token = port, token

    def results(self, after: int = 0) -> tuple[list[dict[str, Any]], int]:
        """Return all result events after a cursor, and the next cursor."""
        found: list[dict[str, Any]] = []
        while True:
            page = self._get(f"/v1/results?after={after}&limit={PAGE}")
            found += page["results"]
            after = page["next"]["after"]
            if len(page["results"]) < PAGE:
                return found, after

    def events(self, origin: str) -> Iterator[dict[str, Any]]:
        """Yield the events of an origin in its own order."""
        query = f"/v1/events?origin={quote(origin, safe='')}&limit={PAGE}"
        where = ""
        while True:
            page = self._get(query + where)
            yield from page["events"]
            if len(page["events"]) < PAGE:
                return
            where = f"&epoch={page['next']['epoch']}&after={page['next']['after']}"

    def audit(self) -> dict[str, Any]:
        """Return the cloud's own audit."""
        return self._get("/v1/audit")

    def _get(self, path: str) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {self._token}"})
            answer = connection.getresponse()
            body = answer.read()
        except http.client.HTTPException as error:
            raise OSError(f"cloud: {error!r}") from None
        finally:
            connection.close()
        if answer.status != 200:
            raise OSError(f"cloud answered {answer.status}: {body[:200]!r}")
        value: dict[str, Any] = json.loads(body)
        return value


def promised(agent_dir: Path) -> dict[str, RangeSet]:
    """Return the keys that the agent has promised: its own ledger, each epoch with all seqs given out."""
    reader = SpoolReader(agent_dir / "spool.db")
    minted = reader.epochs()
    reader.close()
    return {epoch: RangeSet([(1, seq)]) for epoch, seq in minted.items() if seq}


def answered(gateway_dir: Path, device: str) -> set[str]:
    """Return the subjects of a device that the gateway has answered, from its own database."""
    reader = Reader(gateway_dir / "gateway.db")
    subjects: set[str] = set()
    after = 0
    while rows := reader.read(Lane.RESULT, after, PAGE):
        after = rows[-1].position
        for row in rows:
            event = jsontext.parse(row.body)
            if isinstance(event, dict) and event["type"] == events.RESULT and event["subject"].startswith(f"{device}/"):
                subjects.add(event["subject"])
    reader.close()
    return subjects


def settle_account(
    home: Path, cloud: CloudView, device: str, offline_s: float, drain_s: float | None, latencies_ms: Sequence[float]
) -> Account:
    """Count a finished run: set difference by key between the agent's ledger and the cloud's table."""
    keys = promised(home / "agent")
    everything, _ = cloud.results()
    results = [result for result in everything if result["subject"].startswith(f"{device}/")]
    subjects = [result["subject"] for result in results]
    held = list(cloud.events(f"device/{device}"))
    accounted: dict[str, RangeSet] = {}
    for event_id in [subject.rsplit("/", 1)[1] for subject in subjects] + [event["id"] for event in held]:
        epoch, seq = events.parse_id(event_id)
        accounted.setdefault(epoch, RangeSet()).add(seq)
    lost = sum(
        last - first + 1
        for epoch, seqs in keys.items()
        for first, last in accounted.get(epoch, RangeSet()).gaps(1, seqs.last() or 0)
    )
    captured = sum(seqs.count() for seqs in keys.values())
    doubled = len(subjects) - len(set(subjects)) + len(held) - len({(e["source"], e["id"]) for e in held})
    judged = [result["data"] for result in results if "truth" in result["data"]]
    ordered = sorted(latencies_ms)
    return Account(
        captured=captured,
        inferred=len(answered(home / "gateway", device)),
        cloud=captured - lost,
        lost=lost,
        duplicated=doubled,
        accuracy=statistics.fmean(data["label"] == data["truth"] for data in judged) if judged else None,
        offline_s=round(offline_s, 2),
        drain_s=None if drain_s is None else round(drain_s, 2),
        p50_ms=round(_quantile(ordered, 0.50), 2) if ordered else None,
        p99_ms=round(_quantile(ordered, 0.99), 2) if ordered else None,
        readings=sum(event["type"] == events.READING for event in held),
        waveforms=sum(event["type"] == events.WAVEFORM for event in held),
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
