"""Damage of a kind that no checksum of ours covers: a row under another number, in the leaf of its table alone."""

from __future__ import annotations

from pathlib import Path

from millrace.database import PAGE_BYTES

LEAF = 0x0D


def renumber(path: Path, old: int, new: int, marker: bytes) -> None:
    """Give the row `old` that holds `marker` the number `new`, of as many bytes: its tree is in order no more."""
    data = bytearray(path.read_bytes())
    for start in range(0, len(data), PAGE_BYTES):
        header = start + (100 if start == 0 else 0)
        if data[header] != LEAF:
            continue
        for cell in range(int.from_bytes(data[header + 3 : header + 5])):
            at = header + 8 + 2 * cell
            begin = start + int.from_bytes(data[at : at + 2])
            size, number_at = _varint(data, begin)
            number, payload_at = _varint(data, number_at)
            if number == old and marker in data[payload_at : payload_at + size]:
                data[number_at:payload_at] = _spelled(new, payload_at - number_at)
                path.write_bytes(data)
                return
    raise AssertionError(f"no row {old} with {marker!r} in {path}")


def _varint(data: bytearray, at: int) -> tuple[int, int]:
    """Return a number of at most 8 bytes and where it ends."""
    number = 0
    while data[at] & 0x80:
        number = number << 7 | data[at] & 0x7F
        at += 1
    return number << 7 | data[at], at + 1


def _spelled(number: int, length: int) -> bytes:
    """Return a number as a varint of so many bytes."""
    groups = [number >> 7 * place & 0x7F for place in reversed(range(length))]
    return bytes([0x80 | group for group in groups[:-1]] + groups[-1:])
