"""Every topic: who writes it, who reads it, its QoS and retain flag; nothing else in the project spells a topic."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

LEVEL = re.compile(r"[a-z0-9-]+\Z")
LEVEL_MAX_CHARS = 64
DEFAULT_PREFIX = "millrace"
PARSED_KEPT = 4096
"""Of so many good topics the meaning is remembered: each message has one, and most had it before."""


class Party(Enum):
    """Who may write or read a topic."""

    DEVICE = "the device"
    GATEWAY = "gateways"
    ALL = "all"


class Kind(Enum):
    """What a topic carries. The value is the topic's word on the wire."""

    FRAME = "frame"
    READING = "reading"
    WAVEFORM = "waveform"
    DEVICE_LEDGER = "ledger"
    DEVICE_STATUS = "status"
    RESULT = "result"
    VERDICT = "verdict"
    RECEIPT = "receipt"
    COMMAND = "command"
    GATEWAY_STATUS = "gateway status"
    GATEWAY_MODEL = "gateway model"
    GATEWAY_ALARM = "gateway alarm"


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the topic table; `pattern` stands below the prefix."""

    pattern: str
    writer: Party
    readers: Party
    retain: bool = False
    qos: int = 1


TABLE: dict[Kind, Rule] = {
    Kind.FRAME: Rule("device/{device}/frame/{channel}", Party.DEVICE, Party.GATEWAY),
    Kind.READING: Rule("device/{device}/reading/{channel}", Party.DEVICE, Party.GATEWAY),
    Kind.WAVEFORM: Rule("device/{device}/waveform/{channel}", Party.DEVICE, Party.GATEWAY),
    Kind.DEVICE_LEDGER: Rule("device/{device}/ledger", Party.DEVICE, Party.GATEWAY),
    Kind.DEVICE_STATUS: Rule("device/{device}/status", Party.DEVICE, Party.ALL, retain=True),
    Kind.RESULT: Rule("device/{device}/result/{channel}", Party.GATEWAY, Party.ALL),
    Kind.VERDICT: Rule("device/{device}/verdict/{channel}", Party.GATEWAY, Party.ALL),
    Kind.RECEIPT: Rule("device/{device}/receipt", Party.GATEWAY, Party.DEVICE),
    Kind.COMMAND: Rule("device/{device}/command", Party.GATEWAY, Party.DEVICE),
    Kind.GATEWAY_STATUS: Rule("gateway/{gateway}/status", Party.GATEWAY, Party.ALL, retain=True),
    Kind.GATEWAY_MODEL: Rule("gateway/{gateway}/model", Party.GATEWAY, Party.ALL, retain=True),
    Kind.GATEWAY_ALARM: Rule("gateway/{gateway}/alarm", Party.GATEWAY, Party.ALL, retain=True),
}

_WORDS = {(rule.pattern.split("/")[0], rule.pattern.split("/")[2]): kind for kind, rule in TABLE.items()}


class BadTopic(ValueError):
    """A topic that is not ours or whose names are outside `[a-z0-9-]+`; `nearest` is the nearest good topic."""

    def __init__(self, topic: str, why: str, nearest: str | None = None) -> None:
        hint = f"; try {nearest}" if nearest else ""
        super().__init__(f"topic {topic[:200]!r}: {why}{hint}")
        self.topic = topic
        self.nearest = nearest


@dataclass(frozen=True, slots=True)
class Topic:
    """A parsed topic: its kind, the device or gateway it belongs to, and the channel where it has one."""

    kind: Kind
    owner: str
    channel: str | None = None


def check_level(name: str, what: str = "name") -> str:
    """Return `name` if it may stand in a topic; ValueError with the nearest good one if not."""
    if LEVEL.match(name) and len(name) <= LEVEL_MAX_CHARS:
        return name
    raise ValueError(
        f"{what} {name[:80]!r} must be 1 to {LEVEL_MAX_CHARS} of a-z, 0-9 and '-'; try {nearest_level(name)!r}"
    )


def check_prefix(prefix: str) -> str:
    """Return `prefix` if each of its levels is good; a unified-namespace path is allowed.

    The last level may not be "device": a gateway's source would read like that of a device called "gateway".
    """
    levels = prefix.split("/")
    for level in levels:
        check_level(level, f"prefix {prefix[:80]!r}: level")
    if levels[-1] == "device":
        raise ValueError(f"prefix {prefix[:80]!r} must not end in 'device'; try {prefix + 's'!r}")
    return prefix


def nearest_level(name: str) -> str:
    """Return the nearest name that may stand in a topic: `Cam_01` gives `cam-01`; a good name stays."""
    if LEVEL.match(name) and len(name) <= LEVEL_MAX_CHARS:
        return name
    return re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")[:LEVEL_MAX_CHARS] or "unnamed"


def topic(prefix: str, kind: Kind, owner: str, channel: str | None = None) -> str:
    """Return the topic of `kind` for a device or gateway, and for a channel where the kind has one."""
    rule = TABLE[kind]
    check_level(owner, "name")
    if "{channel}" in rule.pattern:
        check_level(channel or "", "channel")
    return f"{prefix}/{rule.pattern.format(device=owner, gateway=owner, channel=channel)}"


def subscription(prefix: str, kind: Kind, owner: str = "+") -> str:
    """Return the filter that receives all of `kind`, names that will be refused too, so that they can be shown."""
    rule = TABLE[kind]
    return f"{prefix}/{rule.pattern.format(device=owner, gateway=owner, channel='#')}"


@lru_cache(PARSED_KEPT)
def parse(prefix: str, text: str) -> Topic:
    """Return what a topic means; BadTopic, with the nearest good topic, where it means nothing."""
    inside = text.removeprefix(prefix + "/")
    levels = inside.split("/")
    kind = _WORDS.get((levels[0], levels[2])) if inside != text and len(levels) >= 3 else None
    if kind is None:
        raise BadTopic(text, f"not one of ours under {prefix!r}")
    wanted = len(TABLE[kind].pattern.split("/"))
    names = levels[1:2] + levels[3:]
    if len(levels) == wanted and all(LEVEL.match(name) and len(name) <= LEVEL_MAX_CHARS for name in names):
        return Topic(kind, levels[1], levels[3] if wanted == 4 else None)
    good = [levels[0], nearest_level(levels[1]), levels[2]]
    if wanted == 4:
        good.append(nearest_level("-".join(levels[3:])))
    raise BadTopic(text, "a name must be of a-z, 0-9 and '-'", f"{prefix}/{'/'.join(good)}")


def device_source(prefix: str, device: str, channel: str) -> str:
    """Return the CloudEvents `source` of what a device sends on a channel."""
    return f"/{prefix}/device/{device}/{channel}"


def gateway_source(prefix: str, gateway: str) -> str:
    """Return the CloudEvents `source` of what a gateway says."""
    return f"/{prefix}/gateway/{gateway}"


def origin_of(source: str) -> str:
    """Return who numbered an event: `device/cam-1` or `gateway/g1`; seqs run without gaps for each origin."""
    levels = source.split("/")
    if len(levels) >= 5 and levels[-3] == "device" and LEVEL.match(levels[-2]):
        return f"device/{levels[-2]}"
    if len(levels) >= 4 and levels[-2] == "gateway" and LEVEL.match(levels[-1]):
        return f"gateway/{levels[-1]}"
    raise ValueError(f"source {source[:80]!r} names no device and no gateway")
