"""/v2 and /batch_predict of a gateway as it is run, asked over real HTTP; no broker is needed for that."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import cv2
import grpc
import numpy as np
import pytest
import urllib3
from google.protobuf.json_format import MessageToDict
from integration import http_page
from integration.brokers import Address, free_port, wait_until
from integration.test_gateway import JPEG, MAX_PAYLOAD_BYTES, PNG, Gateway, running

from edge_gateway.web.grpc_messages import SERVICE, message
from millrace import __version__

TOKEN = "open-sesame"
RIGHT = {"Authorization": f"Bearer {TOKEN}"}
SHAPE = [1, 96, 96, 3]
PIXELS = cv2.resize(
    cv2.cvtColor(cv2.imdecode(np.frombuffer(PNG, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), (96, 96)
)
MOST, MOST_BYTES = 6, 1_500_000


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    home = tmp_path_factory.mktemp("v2")
    (home / "token").touch(mode=0o600)
    (home / "token").write_text(TOKEN)
    port = free_port()
    http = {
        "port": port,
        "grpc_port": free_port(),
        "token_file": "../token",
        "batch_pictures": 4,
        "max_requests": MOST,
        "max_bodies_bytes": MOST_BYTES,
    }
    with running(home / "g", Address("127.0.0.1", free_port()), http=http) as gateway:
        yield gateway
        assert gateway.stop() == 0
        assert "Traceback" not in gateway.log()


def ask(gateway: Gateway, method: str, path: str, body: object = None, **headers: str) -> urllib3.BaseHTTPResponse:
    sent = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return gateway.ask(method, path, sent, RIGHT | named)


@pytest.fixture(scope="module")
def tensors(gateway: Gateway) -> tuple[str, str]:
    """Return the names of the model's input and output."""
    said = ask(gateway, "GET", "/v2/models/parts").json()
    return said["inputs"][0]["name"], said["outputs"][0]["name"]


def request(name: str, data: object = None, **more: Any) -> dict[str, Any]:
    given = {"name": name, "shape": SHAPE, "datatype": "UINT8"}
    return {"inputs": [given | ({} if data is None else {"data": data}) | more.pop("input", {})], **more}


def scores(answer: urllib3.BaseHTTPResponse) -> list[int]:
    assert answer.status == 200, answer.data
    (output,) = answer.json()["outputs"]
    assert (output["datatype"], output["shape"]) == ("UINT8", [1, 4])
    values: list[int] = output["data"]
    return values


def test_the_server_and_its_models_say_what_they_are(gateway: Gateway) -> None:
    for path in ("/v2", "/v2/"):
        said = ask(gateway, "GET", path).json()
        assert said == {"name": "millrace", "version": __version__, "extensions": ["binary_tensor_data", "image"]}
    for path in ("/v2/models/parts", "/v2/models/parts/versions/1"):
        said = ask(gateway, "GET", path).json()
        assert (said["name"], said["versions"], said["platform"]) == ("parts", ["1"], "tensorflow_tflite")
        (given,), (output,) = said["inputs"], said["outputs"]
        assert (given["datatype"], given["shape"]) == ("UINT8", SHAPE)
        assert (output["datatype"], output["shape"]) == ("UINT8", [1, 4])
        assert ask(gateway, "GET", f"{path}/ready").json() == {"name": "parts", "ready": True}
    assert ask(gateway, "GET", "/v2/health/live").json() == {"live": True}
    assert ask(gateway, "GET", "/v2/health/ready").json() == {"ready": True}


@pytest.mark.parametrize("path", ["/v2/models/nobody", "/v2/models/parts/versions/2", "/v2/models/parts/versions/01"])
def test_what_is_not_served_is_not_found_in_the_protocols_words(gateway: Gateway, path: str) -> None:
    for answer in (
        ask(gateway, "GET", path),
        ask(gateway, "GET", f"{path}/ready"),
        ask(gateway, "POST", f"{path}/infer", {}),
    ):
        assert answer.status == 404
        assert list(answer.json()) == ["error"]
        assert "model" in answer.json()["error"]


