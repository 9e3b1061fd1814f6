"""What the reference cloud answers to each request; every answer is JSON, a refusal is {"error": reason}."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from cloud_sync.reference_cloud import clocks
from cloud_sync.reference_cloud.audit import Finding, count, judge
from cloud_sync.reference_cloud.batch import BadBatch, Rejection, Row, read_batch
from cloud_sync.reference_cloud.blobs import SiteBlobs, WrongDigest
from cloud_sync.reference_cloud.body import decompress, read_body
from cloud_sync.reference_cloud.credentials import Caller, Door
from cloud_sync.reference_cloud.ledger import Ledger, Stored, UnknownEpoch
from cloud_sync.reference_cloud.settings import CloudSettings
from millrace import __version__, clock, crashpoints, jsontext
from millrace.blobs import StorageFailed
from millrace.database import Damaged

log = logging.getLogger(__name__)

MAX_PAGE_EVENTS = 1000
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


class Api:
    """The requests, each read and checked on the event loop and worked on in a thread."""

    def __init__(
        self,
        settings: CloudSettings,
        door: Door,
        ledger: Ledger,
        blobs: SiteBlobs,
        clock_: clock.Clock,
        damaged: Callable[[Damaged], None],
    ) -> None:
        """`damaged` is called when a request has met damage in the ledger: only a new start heals it."""
        self._settings = settings
        self._door = door
        self._ledger = ledger
        self._blobs = blobs
        self._clock = clock_
        self._damaged = damaged

    def application(self) -> Starlette:
        """Return the ASGI application."""
        return Starlette(
            routes=[
                Route("/healthz", self.health),
                Route("/v1/ingest", self.ingest, methods=["POST"]),
                Route("/v1/blobs/{sha256}", self.put_blob, methods=["PUT"]),
                Route("/v1/blobs/{sha256}", self.get_blob),
                Route("/v1/origins", self.origins),
                Route("/v1/events", self.events),
                Route("/v1/results", self.results),
                Route("/v1/audit", self.audit),
            ],
            exception_handlers={
                HTTPException: _refused,
                StorageFailed: _storage_failed,
                Damaged: self._met_damage,
                ClientDisconnect: _gone,
            },
        )

    async def health(self, _request: Request) -> Response:
        """GET /healthz: the process answers; nobody needs to say who he is."""
        return _json({"ok": True, "version": __version__})

    async def ingest(self, request: Request) -> Response:
        """POST /v1/ingest: a batch of events, answered after its commit."""
        site, gateway = self._writer(request)
        met_at = self._clock.now()
        body = await read_body(request, self._settings.max_body_bytes, self._settings.silence_s)
        encoding = request.headers.get("content-encoding", "").strip().lower()
        answer = await run_in_threadpool(self._ingest, site, gateway, body, encoding, met_at)
        answer.background = BackgroundTask(_answered)
        return answer

    def _ingest(self, site: str, gateway: str, body: bytes, encoding: str, met_at: clock.Instant) -> Response:
        crashpoints.reached("cloud.received")
        try:
            batch = read_batch(decompress(body, encoding, self._settings.max_body_bytes), gateway)
        except BadBatch as error:
            raise HTTPException(400, str(error)) from None
        rejected = [*batch.rejected, *self._without_picture(site, batch.rows)]
        unfit = {rejection.index for rejection in rejected}
        rows = [row for row in batch.rows if row.index not in unfit]
        met = [*batch.met, *clocks.met_us(gateway, batch.clock, met_at)]
        tally = self._ledger.ingest(site, rows, batch.minted, self._clock.now(), batch.buried, met)
        crashpoints.reached("cloud.committed")
        for conflict in tally.conflicts:
            log.warning("conflict site=%s gateway=%s %s", site, gateway, conflict.reason)
        now = self._clock.now()
        rejected = sorted([*rejected, *tally.conflicts], key=lambda rejection: rejection.index)
        return _json(
            {
                "batch": batch.id,
                "accepted": tally.accepted,
                "duplicates": tally.duplicates,
                "rejected": [asdict(rejection) for rejection in rejected],
                "clock": {"bootid": now.boot_id, "uptimens": str(now.uptime_ns), "time": clock.rfc3339(now.wall_ns)},
            }
        )

    def _without_picture(self, site: str, rows: list[Row]) -> list[Rejection]:
        rejected = []
        for row in rows:
            if row.blob is None:
                continue
            size = self._blobs.size(site, row.blob.sha256)
            if size is None:
                rejected.append(Rejection(row.index, "blob missing"))
            elif size != row.blob.bytes:
                rejected.append(Rejection(row.index, f"data.bytes: is {row.blob.bytes}, the blob has {size}"))
        return rejected

    async def put_blob(self, request: Request) -> Response:
        """PUT /v1/blobs/{sha256}: a picture's bytes, answered when they are on stable storage."""
        site, _ = self._writer(request)
        sha256 = _sha256(request)
        content = await read_body(request, self._settings.max_blob_bytes, self._settings.silence_s)
        try:
            new = await run_in_threadpool(self._blobs.put, site, sha256, content)
        except WrongDigest as error:
            raise HTTPException(400, str(error)) from None
        crashpoints.reached("cloud.picture_stored")
        return _json({"sha256": sha256, "bytes": len(content), "new": new})

    async def get_blob(self, request: Request) -> Response:
        """GET or HEAD /v1/blobs/{sha256}: the picture, or 404."""
        site = self._caller(request).site
        sha256 = _sha256(request)
        if await run_in_threadpool(self._blobs.size, site, sha256) is None:
            raise HTTPException(404, f"no blob {sha256}")
        return FileResponse(
            self._blobs.path(site, sha256),
            media_type="application/octet-stream",
            headers={"X-Content-Type-Options": "nosniff"},
        )

    async def origins(self, request: Request) -> Response:
        """GET /v1/origins: who has sent anything, and how much of it is held."""
        site = self._caller(request).site
        found = await run_in_threadpool(self._ledger.origins, site)
        rows = [{"origin": origin, "epochs": epochs, "held": held} for origin, epochs, held in found]
        return _json({"site": site, "origins": rows})

    async def events(self, request: Request) -> Response:
        """GET /v1/events: one origin's events in order, up to the first gap."""
        site = self._caller(request).site
        origin = request.query_params.get("origin")
        if origin is None:
            raise HTTPException(400, "origin is needed, such as origin=device/cam-1; GET /v1/origins lists them")
        epoch = request.query_params.get("epoch")
        after, limit = _whole(request, "after", 0, 0, 2**60), _whole(request, "limit", 500, 1, MAX_PAGE_EVENTS)
        if after and epoch is None:
            raise HTTPException(400, "after counts within an epoch; give both as the last answer's next has them")
        return await run_in_threadpool(self._events, site, origin, epoch, after, limit)

    def _events(self, site: str, origin: str, epoch: str | None, after: int, limit: int) -> Response:
        try:
            page = self._ledger.page(
                site, origin, epoch, after, max_events=limit, max_bytes=self._settings.max_body_bytes
            )
        except UnknownEpoch as error:
            raise HTTPException(404, str(error)) from None
        waiting_at = None if page.waiting_seq is None else {"epoch": page.epoch, "seq": page.waiting_seq}
        rows = self._events_of(site, page.events)
        return _json({"events": rows, "next": {"epoch": page.epoch, "after": page.seq}, "waiting_at": waiting_at})

    async def results(self, request: Request) -> Response:
        """GET /v1/results: result events in the order in which they arrived."""
        site = self._caller(request).site
        after, limit = _whole(request, "after", 0, 0, 2**60), _whole(request, "limit", 500, 1, MAX_PAGE_EVENTS)
        return await run_in_threadpool(self._results, site, after, limit)

    def _results(self, site: str, after: int, limit: int) -> Response:
        found = self._ledger.results(site, after, limit, self._settings.max_body_bytes)
        shown = zip(self._events_of(site, found), found, strict=True)
        rows = [{**event, "position": stored.position} for event, stored in shown]
        return _json({"results": rows, "next": {"after": found[-1].position if found else after}})

    def _events_of(self, site: str, found: Sequence[Stored]) -> list[dict[str, Any]]:
        """Return events as readers get them: when they arrived, and when they were, where that can be mended."""
        shown = [_event(stored) for stored in found]
        mended = self._ledger.mended(site, [clocks.moment(event) for event in shown], self._clock.now())
        return [event | clocks.words(when) for event, when in zip(shown, mended, strict=True)]

    async def audit(self, request: Request) -> Response:
        """GET /v1/audit: what is held, declared, missing and unproven."""
        site = self._caller(request).site
        return await run_in_threadpool(self._audit, site, request.query_params.get("origin"))

    def _audit(self, site: str, origin: str | None) -> Response:
        findings = [judge(stream) for stream in self._ledger.streams(site, origin)]
        duplicates, conflicts = self._ledger.refused(site)
        totals = {**_totals(findings), "duplicates_refused": duplicates, "conflicts": conflicts}
        return _json({"site": site, "origins": [asdict(finding) for finding in findings], "totals": totals})

    async def _met_damage(self, _request: Request, error: Exception) -> Response:
        assert isinstance(error, Damaged)
        self._damaged(error)
        return _later(error)

    def _caller(self, request: Request) -> Caller:
        caller = self._door.who(request.headers.get("authorization", ""))
        if caller is None:
            raise HTTPException(401, "unknown token", {"WWW-Authenticate": "Bearer"})
        return caller

    def _writer(self, request: Request) -> tuple[str, str]:
        caller = self._caller(request)
        if caller.gateway is None:
            raise HTTPException(403, "this token may only read")
        return caller.site, caller.gateway


