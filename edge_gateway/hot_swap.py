"""Another version of a model takes over while frames come in: tried, loaded, noted, and only then does it serve.

At any failure before the last step the old one serves on, and a crash leaves the old one or the new one.
"""

from __future__ import annotations

import logging
from pathlib import Path

from edge_gateway import trial
from edge_gateway.bundle import Bundle, load_bundle, weights_bytes
from edge_gateway.engines.engine import EngineFailed
from edge_gateway.models import Models
from edge_gateway.swaps import Swaps
from edge_gateway.window_input import WindowSettings
from millrace import crashpoints
from millrace.blobs import StorageFailed
from millrace.settings import ConfigError

log = logging.getLogger(__name__)

PAUSE_S = 0.05
"""Between two interpreters that are loaded beside the line: what one held up is through before the next."""
READY_S = 60.0
"""For so long the old one serves on while the new one's accelerator is opened: else the CPU would serve meanwhile."""


class SwapRefused(Exception):
    """A bundle that may not serve; the message says why, and that the old one serves on."""


def swap(models: Models, place: int, folder: Path, swaps: Swaps) -> str:
    """Have the bundle in `folder` serve at `place` from the next frame on; return its name.

    Errors: SwapRefused, StorageFailed if it cannot be noted; then nothing has changed.
    """
    settings, present = models.settings[place], models.bundles[place]
    try:
        models.check_room(str(folder), weights_bytes(folder))  # before so much is read
        bundle = load_bundle(folder)
        _check_successor(bundle, present)
        memory_bytes = trial.memory_bytes(bundle, settings, models.max_pixels, models.engines[place])
        models.check_room(bundle.name, memory_bytes)
        serving = models.open(place, bundle, PAUSE_S)
        serving.memory_bytes = memory_bytes  # measured where nothing else was going on
        serving.guard.wait_tried(READY_S)
    except (ConfigError, EngineFailed, trial.TrialFailed) as error:
        log.error('swap_refused binding=%s folder=%s error="%s"', settings.binding, folder, error)
        raise SwapRefused(f"{error}; {present.name} serves on") from None
    crashpoints.reached("swap.loaded")
    try:
        swaps.note(settings, bundle)
    except StorageFailed:
        serving.retire()
        raise
    crashpoints.reached("swap.noted")
    models.exchange(place, serving)
    log.info("model_swapped binding=%s from=%s to=%s folder=%s", settings.binding, present.name, bundle.name, folder)
    return bundle.name


def _check_successor(bundle: Bundle, present: Bundle) -> None:
    """Raise ConfigError unless it is another version of the same model."""
    if bundle.manifest.name != present.manifest.name:
        raise ConfigError(
            [
                f"{bundle.folder}: holds {bundle.name}, which is no version of {present.manifest.name}:"
                f" to bind another model, change the settings and start again"
            ]
        )
    if bundle.name == present.name and bundle.digest != present.digest:
        raise ConfigError([f"{bundle.folder}: is another model than {present.name}, so give it another version"])
    if _window(bundle) != _window(present):
        raise ConfigError(
            [
                f"{bundle.folder}: takes {_window(bundle)}, and {present.name} {_window(present)}:"
                f" to bind another kind of model, change the settings and start again"
            ]
        )


def _window(bundle: Bundle) -> str:
    """Return in words what a model's input is made of, as far as the line has to know it."""
    wanted = bundle.manifest.input
    if not isinstance(wanted, WindowSettings):
        return "pictures"
    return f"windows (values: {wanted.values}, samples: {wanted.samples}, hop: {wanted.hop}, rate_hz: {wanted.rate_hz})"