def test_a_tensor_gives_the_same_in_every_form_and_as_its_picture(gateway: Gateway, tensors: tuple[str, str]) -> None:
    given, output = tensors
    path = "/v2/models/parts/infer"
    flat = ask(gateway, "POST", path, request(given, PIXELS.reshape(-1).tolist(), id="42"))
    assert {name: flat.json()[name] for name in ("model_name", "model_version", "id")} == {
        "model_name": "parts",
        "model_version": "1",
        "id": "42",
    }
    wanted = scores(flat)
    assert sum(wanted) in range(250, 260)
    assert (
        scores(ask(gateway, "POST", "/v2/models/parts/versions/1/infer", request(given, [PIXELS.tolist()]))) == wanted
    )

    raw = PIXELS.tobytes()
    text = json.dumps(
        request(
            given,
            input={"parameters": {"binary_data_size": len(raw)}},
            outputs=[{"name": output, "parameters": {"binary_data": True}}],
        )
    ).encode()
    answer = ask(gateway, "POST", path, text + raw, Inference_Header_Content_Length=str(len(text)))
    assert answer.headers["Content-Type"] == "application/octet-stream"
    json_bytes = int(answer.headers["Inference-Header-Content-Length"])
    (said,) = json.loads(answer.data[:json_bytes])["outputs"]
    assert said == {"name": output, "datatype": "UINT8", "shape": [1, 4], "parameters": {"binary_data_size": 4}}
    assert list(answer.data[json_bytes:]) == wanted

    picture = {"name": "image", "shape": [1], "datatype": "BYTES"}
    in_base64 = {"inputs": [picture | {"data": [base64.b64encode(PNG).decode()]}]}
    assert scores(ask(gateway, "POST", path, in_base64)) == wanted
    text = json.dumps({"inputs": [picture | {"parameters": {"binary_data_size": len(PNG) + 4}}]}).encode()
    element = struct.pack("<I", len(PNG)) + PNG
    assert scores(ask(gateway, "POST", path, text + element, Inference_Header_Content_Length=str(len(text)))) == wanted


def test_an_inference_by_tensor_is_no_event(gateway: Gateway, tensors: tuple[str, str]) -> None:
    taken, made = (
        'millrace_events_received_total{device="http",type="frame"}',
        'millrace_raw_inferences_total{model="parts@1"}',
    )
    before = gateway.metric(taken, RIGHT), gateway.metric(made, RIGHT)
    scores(ask(gateway, "POST", "/v2/models/parts/infer", request(tensors[0], PIXELS.reshape(-1).tolist())))
    assert (gateway.metric(taken, RIGHT), gateway.metric(made, RIGHT)) == (before[0], before[1] + 1)


def test_what_is_wrong_with_a_request_is_said_and_nothing_breaks(gateway: Gateway, tensors: tuple[str, str]) -> None:
    path = "/v2/models/parts/infer"
    wrong: list[tuple[urllib3.BaseHTTPResponse, int, str]] = [
        (ask(gateway, "POST", path, b"hello"), 400, "the body is no JSON"),
        (ask(gateway, "POST", path, request("x", [])), 400, f"takes the input '{tensors[0]}'"),
        (ask(gateway, "POST", path, b"{}", Inference_Header_Content_Length="-1"), 400, "is -1, no number of bytes"),
        (ask(gateway, "POST", path, b"{}", Inference_Header_Content_Length="9"), 400, "is 9, and the body has 2 bytes"),
        (ask(gateway, "POST", path, b"x" * (MOST_BYTES + 1)), 413, "bytes are taken here"),
        (ask(gateway, "POST", path, b"{}", Content_Encoding="gzip"), 415, "without Content-Encoding"),
        (
            ask(
                gateway,
                "POST",
                path,
                {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["aGVsbG8="]}]},
            ),
            400,
            "not a JPEG, PNG or WebP",
        ),
        (ask(gateway, "GET", path), 405, "Method Not Allowed"),
        (ask(gateway, "GET", "/v2/elsewhere"), 404, "Not Found"),
        (gateway.ask("GET", "/v2/health/live"), 401, "show the token"),
        (gateway.ask("POST", path, b"{}"), 401, "show the token"),
    ]
    for answer, status, said in wrong:
        assert (answer.status, list(answer.json())) == (status, ["error"])
        assert said in answer.json()["error"]
    assert scores(ask(gateway, "POST", path, request(tensors[0], PIXELS.reshape(-1).tolist())))


