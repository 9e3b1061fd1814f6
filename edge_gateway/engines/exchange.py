"""What an isolated engine and its process say to each other: words as packets, tensors in memory that both map.

The process is not trusted: nothing of it is unpickled, it cannot shrink the memory, and every word is checked.
"""

from __future__ import annotations

import fcntl
import json
import math
import mmap
import os
import socket
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from edge_gateway.engines.engine import Tensor, TensorInfo
from millrace import jsontext

PACKET_BYTES = 64 << 10
TENSORS_BYTES_MAX = 1 << 30
SIDES_MAX = 32
"""NumPy 1 has arrays of no more dimensions."""
ELEMENTS = {np.dtype(code).str: np.dtype(code) for code in "?bBhHiIqQefd"}
"""The types of numbers that are shared, by their names."""
_HEAD = struct.Struct("<BQ")
_ALIGNED = 64


class Word(IntEnum):
    """The first byte of a packet; the number of what was asked follows, and in answers a text."""

    INFER = 1
    """Infer what lies in the shared input."""
    BEAT = 2
    """Say that you live."""
    DONE = 3
    """It is done; after INFER the outputs lie in the shared memory."""
    OPENED = 4
    """The engine is open; the text describes its tensors."""
    REFUSED = 5
    """The engine cannot be opened; the text says why."""
    RAISED = 6
    """The engine broke; the text says how."""
    GARBAGE = 7
    """An output has another shape or type than was said; the text says which."""


@dataclass(frozen=True, slots=True)
class Packet:
    """One word, the number of the question that it belongs to, and a text."""

    word: Word
    number: int
    text: str = ""


class BadPacket(Exception):
    """What came is no packet of ours."""


def send(to: socket.socket, packet: Packet) -> None:
    """Send a packet; OSError if nobody is there."""
    to.send(_HEAD.pack(packet.word, packet.number) + packet.text.encode()[: PACKET_BYTES - _HEAD.size])


def receive(source: socket.socket) -> Packet | None:
    """Return the next packet, or None if the other side is gone. Errors: BadPacket, TimeoutError."""
    try:
        data = source.recv(PACKET_BYTES)
    except ConnectionError:
        return None
    if not data:
        return None
    try:
        word, number = _HEAD.unpack_from(data)
        return Packet(Word(word), number, data[_HEAD.size :].decode(errors="replace"))
    except (struct.error, ValueError):
        raise BadPacket(f"{len(data)} bytes that are no packet") from None


def described(given: TensorInfo, outputs: tuple[TensorInfo, ...]) -> str:
    """Return an engine's tensors as text for OPENED."""
    return json.dumps(
        [
            [list(info.shape), info.dtype.str, float(info.scale), int(info.zero_point), info.name]
            for info in (given, *outputs)
        ]
    )


def understood(text: str) -> tuple[TensorInfo, tuple[TensorInfo, ...]]:
    """Return input and outputs from OPENED's text; BadPacket if they are no tensors that can be shared."""
    try:
        stated: Any = jsontext.parse(text, PACKET_BYTES)
        infos = [_info(*item) for item in stated]
        given, *outputs = infos
    except (TypeError, ValueError) as error:
        raise BadPacket(f"no description of tensors: {error}") from None
    if not outputs or sum(map(_size_bytes, infos)) > TENSORS_BYTES_MAX:
        raise BadPacket(f"its tensors are none, or larger than {TENSORS_BYTES_MAX} bytes")
    return given, tuple(outputs)


def share(given: TensorInfo, outputs: tuple[TensorInfo, ...]) -> int:
    """Return a descriptor of memory for these tensors, without a name and never to change its size."""
    descriptor = os.memfd_create("millrace-tensors", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, max(mmap.PAGESIZE, _spans(given, outputs)[-1]))
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor


def mapped(descriptor: int, given: TensorInfo, outputs: tuple[TensorInfo, ...]) -> tuple[Tensor, ...]:
    """Return input and outputs as arrays over the shared memory; they keep it mapped, the descriptor may be closed."""
    memory = mmap.mmap(descriptor, 0)
    begins = _spans(given, outputs)
    return tuple(
        np.ndarray(info.shape, info.dtype, memory, begin)
        for info, begin in zip((given, *outputs), begins, strict=False)
    )


def _spans(given: TensorInfo, outputs: tuple[TensorInfo, ...]) -> list[int]:
    """Return where each tensor begins, and where the last one ends."""
    places = [0]
    for info in (given, *outputs):
        places.append(places[-1] + -(-_size_bytes(info) // _ALIGNED) * _ALIGNED)
    return places


def _size_bytes(info: TensorInfo) -> int:
    return math.prod(info.shape) * info.dtype.itemsize


def _info(shape: Any, dtype: Any, scale: Any, zero_point: Any, name: Any) -> TensorInfo:
    sides = tuple(int(side) for side in shape)
    element = ELEMENTS.get(str(dtype))
    if element is None or min(sides, default=1) < 1 or len(sides) > SIDES_MAX:
        raise ValueError(f"a tensor of {len(sides)} sides and type {dtype!s:.20}")
    return TensorInfo(sides, element, float(scale), int(zero_point), str(name))
