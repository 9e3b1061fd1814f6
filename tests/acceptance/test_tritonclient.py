"""A client that others wrote, NVIDIA's, talks to /v2 over HTTP and gRPC: pip install 'tritonclient[http,grpc]'."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from integration.brokers import Address, free_port
from integration.test_gateway import Gateway, running

PIXELS = np.random.default_rng(5).integers(0, 255, (96, 96, 3), np.uint8)
PNG = bytes(cv2.imencode(".png", cv2.cvtColor(PIXELS, cv2.COLOR_RGB2BGR))[1].tobytes())

pytestmark = pytest.mark.filterwarnings("default")  # what that client says of its own libraries is not ours to mend


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    port = free_port()
    http = {"port": port, "grpc_port": free_port()}
    with running(tmp_path_factory.mktemp("triton") / "g", Address("127.0.0.1", free_port()), http=http) as gateway:
        yield gateway


@pytest.fixture(params=["http", "grpc"])
def triton(request: pytest.FixtureRequest) -> ModuleType:
    try:
        return importlib.import_module(f"tritonclient.{request.param}")
    except (ImportError, RuntimeError) as error:  # it says RuntimeError where its own parts are missing
        pytest.skip(f"no tritonclient here: {error}")


@pytest.fixture
def client(triton: ModuleType, request: pytest.FixtureRequest) -> Iterator[Any]:
    gateway: Gateway = request.getfixturevalue("gateway")
    http = gateway.settings["http"]
    port = http["port"] if triton.__name__.endswith("http") else http["grpc_port"]
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        yield client


def metadata(client: Any) -> Any:
    said = client.get_model_metadata("parts", "1")
    return said if isinstance(said, dict) else {"inputs": [{"name": said.inputs[0].name}], "name": said.name}


def test_it_finds_the_gateway_and_its_model_ready(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("parts")
    assert not client.is_model_ready("nobody")
    assert metadata(client)["name"] == "parts"


def test_it_gets_the_same_from_a_tensor_and_from_its_picture(triton: ModuleType, client: Any) -> None:
    tensor = triton.InferInput(metadata(client)["inputs"][0]["name"], [1, 96, 96, 3], "UINT8")
    tensor.set_data_from_numpy(PIXELS[np.newaxis])
    picture = triton.InferInput("image", [1], "BYTES")
    picture.set_data_from_numpy(np.array([PNG], np.object_))
    answers = [client.infer("parts", [given], request_id="42") for given in (tensor, picture)]
    name = answers[0].get_response().outputs[0].name if triton.__name__.endswith("grpc") else None
    name = name or answers[0].get_response()["outputs"][0]["name"]
    first, second = (answer.as_numpy(name) for answer in answers)
    assert (first.dtype, first.shape) == (np.uint8, (1, 4))
    assert (first == second).all()


def test_its_errors_are_ours_in_words(triton: ModuleType, client: Any) -> None:
    tensor = triton.InferInput("x", [1, 2], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 2), np.float32))
    utils = importlib.import_module("tritonclient.utils")
    with pytest.raises(utils.InferenceServerException, match=r"takes the input .*; got 'x'"):
        client.infer("parts", [tensor])
