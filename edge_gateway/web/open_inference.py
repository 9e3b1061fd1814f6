"""/v2: the Open Inference Protocol over HTTP, with tensors as JSON or as binary data."""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edge_gateway.engines.engine import EngineFailed
from edge_gateway.settings import GatewaySettings
from edge_gateway.web import bodies, infer_body
from edge_gateway.web.datatypes import BadTensor
from edge_gateway.web.raw_inference import RawInference, UnknownModel
from edge_gateway.web.room import Room
from edge_gateway.web.signature import BadRequest, Signature
from millrace.images import BadPicture

JSON_BYTES = "Inference-Header-Content-Length"


class OpenInference:
    """The protocol's paths."""

    def __init__(self, settings: GatewaySettings, inference: RawInference, room: Room) -> None:
        self._inference, self._room = inference, room
        self._picture_bytes, self._bodies_bytes = settings.max_payload_bytes, settings.http.max_bodies_bytes
        self._patience_s = settings.http.predict_timeout_s

    def routes(self) -> list[Route]:
        """Return the paths that are served; a model's version may be left out."""
        models = ["/v2/models/{model}", "/v2/models/{model}/versions/{version}"]
        return [
            *(Route(path, self._server) for path in ("/v2", "/v2/")),
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
            *(Route(path, self._model) for path in models),
            *(Route(f"{path}/ready", self._model_ready) for path in models),
            *(Route(f"{path}/infer", self._infer, methods=["POST"]) for path in models),
        ]

    async def _server(self, _request: Request) -> Response:
        return JSONResponse(self._inference.metadata())

    async def _live(self, _request: Request) -> Response:
        return JSONResponse({"live": True})

    async def _ready(self, _request: Request) -> Response:
        ready = self._inference.is_ready()
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def _model(self, request: Request) -> Response:
        try:
            return JSONResponse(self._inference.describe(*_model_of(request)))
        except UnknownModel as error:
            raise HTTPException(404, str(error)) from None

    async def _model_ready(self, request: Request) -> Response:
        _, signature = self._find(request)
        ready = self._inference.is_ready()
        return JSONResponse({"name": signature.name, "ready": ready}, 200 if ready else 503)

    async def _infer(self, request: Request) -> Response:
        place, signature = self._find(request)
        with self._room.visit() as visit:
            limit = min(signature.max_bytes(self._picture_bytes), self._bodies_bytes)
            body = await bodies.read(request, visit, limit, self._patience_s)
            until_s = asyncio.get_running_loop().time() + self._patience_s
            try:
                asked = await asyncio.to_thread(infer_body.read, body, _json_bytes(request), signature)
                tensors = await self._inference.infer(place, signature, asked.given, until_s)
                answer, json_bytes = await asyncio.to_thread(infer_body.write, signature, asked, tensors)
            except (BadRequest, BadPicture, BadTensor) as error:
                raise HTTPException(400, str(error)) from None
            except EngineFailed as error:
                raise HTTPException(500, str(error)) from None
            except TimeoutError:
                raise HTTPException(504, f"no answer within {self._patience_s} s") from None
        if json_bytes is None:
            return Response(answer, media_type="application/json")
        return Response(answer, headers={JSON_BYTES: str(json_bytes)}, media_type="application/octet-stream")

    def _find(self, request: Request) -> tuple[int, Signature]:
        try:
            return self._inference.find(*_model_of(request))
        except UnknownModel as error:
            raise HTTPException(404, str(error)) from None


def _model_of(request: Request) -> tuple[str, str | None]:
    return request.path_params["model"], request.path_params.get("version")


def _json_bytes(request: Request) -> int | None:
    """Return how long the JSON is before the binary data. Errors: BadRequest."""
    said = request.headers.get(JSON_BYTES)
    if said is None:
        return None
    if not (said.isascii() and said.isdigit() and len(said) < 16):
        raise BadRequest(f"{JSON_BYTES} is {said:.40}, no number of bytes")
    return int(said)
