"""Which programs have a settings file, the model of each, and which of them a file is most likely for."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from millrace.settings import ConfigError, load

# The core imports no program, so the models are named here and imported when they are asked for.
MODELS = {
    "agent": ("device_agent.settings", "AgentSettings"),
    "gateway": ("edge_gateway.settings", "GatewaySettings"),
    "sync": ("cloud_sync.settings", "SyncSettings"),
    "cloud": ("cloud_sync.reference_cloud.settings", "CloudSettings"),
    "broker": ("broker_config.settings", "BrokerConfig"),
}


class _AnyKeys(BaseModel):
    """A file of which only the first level's keys are wanted."""

    model_config = ConfigDict(extra="allow")


def model_of(program: str) -> type[BaseModel]:
    """Return the model of a program's settings."""
    module, name = MODELS[program]
    model: type[BaseModel] = getattr(importlib.import_module(module), name)
    return model


def program_of(path: Path) -> str:
    """Return the program that a settings file is for; ConfigError where it cannot be read or fits several."""
    keys = load(path, _AnyKeys).model_extra or {}
    likely = guess(keys, path.name, {program: model_of(program).model_fields for program in MODELS})
    if len(likely) > 1:
        raise ConfigError([f"{path}: may be for {', '.join(likely)}; say which with --program"])
    return likely[0]


def guess(keys: Iterable[str], file_name: str, known: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the programs that know most of a file's keys; where several do, the one that the file's name names."""
    keys = set(keys)
    fits = {program: len(keys & set(fields)) - len(keys - set(fields)) for program, fields in known.items()}
    best = [program for program in fits if fits[program] == max(fits.values())]
    words = re.split(r"[^a-z]+", file_name.lower())
    named = [program for program in best if program in words]
    return named if len(named) == 1 else best