def test_a_batch_is_answered_in_order_and_a_bad_picture_in_its_place(gateway: Gateway) -> None:
    dark, light = (bytes(cv2.imencode(".png", np.full((96, 96, 3), v, np.uint8))[1].tobytes()) for v in (10, 240))
    alone = [ask(gateway, "POST", "/predict", picture).json()["results"][0] for picture in (dark, light)]
    pictures = {"a.png": dark, "b.txt": b"hello", "c.png": light, "d.jpg": bytes(MAX_PAYLOAD_BYTES + 1)}
    form = [("pictures", (name, data, "application/octet-stream")) for name, data in pictures.items()]
    answer = gateway.ask("POST", "/batch_predict", headers=RIGHT, fields=form)
    assert answer.status == 200, answer.data
    first, second, third, fourth = answer.json()["answers"]
    assert [one["file"] for one in (first, second, third, fourth)] == list(pictures)
    assert [(one["results"][0]["label"], one["results"][0]["score"]) for one in (first, third)] == [
        (one["label"], one["score"]) for one in alone
    ]
    assert (second["status"], second["error"].startswith("not a JPEG")) == (422, True)
    assert (fourth["status"], "at most" in fourth["error"]) == (413, True)


def test_a_batch_that_is_none_or_too_much_is_refused(gateway: Gateway) -> None:
    assert ask(gateway, "POST", "/batch_predict", JPEG).status == 415
    many = [("pictures", (f"{n}.jpg", JPEG, "image/jpeg")) for n in range(5)]
    refused = gateway.ask("POST", "/batch_predict", headers=RIGHT, fields=many)
    assert (refused.status, "at most 4 files" in refused.json()["error"]) == (400, True)
    unbound = gateway.ask("POST", "/batch_predict?channel=Top_1", headers=RIGHT, fields=many[:2])
    assert [one["status"] for one in unbound.json()["answers"]] == [422, 422]
    assert gateway.ask("POST", "/batch_predict", headers=RIGHT, fields=[("note", "x")]).json() == {"answers": []}


def post(gateway: Gateway, path: str, length: int, sent: bytes, form: str = "application/json") -> socket.socket:
    """Begin a request whose body is not all sent."""
    caller = socket.create_connection(("127.0.0.1", gateway.port), 60)
    head = f"POST {path} HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: {form}\r\n"
    caller.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode() + sent)
    return caller


def status_of(caller: socket.socket) -> tuple[int, str | None]:
    answer = http.client.HTTPResponse(caller)
    answer.begin()
    return answer.status, answer.getheader("Retry-After")


def test_when_it_is_full_the_next_is_told_to_come_again_and_health_is_still_answered(gateway: Gateway) -> None:
    with ExitStack() as stack:
        waiting = [stack.enter_context(post(gateway, "/v2/models/parts/infer", 10, b"{")) for _ in range(MOST)]
        wait_until(lambda: gateway.metric("millrace_http_requests", RIGHT) == MOST, "all of them are heard")
        answer = ask(gateway, "POST", "/predict", JPEG)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert "6 requests are served at once (http.max_requests); try again" in answer.json()["error"]
        assert ask(gateway, "GET", "/v2/health/live").status == 200
        for caller in waiting:
            caller.sendall(b"x" * 9)
            assert status_of(caller) == (400, None)
    assert ask(gateway, "POST", "/predict", JPEG).status == 200


