"""A gateway as it is run, on an accelerator that hangs: every frame gets one result, and whoever looks is told."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from faults.bad_delegate import build
from integration.brokers import Address, Client, start_mosquitto, wait_until
from integration.test_gateway import START_S, Floor, Gateway, running

from millrace import events
from millrace.entries import Lane
from millrace.outbox_reader import Reader
from millrace_models import bundle_path

FRAMES = 20


def picture(number: int) -> bytes:
    noise = np.random.default_rng(number).integers(0, 255, (96, 128, 3), np.uint8)
    return bytes(cv2.imencode(".jpg", noise)[1].tobytes())


def accelerator(gateway: Gateway) -> dict[str, Any]:
    (found,) = gateway.health()[1]["accelerators"]
    said: dict[str, Any] = found
    return said


def is_in(gateway: Gateway, state: str) -> None:
    wait_until(lambda: accelerator(gateway)["state"] == state, f"the accelerator is {state}", START_S)


def tells(models: Client, state: str) -> bool:
    """Wait until the retained word on models says this state of the accelerator, and return whether it says why."""
    while (said := json.loads(models.next().payload)["models"][0]["accelerators"][0])["state"] != state:
        continue
    return (said["reason"] != "") == (state == "failed")


@pytest.mark.mosquitto
def test_every_frame_gets_one_result_while_an_accelerator_hangs_and_the_status_tells(tmp_path: Path) -> None:
    ill = tmp_path / "ill"
    delegate = {"library": str(build(tmp_path)), "options": {"mode": "hang", "while": str(ill)}}
    name = f"bad_delegate.so,mode=hang,while={ill}"
    labels = f'accelerator="{name}",model="parts@1"'
    serves = f"millrace_engine_primary{{{labels}}}"
    hung = f'millrace_engine_fallbacks_total{{{labels},reason="hung"}}'
    with ExitStack() as stack:
        broker = stack.enter_context(start_mosquitto(tmp_path / "mosquitto"))
        address = Address(broker.host, broker.port)
        gateway = stack.enter_context(
            running(
                tmp_path / "gateway",
                address,
                models=[{"bundle": str(bundle_path("parts")), "delegates": [delegate]}],
                accelerators={"deadline_s": 0.5, "retry_first_s": 0.2},
                workers=2,
            )
        )
        is_in(gateway, "serving")
        assert (gateway.metric(serves), gateway.metric(hung)) == (1, 0)
        floor = Floor(address, gateway, stack)
        device, models = floor.device(), floor.client("millrace/gateway/g1/model")
        assert tells(models, "serving")
        for seq in range(1, FRAMES + 1):
            if seq == FRAMES // 2:
                ill.touch()
            device.send("frame/camera", device.frame(seq, picture(seq)))
        results = [device.next("result") for _ in range(FRAMES)]
        ids = [f"{device.name}/camera/{device.key(seq).id}" for seq in range(1, FRAMES + 1)]
        assert [result["subject"] for result in results] == ids
        assert {result["data"]["model"] for result in results} == {"parts@1"}

        is_in(gateway, "failed")
        status, said = gateway.health()
        wanted = f"parts@1 runs on the CPU, not on {name}: hung: model parts@1: no answer in 0.5 s"
        assert (status, said["ok"], said["problems"], said["degraded"]) == (200, False, [], [wanted])
        assert (gateway.metric(serves), gateway.metric(hung)) == (0, 1)
        assert tells(models, "failed")

        ill.unlink()
        is_in(gateway, "serving")
        assert gateway.health()[1]["ok"]
        assert device.is_answered()
        assert gateway.stop() == 0
        assert "Traceback" not in gateway.log()


@pytest.mark.mosquitto
def test_a_device_whose_frames_hang_holds_up_no_other_and_after_a_kill_each_has_one_result_in_order(
    tmp_path: Path,
) -> None:
    ill = tmp_path / "ill"
    delegate = {"library": str(build(tmp_path)), "options": {"mode": "hang", "while": str(ill)}}
    parts = {"bundle": str(bundle_path("parts"))}
    heavy = {"name": "heavy", "channels": ["dev-1/*"], "delegates": [delegate], "workers_ratio": 0.5}
    with ExitStack() as stack:
        broker = stack.enter_context(start_mosquitto(tmp_path / "mosquitto"))
        address = Address(broker.host, broker.port)
        models = [parts | heavy, parts | {"name": "light", "channels": ["dev-2/*"]}]
        gateway = stack.enter_context(
            running(tmp_path / "gateway", address, models=models, accelerators={"deadline_s": 60}, workers=2)
        )
        is_in(gateway, "serving")
        floor = Floor(address, gateway, stack)
        hanging, other = floor.device(), floor.device()
        ill.touch()
        for seq in range(1, 4):
            hanging.send("frame/camera", hanging.frame(seq, picture(seq)))
        hanging.send("reading/belt", hanging.reading(4))
        for seq in range(1, 21):
            if seq % 2:
                other.send("frame/camera", other.frame(seq, picture(seq)))
            else:
                other.send("reading/belt", other.reading(seq))
        while other.next("receipt")["ranges"] != [[1, 20]]:
            continue
        assert hanging.mqtt.received.empty()

        gateway.process.kill()
        gateway.process.wait(START_S)
        ill.unlink()
        gateway.start()
        results = [hanging.next("result")["subject"] for _ in range(3)]
        assert results == [f"dev-1/camera/{hanging.key(seq).id}" for seq in range(1, 4)]
        while hanging.next("receipt")["ranges"] != [[1, 4]]:
            continue
        assert stored(gateway) == Counter([*results, *(f"dev-2/camera/{other.key(seq).id}" for seq in range(1, 21, 2))])


def stored(gateway: Gateway) -> Counter[str]:
    """Return how many results of each frame the gateway holds."""
    reader = Reader(gateway.home / "state" / "gateway.db")
    bodies = [json.loads(row.body) for row in reader.read(Lane.RESULT, 0, 10_000)]
    reader.close()
    return Counter(body["subject"] for body in bodies if body["type"] == events.RESULT)
