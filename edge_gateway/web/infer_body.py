"""Bodies of /v2 infer: JSON, and after it the tensors that travel as binary data. No I/O here."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge_gateway.engines.engine import Tensor
from edge_gateway.web.datatypes import NAMES, BadTensor, from_bytes, from_json, one_element, to_bytes, to_json
from edge_gateway.web.signature import BadRequest, Signature
from millrace import jsontext


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that fits its model."""

    given: Tensor | bytes
    """The model's input, or a picture that is to be prepared."""
    outputs: tuple[tuple[int, bool], ...]
    """Which outputs are wanted, and whether as binary data."""
    id: str | None = None


def read(body: bytes, json_bytes: int | None, signature: Signature) -> Asked:
    """Return what a body asks; `json_bytes` is the length of its JSON where binary data follows. Errors: BadRequest."""
    if json_bytes is not None and json_bytes > len(body):
        raise BadRequest(f"Inference-Header-Content-Length is {json_bytes}, and the body has {len(body)} bytes")
    binary = memoryview(body)[len(body) if json_bytes is None else json_bytes :]
    value = _parse(body[:json_bytes], signature)
    parameters = _object(value, "parameters")
    id_ = value.get("id")
    if id_ is not None and not isinstance(id_, str):
        raise BadRequest("id is no string")
    inputs = value.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise BadRequest(f"inputs is no list of one object: model {signature.name} has one input")
    outputs = _outputs(value.get("outputs"), _flag(parameters, "binary_data_output", False), signature)
    return Asked(_given(inputs[0], binary, signature), outputs, id_)


def write(signature: Signature, asked: Asked, tensors: Sequence[Tensor]) -> tuple[bytes, int | None]:
    """Return the answer's body, and its JSON's length where binary data follows. Errors: BadTensor."""
    outputs, binary = [], []
    for place, as_binary in asked.outputs:
        info, tensor = signature.outputs[place], tensors[place]
        output: dict[str, Any] = {
            "name": info.name,
            "datatype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
        }
        if as_binary:
            binary.append(to_bytes(tensor))
            output["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            try:
                output["data"] = to_json(tensor)
            except BadTensor as error:
                raise BadTensor(f"output {info.name!r} {error}") from None
        outputs.append(output)
    answer: dict[str, Any] = {"model_name": signature.name, "model_version": signature.version}
    if asked.id is not None:
        answer["id"] = asked.id
    text = jsontext.dump(answer | {"outputs": outputs})
    return b"".join([text, *binary]), len(text) if binary else None


def _parse(text: bytes, signature: Signature) -> dict[str, Any]:
    """Return the JSON object, after a look at how many values it may have: it is many times larger once it is read."""
    values = sum(map(text.count, (b",", b"[", b"{")))
    if values > signature.max_values():
        raise BadRequest(f"{values} values in the JSON; at most {signature.max_values()} fit model {signature.name}")
    try:
        value = jsontext.parse(text, len(text))
    except jsontext.BadJson as error:
        raise BadRequest(f"the body is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadRequest("the body is no JSON object")
    return value


def _given(said: dict[str, Any], binary: memoryview, signature: Signature) -> Tensor | bytes:
    """Return the one input: its data from the JSON, or all the binary data."""
    shape = said.get("shape")
    if not isinstance(shape, list) or not shape or not all(type(side) is int and side >= 0 for side in shape):
        raise BadRequest("shape is no list of sizes")
    is_picture = signature.is_picture(said.get("name"), said.get("datatype"), shape)
    size = _object(said, "parameters").get("binary_data_size")
    if size is None and len(binary):
        raise BadRequest(f"{len(binary)} bytes of binary data belong to no input: binary_data_size is missing")
    if size is not None and (type(size) is not int or size != len(binary)):
        raise BadRequest(f"binary_data_size is {size!r:.40}, and {len(binary)} bytes of binary data came")
    if (size is None) == ("data" not in said):
        raise BadRequest("an input has either data, or binary_data_size and binary data")
    try:
        if size is None:
            return _picture(said["data"]) if is_picture else from_json(said["data"], shape, signature.input.dtype)
        return one_element(binary) if is_picture else from_bytes(binary, shape, signature.input.dtype)
    except BadTensor as error:
        raise BadRequest(f"input {said['name']!r}: {error}") from None


def _picture(data: object) -> bytes:
    if not isinstance(data, list) or len(data) != 1 or not isinstance(data[0], str):
        raise BadTensor("data of a picture in JSON is one string, base64")
    try:
        return base64.b64decode(data[0], validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadTensor(f"data is no base64: {error}") from None


def _outputs(said: object, as_binary: bool, signature: Signature) -> tuple[tuple[int, bool], ...]:
    if said is None or said == []:
        return tuple((place, as_binary) for place in signature.places([]))
    if not isinstance(said, list) or not all(isinstance(one, dict) for one in said):
        raise BadRequest("outputs is no list of objects")
    places = signature.places([one.get("name") for one in said])
    return tuple(
        (place, _flag(_object(one, "parameters"), "binary_data", as_binary))
        for place, one in zip(places, said, strict=True)
    )


def _object(value: dict[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name, {})
    if not isinstance(found, dict):
        raise BadRequest(f"{name} is no object")
    return found


def _flag(parameters: dict[str, Any], name: str, otherwise: bool) -> bool:
    found = parameters.get(name, otherwise)
    if not isinstance(found, bool):
        raise BadRequest(f"{name} is neither true nor false")
    return found