def test_bodies_beyond_the_bytes_that_are_held_are_told_to_come_again(gateway: Gateway) -> None:
    size = 700_000
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(
                post(gateway, "/batch_predict", size + 1, bytes(size), "multipart/form-data; boundary=b")
            )
        held = "millrace_http_bodies_bytes"
        wait_until(lambda: gateway.metric(held, RIGHT) == 2 * size, "all of it is heard")
        answer = ask(gateway, "POST", "/predict", bytes(150_000))
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert "(http.max_bodies_bytes)" in answer.json()["error"]
    wait_until(lambda: gateway.metric(held, RIGHT) == 0, "it knows that they hung up")
    assert ask(gateway, "POST", "/predict", bytes(150_000)).status == 422


def test_tensors_asked_side_by_side_each_get_their_own_answer(gateway: Gateway, tensors: tuple[str, str]) -> None:
    shades = [np.full(SHAPE, shade, np.uint8) for shade in range(0, 240, 20)]

    def of(pixels: np.ndarray[Any, Any]) -> list[int]:
        while (
            answer := ask(gateway, "POST", "/v2/models/parts/infer", request(tensors[0], pixels.reshape(-1).tolist()))
        ).status == 503:
            continue
        return scores(answer)

    alone = [of(pixels) for pixels in shades]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(of, shades)) == alone
    assert len({tuple(one) for one in alone}) > 1


def test_the_page_in_docs_is_what_the_gateway_says(gateway: Gateway) -> None:
    def asked(
        method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None, **more: Any
    ) -> urllib3.BaseHTTPResponse:
        return gateway.ask(method, path, body, RIGHT | (headers or {}), **more)

    how = "run: PYTHONPATH=tests python tests/integration/http_page.py"
    assert http_page.PAGE.read_text(encoding="utf-8") == http_page.page(asked), how


# --- the same over gRPC


@pytest.fixture(scope="module")
def channel(gateway: Gateway) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{gateway.settings['http']['grpc_port']}") as channel:
        yield channel


def call(channel: grpc.Channel, method: str, token: str = TOKEN, **fields: Any) -> Any:
    return channel.unary_unary(
        f"/{SERVICE}/{method}", message(f"{method}Request").SerializeToString, message(f"{method}Response").FromString
    )(message(f"{method}Request")(**fields), timeout=60, metadata=[("authorization", f"Bearer {token}")])


