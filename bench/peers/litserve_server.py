"""LitServe as its guide shows it: decode, predict, encode, a worker for each core. litserve_server MODEL PORT."""

from __future__ import annotations

import base64
import os
import sys
from typing import Any

import cv2
import litserve as ls
import numpy as np
from ai_edge_litert.interpreter import Interpreter

MODEL, PORT = sys.argv[1], int(sys.argv[2])


class Classifier(ls.LitAPI):
    """One interpreter for each worker."""

    def setup(self, device: str) -> None:
        """Load the model."""
        self._interpreter = Interpreter(model_path=MODEL, num_threads=1)
        self._interpreter.allocate_tensors()
        self._given = self._interpreter.get_input_details()[0]
        self._gives = self._interpreter.get_output_details()[0]["index"]

    def decode_request(self, request: dict[str, str]) -> Any:
        """Return a tensor."""
        _, height, width, _ = self._given["shape"]
        encoded = np.frombuffer(base64.b64decode(request["image"]), np.uint8)
        image: Any = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
        return cv2.cvtColor(cv2.resize(image, (width, height)), cv2.COLOR_BGR2RGB)[np.newaxis]

    def predict(self, tensor: Any) -> Any:
        """Return the scores."""
        self._interpreter.set_tensor(self._given["index"], tensor)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._gives)[0]

    def encode_response(self, scores: Any) -> dict[str, float]:
        """Return the best class."""
        best = int(np.argmax(scores))
        return {"label": best, "score": float(scores[best])}


if __name__ == "__main__":
    server = ls.LitServer(Classifier(), accelerator="cpu", workers_per_device=len(os.sched_getaffinity(0)))
    server.run(host="127.0.0.1", port=PORT, generate_client_file=False, log_level="warning")