async def _answered() -> None:
    crashpoints.reached("cloud.answered")


def _totals(findings: list[Finding]) -> dict[str, int]:
    return {
        "held": sum(finding.held for finding in findings),
        "declared": sum(sum(finding.declared.values()) for finding in findings),
        "missing": sum(count(finding.missing) for finding in findings),
        "unproven": sum(count(finding.unproven) for finding in findings),
    }


def _event(stored: Stored) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(stored.body)
    if stored.base is not None:
        event["base"] = stored.base
    return {**event, "arrived": clock.rfc3339(stored.arrived_ns)}


def _sha256(request: Request) -> str:
    name: str = request.path_params["sha256"]
    if not _SHA256.match(name):
        raise HTTPException(400, "a blob's name is the 64 hexadecimal digits of its SHA-256, in lower case")
    return name


def _whole(request: Request, name: str, default: int, low: int, high: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and low <= int(text) <= high):
        raise HTTPException(400, f"{name} is a whole number from {low} to {high}, not {text[:40]!r}")
    return int(text)


def _json(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(jsontext.dump(value), status, headers, "application/json")


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _json({"error": error.detail}, error.status_code, dict(error.headers or {}))


async def _storage_failed(_request: Request, error: Exception) -> Response:
    log.error("storage_failed %s", error)
    return _later(error)


def _later(error: Exception) -> Response:
    return _json({"error": str(error)}, 503, {"Retry-After": "30"})


async def _gone(_request: Request, _error: Exception) -> Response:
    return _json({"error": "the sender hung up"}, 400)
