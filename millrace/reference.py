"""The keys of a settings model as a person reads them: path, type, unit, default and description, from its schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]

_UNITS = {
    "s": "seconds",
    "ms": "milliseconds",
    "bytes": "bytes",
    "px": "pixels",
    "pixels": "pixels",
    "hz": "hertz",
    "fps": "frames a second",
    "rows": "rows",
    "samples": "samples",
    "ratio": "share of 1",
    "share": "share of 1",
}
_TYPES = {"integer": "integer", "number": "number", "boolean": "true or false", "null": "none"}
_SIZES = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_SPANS = ((86400, "days"), (3600, "hours"))


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `path` has NAME for a name of the file's own and [] for a list's place; `when` is, say, `kind: camera`.

    `default` is None where the key is needed, and empty for a section, whose keys have their own.
    """

    path: str
    when: str | None
    type: str
    unit: str | None
    default: str | None
    description: str


def keys_of(model: type[BaseModel]) -> list[Key]:
    """Return every key of a model, sections before what is in them."""
    schema = model.model_json_schema()
    return list(_Walk(schema.get("$defs", {})).section(schema, "", None))


def editor_schema(model: type[BaseModel]) -> Schema:
    """Return the JSON Schema for editors, as draft 7, which all of them read."""
    schema = model.model_json_schema(ref_template="#/definitions/{model}")
    definitions = schema.pop("$defs", {})
    return {"$schema": "http://json-schema.org/draft-07/schema#", **schema, "definitions": definitions}


def find(keys: list[Key], wanted: str) -> list[Key]:
    """Return the keys at a path and below it; `channels.top.gate` finds `channels.NAME.gate`."""
    steps = _steps(wanted)
    return [key for key in keys if _leads_to(steps, _steps(key.path))]


def markdown(models: Mapping[str, type[BaseModel]]) -> str:
    """Return the page with every key of every program."""
    parts = [_PREFACE]
    for program, model in models.items():
        parts.append(f"## `millrace {program}`\n\n{(model.__doc__ or '').strip().splitlines()[0]}\n")
        rows = [_row(key) for key in keys_of(model)]
        parts.append("\n".join(["| key | type | default | what it is |", "|---|---|---|---|", *rows, ""]))
    return "\n".join(parts)


_PREFACE = """# Settings

Every key of every program. `millrace config docs` makes this page, and a test fails where the code says otherwise.

- A settings file is YAML. Unknown keys are problems; all problems are shown at once: `millrace config check FILE`.
- Relative paths are relative to the settings file.
- `NAME` stands for a name of your own, `[]` for each item of a list.
- Units are in the names: `_s` seconds, `_ms` milliseconds, `_bytes` bytes, `_px` pixels, `_ratio` a share of 1.
- The same on a terminal: `millrace config explain KEY`; for an editor: `millrace config schema --program agent`.
"""


def _row(key: Key) -> str:
    kind = f" ({key.when})" if key.when else ""
    default = "**needed**" if key.default is None else f"`{key.default}`" if key.default else ""
    cells = (f"`{key.path}`{kind}", key.type, default, key.description)
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


@dataclass(frozen=True, slots=True)
class _Walk:
    """One walk over a schema and the definitions that it refers to."""

    definitions: Mapping[str, Schema]

    def section(self, schema: Schema, path: str, when: str | None) -> Iterator[Key]:
        """Yield the keys of an object with named fields."""
        for name, field in schema.get("properties", {}).items():
            place = f"{path}.{name}" if path else name
            default = None if name in schema.get("required", ()) else self._default(name, field)
            # The field that tells one kind of section from another says what that kind is.
            description = field.get("description") or self._resolved(field).get("description")
            if "const" in field:
                description = schema.get("description")
            yield Key(place, when, self._type(field), _unit(name), default, " ".join((description or "").split()))
            yield from self._inside(field, place, when)

    def _inside(self, field: Schema, place: str, when: str | None) -> Iterator[Key]:
        inner = self._resolved(field)
        if "discriminator" in inner:
            word = inner["discriminator"]["propertyName"]
            for value, reference in inner["discriminator"]["mapping"].items():
                yield from self.section(self._resolved({"$ref": reference}), place, f"{word}: {value}")
        elif "properties" in inner:
            yield from self.section(inner, place, when)
        elif isinstance(inner.get("additionalProperties"), dict):
            yield from self._inside(inner["additionalProperties"], f"{place}.NAME", when)
        elif "items" in inner:
            yield from self._inside(inner["items"], f"{place}[]", when)

    def _resolved(self, field: Schema) -> Schema:
        reference = field.get("$ref")
        return self.definitions[reference.rsplit("/", 1)[1]] if reference else field

    def _type(self, field: Schema) -> str:
        inner = self._resolved(field)
        if "anyOf" in inner:
            return " or ".join(self._type(choice) for choice in inner["anyOf"])
        if "discriminator" in inner or "properties" in inner:
            return "section"
        if "enum" in inner:
            return ", ".join(f"`{choice}`" for choice in inner["enum"])
        if "const" in inner:
            return f"`{inner['const']}`"
        if inner.get("type") == "object":
            return f"{self._type(inner['additionalProperties'])} for each name"
        if inner.get("type") == "array":
            return f"list of {self._type(inner['items'])}"
        if inner.get("type") == "string":
            return {"path": "path", "password": "text, secret"}.get(inner.get("format", ""), "text")
        return _TYPES[inner["type"]] + _bounds(inner)

    def _default(self, name: str, field: Schema) -> str:
        value = field.get("default")
        if isinstance(value, dict) and "properties" in self._resolved(field):
            return ""
        if value is None:
            return "none"
        text = json.dumps(value, ensure_ascii=False)
        return (value if isinstance(value, str) and value.strip() else text) + _readable(name, value)


def _bounds(schema: Schema) -> str:
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    words = [
        f"{word} {bound}"
        for word, bound in (("from", low), ("above", above), ("to", high), ("below", below))
        if bound is not None
    ]
    return f" {' '.join(words)}" if words else ""


def _unit(name: str) -> str | None:
    return _UNITS.get(name.rsplit("_", 1)[-1])


def _readable(name: str, value: object) -> str:
    """Return a large number once more in a unit that a person can picture, or nothing."""
    scale = {"bytes": _SIZES, "seconds": _SPANS}.get(_unit(name) or "", ())
    if not isinstance(value, int | float):
        return ""
    for size, word in scale:
        if value >= size and value % size == 0:
            return f" ({value / size:g} {word})"
    return ""


def _steps(path: str) -> list[str]:
    return re.sub(r"\[[0-9]*\]", ".[]", path).split(".")


def _leads_to(wanted: list[str], steps: list[str]) -> bool:
    return len(wanted) <= len(steps) and all(step in (word, "NAME") for word, step in zip(wanted, steps, strict=False))
