"""An article's service: Flask, OpenCV, full decode, /255, a float model. flask_cv2 MODEL PORT."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import onnxruntime
from flask import Flask, jsonify, request

app = Flask(__name__)
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])


@app.route("/predict", methods=["POST"])
def predict():
    """Answer one uploaded picture."""
    data = np.frombuffer(request.files["image"].read(), np.uint8)
    image = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    image = cv2.resize(image, (224, 224)) / 255.0
    tensor = np.expand_dims(image.astype(np.float32).transpose(2, 0, 1), 0)
    scores = session.run(None, {"image": tensor})[0][0]
    best = int(np.argmax(scores))
    return jsonify({"label": best, "score": float(scores[best])})


if __name__ == "__main__":
    app.run(host="127.0.0.1", port=int(sys.argv[2]))
