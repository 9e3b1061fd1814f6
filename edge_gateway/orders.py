"""What a person may ask of a running gateway: which models serve, and that another version takes over."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edge_gateway.hot_swap import SwapRefused, swap
from edge_gateway.models import Models
from edge_gateway.swaps import Swaps
from millrace.blobs import StorageFailed
from millrace.control import GATEWAY, BadOrder


class Orders:
    """Carries orders out, each on stable storage before it is answered. One thread uses it."""

    program = GATEWAY
    refusals: tuple[type[Exception], ...] = (SwapRefused, StorageFailed)

    def __init__(self, models: Models, swaps: Swaps) -> None:
        self._models, self._swaps = models, swaps

    def obey(self, order: Mapping[str, object]) -> dict[str, object]:
        """Do what `order["do"]` says; return the answer. Errors: BadOrder, SwapRefused, StorageFailed."""
        match order.get("do"):
            case "models":
                return {"models": self._list()}
            case "swap":
                return self._swap(str(order.get("binding")), Path(str(order.get("folder"))))
            case other:
                raise BadOrder(f"no such order: {str(other)[:40]!r}; there are models, swap")

    def close(self) -> None:
        """Nothing is held."""

    def _list(self) -> list[dict[str, object]]:
        return [
            {
                "binding": settings.binding,
                "model": bundle.name,
                "channels": settings.channels,
                "folder": str(bundle.folder),
                "memory_bytes": memory_bytes,
            }
            for settings, bundle, memory_bytes in zip(
                self._models.settings, self._models.bundles, self._models.memory_bytes, strict=True
            )
        ]

    def _swap(self, binding: str, folder: Path) -> dict[str, object]:
        places = [place for place, model in enumerate(self._models.settings) if model.binding == binding]
        if not places:
            known = ", ".join(model.binding for model in self._models.settings) or "none"
            raise BadOrder(f"no model is bound as {binding[:100]!r}; there are: {known}")
        if len(places) > 1:
            raise BadOrder(f"{len(places)} models are bound as {binding}: give each a name: in the settings")
        if not folder.is_absolute():
            raise BadOrder("folder: is no full path")
        before = self._models.bundles[places[0]].name
        return {"before": before, "model": swap(self._models, places[0], folder, self._swaps)}
