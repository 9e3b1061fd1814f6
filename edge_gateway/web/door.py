"""Who may ask, and how a refusal looks: the bearer token before anything else, errors as `{"error": "..."}`."""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from edge_gateway.web.room import Full

RETRY_AFTER_S = 1


def is_welcome(token: str | None, shown: str) -> bool:
    """Say whether an `Authorization` shows the token; without one everybody is."""
    return token is None or hmac.compare_digest(shown.encode(), f"Bearer {token}".encode())


class Door:
    """Lets a request in that shows the token; without one set everybody is let in."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or answer 401."""
        app = self._app
        if not is_welcome(self._token, Headers(scope=scope).get("authorization", "")):
            said = {"error": "show the token: Authorization: Bearer …"}
            app = JSONResponse(said, 401, {"WWW-Authenticate": "Bearer"})
        await app(scope, receive, send)


async def refusal(_request: Request, error: Exception) -> Response:
    """Answer what was refused."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def full(_request: Request, error: Exception) -> Response:
    """Answer a request that there is no room for now."""
    return JSONResponse({"error": f"{error}; try again"}, 503, {"Retry-After": str(RETRY_AFTER_S)})


async def gone(_request: Request, _error: Exception) -> Response:
    """Answer a caller who hung up before his request was here: nobody hears it, and nothing was done."""
    return Response(status_code=400)


async def broken(_request: Request, _error: Exception) -> Response:
    """Answer what should never be; the server logs it."""
    return JSONResponse({"error": "the gateway could not do this; its log says why"}, 500)


ERRORS = {HTTPException: refusal, Full: full, ClientDisconnect: gone, Exception: broken}
