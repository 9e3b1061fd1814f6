"""docs/http.md: each path of the gateway with a request that was really sent and the answer that really came.

Times, counts and random names are fixed, and so are the model's numbers. Write the page again with:
PYTHONPATH=tests python tests/integration/http_page.py
"""

from __future__ import annotations

import base64
import json
import sys
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import urllib3
from integration.brokers import Address, free_port
from integration.test_gateway import running

from edge_gateway.web.grpc_messages import METHODS, SERVICE

PAGE = Path(__file__).parents[2] / "docs" / "http.md"
PNG = bytes.fromhex(  # one grey pixel
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a4944415478da6368000000820081da45083b0000000049454e44ae426082"
)
PIXELS = np.zeros((1, 96, 96, 3), np.uint8)
FIXED: dict[str, object] = {
    "score": 0.9712,
    "infer_ms": 0.52,
    "total_ms": 4.13,
    "data": [3, 248, 4, 1],
    "reason": "score 0.9712 >= 0.80",
    "decision": "edge",
    "engine": "litert on CPU",
    "engine_reason": "the bundle holds model.tflite",
    "session": "5f0c9a1e",
    "epoch": "q8w2mm1c",
    "minted": 90818,
    "held_rows": 1204,
    "held_bytes": 733184,
    "backlog": {"alarm": 0, "verdict": 0, "result": 0, "frame": 0, "bulk": 0},
    "over_share": [],
    "frame_time": "2026-11-21T08:30:00.123456Z",
    "time": "2026-11-21T08:30:00.123456Z",
    "clock": "synced",
    "bootid": "b0075b00-7b00-4b00-8b00-7b0075b0075b",
    "uptimens": "12345678901",
}

Ask = Callable[..., urllib3.BaseHTTPResponse]

HEAD = """\
# The gateway over HTTP

Made by `tests/integration/http_page.py`, which asked a gateway that ran; do not edit. Write it again with
`PYTHONPATH=tests python tests/integration/http_page.py`. A test fails when this page and the gateway differ.

The gateway listens on `http://127.0.0.1:8470` unless `http.host` and `http.port` say otherwise. Any other host than
loopback needs `http.token_file`; then each request to any path shows the token (`Authorization: Bearer …`), or is
answered 401. It speaks plain HTTP: put a proxy before it where others listen on the way.

| path | what it is for | stored |
|---|---|---|
| `POST /predict` | ask about one picture | as a frame |
| `POST /batch_predict` | ask about several | each as a frame |
| `GET /health`, `GET /metrics` | how the gateway is | |
| `/v2/…` | the Open Inference Protocol (KServe V2): tensors in, tensors out | nothing of it |

Every refusal is JSON with one member, and a status:

```json
REFUSAL
```

| status | means |
|---|---|
| 400 | the request is not the protocol's, or does not fit the model; the form is none, or has too many files |
| 401 | the token is missing or wrong |
| 404 | no such path, model or version; or no model is bound to that channel |
| 408 | the body did not come within `http.predict_timeout_s` |
| 413 | the body is too large: `max_payload_bytes` for a picture, for `/v2` what the model can take |
| 415 | the body is compressed, or no form where one is wanted |
| 422 | that is no picture, or the pipeline could not answer it; the error says why |
| 500 | the engine failed on this input, or the gateway on the request: then its log says why |
| 503 | no room now; `Retry-After` says when to come again |
| 504 | no answer within `http.predict_timeout_s` |

HTTP has its share of the workers: `http.max_inferences` are in the pipeline at once, `/predict` and `/v2` together, and
the others wait in the HTTP server. So a frame from the floor waits behind that many at most, whoever floods. Requests
(`http.max_requests`) and the bytes of their bodies (`http.max_bodies_bytes`) are bounded too; beyond either, and
without a place in time, the answer is 503. Of 64 connections the one that has waited longest for its caller goes when
another comes; one that brings no request within 10 s, or does not read its answer, goes by itself.
"""
BINARY = """\
## POST /v2/models/NAME/infer with binary data

Tensors as text are slow: this one is 27,648 numbers. The binary tensor data extension puts the JSON first and the
bytes behind it, little-endian, row after row; the header `Inference-Header-Content-Length` says where the JSON ends.
`binary_data_size` is how many bytes an input has; `binary_data` asks for one output in that form, `binary_data_output`
for all. An element of `BYTES` is its length in 4 bytes, then itself. NaN and infinity travel in this form alone.
"""
GRPC = """\
## /v2 over gRPC

With `http.grpc_port` set and the extra `grpc` installed, the gateway serves `{service}` on that port:
{methods}.
The messages are KServe's, as its `.proto` has them. An input comes in `raw_input_contents` or in the field of its type,
outputs come in `raw_output_contents`. The picture `image` works here too. The token is the metadata `authorization`.
Bounds are those of HTTP, but that the bytes of messages are counted when they are here. A connection beyond the 64th is
not taken; one without a call is ended after 20 s, and a client makes the next by itself.

| code | means |
|---|---|
| `UNAUTHENTICATED` | the token is missing or wrong |
| `NOT_FOUND` | no such model or version |
| `INVALID_ARGUMENT` | the request does not fit the model |
| `UNAVAILABLE` | no room now; try again |
| `RESOURCE_EXHAUSTED` | a message larger than any model here takes, or more calls at once than `http.max_requests` |
| `DEADLINE_EXCEEDED` | no message, or no answer, within `http.predict_timeout_s` |
| `INTERNAL` | the engine failed on this input |
"""


