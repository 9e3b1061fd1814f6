"""An article's service: Flask, Pillow, full decode, /255, a model made smaller by quantize_dynamic.

flask_pillow MODEL PORT
"""

from __future__ import annotations

import io
import sys

import numpy as np
import onnxruntime
from flask import Flask, jsonify, request
from PIL import Image

app = Flask(__name__)
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])


@app.route("/predict", methods=["POST"])
def predict():
    """Answer one uploaded picture."""
    image = Image.open(io.BytesIO(request.files["image"].read())).convert("RGB").resize((224, 224))
    tensor = np.asarray(image) / 255.0
    tensor = np.expand_dims(tensor.transpose(2, 0, 1), 0).astype(np.float32)
    scores = session.run(None, {"image": tensor})[0][0]
    best = int(np.argmax(scores))
    return jsonify({"label": best, "score": float(scores[best])})


if __name__ == "__main__":
    app.run(host="127.0.0.1", port=int(sys.argv[2]))
