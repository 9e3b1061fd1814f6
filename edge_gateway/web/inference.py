"""/predict, /health and /metrics over HTTP: an upload goes down the same pipeline as a frame from the floor."""

from __future__ import annotations

import asyncio
import hmac
import logging
import threading
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edge_gateway.intake import Intake
from edge_gateway.metrics import Metrics
from edge_gateway.pipeline import Writer
from edge_gateway.settings import GatewaySettings
from edge_gateway.status import Herald, Uplink
from edge_gateway.web.connections import Guarded
from edge_gateway.work import NotAnswered
from millrace.events import MalformedEvent
from millrace.listening import listen
from millrace.settings import read_secret

log = logging.getLogger(__name__)

STALE_BEAT_S = 30.0
FORM_BYTES = 16 << 10  # what a form adds to its file: boundaries, names, a few fields


class Web:
    """The HTTP server; an actor."""

    def __init__(
        self,
        settings: GatewaySettings,
        intake: Intake,
        writer: Writer,
        herald: Herald,
        uplink: Uplink,
        metrics: Metrics,
    ) -> None:
        """Listen, but serve only in `run`. Errors: ConfigError if the token cannot be read, AddressTaken."""
        self._settings, self._intake, self._writer, self._herald = settings, intake, writer, herald
        self._uplink, self._metrics = uplink, metrics
        token_file = settings.http.token_file
        self._token = read_secret(token_file) if token_file else None
        routes = [
            Route("/predict", self._predict, methods=["POST"]),
            Route("/health", self._health),
            Route("/metrics", self._metrics_text),
        ]
        config = uvicorn.Config(
            Starlette(routes=routes, exception_handlers={HTTPException: _refusal, ClientDisconnect: _gone}),
            host=settings.http.host,
            port=settings.http.port,
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            http=Guarded,
            ws="none",
            backlog=Guarded.most,
            timeout_keep_alive=10,
        )
        self._server = uvicorn.Server(config)
        self._listener = listen(settings.http.host, settings.http.port)
        self.ready = threading.Event()

    def run(self) -> None:
        """Serve until interrupted."""
        log.info("http_ready url=http://%s:%d", self._settings.http.host, self._listener.getsockname()[1])
        self.ready.set()
        asyncio.run(self._server.serve(sockets=[self._listener]))

    def interrupt(self) -> None:
        """End `run`."""
        self._server.should_exit = True

    async def _predict(self, request: Request) -> Response:
        self._check_token(request)
        patience_s = self._settings.http.predict_timeout_s
        try:
            async with asyncio.timeout(patience_s):
                picture = await self._upload(request)
        except TimeoutError:
            raise HTTPException(
                408, f"the picture did not come within {patience_s} s", {"Connection": "close"}
            ) from None
        channel = request.query_params.get("channel", "predict")
        try:
            reply = await asyncio.to_thread(self._intake.predict, picture, channel)
            results = await asyncio.wait_for(asyncio.wrap_future(reply), self._settings.http.predict_timeout_s)
        except (MalformedEvent, ValueError) as error:
            raise HTTPException(422, str(error)) from None
        except NotAnswered as error:
            raise HTTPException(503 if "full" in str(error) else 422, str(error)) from None
        except TimeoutError:
            raise HTTPException(504, f"no answer within {self._settings.http.predict_timeout_s} s") from None
        if not results:
            raise HTTPException(404, f"no model is bound to http/{channel}; see models: in the gateway's settings")
        return JSONResponse({"results": results})

    async def _upload(self, request: Request) -> bytes:
        """Return the picture of a raw body, or of the first file of a form; 413 over the limit."""
        limit = self._settings.max_payload_bytes
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            return await _read_body(request, limit)
        body = await _read_body(request, limit + FORM_BYTES)  # before it is parsed: a form's file may be of any size

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async with Request(request.scope, receive).form(max_files=1, max_fields=8) as form:
            file = next((part for part in form.values() if isinstance(part, UploadFile)), None)
            if file is None:
                raise HTTPException(422, "the form holds no file")
            picture = await file.read()
        if len(picture) > limit:
            raise _too_large(limit)
        return picture

    async def _health(self, request: Request) -> Response:
        self._check_token(request)
        facts = self._herald.facts() | await asyncio.to_thread(self._uplink.facts)
        stale_s = max(self._intake.beat.silent_s(), self._writer.beat.silent_s())
        problems = [
            text
            for wrong, text in [
                (not facts["connected"], "no connection to the broker"),
                (facts["denied"], f"the broker denies this gateway's account to read {', '.join(facts['denied'])}"),
                (facts["full"], "the disk quota is used up: devices keep what they have"),
                (facts["bad_folders"], f"pictures are refused: {'; '.join(facts['bad_folders'])}"),
                (self._writer.refused, f"the disk takes nothing, devices keep what they have: {self._writer.refused}"),
                (stale_s > STALE_BEAT_S, f"the pipeline has not moved for {stale_s:.0f} s"),
            ]
            if wrong
        ]
        body: dict[str, Any] = {"ok": not problems, "problems": problems, **facts}
        return JSONResponse(body, status_code=200 if not problems else 503)

    async def _metrics_text(self, request: Request) -> Response:
        self._check_token(request)
        facts = await asyncio.to_thread(self._uplink.facts)
        for lane, count in facts["backlog"].items():
            self._metrics.backlog.labels(lane).set(count)
        said = self._herald.facts()
        self._metrics.connected.set(said["connected"])
        self._metrics.damaged_files.set(said["damaged"]["files"])
        self._metrics.damaged_bytes.set(said["damaged"]["bytes"])
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def _check_token(self, request: Request) -> None:
        shown = request.headers.get("authorization", "")
        if self._token is not None and not hmac.compare_digest(shown.encode(), f"Bearer {self._token}".encode()):
            raise HTTPException(401, "show the token: Authorization: Bearer …", {"WWW-Authenticate": "Bearer"})


async def _read_body(request: Request, max_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
    return bytes(body)


def _too_large(max_bytes: int) -> HTTPException:
    return HTTPException(413, f"a picture has at most {max_bytes} bytes (max_payload_bytes)")


async def _refusal(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code, headers=error.headers)


async def _gone(_request: Request, _error: Exception) -> Response:
    """Answer a caller who hung up before the picture was here: nobody hears it, and nothing was done."""
    return Response(status_code=400)
