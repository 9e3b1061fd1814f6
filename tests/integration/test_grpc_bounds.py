"""/v2 over gRPC against callers who show no token, send no message, or none that is one: they go, others are served."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from integration.brokers import free_port

from edge_gateway.metrics import Metrics
from edge_gateway.models import Models
from edge_gateway.settings import GatewaySettings, ModelSettings
from edge_gateway.web.grpc_messages import SERVICE, message
from edge_gateway.web.grpc_service import GrpcService
from edge_gateway.web.raw_inference import RawInference
from edge_gateway.web.room import Room, Share
from edge_gateway.workers import Workers
from millrace_models import bundle_path

TOKEN = "open-sesame"
MOST = 3


async def serve(service: GrpcService, ready: threading.Event, end: threading.Event) -> None:
    async with service:
        ready.set()
        await asyncio.to_thread(end.wait)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port = free_port()
    settings = GatewaySettings.model_validate(
        {
            "gateway": "g1",
            "state_dir": tmp_path_factory.mktemp("grpc"),
            "http": {"grpc_port": port, "predict_timeout_s": 0.3, "max_requests": MOST},
        }
    )
    models = Models([ModelSettings(bundle=bundle_path("parts"))], 1_000_000)
    workers = Workers(models, 1)
    inference = RawInference(models, workers, Share(2), Metrics(), lambda: True)
    service = GrpcService(settings, port, TOKEN, inference, Room(MOST, 1 << 20))
    ready, end = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(serve(service, ready, end)))
    thread.start()
    assert ready.wait(60)
    yield port
    end.set()
    thread.join(60)
    workers.close()


@pytest.fixture
def channel(port: int) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel


def begun(channel: grpc.Channel, stack: ExitStack, token: str = TOKEN) -> Any:
    """Begin a call whose message never comes."""
    never = threading.Event()
    stack.callback(never.set)
    messages = (b"" for _ in iter(never.wait, True))
    call = channel.stream_unary(f"/{SERVICE}/ModelInfer")
    return call.future(messages, timeout=60, metadata=[("authorization", f"Bearer {token}")])


def sent(channel: grpc.Channel, content: bytes) -> tuple[str, str]:
    """Return code and words of the refusal of a message."""
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(f"/{SERVICE}/ModelInfer")(
            content, timeout=60, metadata=[("authorization", f"Bearer {TOKEN}")]
        )
    return refused.value.code().name, refused.value.details()


def is_served(channel: grpc.Channel) -> bool:
    live = channel.unary_unary(
        f"/{SERVICE}/ServerLive",
        message("ServerLiveRequest").SerializeToString,
        message("ServerLiveResponse").FromString,
    )
    answer = live(message("ServerLiveRequest")(), timeout=60, metadata=[("authorization", f"Bearer {TOKEN}")])
    return bool(answer.live)


def test_who_shows_no_token_is_refused_before_there_is_a_message(channel: grpc.Channel) -> None:
    with ExitStack() as stack:
        for _ in range(2 * MOST):
            refused = begun(channel, stack, "wrong").exception(60)
            assert refused.code() is grpc.StatusCode.UNAUTHENTICATED
        assert is_served(channel)


def test_a_message_that_does_not_come_is_not_waited_for_and_keeps_no_place(channel: grpc.Channel) -> None:
    with ExitStack() as stack:
        waiting = [begun(channel, stack) for _ in range(MOST)]
        said = {(call.exception(60).code(), call.exception().details()) for call in waiting}
        assert said == {(grpc.StatusCode.DEADLINE_EXCEEDED, "no message within 0.3 s")}
        assert is_served(channel)


def test_what_is_no_message_is_refused_in_words(channel: grpc.Channel, caplog: pytest.LogCaptureFixture) -> None:
    assert sent(channel, b"\xff\xff\xff")[0] == "INVALID_ARGUMENT"
    with pytest.raises(grpc.RpcError) as refused:
        channel.stream_unary(f"/{SERVICE}/ModelInfer")(
            iter(()), timeout=60, metadata=[("authorization", f"Bearer {TOKEN}")]
        )
    assert (refused.value.code().name, refused.value.details()) == ("INVALID_ARGUMENT", "a call without a message")
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1 << 62] * 20_000}]}, "a shape of 20000 sides"),
        ({"outputs": [{"name": "y"}] * 20_000}, "20000 outputs are wanted; model parts has 1"),
    ],
    ids=["sides", "outputs"],
)
def test_a_bomb_is_refused_at_a_look(channel: grpc.Channel, fields: dict[str, Any], said: str) -> None:
    picture = {"name": "image", "datatype": "BYTES", "shape": [1]}
    asked = {"model_name": "parts", "inputs": [picture], "raw_input_contents": [b"\1\0\0\0x"]} | fields
    refused = sent(channel, message("ModelInferRequest")(**asked).SerializeToString())
    assert (refused[0], said in refused[1], len(refused[1]) < 200) == ("INVALID_ARGUMENT", True, True)
