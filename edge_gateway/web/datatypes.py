"""Tensors as the Open Inference Protocol writes them: names of types, JSON lists, little-endian bytes. No I/O here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from edge_gateway.engines.engine import Tensor

BYTES = "BYTES"
DATATYPES = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
}
NAMES = {dtype: name for name, dtype in DATATYPES.items()}
_WRITTEN: dict[str, set[type]] = {"b": {bool}, "u": {int}, "i": {int}, "f": {int, float}}


class BadTensor(ValueError):
    """Data that is not the tensor that it says it is; the message says what does not fit."""


def from_json(data: object, shape: Sequence[int], dtype: np.dtype[Any]) -> Tensor:
    """Return the tensor of a JSON list, row after row: flat, or nested as `shape` says. Errors: BadTensor."""
    flat = _flat(data, shape)
    strangers = set(map(type, flat)) - _WRITTEN[dtype.kind]
    if strangers:
        kinds = ", ".join(sorted(kind.__name__ for kind in strangers))
        raise BadTensor(f"data of {NAMES[dtype]} holds {kinds}")
    try:
        with np.errstate(over="ignore"):
            tensor = np.array(flat, dtype)
    except OverflowError:
        raise BadTensor(f"data holds a number that {NAMES[dtype]} cannot hold") from None
    if dtype.kind == "f" and not np.isfinite(tensor).all():
        raise BadTensor(f"data holds a number that {NAMES[dtype]} cannot hold")
    return tensor.reshape(shape)


def from_bytes(data: bytes | memoryview, shape: Sequence[int], dtype: np.dtype[Any]) -> Tensor:
    """Return the tensor of its bytes, a copy. Errors: BadTensor."""
    wanted = math.prod(shape) * dtype.itemsize
    if len(data) != wanted:
        raise BadTensor(f"{len(data)} bytes; {NAMES[dtype]} of shape {list(shape)} has {wanted}")
    if dtype.kind == "b" and (np.frombuffer(data, np.uint8) > 1).any():
        raise BadTensor("a byte of BOOL is neither 0 nor 1")
    return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype).reshape(shape)


def one_element(data: bytes | memoryview) -> bytes:
    """Return the only element of a BYTES tensor: 4 bytes with its length, then itself. Errors: BadTensor."""
    length = int.from_bytes(data[:4], "little")
    if len(data) < 4 or len(data) - 4 != length:
        raise BadTensor(
            f"{len(data)} bytes are not one element of BYTES: its length in 4 bytes, little-endian, then itself"
        )
    return bytes(data[4:])


def to_json(tensor: Tensor) -> list[Any]:
    """Return the elements, row after row. Errors: BadTensor for NaN and infinities, which JSON has not."""
    if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
        raise BadTensor("has values that JSON has not (NaN or infinite); ask for it as binary data")
    values: list[Any] = tensor.reshape(-1).tolist()
    return values


def to_bytes(tensor: Tensor) -> bytes:
    """Return the elements' bytes, row after row, little-endian."""
    return np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<")).tobytes()


def _flat(data: object, shape: Sequence[int]) -> list[Any]:
    """Return the elements of a list that is flat, or nested as `shape` says."""
    if not isinstance(data, list):
        raise BadTensor("data is no list")
    flat = data
    for side in shape[1:] if len(data) == shape[0] else ():
        if not any(type(row) is list for row in flat):
            break
        if not all(type(row) is list and len(row) == side for row in flat):
            raise BadTensor(f"data is nested, but not as shape {list(shape)} says")
        flat = list(chain.from_iterable(flat))
    if len(flat) != math.prod(shape):
        raise BadTensor(f"data has {len(flat)} elements; shape {list(shape)} has {math.prod(shape)}")
    return flat
