"""The gateway that a first tutorial leads to: everything in on_message, one insert for each result.

naive_gateway PORT MODEL DATABASE; frames on naive/frame/ID, results on naive/result/ID.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import cv2
import numpy as np
import paho.mqtt.client as mqtt
import sqlite_utils
from ai_edge_litert.interpreter import Interpreter
from paho.mqtt.enums import CallbackAPIVersion

PORT, MODEL, DATABASE = int(sys.argv[1]), sys.argv[2], sys.argv[3]
database = sqlite_utils.Database(DATABASE)
interpreter = Interpreter(model_path=MODEL)
interpreter.allocate_tensors()


def predict(picture: bytes) -> tuple[int, float]:
    """Return the best class and its score."""
    details = interpreter.get_input_details()[0]
    _, height, width, _ = details["shape"]
    pixels: Any = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    pixels = cv2.cvtColor(cv2.resize(pixels, (width, height)), cv2.COLOR_BGR2RGB)
    interpreter.set_tensor(details["index"], np.expand_dims(pixels, 0))
    interpreter.invoke()
    scores = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]
    best = int(np.argmax(scores))
    return best, float(scores[best]) / 255


def on_message(client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
    """Infer, store, answer."""
    frame = message.topic.rsplit("/", 1)[1]
    label, score = predict(message.payload)
    database["results"].insert({"frame": frame, "label": label, "score": score, "time": time.time()})
    client.publish(f"naive/result/{frame}", json.dumps({"label": label, "score": score}), qos=1)


client = mqtt.Client(CallbackAPIVersion.VERSION2)
client.on_message = on_message
client.on_connect = lambda client, *_: client.subscribe("naive/frame/+", 1)
client.connect("127.0.0.1", PORT)
client.loop_forever()
