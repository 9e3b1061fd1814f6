"""A port that was given is given to nobody else."""

import socket

import pytest

from millrace.demo import ports


def test_no_port_is_given_twice_nor_one_that_is_listened_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "CHOICE", range(9_000, 9_200))
    with socket.create_server(("127.0.0.1", ports.free_port())) as other:
        given = [ports.free_port() for _ in range(100)]
        assert len({*given, other.getsockname()[1]}) == 101
