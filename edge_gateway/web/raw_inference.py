"""Bare inference for whoever has tensors of his own: computed by the workers within HTTP's share, and kept nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from edge_gateway.engines.engine import Tensor
from edge_gateway.metrics import Metrics
from edge_gateway.models import Models, Replaced
from edge_gateway.web.room import Full, Share
from edge_gateway.web.signature import Signature, signature_of
from edge_gateway.workers import Workers
from millrace import __version__

SERVER = "millrace"
EXTENSIONS = ("binary_tensor_data", "image")


class UnknownModel(Exception):
    """No model of that name and version is served here."""


class RawInference:
    """What the Open Inference Protocol asks of the gateway, in whatever form it is asked."""

    def __init__(
        self, models: Models, workers: Workers, share: Share, metrics: Metrics, is_moving: Callable[[], bool]
    ) -> None:
        self._models, self._workers, self._share, self._metrics = models, workers, share, metrics
        self._is_moving = is_moving

    def metadata(self) -> dict[str, object]:
        """Return what the server says of itself."""
        return {"name": SERVER, "version": __version__, "extensions": list(EXTENSIONS)}

    def is_ready(self) -> bool:
        """Say whether there are models, and workers that move."""
        return bool(self._models.describe()) and self._is_moving()

    def signatures(self) -> list[Signature]:
        """Return what each model takes and gives."""
        return [signature_of(described) for described in self._models.describe()]

    def describe(self, name: str, version: str | None) -> dict[str, Any]:
        """Return what is said of a model, with every version of it that may be asked for. Errors: UnknownModel."""
        _, signature = self.find(name, version)
        manifests = [described.bundle.manifest for described in self._models.describe()]
        versions = sorted({manifest.version for manifest in manifests if manifest.name == name})
        return signature.metadata() | {"versions": [str(version) for version in versions]}

    def find(self, name: str, version: str | None) -> tuple[int, Signature]:
        """Return a model's place and signature; without a version its latest. Errors: UnknownModel."""
        named = [
            (described.bundle.manifest.version, -place, signature_of(described))
            for place, described in enumerate(self._models.describe())
            if described.bundle.manifest.name == name
        ]
        found = [one for one in named if version is None or one[2].version == version]
        if not found:
            versions = ", ".join(one[2].version for one in named)
            raise UnknownModel(f"model {name!r:.80} has the versions {versions}" if named else f"no model {name!r:.80}")
        _, place, signature = max(found, key=lambda one: one[:2])
        return -place, signature

    async def infer(
        self, place: int, signature: Signature, given: Tensor | bytes, until_s: float
    ) -> tuple[Tensor, ...]:
        """Return all outputs of the model at a place for a tensor or a picture that fits its signature.

        Errors: Full, TimeoutError at that time of the loop, BadPicture, EngineFailed.
        """
        name = f"{signature.name}@{signature.version}"
        begun = await self._share.begin(partial(self._workers.ask, place, name, given), until_s)
        try:
            async with asyncio.timeout_at(until_s):
                tensors = await asyncio.wrap_future(begun)
        except Replaced as error:
            raise Full(str(error)) from None
        self._metrics.raw_inferences.labels(name).inc()
        return tensors