def page(ask: Ask) -> str:
    """Return docs/http.md; `ask(method, path, body, headers, fields=)` is answered by a gateway of the parts model."""
    refusal = ask("GET", "/v2/models/nobody").data.decode()
    return "\n".join([HEAD.replace("REFUSAL", refusal), *_pictures(ask), *_state(ask), *_protocol(ask)])


def _pictures(ask: Ask) -> list[str]:
    single = ask("POST", "/predict?channel=top", PNG)
    files = [("pictures", (name, data, "image/png")) for name, data in (("a.png", PNG), ("b.png", b"hello"))]
    batch = ask("POST", "/batch_predict?channel=top", fields=files)
    return [
        "## POST /predict\n",
        _prose(
            "The body is one JPEG, PNG or WebP, raw or as the file of a form (`multipart/form-data`). It goes "
            "down the same pipeline as a frame from the floor, as a bare frame of the device `http` and the "
            "`channel` given (`predict` unless given), and is answered once its results are committed: one "
            "for each model that is bound to `http/CHANNEL`."
        ),
        _shell("curl --data-binary @part.jpg 'http://127.0.0.1:8470/predict?channel=top'"),
        _answer(single),
        "## POST /batch_predict\n",
        _prose(
            "The files of one form, at most `http.batch_pictures`, each down the same way. The answers come "
            "in the order of the files; a picture that is refused is refused in its place, with the status "
            "that `/predict` would have given."
        ),
        _shell("curl -F p=@a.png -F p=@b.png 'http://127.0.0.1:8470/batch_predict?channel=top'"),
        _answer(batch),
    ]


def _state(ask: Ask) -> list[str]:
    metrics = [line for line in ask("GET", "/metrics").data.decode().splitlines() if "millrace_http_requests" in line]
    return [
        "## GET /health\n",
        _prose(
            "200 and `ok` only while nothing is known to be wrong; else 503, and `problems` says what in "
            "words. A cloud that is away is no problem: `link` and `backlog` tell of it. `engines` says what "
            "runs each model, and why that. This gateway has no broker:"
        ),
        _shell("curl http://127.0.0.1:8470/health"),
        _answer(ask("GET", "/health")),
        "## GET /metrics\n",
        "What the gateway counts, in Prometheus' text form. Such as:\n",
        "```\n" + "\n".join(metrics) + "\n```\n",
    ]


