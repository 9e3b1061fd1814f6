"""/health and /metrics: what is true of the gateway now; `ok` only while nothing is known to be wrong.

The answer's status says whether the line is served: 503 with `problems`; 200 with `degraded`, where a CPU does the work
of an accelerator.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edge_gateway.intake import Intake
from edge_gateway.metrics import Metrics
from edge_gateway.models import Models
from edge_gateway.status import SAID_CHARACTERS, Herald, Uplink
from edge_gateway.writer import Writer
from millrace.blobs import StorageFailed
from millrace.database import Damaged

STALE_BEAT_S = 30.0


class Health:
    """Says how the gateway is."""

    def __init__(
        self, intake: Intake, writer: Writer, herald: Herald, uplink: Uplink, models: Models, metrics: Metrics
    ) -> None:
        self._intake, self._writer, self._herald = intake, writer, herald
        self._uplink, self._models, self._metrics = uplink, models, metrics

    def routes(self) -> list[Route]:
        """Return the paths that are served."""
        return [Route("/health", self._health), Route("/metrics", self._metrics_text)]

    def is_moving(self) -> bool:
        """Say whether the pipeline moves."""
        return self._silent_s() <= STALE_BEAT_S

    async def _health(self, _request: Request) -> Response:
        facts, unread = await asyncio.to_thread(self._look)
        problems, degraded = unread + self._problems(facts), _degraded(facts)
        engines = [
            {"model": bundle.name, "engine": str(plan), "engine_reason": plan.reason}
            for bundle, plan in zip(self._models.bundles, self._models.plans, strict=True)
        ]
        ok = not problems and not degraded
        body: dict[str, Any] = {"ok": ok, "problems": problems, "degraded": degraded, "engines": engines, **facts}
        return JSONResponse(body, status_code=200 if not problems else 503)

    def _problems(self, facts: dict[str, Any]) -> list[str]:
        silent_s = self._silent_s()
        said = [
            (not facts["connected"], "no connection to the broker"),
            (facts["denied"], f"the broker denies this gateway's account to read {', '.join(facts['denied'])}"),
            (facts["namesake"], f"another gateway runs under this one's name: session {facts['namesake']}"),
            (facts["full"], "the disk quota is used up: devices keep what they have"),
            (facts["bad_folders"], f"pictures are refused: {'; '.join(facts['bad_folders'])}"),
            (self._writer.refused, f"the disk takes nothing, devices keep what they have: {self._writer.refused}"),
            (silent_s > STALE_BEAT_S, f"the pipeline has not moved for {silent_s:.0f} s"),
        ]
        failing = [f"model {name} fails: {why[:SAID_CHARACTERS]}" for name, why in self._models.failing.items()]
        return [text for wrong, text in said if wrong] + failing

    def _look(self) -> tuple[dict[str, Any], list[str]]:
        """Return what is true now; and what is wrong with the file that says what waits. A disk may keep it long."""
        facts = self._herald.facts() | {"backlog": {}}
        try:
            return facts | self._uplink.facts(), []
        except (Damaged, StorageFailed) as error:
            return facts, [f"the gateway's own file cannot be read: {str(error)[:SAID_CHARACTERS]}"]

    def _silent_s(self) -> float:
        return max(self._intake.beat.silent_s(), self._writer.beat.silent_s())

    async def _metrics_text(self, _request: Request) -> Response:
        facts, _ = await asyncio.to_thread(self._look)
        for lane, count in facts["backlog"].items():
            self._metrics.backlog.labels(lane).set(count)
        self._metrics.connected.set(facts["connected"])
        self._metrics.damaged_files.set(facts["damaged"]["files"])
        self._metrics.damaged_bytes.set(facts["damaged"]["bytes"])
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _degraded(facts: dict[str, Any]) -> list[str]:
    """Return in words which models the CPU runs in place of an accelerator."""
    return [
        f"{one['model']} runs on the CPU, not on {one['accelerator']}: {one['reason']}"
        for one in facts["accelerators"]
        if one["state"] == "failed"
    ]
