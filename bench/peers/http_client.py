"""A closed loop of uploads over HTTP: so many connections, each with one request under way."""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import threading
import time
from collections.abc import Callable, Sequence

from bench.peers.probe import PROBE

Request = tuple[bytes, str]
TIMEOUT_S = 60.0


class HttpClient:
    """Sends pictures to one address of this machine."""

    def __init__(self, port: int, path: str, encode: Callable[[bytes], Request]) -> None:
        """`encode` makes a body and its content type of a picture."""
        self._port, self._path, self._encode = port, path, encode

    def is_answered(self) -> bool:
        """Whether a picture is answered."""
        try:
            self._ask(self._connection(), self._encode(PROBE))
        except (OSError, http.client.HTTPException, RuntimeError):
            return False
        return True

    def run(self, pictures: Sequence[bytes], count: int, in_flight: int) -> float:
        """Return pictures answered a second."""
        requests = [self._encode(picture) for picture in pictures]
        turns, failures = itertools.count(), []

        def work() -> None:
            connection = self._connection()
            try:
                while (turn := next(turns)) < count:
                    self._ask(connection, requests[turn % len(requests)])
            except (OSError, http.client.HTTPException, RuntimeError) as error:
                failures.append(error)
            finally:
                connection.close()

        threads = [threading.Thread(target=work) for _ in range(in_flight)]
        begun_s = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, failures
        return count / (time.perf_counter() - begun_s)

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)

    def _ask(self, connection: http.client.HTTPConnection, request: Request) -> None:
        body, content_type = request
        connection.request("POST", self._path, body, {"Content-Type": content_type})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != http.client.OK:
            raise RuntimeError(f"{answer.status}: {text[:300]!r}")


def as_upload(picture: bytes) -> Request:
    """Return a form with one file, as a browser sends it."""
    mark = "bench-frame-mark"
    head = f'--{mark}\r\nContent-Disposition: form-data; name="image"; filename="frame.jpg"\r\n'
    head += "Content-Type: image/jpeg\r\n\r\n"
    return head.encode() + picture + f"\r\n--{mark}--\r\n".encode(), f"multipart/form-data; boundary={mark}"


def as_litserve(picture: bytes) -> Request:
    """Return base64 in JSON."""
    return json.dumps({"image": base64.b64encode(picture).decode()}).encode(), "application/json"


def as_mlserver(picture: bytes) -> Request:
    """Return base64 in a request of the Open Inference Protocol."""
    given = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(picture).decode()]}
    given["parameters"] = {"content_type": "base64"}
    return json.dumps({"inputs": [given]}).encode(), "application/json"
