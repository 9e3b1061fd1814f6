"""What gateways and devices say of themselves in their retained messages, gathered and shown as plain text. No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from millrace import clock, jsontext, topics
from millrace.words import size, span, table, text

KINDS = (topics.Kind.GATEWAY_STATUS, topics.Kind.GATEWAY_MODEL, topics.Kind.DEVICE_STATUS)
CLOCKS_DIFFER_S = 5.0


@dataclass(slots=True)
class Floor:
    """The last word of each gateway and device; each value is the message's JSON object."""

    prefix: str
    gateways: dict[str, dict[str, Any]] = field(default_factory=dict)
    devices: dict[str, dict[str, Any]] = field(default_factory=dict)
    models: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)

    def hear(self, topic: str, payload: bytes) -> bool:
        """Take a message; False if it is none of ours. What cannot be read is kept in `unread` with the reason."""
        try:
            parsed = topics.parse(self.prefix, topic)
            value = jsontext.parse(payload) if payload else None
        except ValueError as error:
            self.unread[topic] = str(error)
            return True
        if parsed.kind not in KINDS or not isinstance(value, dict | None):
            return False
        if parsed.kind is topics.Kind.GATEWAY_MODEL:
            if value is not None:
                self.models[parsed.owner] = {
                    str(m.get("model")): m for m in value.get("models", []) if isinstance(m, dict)
                }
            return True
        known = self.gateways if parsed.kind is topics.Kind.GATEWAY_STATUS else self.devices
        if value is None:  # an empty retained message takes the last one back
            known.pop(parsed.owner, None)
        elif value.get("state") == "busy":  # a sign of life while reading is paused, and no news
            pass
        elif set(value) == {"state"}:  # the will says no more than `lost`; what was known before it still helps
            known[parsed.owner] = {**known.get(parsed.owner, {}), **value}
        else:
            known[parsed.owner] = value
        return True

    def as_json(self, protocol: str, now_ns: int) -> dict[str, Any]:
        """Return everything for programs; `age_s` is added to each status that says its time."""
        return {
            "prefix": self.prefix,
            "mqtt": protocol,
            "gateways": {
                name: {**value, "age_s": age_s(value, now_ns), "model_details": self.models.get(name, {})}
                for name, value in sorted(self.gateways.items())
            },
            "devices": {name: {**value, "age_s": age_s(value, now_ns)} for name, value in sorted(self.devices.items())},
            "unread": self.unread,
        }


def lines(floor: Floor, now_ns: int) -> Iterator[str]:
    """Yield what a person wants to see."""
    if floor.gateways:
        yield from table(_GATEWAY_HEAD, [_gateway(*item, now_ns) for item in sorted(floor.gateways.items())])
    else:
        yield f"No gateway has said anything under {floor.prefix!r}."
    for name, value in sorted(floor.gateways.items()):
        yield from _refused(name, value)
        yield from _paused(name, value)
        yield from _warnings(name, value)
        yield from _damaged(name, value)
    yield ""
    if floor.devices:
        yield from table(_DEVICE_HEAD, [_device(*item, now_ns) for item in sorted(floor.devices.items())])
    else:
        yield f"No device has said anything under {floor.prefix!r}."
    for name, value in sorted(floor.devices.items()):
        yield from _damaged(name, value)
        if value.get("too_large"):
            yield f"  {name} has made events that the broker does not take; the last one is {text(value['too_large'])}"
    for topic, reason in sorted(floor.unread.items()):
        yield f"cannot read {text(topic)}: {text(reason)}"


def age_s(value: dict[str, Any], now_ns: int) -> float | None:
    """Return how long ago a status was said, by its sender's clock; None if it does not say."""
    try:
        return round((now_ns - clock.parse_rfc3339(str(value["time"]))) / 1e9, 1)
    except (KeyError, ValueError):
        return None


_GATEWAY_HEAD = ("gateway", "state", "version", "mqtt", "models", "held", "full", "age")
_DEVICE_HEAD = ("device", "state", "mqtt", "epoch", "minted", "held", "refused", "channels", "age")


