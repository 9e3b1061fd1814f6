"""Which MQTT the broker speaks, asked before a connection is made; and the certificates that a connection trusts."""

from __future__ import annotations

import socket
import ssl
import struct

from millrace.inbox import Protocol
from millrace.settings import BrokerSettings, ConfigError

PROBE_TIMEOUT_S = 2.0


class BrokerUnreachable(Exception):
    """No broker answered; try again."""


def probe(settings: BrokerSettings) -> Protocol:
    """Ask the broker which MQTT it speaks, with a bare MQTT 5 CONNECT and nothing else in it.

    A refusal of the version means 3.1.1, any MQTT 5 answer (also "not authorized") means 5; a silence is
    BrokerUnreachable, never a downgrade.
    """
    body = b"\x00\x04MQTT\x05\x02" + struct.pack(">H", 5) + b"\x00" + b"\x00\x00"
    with socket.create_connection((settings.host, settings.port), settings.connect_timeout_s) as plain:
        plain.settimeout(PROBE_TIMEOUT_S)
        sock = plain
        if settings.ca_file is not None:
            sock = tls_context(settings).wrap_socket(plain, server_hostname=settings.host)
        with sock:
            sock.sendall(bytes([0x10, len(body)]) + body)
            try:
                answer = sock.recv(5)
            except TimeoutError:
                raise BrokerUnreachable(f"no answer to CONNECT within {PROBE_TIMEOUT_S} s") from None
    if len(answer) < 4 or answer[0] != 0x20:
        raise BrokerUnreachable(f"no MQTT broker there: answered {answer.hex() or 'nothing'}")
    return "3.1.1" if answer[1] == 2 and answer[3] in (1, 132) else "5"


def tls_context(settings: BrokerSettings) -> ssl.SSLContext:
    """Trust what the settings' CA file names, and nothing else. Errors: ConfigError."""
    try:
        context = ssl.create_default_context(cafile=str(settings.ca_file))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError([f"{settings.ca_file}: cannot use these CA certificates: {error}"]) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
