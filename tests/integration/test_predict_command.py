"""`millrace predict` against a real gateway, and against servers that answer as one, as none, or not at all."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from integration.brokers import free_port, wait_until

from broker_config.address import accepts

MODELS = Path(__file__).parents[2] / "models"
RESULT = {
    "label": "scratch",
    "score": 0.97,
    "model": "parts@1",
    "decision": "edge",
    "reason": "score 0.97 >= 0.80",
    "infer_ms": 3.9,
    "total_ms": 6.8,
}


@dataclass
class Far:
    """A server whose answer a test sets, and what it was asked."""

    url: str = ""
    status: int = 200
    body: bytes = json.dumps({"results": [RESULT]}).encode()
    asked: list[tuple[str, str | None, bytes]] = field(default_factory=list)


@pytest.fixture
def far() -> Iterator[Far]:
    found = Far()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.asked.append((self.path, self.headers["Authorization"], body))
            self.send_response(found.status)
            self.send_header("Content-Length", str(len(found.body)))
            self.end_headers()
            self.wfile.write(found.body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the parent's name)
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield found
        server.shutdown()
        thread.join()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "part.jpg"
    path.write_bytes(b"a picture")
    return path


def predict(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "millrace", "predict", *words], capture_output=True, text=True)


def test_predict_prints_label_score_decision_and_reason(far: Far, picture: Path) -> None:
    done = predict(picture, "--gateway", far.url, "--channel", "top")
    assert done.returncode == 0, done.stderr
    assert "scratch  score 0.97  [parts@1]" in done.stdout
    assert "decision: edge (score 0.97 >= 0.80)" in done.stdout
    assert far.asked == [("/predict?channel=top", None, b"a picture")]


def test_predict_lists_what_a_detector_found_and_where(far: Far, picture: Path) -> None:
    face = {"label": "face", "score": 0.9, "box": {"x": 0.336, "y": 0.2, "width": 0.36, "height": 0.3553}}
    far.body = json.dumps({"results": [RESULT | {"detections": [face, face | {"score": 0.8}]}]}).encode()
    done = predict(picture, "--gateway", far.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [
        "  face  score 0.9  x 33.6 %, y 20.0 %, width 36.0 %, height 35.5 %",
        "  face  score 0.8  x 33.6 %, y 20.0 %, width 36.0 %, height 35.5 %",
    ]


def test_predict_for_programs_is_json(far: Far, picture: Path) -> None:
    done = predict(picture, "--gateway", far.url, "--json")
    assert json.loads(done.stdout) == {"results": [RESULT]}


def test_the_token_goes_to_the_gateway_and_onto_no_terminal(far: Far, picture: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("open-sesame\n", encoding="ascii")
    token.chmod(0o600)
    done = predict(picture, "--gateway", far.url, "--token-file", token)
    assert far.asked[0][1] == "Bearer open-sesame"
    assert "sesame" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, b'{"error": "show the token"}', "refuses (401): show the token; see --token-file"),
        (422, b'{"error": "not a JPEG"}', "refuses (422): not a JPEG"),
        (503, b'{"error": "the gateway is full"}', "refuses (503): the gateway is full"),
        (404, b"<html>", "is no Millrace gateway: it answered 404"),
        (200, b'{"results": 3}', "is no Millrace gateway: it answered 200"),
    ],
)
def test_a_refusal_is_told_in_the_gateways_words(far: Far, picture: Path, status: int, body: bytes, said: str) -> None:
    far.status, far.body = status, body
    done = predict(picture, "--gateway", far.url)
    assert done.returncode == 1
    assert said in done.stderr


def test_predict_without_a_gateway_ends_with_69(picture: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = predict(picture, "--gateway", url)
    assert done.returncode == 69
    assert f"no gateway at {url}" in done.stderr


@pytest.mark.parametrize(
    "url", ["127.0.0.1:80", "ftp://gateway", "http://gateway:port", "http://[::1", "http://a b", "http://a..b"]
)
def test_predict_takes_only_an_address(picture: Path, url: str) -> None:
    done = predict(picture, "--gateway", url)
    assert done.returncode == 2
    assert "is no address such as http://127.0.0.1:8470" in done.stderr


def test_a_real_gateway_answers_while_no_broker_is_there(tmp_path: Path) -> None:
    picture, settings, port = tmp_path / "part.png", tmp_path / "gateway.yaml", free_port()
    cv2.imwrite(str(picture), np.full((240, 320, 3), 120, np.uint8))
    settings.write_text(
        f"gateway: g1\nstate_dir: state\nbroker: {{port: {free_port()}}}\nhttp: {{port: {port}}}\n"
        f"models: [{{bundle: {MODELS / 'parts'}}}]\n",
        encoding="utf-8",
    )
    gateway = subprocess.Popen([sys.executable, "-m", "millrace", "gateway", "--config", settings])
    try:
        wait_until(lambda: gateway.poll() is not None or accepts("127.0.0.1", port), "the gateway listens")
        done = predict(picture, "--gateway", f"http://127.0.0.1:{port}", "--json")
    finally:
        gateway.send_signal(signal.SIGTERM)
        gateway.wait(60)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["results"]
    assert result["model"] == "parts@1"
    assert 0 < result["score"] <= 1
    assert result["decision"] in ("edge", "escalate", "fall_back")