def _gateway(name: str, value: dict[str, Any], now_ns: int) -> list[str]:
    models = value.get("models")
    return [
        name,
        text(value.get("state")),
        text(value.get("version")),
        text(value.get("mqtt")),
        ", ".join(map(text, models)) or "none" if isinstance(models, list) else "-",
        _held(value.get("held_rows"), value.get("held_bytes")),
        {"True": "FULL", "False": "no"}.get(str(value.get("full")), "-"),
        _age(value, now_ns),
    ]


def _device(name: str, value: dict[str, Any], now_ns: int) -> list[str]:
    channels = value.get("channels")
    return [
        name,
        text(value.get("state")),
        text(value.get("mqtt")),
        text(value.get("epoch")),
        text(value.get("minted")),
        _held(value.get("held"), value.get("held_bytes")),
        text(value.get("refused")),
        ", ".join(f"{text(channel)} {text(state)}" for channel, state in channels.items())
        if isinstance(channels, dict)
        else "-",
        _age(value, now_ns),
    ]


def _refused(gateway: str, value: dict[str, Any]) -> Iterator[str]:
    refused = value.get("refused")
    for item in refused if isinstance(refused, list) else ():
        if isinstance(item, dict):
            hint = f"; name it {text(item['try'])}" if item.get("try") else ""
            yield f"  {gateway} refuses the topic {text(item.get('topic'))}{hint}"


def _paused(gateway: str, value: dict[str, Any]) -> Iterator[str]:
    paused = value.get("paused")
    if isinstance(paused, list) and paused:
        yield f"  {gateway} holds back from the cloud: {', '.join(map(text, paused))}; go on: millrace queue resume"


def _warnings(gateway: str, value: dict[str, Any]) -> Iterator[str]:
    if value.get("link_said"):
        yield f"  {gateway} on its link to the cloud: {text(value['link_said'])}"
    if value.get("namesake"):
        yield f"  another gateway runs as {gateway}: stop one, or give it another name"
    for item in _items(value.get("accelerators")):
        if item.get("state") == "failed":
            accelerator, reason = text(item.get("accelerator")), text(item.get("reason"))
            yield f"  {gateway} runs {text(item.get('model'))} on the CPU, not on {accelerator}: {reason}"
    denied = value.get("denied")
    if isinstance(denied, list) and denied:
        yield f"  the broker denies {gateway} to read {', '.join(map(text, denied))}: check the broker's access rules"
    bad = value.get("bad_folders")
    for folder in bad if isinstance(bad, list) else ():
        yield f"  {gateway} cannot store pictures in {text(folder)}: mend the disk, or take away what is in its place"
    for item in _items(value.get("two_agents")):
        yield f"  {gateway} hears two agents as {text(item.get('device'))}: stop one, or give it another name"
    for item in _items(value.get("over_share")):
        turned_away = text(item.get("turned_away"))
        yield f"  {gateway} turns {text(item.get('device'))} away: over its share, {turned_away} events so far"
    others = value.get("others")
    if isinstance(others, list) and others:
        yield f"  {gateway} shares the floor with {', '.join(map(text, others))}: each stores all that devices send"


def _damaged(name: str, value: dict[str, Any]) -> Iterator[str]:
    kept = value.get("damaged")
    if isinstance(kept, dict) and isinstance(count := kept.get("files"), int) and count:
        taken = f" ({size(kept['bytes'])})" if isinstance(kept.get("bytes"), int) else ""
        files = "file" if count == 1 else "files"
        yield f"  {name} keeps {count} damaged {files}{taken} until you delete what is named *.damaged-*"


def _items(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _held(rows: object, size_bytes: object) -> str:
    if not isinstance(rows, int):
        return "-"
    return f"{rows} ({size(size_bytes)})" if isinstance(size_bytes, int) else str(rows)


def _age(value: dict[str, Any], now_ns: int) -> str:
    seconds = age_s(value, now_ns)
    if seconds is None:
        return "-"
    said = span(abs(seconds))
    return said if seconds > -CLOCKS_DIFFER_S else f"its clock is {said} ahead"
