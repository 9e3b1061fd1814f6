"""What each campaign came to, one JSON line each in docs/fault-runs.jsonl; written only where MILLRACE_RECORD=1.

A line counts for as long as the durable path is the one that it was measured on: `path` is that path's digest.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "docs" / "fault-runs.jsonl"
DURABLE_PATH = (
    "cloud_sync/batches.py",
    "cloud_sync/books.py",
    "cloud_sync/buried_again.py",
    "cloud_sync/choice.py",
    "cloud_sync/damage.py",
    "cloud_sync/debt.py",
    "cloud_sync/drain.py",
    "cloud_sync/drain_rate.py",
    "cloud_sync/gaps.py",
    "cloud_sync/lanes.py",
    "cloud_sync/link.py",
    "cloud_sync/link_report.py",
    "cloud_sync/news.py",
    "cloud_sync/orders.py",
    "cloud_sync/pace.py",
    "cloud_sync/parcel.py",
    "cloud_sync/progress.py",
    "cloud_sync/reference_cloud/audit.py",
    "cloud_sync/reference_cloud/batch.py",
    "cloud_sync/reference_cloud/blobs.py",
    "cloud_sync/reference_cloud/clocks.py",
    "cloud_sync/reference_cloud/ledger.py",
    "cloud_sync/refusals.py",
    "cloud_sync/sender.py",
    "cloud_sync/submit.py",
    "cloud_sync/uploads.py",
    "cloud_sync/waiting.py",
    "cloud_sync/wire.py",
    "cloud_sync/witness.py",
    "device_agent/keeper.py",
    "device_agent/memory.py",
    "device_agent/overflow.py",
    "device_agent/packing.py",
    "device_agent/patience.py",
    "device_agent/publish.py",
    "device_agent/rows.py",
    "device_agent/shelves.py",
    "device_agent/spool.py",
    "device_agent/young.py",
    "edge_gateway/accepting.py",
    "edge_gateway/admission.py",
    "edge_gateway/arrivals.py",
    "edge_gateway/assembly.py",
    "edge_gateway/bad_folders.py",
    "edge_gateway/commit.py",
    "edge_gateway/company.py",
    "edge_gateway/crew.py",
    "edge_gateway/intake.py",
    "edge_gateway/line.py",
    "edge_gateway/overflow.py",
    "edge_gateway/own_events.py",
    "edge_gateway/quarantine.py",
    "edge_gateway/receipts.py",
    "edge_gateway/register.py",
    "edge_gateway/relearn.py",
    "edge_gateway/router.py",
    "edge_gateway/shares.py",
    "edge_gateway/sheds.py",
    "edge_gateway/statuses.py",
    "edge_gateway/store.py",
    "edge_gateway/streams.py",
    "edge_gateway/tables.py",
    "edge_gateway/taken.py",
    "edge_gateway/turns.py",
    "edge_gateway/window_history.py",
    "edge_gateway/window_models.py",
    "edge_gateway/windows.py",
    "edge_gateway/work.py",
    "edge_gateway/workers.py",
    "edge_gateway/writer.py",
    "millrace/ballast.py",
    "millrace/bare_readings.py",
    "millrace/birth.py",
    "millrace/blobs.py",
    "millrace/clock.py",
    "millrace/control.py",
    "millrace/counters.py",
    "millrace/crashpoints.py",
    "millrace/database.py",
    "millrace/doubts.py",
    "millrace/entries.py",
    "millrace/events.py",
    "millrace/healing.py",
    "millrace/images.py",
    "millrace/inbox.py",
    "millrace/jsontext.py",
    "millrace/mending.py",
    "millrace/mqtt/__init__.py",
    "millrace/mqtt/client.py",
    "millrace/mqtt/connection.py",
    "millrace/mqtt/dialling.py",
    "millrace/mqtt/outgoing.py",
    "millrace/mqtt/probing.py",
    "millrace/mqtt/publishes.py",
    "millrace/mqtt/refusals.py",
    "millrace/notes.py",
    "millrace/outbox.py",
    "millrace/outbox_file.py",
    "millrace/outbox_reader.py",
    "millrace/outbox_tables.py",
    "millrace/packet_limit.py",
    "millrace/pictures.py",
    "millrace/plain_readings.py",
    "millrace/quota.py",
    "millrace/ranges.py",
    "millrace/rebuild.py",
    "millrace/reservation.py",
    "millrace/room.py",
    "millrace/row_sums.py",
    "millrace/salvage.py",
    "millrace/settled.py",
    "millrace/short_bodies.py",
    "millrace/tail.py",
    "millrace/ties.py",
    "millrace/topics.py",
)


@dataclass(frozen=True, slots=True)
class Run:
    """One campaign: `fault` as table.FAULTS names it, `variant` a broker, a durability, whose code; `runs` faults done.

    `promised` to `out_of_order` count keys of the producers' own ledger. `void` is written by hand, with the
    reason as note: its conditions were not those of the campaign, such as a machine that other work starved.
    """

    fault: str
    seed: int
    runs: int
    outcome: Literal["ok", "failed", "void"]
    seconds: float
    variant: str = ""
    promised: int = 0
    lost: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    recovery_p99_s: float | None = None
    note: str = ""
    date: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d"))
    path: str = field(default_factory=lambda: path_digest())  # noqa: PLW0108  (it is defined below)


def record(run: Run, file: Path = RUNS) -> None:
    """Append the run where MILLRACE_RECORD=1 asks for it; an ordinary run leaves the checkout as it is."""
    if os.environ.get("MILLRACE_RECORD") != "1":
        return
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(asdict(run), ensure_ascii=False) + "\n")


def recorded(file: Path = RUNS) -> list[Run]:
    """Return all runs, oldest first."""
    if not file.exists():
        return []
    names = {one.name for one in fields(Run)}
    return [
        Run(**{name: value for name, value in json.loads(line).items() if name in names})
        for line in file.read_text(encoding="utf-8").splitlines()
    ]


def path_digest(files: Iterable[str] = DURABLE_PATH, root: Path = ROOT) -> str:
    """Return a short digest of the durable path's source."""
    digest = hashlib.sha256()
    for name in files:
        digest.update(f"{name}\0".encode() + (root / name).read_bytes())
    return digest.hexdigest()[:12]
