"""/predict and /batch_predict: an upload goes down the same pipeline as a frame from the floor."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edge_gateway.intake import Intake
from edge_gateway.settings import GatewaySettings
from edge_gateway.web import bodies
from edge_gateway.web.room import Full, Room, Share
from edge_gateway.work import InferenceFailed, NoRoomNow, NotAnswered
from millrace import images
from millrace.events import MalformedEvent


class Predict:
    """Answers about uploaded pictures; each is a bare frame of the device `http`."""

    def __init__(self, settings: GatewaySettings, intake: Intake, room: Room, share: Share) -> None:
        self._intake, self._room, self._share = intake, room, share
        self._picture_bytes, self._http = settings.max_payload_bytes, settings.http
        self._patience_s = settings.http.predict_timeout_s

    def routes(self) -> list[Route]:
        """Return the paths that are served."""
        return [
            Route("/predict", self._predict, methods=["POST"]),
            Route("/batch_predict", self._batch, methods=["POST"]),
        ]

    async def _predict(self, request: Request) -> Response:
        with self._room.visit() as visit:
            if bodies.is_form(request):
                limit = self._picture_bytes + bodies.PART_BYTES  # before it is parsed: its file may be of any size
                body = await bodies.read(request, visit, limit, self._patience_s)
                found = bodies.files(request, body, max_files=1)
                if not found:
                    raise HTTPException(422, "the form holds no file")
                picture = found[0][1]
            else:
                picture = await bodies.read(request, visit, self._picture_bytes, self._patience_s)
            return JSONResponse({"results": await self._results(picture, _channel(request), self._until_s())})

    async def _batch(self, request: Request) -> Response:
        """Answer each picture of a form in its place: its results, or its error and what /predict's status would be."""
        if not bodies.is_form(request):
            raise HTTPException(415, "send a form (multipart/form-data) with a file for each picture")
        most = self._http.batch_pictures
        with self._room.visit() as visit:
            limit = min(most * (self._picture_bytes + bodies.PART_BYTES), self._http.max_bodies_bytes)
            body = await bodies.read(request, visit, limit, self._patience_s)
            found = bodies.files(request, body, max_files=most)
            until_s, channel = self._until_s(), _channel(request)
            answers = await asyncio.gather(*(self._answer(name, file, channel, until_s) for name, file in found))
            return JSONResponse({"answers": answers})

    async def _answer(self, name: str, picture: bytes, channel: str, until_s: float) -> dict[str, Any]:
        try:
            return {"file": name, "results": await self._results(picture, channel, until_s)}
        except HTTPException as error:
            return {"file": name, "error": error.detail, "status": error.status_code}
        except Full as error:
            return {"file": name, "error": f"{error}; try again", "status": 503}

    async def _results(self, picture: bytes, channel: str, until_s: float) -> list[dict[str, Any]]:
        """Return what the models say of a picture, once it is committed. Errors: HTTPException, Full."""
        if len(picture) > self._picture_bytes:
            raise HTTPException(413, f"a picture has at most {self._picture_bytes} bytes (max_payload_bytes)")
        if images.extract(images.bare(picture)) is not None:
            raise HTTPException(422, "the picture carries attributes twice: one set is left aside, a second is none")
        try:
            reply = await self._share.begin(partial(self._intake.predict, picture, channel), until_s)
            async with asyncio.timeout_at(until_s):
                results = await asyncio.wrap_future(reply)
        except (MalformedEvent, ValueError) as error:
            raise HTTPException(422, str(error)) from None
        except NoRoomNow as error:
            raise Full(str(error)) from None
        except InferenceFailed as error:
            raise HTTPException(500, str(error)) from None
        except NotAnswered as error:
            raise HTTPException(422, str(error)) from None
        except TimeoutError:
            raise HTTPException(504, f"no answer within {self._patience_s} s") from None
        if not results:
            raise HTTPException(404, f"no model is bound to http/{channel}; see models: in the gateway's settings")
        return results

    def _until_s(self) -> float:
        return asyncio.get_running_loop().time() + self._patience_s


def _channel(request: Request) -> str:
    return request.query_params.get("channel", "predict")
