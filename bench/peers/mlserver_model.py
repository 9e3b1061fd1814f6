"""A runtime of MLServer as its guide shows it: base64 in, the best class out."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Classifier(MLModel):
    """One interpreter for each parallel worker."""

    async def load(self) -> bool:
        """Load the model."""
        self._interpreter = Interpreter(model_path=self.settings.parameters.uri, num_threads=1)
        self._interpreter.allocate_tensors()
        self._given = self._interpreter.get_input_details()[0]
        self._gives = self._interpreter.get_output_details()[0]["index"]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer one request."""
        (encoded,) = Base64Codec.decode_input(payload.inputs[0])
        _, height, width, _ = self._given["shape"]
        image: Any = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
        tensor = cv2.cvtColor(cv2.resize(image, (width, height)), cv2.COLOR_BGR2RGB)[np.newaxis]
        self._interpreter.set_tensor(self._given["index"], tensor)
        self._interpreter.invoke()
        scores = self._interpreter.get_tensor(self._gives)[0]
        best = np.array([int(np.argmax(scores))])
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("label", best)])
