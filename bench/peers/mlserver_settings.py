"""The two files that MLServer starts from."""

from __future__ import annotations

import json
from pathlib import Path

from millrace.demo.ports import free_port


def write_settings(folder: Path, model: str, port: int, workers: int) -> None:
    """Write settings.json and model-settings.json into a new folder."""
    folder.mkdir()
    server = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": free_port(),
        "metrics_port": free_port(),
        "parallel_workers": workers,
        "debug": False,
    }
    (folder / "settings.json").write_text(json.dumps(server))
    served = {"name": "mobilenet", "implementation": "mlserver_model.Classifier", "parameters": {"uri": model}}
    (folder / "model-settings.json").write_text(json.dumps(served))
