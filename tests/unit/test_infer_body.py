"""Bodies of /v2 infer: what fits the model is read, everything else is refused in words, whatever it is."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_gateway.engines.engine import TensorInfo
from edge_gateway.web.datatypes import DATATYPES, BadTensor, from_bytes, from_json, to_bytes, to_json
from edge_gateway.web.infer_body import Asked, read, write
from edge_gateway.web.signature import BadRequest, Signature

SHAPE = (1, 2, 3)


def tensor_info(name: str, dtype: type, *shape: int) -> TensorInfo:
    return TensorInfo(shape, np.dtype(dtype), 0.0, 0, name)


def signature(dtype: type = np.float32) -> Signature:
    outputs = (tensor_info("scores", np.float32, 1, 2), tensor_info("boxes", np.int32, 1, 2, 2))
    return Signature("m", "3", "tensorflow_tflite", tensor_info("x", dtype, *SHAPE), outputs)


FLOATS = signature()
NUMBERS = np.arange(6, dtype="<f4").reshape(SHAPE)


def body(binary: bytes = b"", /, *, size: object = None, **said: Any) -> tuple[bytes, int | None]:
    """Return a request for the model and where its JSON ends; what is said stands in place of what is right."""
    inputs: dict[str, Any] = {"name": "x", "shape": list(SHAPE), "datatype": "FP32"}
    if size is not None:
        inputs["parameters"] = {"binary_data_size": size}
    else:
        inputs["data"] = NUMBERS.reshape(-1).tolist()
    outer = {name: said.pop(name) for name in ("id", "outputs", "parameters", "inputs") if name in said}
    text = json.dumps({"inputs": [inputs | said], **outer}).encode()
    return text + binary, len(text) if binary or size is not None else None


def tensor_of(asked: Asked) -> np.ndarray[Any, Any]:
    assert isinstance(asked.given, np.ndarray)
    return asked.given


@pytest.mark.parametrize("data", [NUMBERS.reshape(-1).tolist(), NUMBERS.tolist()], ids=["flat", "nested"])
def test_numbers_come_flat_or_nested(data: object) -> None:
    asked = read(*body(data=data), FLOATS)
    assert (tensor_of(asked) == NUMBERS).all()
    assert (asked.id, asked.outputs) == (None, ((0, False), (1, False)))


def test_binary_data_is_the_same_tensor() -> None:
    asked = read(*body(NUMBERS.tobytes(), size=NUMBERS.nbytes, parameters={"binary_data_output": True}), FLOATS)
    assert (tensor_of(asked) == NUMBERS).all()
    assert asked.outputs == ((0, True), (1, True))


def test_an_output_decides_for_itself_and_comes_in_the_order_wanted() -> None:
    outputs = [{"name": "boxes"}, {"name": "scores", "parameters": {"binary_data": False}}]
    asked = read(*body(id="42", outputs=outputs, parameters={"binary_data_output": True}), FLOATS)
    assert (asked.id, asked.outputs) == ("42", ((1, True), (0, False)))
    tensors = (np.array([[0.25, 0.75]], np.float32), np.array([[[1, 2], [3, 4]]], np.int32))
    answer, json_bytes = write(FLOATS, asked, tensors)
    assert json_bytes is not None
    assert json.loads(answer[:json_bytes]) == {
        "model_name": "m",
        "model_version": "3",
        "id": "42",
        "outputs": [
            {"name": "boxes", "datatype": "INT32", "shape": [1, 2, 2], "parameters": {"binary_data_size": 16}},
            {"name": "scores", "datatype": "FP32", "shape": [1, 2], "data": [0.25, 0.75]},
        ],
    }
    assert answer[json_bytes:] == tensors[1].tobytes()


def test_an_answer_without_binary_data_is_json_alone() -> None:
    answer, json_bytes = write(FLOATS, Asked(b"", ((0, False),)), (np.array([[0.5, 0.5]], np.float32),))
    assert json_bytes is None
    assert json.loads(answer)["outputs"][0]["data"] == [0.5, 0.5]
    assert "id" not in json.loads(answer)


def test_what_json_cannot_say_is_refused_with_the_way_out() -> None:
    with pytest.raises(BadTensor, match="output 'scores' has values that JSON has not"):
        write(FLOATS, Asked(b"", ((0, False),)), (np.array([[np.nan, 1]], np.float32),))


@pytest.mark.parametrize("shape", [[1], [1, 1]])
def test_a_picture_comes_as_an_element_of_bytes_or_in_base64(shape: list[int]) -> None:
    element = len(b"JPEG").to_bytes(4, "little") + b"JPEG"
    said = {"name": "image", "datatype": "BYTES", "shape": shape}
    assert read(*body(element, size=8, **said), FLOATS).given == b"JPEG"
    assert read(*body(data=[base64.b64encode(b"JPEG").decode()], **said), FLOATS).given == b"JPEG"


PICTURE = {"name": "image", "datatype": "BYTES", "shape": [1]}
RAW = NUMBERS.tobytes()
WRONG: dict[str, tuple[tuple[bytes, int | None], str]] = {
    "no JSON": ((b"hello", None), "the body is no JSON: "),
    "not an object": ((b"[]", None), "no JSON object"),
    "nothing": ((b"", None), "no JSON"),
    "no input": (body(inputs=[]), "has one input"),
    "two inputs": (body(inputs=[{}, {}]), "has one input"),
    "an input that is none": (body(inputs=["x"]), "has one input"),
    "another name": (body(name="y"), "takes the input 'x', or 'image' of BYTES; got 'y'"),
    "another type": (body(datatype="INT8"), "input 'x' is of FP32; got 'INT8'"),
    "a type that is none": (body(datatype=["FP32"]), "got \\['FP32'\\]"),
    "another shape": (body(shape=[2, 3]), "has the shape \\[1, 2, 3\\]; got \\[2, 3\\]"),
    "a negative side": (body(shape=[1, -2, -3]), "no list of sizes"),
    "a side that is no number": (body(shape=[1, True, 3]), "no list of sizes"),
    "no shape": (body(shape=None), "no list of sizes"),
    "too many sides": (body(shape=[1] * 17), "a shape of 17 sides; at most 16"),
    "a number missing": (body(data=[1, 2, 3, 4, 5]), "data has 5 elements; shape \\[1, 2, 3\\] has 6"),
    "nested otherwise": (body(data=[[[1, 2], [3, 4], [5, 6]]]), "not as shape"),
    "ragged": (body(data=[[[1, 2, 3], [4, 5]]]), "not as shape"),
    "half nested": (body(data=[[1, 2, 3], 4, 5, 6]), "holds list|elements"),
    "text for a number": (body(data=["1", 2, 3, 4, 5, 6]), "FP32 holds str"),
    "null": (body(data=[None, 2, 3, 4, 5, 6]), "holds NoneType"),
    "true": (body(data=[True, 2, 3, 4, 5, 6]), "holds bool"),
    "too large for FP32": (body(data=[1e39, 2, 3, 4, 5, 6]), "a number that FP32 cannot hold"),
    "too large for any": ((b'{"inputs":[{"x":' + b"9" * 400 + b"}]}", None), "integer of 400 digits"),
    "no list": (body(data=7), "data is no list"),
    "neither data nor binary": ((b'{"inputs":[{"name":"x","shape":[1,2,3],"datatype":"FP32"}]}', None), "either data"),
    "both": (body(RAW, size=24, data=[1]), "either data, or"),
    "binary data of nobody": (body(RAW), "24 bytes of binary data belong to no input"),
    "cut short": (body(RAW[:-1], size=24), "binary_data_size is 24, and 23 bytes"),
    "too much": (body(RAW + b"x", size=24), "binary_data_size is 24, and 25 bytes"),
    "a negative size": (body(RAW, size=-24), "binary_data_size is -24"),
    "a size that is no number": (body(RAW, size="24"), "binary_data_size is '24', and 24"),
    "a size that is true": (body(b"x", size=True), "binary_data_size is True"),
    "the wrong number of bytes": (body(RAW[:20], size=20), "20 bytes; FP32 of shape \\[1, 2, 3\\] has 24"),
    "a length beyond the body": ((b"{}", 3), "Inference-Header-Content-Length is 3, and the body has 2"),
    "a length within the JSON": ((body()[0], 5), "no JSON"),
    "two pictures": (body(b"\0" * 8, size=8, **PICTURE | {"shape": [2]}), "holds one picture"),
    "an element cut short": (body(b"\x09\0\0\0JPEG", size=8, **PICTURE), "not one element of BYTES"),
    "an element without a length": (body(b"\0\0", size=2, **PICTURE), "not one element of BYTES"),
    "no base64": (body(data=["JPEG!"], **PICTURE), "no base64"),
    "base64 of nobody": (body(data=["Käse"], **PICTURE), "no base64"),
    "a picture of numbers": (body(data=[1], **PICTURE), "one string, base64"),
    "an unknown output": (body(outputs=[{"name": "y"}]), "gives 'scores', 'boxes'; got 'y'"),
    "an output that is none": (body(outputs=["scores"]), "no list of objects"),
    "outputs that are none": (body(outputs={"name": "scores"}), "no list of objects"),
    "more outputs than there are": (body(outputs=[{"name": "scores"}] * 3), "3 outputs are wanted"),
    "parameters that are none": (body(parameters=[]), "parameters is no object"),
    "a flag that is a number": (body(parameters={"binary_data_output": 1}), "binary_data_output is neither"),
    "an id that is a number": (body(id=42), "id is no string"),
    "a bomb of lists": ((b'{"inputs":[' + b"[]," * 2000 + b"0]}", None), "values in the JSON; at most"),
    "a deep one": ((b"[" * 500 + b"]" * 500, None), "nested deeper"),
    "not a number": ((b'{"inputs": NaN}', None), "NaN is not JSON"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_refused_in_words(what: str) -> None:
    request, said = WRONG[what]
    with pytest.raises(BadRequest, match=said) as refused:
        read(*request, FLOATS)
    assert len(str(refused.value)) < 400


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["x", "FP32", "image"]),
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.dictionaries(
            st.sampled_from(["name", "shape", "datatype", "data", "parameters", "binary_data_size"]), inner
        )
    ),
    max_leaves=12,
)


@settings(max_examples=50)
@given(
    said=st.dictionaries(st.sampled_from(["name", "shape", "datatype", "data", "parameters"]), JUNK),
    outer=st.dictionaries(st.sampled_from(["id", "outputs", "parameters", "inputs"]), JUNK),
    binary=st.binary(max_size=30),
    length=st.none() | st.integers(0, 400),
)
def test_whatever_comes_is_read_or_refused(
    said: dict[str, Any], outer: dict[str, Any], binary: bytes, length: int | None
) -> None:
    """An error of any other kind would be a 500."""
    inputs = {"name": "x", "shape": list(SHAPE), "datatype": "FP32", "data": NUMBERS.tolist()} | said
    text = json.dumps({"inputs": [inputs]} | outer).encode()
    try:
        asked = read(text + binary, length if length is not None else len(text), FLOATS)
    except BadRequest:
        return
    assert isinstance(asked.given, bytes) or asked.given.shape == SHAPE


@given(st.binary(max_size=200), st.none() | st.integers(0, 250))
def test_bytes_of_any_kind_are_refused(noise: bytes, length: int | None) -> None:
    with pytest.raises(BadRequest):
        read(noise, length, FLOATS)


@given(cut=st.integers(0, 400), flip=st.integers(0, 399), bit=st.integers(0, 7))
def test_a_good_body_cut_or_flipped_is_read_or_refused(cut: int, flip: int, bit: int) -> None:
    whole, length = body(RAW, size=24)
    damaged = bytearray(whole[:cut])
    if flip < len(damaged):
        damaged[flip] ^= 1 << bit
    try:
        asked = read(bytes(damaged), length, FLOATS)
    except BadRequest:
        return
    assert len(damaged) == len(whole)
    assert tensor_of(asked).shape == SHAPE


@given(name=st.sampled_from(sorted(DATATYPES)), raw=st.binary(min_size=48, max_size=48))
def test_every_type_comes_back_as_it_went(name: str, raw: bytes) -> None:
    dtype = DATATYPES[name]
    data = raw[: 6 * dtype.itemsize] if name != "BOOL" else bytes(byte & 1 for byte in raw[:6])
    tensor = from_bytes(data, SHAPE, dtype)
    assert (tensor.dtype, to_bytes(tensor)) == (dtype, data)
    try:
        values = to_json(tensor)
    except BadTensor:
        assert not np.isfinite(tensor).all()
        return
    assert (from_json(values, SHAPE, dtype) == tensor).all()


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("UINT8", [256, 0, 0, 0, 0, 0], "UINT8 cannot hold"),
        ("UINT8", [-1, 0, 0, 0, 0, 0], "UINT8 cannot hold"),
        ("INT8", [1.0, 0, 0, 0, 0, 0], "INT8 holds float"),
        ("BOOL", [1, 0, 0, 0, 0, 0], "BOOL holds int"),
        ("FP16", [65536, 0, 0, 0, 0, 0], "FP16 cannot hold"),
    ],
)
def test_no_number_is_bent_into_its_type(name: str, data: list[object], said: str) -> None:
    with pytest.raises(BadTensor, match=said):
        from_json(data, SHAPE, DATATYPES[name])


def test_bytes_that_are_no_truth_are_refused() -> None:
    with pytest.raises(BadTensor, match="neither 0 nor 1"):
        from_bytes(b"\0\1\2\0\0\0", SHAPE, DATATYPES["BOOL"])


def test_the_limits_of_a_body_fit_the_model() -> None:
    pixels = Signature("m", "1", "p", tensor_info("x", np.uint8, 1, 224, 224, 3), ())
    longest = json.dumps(np.full((1, 224, 224, 3), 255).tolist(), indent=None).encode()
    assert len(longest) < pixels.max_bytes(1)
    assert sum(map(longest.count, (b",", b"[", b"{"))) < pixels.max_values()
    assert pixels.max_bytes(90 << 20) > 120 << 20  # a picture in base64
