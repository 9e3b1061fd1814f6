"""The gateway's HTTP server: one listener, one door, and the paths of the modules beside it."""

from __future__ import annotations

import asyncio
import logging
import threading

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from edge_gateway.settings import HttpSettings
from edge_gateway.web.connections import Guarded
from edge_gateway.web.door import ERRORS, Door
from millrace.listening import listen
from millrace.settings import read_secret

log = logging.getLogger(__name__)


class Web:
    """The HTTP server; an actor."""

    def __init__(self, settings: HttpSettings, routes: list[Route]) -> None:
        """Listen, but serve only in `run`. Errors: ConfigError if the token cannot be read, AddressTaken."""
        self._host = settings.host
        app = Starlette(routes=routes, exception_handlers=ERRORS)
        config = uvicorn.Config(
            Door(app, read_secret(settings.token_file) if settings.token_file else None),
            host=settings.host,
            port=settings.port,
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
        self._listener = listen(settings.host, settings.port)
        self.ready = threading.Event()

    def run(self) -> None:
        """Serve until interrupted."""
        log.info("http_ready url=http://%s:%d", self._host, self._listener.getsockname()[1])
        self.ready.set()
        asyncio.run(self._server.serve(sockets=[self._listener]))

    def interrupt(self) -> None:
        """End `run`."""
        self._server.should_exit = True