def refusal(channel: grpc.Channel, method: str, token: str = TOKEN, **fields: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as refused:
        call(channel, method, token, **fields)
    return refused.value.code().name, refused.value.details()


def test_grpc_says_the_same_of_server_and_model(gateway: Gateway, channel: grpc.Channel) -> None:
    assert call(channel, "ServerLive").live
    assert call(channel, "ServerReady").ready
    assert call(channel, "ModelReady", name="parts").ready
    assert MessageToDict(call(channel, "ServerMetadata")) == ask(gateway, "GET", "/v2").json()
    said = MessageToDict(call(channel, "ModelMetadata", name="parts", version="1"))
    for tensor in [*said["inputs"], *said["outputs"]]:
        tensor["shape"] = [int(side) for side in tensor["shape"]]  # JSON for gRPC writes 64-bit integers as text
    assert said == ask(gateway, "GET", "/v2/models/parts").json()


def test_grpc_gives_the_same_in_every_form(gateway: Gateway, channel: grpc.Channel, tensors: tuple[str, str]) -> None:
    wanted = scores(ask(gateway, "POST", "/v2/models/parts/infer", request(tensors[0], PIXELS.reshape(-1).tolist())))
    tensor = {"name": tensors[0], "datatype": "UINT8", "shape": SHAPE}
    picture = {"name": "image", "datatype": "BYTES", "shape": [1]}
    typed, outputs = {"contents": {"uint_contents": PIXELS.reshape(-1).tolist()}}, [{"name": tensors[1]}]
    answers = [
        call(channel, "ModelInfer", model_name="parts", id="7", inputs=[tensor], raw_input_contents=[PIXELS.tobytes()]),
        call(channel, "ModelInfer", model_name="parts", id="7", inputs=[tensor | typed], outputs=outputs),
        call(
            channel,
            "ModelInfer",
            model_name="parts",
            model_version="1",
            id="7",
            inputs=[picture],
            raw_input_contents=[struct.pack("<I", len(PNG)) + PNG],
        ),
        call(
            channel,
            "ModelInfer",
            model_name="parts",
            id="7",
            inputs=[picture | {"contents": {"bytes_contents": [PNG]}}],
        ),
    ]
    for answer in answers:
        assert (answer.model_name, answer.model_version, answer.id) == ("parts", "1", "7")
        (output,) = answer.outputs
        assert (output.name, output.datatype, list(output.shape)) == (tensors[1], "UINT8", [1, 4])
        assert list(answer.raw_output_contents[0]) == wanted


def test_grpc_refuses_what_does_not_fit_in_words(channel: grpc.Channel, tensors: tuple[str, str]) -> None:
    tensor = {"name": tensors[0], "datatype": "UINT8", "shape": SHAPE}
    raw = PIXELS.tobytes()
    wrong: list[tuple[dict[str, Any], str, str]] = [
        ({"model_name": "nobody"}, "NOT_FOUND", "no model 'nobody'"),
        ({"model_version": "2"}, "NOT_FOUND", "has the versions 1"),
        ({"inputs": []}, "INVALID_ARGUMENT", "has one input; got 0"),
        ({"inputs": [tensor] * 2}, "INVALID_ARGUMENT", "has one input; got 2"),
        ({"inputs": [tensor | {"shape": [1, 96, 96]}]}, "INVALID_ARGUMENT", "has the shape"),
        ({"inputs": [tensor | {"shape": [-1, -96, 96, 3]}]}, "INVALID_ARGUMENT", "has the shape"),
        ({"inputs": [tensor | {"datatype": "FP32"}]}, "INVALID_ARGUMENT", "is of UINT8; got 'FP32'"),
        ({"raw_input_contents": [raw[:-1]]}, "INVALID_ARGUMENT", "27647 bytes; UINT8 of shape"),
        ({"raw_input_contents": []}, "INVALID_ARGUMENT", "either contents, or raw_input_contents"),
        ({"raw_input_contents": [raw, raw]}, "INVALID_ARGUMENT", "has one input"),
        ({"inputs": [tensor | {"contents": {"uint_contents": [1]}}]}, "INVALID_ARGUMENT", "either contents, or"),
        ({"outputs": [{"name": "y"}]}, "INVALID_ARGUMENT", "got 'y'"),
        (
            {"inputs": [tensor | {"contents": {"uint_contents": [256] * len(raw)}}], "raw_input_contents": []},
            "INVALID_ARGUMENT",
            "UINT8 cannot hold",
        ),
        (
            {
                "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1]}],
                "raw_input_contents": [b"\5\0\0\0hello"],
            },
            "INVALID_ARGUMENT",
            "not a JPEG, PNG or WebP",
        ),
        ({"raw_input_contents": [bytes(MOST_BYTES)]}, "RESOURCE_EXHAUSTED", "larger than max"),
    ]
    good = {"model_name": "parts", "inputs": [tensor], "raw_input_contents": [raw]}
    for fields, code, said in wrong:
        refused = refusal(channel, "ModelInfer", **good | fields)
        assert (refused[0], said in refused[1]) == (code, True), refused
    assert refusal(channel, "ServerLive", token="wrong")[0] == "UNAUTHENTICATED"
    assert refusal(channel, "ModelMetadata", name="nobody")[0] == "NOT_FOUND"
    assert not call(channel, "ModelReady", name="nobody").ready
    assert call(channel, "ModelInfer", **good).outputs


def test_hundreds_who_are_connected_by_grpc_use_nothing_up(gateway: Gateway, channel: grpc.Channel) -> None:
    assert call(channel, "ServerLive").live
    greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
    with ExitStack() as stack:
        for _ in range(300):
            with suppress(ConnectionError):
                stack.enter_context(
                    socket.create_connection(("127.0.0.1", gateway.settings["http"]["grpc_port"]), 10)
                ).sendall(greeting)
        assert call(channel, "ServerLive").live
        assert len(list(Path(f"/proc/{gateway.process.pid}/fd").iterdir())) < 200
