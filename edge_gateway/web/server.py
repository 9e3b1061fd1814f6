"""The gateway's HTTP server: one listener, one door, and the paths of the modules beside it."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import AbstractAsyncContextManager, nullcontext

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from edge_gateway.settings import HttpSettings
from edge_gateway.web.connections import Guarded
from edge_gateway.web.door import ERRORS, Door
from millrace.listening import listen

log = logging.getLogger(__name__)


class Web:
    """The HTTP server; an actor."""

    def __init__(
        self,
        settings: HttpSettings,
        token: str | None,
        routes: list[Route],
        beside: AbstractAsyncContextManager[object] | None = None,
    ) -> None:
        """Listen, but serve only in `run`, and `beside` for as long on the same loop. Errors: AddressTaken."""
        self._host, self._beside = settings.host, beside or nullcontext()
        app = Starlette(routes=routes, exception_handlers=ERRORS)
        app.router.redirect_slashes = False  # it would send callers to whatever host their request names
        config = uvicorn.Config(
            Door(app, token),
            host=settings.host,
            port=settings.port,
            log_config=None,
            log_level="error",  # each request of a scanner that is no HTTP is a warning
            access_log=False,
            lifespan="off",
            http=Guarded,
            ws="none",
            backlog=Guarded.most,
            timeout_keep_alive=10,
        )
        self._server = uvicorn.Server(config)
        self._listener = listen(settings.host, settings.port)
        self.ready = threading.Event()

    def run(self) -> None:
        """Serve until interrupted. Errors: what entering `beside` raises."""
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        async with self._beside:
            log.info("http_ready url=http://%s:%d", self._host, self._listener.getsockname()[1])
            self.ready.set()
            await self._server.serve(sockets=[self._listener])

    def interrupt(self) -> None:
        """End `run`."""
        self._server.should_exit = True
