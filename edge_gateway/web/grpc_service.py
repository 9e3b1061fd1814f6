"""The Open Inference Protocol over gRPC, beside HTTP and within the same bounds; needs the extra `grpc`.

gRPC itself bounds neither how many are connected nor for how long a message may be on its way, and would read it whole
before anybody asks for the token. So each method reads its message itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from edge_gateway.engines.engine import EngineFailed, Tensor
from edge_gateway.settings import GatewaySettings
from edge_gateway.web.connections import Guarded
from edge_gateway.web.datatypes import NAMES, BadTensor, from_bytes, from_json, one_element, to_bytes
from edge_gateway.web.door import is_welcome
from edge_gateway.web.grpc_messages import SERVICE, message
from edge_gateway.web.raw_inference import RawInference, UnknownModel
from edge_gateway.web.room import Full, Room
from edge_gateway.web.signature import FRAME_BYTES, BadRequest, Signature
from millrace.images import BadPicture
from millrace.listening import AddressTaken, listen

END_S = 1.0
IDLE_S = 20.0
_CODES: dict[type[Exception], grpc.StatusCode] = {
    UnknownModel: grpc.StatusCode.NOT_FOUND,
    BadRequest: grpc.StatusCode.INVALID_ARGUMENT,
    BadTensor: grpc.StatusCode.INVALID_ARGUMENT,
    BadPicture: grpc.StatusCode.INVALID_ARGUMENT,
    DecodeError: grpc.StatusCode.INVALID_ARGUMENT,
    EngineFailed: grpc.StatusCode.INTERNAL,
    Full: grpc.StatusCode.UNAVAILABLE,
    TimeoutError: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
Method = Callable[[Any], Awaitable[Any]]


class GrpcService:
    """Serves while it is entered, on the loop that enters it."""

    def __init__(
        self, settings: GatewaySettings, port: int, token: str | None, inference: RawInference, room: Room
    ) -> None:
        """Say who has the port, if somebody has. Errors: AddressTaken."""
        listen(settings.http.host, port).close()
        self._http, self._port, self._token = settings.http, port, token
        self._inference, self._room = inference, room
        self._max_bytes = min(
            self._http.max_bodies_bytes,
            max([FRAME_BYTES, *(one.max_bytes(settings.max_payload_bytes) for one in inference.signatures())]),
        )

    async def __aenter__(self) -> GrpcService:
        """Listen and serve. Errors: AddressTaken."""
        options = [
            ("grpc.max_receive_message_length", self._max_bytes),
            ("grpc.max_allowed_incoming_connections", Guarded.most),
            ("grpc.server_handshake_timeout_ms", int(1000 * Guarded.head_s)),
            ("grpc.max_connection_idle_ms", int(1000 * IDLE_S)),
            ("grpc.so_reuseport", 0),
        ]
        self._server = grpc.aio.server(options=options, maximum_concurrent_rpcs=self._http.max_requests)
        methods: dict[str, Method] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._infer,
        }
        handlers = {name: self._handler(name, method) for name, method in methods.items()}
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
        try:
            host = f"[{self._http.host}]" if ":" in self._http.host else self._http.host
            self._server.add_insecure_port(f"{host}:{self._port}")
        except RuntimeError as error:
            raise AddressTaken(
                f"cannot listen on {self._http.host} port {self._port} (http.grpc_port): {error}"
            ) from None
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; who waits for an answer gets it if it comes soon."""
        await self._server.stop(END_S)

    def _handler(self, name: str, method: Method) -> Any:
        async def serve(_requests: Any, context: Any) -> Any:
            shown = dict(context.invocation_metadata() or ()).get("authorization", "")
            if not is_welcome(self._token, str(shown)):
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, "show the token: authorization: Bearer …")
            try:
                return await method(await self._message(context))
            except tuple(_CODES) as error:
                code = next(code for kind, code in _CODES.items() if isinstance(error, kind))
                await context.abort(code, str(error) or "no answer in time")

        return grpc.stream_unary_rpc_method_handler(  # the same on the wire; one message is read
            serve, message(f"{name}Request").FromString, message(f"{name}Response").SerializeToString
        )

    async def _message(self, context: Any) -> Any:
        """Return what was sent. Errors: BadRequest, DecodeError, TimeoutError."""
        patience_s = self._http.predict_timeout_s
        try:
            async with asyncio.timeout(patience_s):
                found = await context.read()
        except TimeoutError:
            raise TimeoutError(f"no message within {patience_s} s") from None
        if found is grpc.aio.EOF:
            raise BadRequest("a call without a message")
        return found

    async def _live(self, _request: Any) -> Any:
        return message("ServerLiveResponse")(live=True)

    async def _ready(self, _request: Any) -> Any:
        return message("ServerReadyResponse")(ready=self._inference.is_ready())

    async def _model_ready(self, request: Any) -> Any:
        with suppress(UnknownModel):  # one that is not here is not ready
            self._inference.find(request.name, request.version or None)
            return message("ModelReadyResponse")(ready=self._inference.is_ready())
        return message("ModelReadyResponse")(ready=False)

    async def _server_metadata(self, _request: Any) -> Any:
        return message("ServerMetadataResponse")(**self._inference.metadata())

    async def _model_metadata(self, request: Any) -> Any:
        return message("ModelMetadataResponse")(**self._inference.describe(request.name, request.version or None))

    async def _infer(self, request: Any) -> Any:
        place, signature = self._inference.find(request.model_name, request.model_version or None)
        with self._room.visit() as visit:
            visit.hold(request.ByteSize())
            given = await asyncio.to_thread(_given, request, signature)
            places = signature.places([one.name for one in request.outputs])
            until_s = asyncio.get_running_loop().time() + self._http.predict_timeout_s
            tensors = await self._inference.infer(place, signature, given, until_s)
        answer = message("ModelInferResponse")(
            model_name=signature.name, model_version=signature.version, id=request.id
        )
        for output in places:
            tensor = tensors[output]
            answer.outputs.add(name=signature.outputs[output].name, datatype=NAMES[tensor.dtype], shape=tensor.shape)
            answer.raw_output_contents.append(to_bytes(tensor))
        return answer


def _given(request: Any, signature: Signature) -> Tensor | bytes:
    """Return the one input: raw, or from the field of its type. Errors: BadRequest."""
    if len(request.inputs) != 1 or len(request.raw_input_contents) > 1:
        raise BadRequest(f"model {signature.name} has one input; got {len(request.inputs)}")
    (said,) = request.inputs
    is_picture = signature.is_picture(said.name, said.datatype, said.shape)
    if (len(request.raw_input_contents) == 1) == said.HasField("contents"):
        raise BadRequest("an input has either contents, or raw_input_contents")
    try:
        if request.raw_input_contents:
            raw = request.raw_input_contents[0]
            return one_element(raw) if is_picture else from_bytes(raw, said.shape, signature.input.dtype)
        if is_picture:
            return _only(said.contents.bytes_contents)
        if said.datatype not in _CONTENTS:
            raise BadRequest(f"{said.datatype} comes in raw_input_contents")
        return from_json(list(getattr(said.contents, _CONTENTS[said.datatype])), said.shape, signature.input.dtype)
    except BadTensor as error:
        raise BadRequest(f"input {said.name!r}: {error}") from None


def _only(elements: Any) -> bytes:
    if len(elements) != 1:
        raise BadTensor(f"{len(elements)} elements; a picture is one")
    return bytes(elements[0])