def _protocol(ask: Ask) -> list[str]:
    picture = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(PNG).decode()]}
    asked = {"id": "42", "inputs": [picture]}
    model = ask("GET", "/v2/models/parts/versions/1")
    return [
        "## GET /v2\n",
        "The server: its name, its version, and what it knows beyond the protocol.\n",
        _answer(ask("GET", "/v2")),
        "## GET /v2/health/live, GET /v2/health/ready\n",
        _prose(
            "`live`: somebody answers. `ready`: models are loaded and the pipeline moves; else 503. Neither "
            "asks for a broker, which bare inference does without; `/health` does."
        ),
        _answer(ask("GET", "/v2/health/live")),
        _answer(ask("GET", "/v2/health/ready")),
        "## GET /v2/models/NAME, GET /v2/models/NAME/versions/VERSION\n",
        _prose(
            "What a model takes and gives; without a version, the latest that serves here. Inputs and outputs "
            "are the engine's own tensors: quantized numbers go in and come out as they are."
        ),
        _answer(model),
        "## GET /v2/models/NAME/ready, GET /v2/models/NAME/versions/VERSION/ready\n",
        _answer(ask("GET", "/v2/models/parts/ready")),
        "## POST /v2/models/NAME/infer, POST /v2/models/NAME/versions/VERSION/infer\n",
        _prose(
            "One inference on the workers' threads. Nothing of it is stored, published or sent to the cloud; "
            "it is counted (`millrace_raw_inferences_total`). Who wants an answer on record asks `/predict`. "
            "`data` is the tensor, flat or nested as `shape` says. `outputs` may name those that are wanted. "
            "An `id` comes back."
        ),
        _prose(
            "Instead of its own input a model takes the picture `image` of `BYTES`: one JPEG, PNG or WebP, in "
            "JSON as base64, which is decoded, scaled and quantized as a frame would be:"
        ),
        _json(asked),
        _answer(ask("POST", "/v2/models/parts/infer", json.dumps(asked).encode())),
        *_binary(ask, model.json()),
        GRPC.format(service=SERVICE, methods=", ".join(f"`{name}`" for name in METHODS)),
    ]


def _binary(ask: Ask, model: dict[str, Any]) -> list[str]:
    given = {name: model["inputs"][0][name] for name in ("name", "shape", "datatype")}
    asked = {
        "inputs": [given | {"parameters": {"binary_data_size": PIXELS.nbytes}}],
        "outputs": [{"name": model["outputs"][0]["name"], "parameters": {"binary_data": True}}],
    }
    text = json.dumps(asked).encode()
    header = "Inference-Header-Content-Length"
    answer = ask("POST", "/v2/models/parts/infer", text + PIXELS.tobytes(), {header: str(len(text))})
    said = int(answer.headers[header])
    return [
        BINARY,
        f"```\n{header}: {len(text)}\n\n{text.decode()}\n… {PIXELS.nbytes} bytes\n```\n",
        f"```\n{header}: {said}\n\n{answer.data[:said].decode()}\n… {len(answer.data) - said} bytes\n```\n",
    ]


def _answer(answer: urllib3.BaseHTTPResponse) -> str:
    status = "" if answer.status == 200 else f"{answer.status}:\n\n"
    return status + _json(_fixed(answer.json()))


def _fixed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: FIXED[name] if name in FIXED else _fixed(inner) for name, inner in value.items()}
    return [_fixed(inner) for inner in value] if isinstance(value, list) else value


def _json(value: dict[str, Any]) -> str:
    """Return JSON as it travels, but for one member of the first level on each line."""
    lines = [f"  {json.dumps(name)}: {json.dumps(inner)}" for name, inner in value.items()]
    return "```json\n{\n" + ",\n".join(lines) + "\n}\n```\n"


def _prose(text: str) -> str:
    return textwrap.fill(text, 118, break_on_hyphens=False) + "\n"


def _shell(line: str) -> str:
    return f"```sh\n{line}\n```\n"


if __name__ == "__main__":
    with (
        tempfile.TemporaryDirectory() as scratch,
        running(Path(scratch) / "g", Address("127.0.0.1", free_port()), http={"port": free_port()}) as gateway,
    ):
        PAGE.write_text(page(gateway.ask), encoding="utf-8")
    sys.stdout.write(f"written: {PAGE}\n")
