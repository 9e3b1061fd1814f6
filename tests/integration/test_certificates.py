"""A wrong clock and a certificate out of its dates are told apart, at the cloud and at the broker; tries go on."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import zstandard
from integration.brokers import WAIT_S, wait_until
from integration.scripted_broker import Script, publish

from cloud_sync.settings import CloudSettings
from cloud_sync.submit import Cloud, LinkDown
from millrace import certificates, mqtt
from millrace.inbox import Delivery, Inbox
from millrace.settings import BrokerSettings

CONFIG = """
[ca]
default_ca = one
[one]
dir = {folder}
database = {folder}/index.txt
serial = {folder}/serial
new_certs_dir = {folder}
certificate = {folder}/ca.pem
private_key = {folder}/ca.key
default_md = sha256
policy = any
x509_extensions = names
unique_subject = no
[any]
commonName = supplied
[names]
subjectAltName = DNS:localhost
"""
DAYS = {
    "good": ("20200101000000Z", "20990101000000Z"),
    "expired": ("20200101000000Z", "20210203040506Z"),
    "early": ("20980102030405Z", "20990101000000Z"),
}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private CA and three certificates of localhost: good, expired, and valid only in 2098."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed here")
    folder = tmp_path_factory.mktemp("ca")
    (folder / "ca.cnf").write_text(CONFIG.format(folder=folder))
    (folder / "index.txt").touch()
    (folder / "serial").write_text("01\n")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    _openssl(folder, "req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=floor", "-days", "2")
    for name, (begin, end) in DAYS.items():
        _openssl(folder, "req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ["-in", f"{name}.csr", "-out", f"{name}.pem", "-startdate", begin, "-enddate", end]
        _openssl(folder, "ca", "-batch", "-config", "ca.cnf", "-notext", *signed)
    return folder


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


class Door:
    """A TLS server whose certificate can be changed while it runs; it commits every batch."""

    def __init__(self, authority: Path) -> None:
        self.authority = authority
        self.committed = 0
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        door = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                batch = json.loads(zstandard.ZstdDecompressor().decompressobj().decompress(body))
                door.committed += len(batch["events"])
                answer = json.dumps(
                    {"batch": batch["batch"], "accepted": len(batch["events"]), "duplicates": 0, "rejected": []}
                ).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # a client that does not like our certificate hangs up

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.socket = self.context.wrap_socket(
            self.server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.port = self.server.server_port
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self._thread.start()

    def show(self, name: str) -> None:
        self.context.load_cert_chain(self.authority / f"{name}.pem", self.authority / f"{name}.key")

    def close(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture
def door(authority: Path) -> Iterator[Door]:
    made = Door(authority)
    yield made
    made.close()


def cloud_at(door: Door, folder: Path, ca_file: Path) -> Cloud:
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text("t")
    url = f"https://localhost:{door.port}"
    return Cloud(CloudSettings.model_validate({"url": url, "token_file": token, "ca_file": ca_file}))


def test_an_expired_certificate_is_named_with_its_day_and_the_batch_goes_up_once_it_is_renewed(
    door: Door, tmp_path: Path
) -> None:
    cloud = cloud_at(door, tmp_path, door.authority / "ca.pem")
    door.show("expired")
    with pytest.raises(LinkDown, match=r"the certificate of localhost expired on 2021-02-03T04:05:06Z"):
        cloud.submit([b"{}"], {})
    assert door.committed == 0
    door.show("good")
    assert cloud.submit([b"{}"], {}).accepted == 1
    cloud.close()


def test_a_certificate_of_days_to_come_asks_for_the_clock(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millrace.clock.wall_state", lambda: "unsynced")
    door.show("early")
    cloud = cloud_at(door, tmp_path, door.authority / "ca.pem")
    with pytest.raises(LinkDown, match=r"the clock says \S+: .* valid from 2098-01-02T03:04:05Z; set the clock"):
        cloud.submit([b"{}"], {})
    cloud.close()


def test_a_stranger_is_not_excused_by_his_dates(door: Door, authority: Path, tmp_path: Path) -> None:
    """Its authority is not ours and it is expired as well: no word of the clock."""
    door.show("expired")
    cloud = cloud_at(door, tmp_path, authority / "good.pem")
    with pytest.raises(LinkDown, match="CERTIFICATE_VERIFY_FAILED") as refused:
        cloud.submit([b"{}"], {})
    assert "the clock says" not in str(refused.value)
    cloud.close()


def test_the_brokers_certificate_is_named_too_and_the_tries_go_on(
    door: Door, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING)
    door.show("expired")
    tries: list[None] = []
    probe = mqtt.probe

    def counted(settings: BrokerSettings) -> object:
        tries.append(None)
        return probe(settings)

    monkeypatch.setattr("millrace.mqtt.connection.probe", counted)
    ca_file = door.authority / "ca.pem"
    settings = BrokerSettings.model_validate(
        {"host": "localhost", "port": door.port, "ca_file": ca_file, "reconnect_max_s": 0.1}
    )
    connection = mqtt.Connection(settings, "c", None, [], persistent=False, max_payload_bytes=1024, inbox=Inbox())
    thread = threading.Thread(target=connection.run)
    thread.start()
    wait_until(lambda: len(tries) >= 3, "three tries")
    connection.interrupt()
    thread.join(60)
    assert not thread.is_alive()
    assert "the certificate of localhost expired on 2021-02-03T04:05:06Z" in caplog.text


@pytest.mark.parametrize(
    ("now_s", "state", "said"),
    [
        (500, "unsynced", None),
        (0, "unsynced", "the clock says 1970-01-01T00:00:00Z: C is valid from 1970-01-01T00:01:40Z; set the clock"),
        (0, "synced", "C is valid from 1970-01-01T00:01:40Z; the clock says 1970-01-01T00:00:00Z and is believable"),
        (2000, "unknown", "expired on 1970-01-01T00:16:40Z; nothing vouches for the clock (unknown): if it is right"),
        (2000, "synced", "C expired on 1970-01-01T00:16:40Z; the clock says 1970-01-01T00:33:20Z and is believable"),
    ],
)
def test_what_is_said_depends_on_whether_the_clock_can_be_believed(now_s: float, state: str, said: str | None) -> None:
    found = certificates.verdict("C", 100, 1000, now_s, state)
    assert (found is None) if said is None else (found is not None and said in found)


def test_other_failures_are_none_of_its_business() -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        assert certificates.why_refused(OSError("x"), "127.0.0.1", nobody.getsockname()[1], None, 0.1) is None


def test_what_comes_over_tls_at_once_is_heard_without_waiting_for_more(authority: Path) -> None:
    """What the socket has decrypted already, no wait for the network tells of."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "good.pem", authority / "good.key")
    sent = [bytes([number % 256]) * 1000 for number in range(500)]
    parts = [b"".join(publish(payload, 1 + number) for number, payload in enumerate(sent))]
    broker = Script(parts, wrap=lambda sock: context.wrap_socket(sock, server_side=True))
    settings = BrokerSettings.model_validate(
        {"host": "localhost", "port": broker.port, "protocol": "5", "ca_file": authority / "ca.pem"}
    )
    inbox = Inbox()
    connection = mqtt.Connection(settings, "c", None, [], persistent=False, max_payload_bytes=1024, inbox=inbox)
    thread = threading.Thread(target=connection.run)
    thread.start()
    try:
        found = [arrival for _ in range(1 + len(sent)) if isinstance(arrival := inbox.get(WAIT_S), Delivery)]
    finally:
        connection.interrupt()
        thread.join(WAIT_S)
    broker.close()
    assert [delivery.payload for delivery in found] == sent
