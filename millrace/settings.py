"""Settings: one YAML file to one typed object; every problem at once, each as `FILE:LINE: key.path: what`."""

from __future__ import annotations

import difflib
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from millrace import topics

MAX_FILE_BYTES = 256 * 1024
MAX_DEPTH = 32

Model = TypeVar("Model", bound=BaseModel)
Path_ = tuple[str | int, ...]
Bytes = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


class ConfigError(Exception):
    """Settings that cannot be used; `problems` has one line for each, as a person should read them. Exit 78."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Section(BaseModel):
    """A part of the settings: unknown keys are problems, and every field has a description with its unit."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _at_home(cls, value: Any, info: ValidationInfo) -> Any:
        """Take relative paths as relative to the settings file, wherever the program is started from."""
        return _resolved(value, info.context["home"]) if info.context else value


class BrokerSettings(Section):
    """How to reach the broker on the floor."""

    host: str = Field("127.0.0.1", description="Broker's host name or address.")
    port: Annotated[int, Field(ge=1, le=65535)] = Field(1883, description="Broker's TCP port.")
    protocol: Literal["auto", "5", "3.1.1"] = Field(
        "auto", description="MQTT version; auto asks the broker once, before connecting."
    )
    username: str | None = Field(None, description="Account at the broker; none for an anonymous broker.")
    password_file: Path | None = Field(None, description="File (mode 0600) with the account's password.")
    ca_file: Path | None = Field(None, description="CA certificates; given, the connection uses TLS 1.2 or later.")
    keepalive_s: Annotated[int, Field(ge=2, le=3600)] = Field(
        20,
        description="Seconds of silence after which a ping is sent; a dead link is noticed after 1.5 times that.",
    )
    connect_timeout_s: Seconds = Field(5.0, description="Seconds to wait for the broker's answer when connecting.")
    reconnect_max_s: Seconds = Field(
        30.0,
        description="Longest pause between two attempts to connect; the pause is random up to a doubling bound.",
    )
    max_packet_bytes: Annotated[int, Field(ge=1024, le=256 << 20)] | None = Field(
        None,
        description="Largest whole MQTT packet in bytes, topic and all, that the broker takes; for a limit that it "
        "does not say (with MQTT 3.1.1, or Mosquitto's message_size_limit). Of this and what it says the lower counts.",
    )

    def password(self) -> str | None:
        """Return the password; ConfigError if the file cannot be read or others may read it."""
        return None if self.password_file is None else read_secret(self.password_file)


class LogSettings(Section):
    """What is logged."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level written.")


class ProgramSettings(Section):
    """What every program's file begins with."""

    prefix: str = Field(
        topics.DEFAULT_PREFIX,
        description="First levels of every topic; may be a unified-namespace path such as acme/plant1/line3.",
    )
    max_payload_bytes: Annotated[int, Field(ge=1024, le=256 << 20)] = Field(
        4 << 20, description="Largest MQTT payload in bytes; the same number for agent, broker and gateway."
    )
    log: LogSettings = Field(LogSettings(), description="What is logged.")

    @field_validator("prefix")
    @classmethod
    def _good_prefix(cls, value: str) -> str:
        return topics.check_prefix(value)


def check_name(value: str) -> str:
    """Return a device's, channel's or gateway's name if it may stand in a topic (a pydantic validator)."""
    return topics.check_level(value)


def read_secret(path: Path) -> str:
    """Return a secret file's text without the newline; ConfigError if unreadable, empty or readable by others."""
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError([f"{path}: cannot read the secret: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: not UTF-8 at byte {error.start}"]) from None
    if mode & 0o077 and not _handed_by_systemd(path):
        raise ConfigError([f"{path}: others may read this secret (mode {mode & 0o777:04o}); run: chmod 600 {path}"])
    if not text:
        raise ConfigError([f"{path}: the secret is empty"])
    return text


def _handed_by_systemd(path: Path) -> bool:
    """Say whether a secret is one of systemd's credentials: newer ones are guarded by an ACL and show mode 0440."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return folder is not None and path.is_relative_to(folder)


def load(path: Path, model: type[Model]) -> Model:
    """Return the settings in `path`; ConfigError with every problem in the file, each with its line.

    Types are strict (`port: yes` and `port: "1883"` are problems), and relative paths are relative to the file.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError([f"{path}: cannot read the settings: {error.strerror}"]) from None
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError([f"{path}: settings have at most {MAX_FILE_BYTES} bytes"])
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}:{line}: not UTF-8"]) from None
    tree, lines = _read_yaml(path, text)
    try:
        # JSON's strict mode takes a string for a path and a list for a tuple, but no boolean or string for a number.
        return model.model_validate_json(json.dumps(tree), strict=True, context={"home": path.parent.resolve()})
    except ValidationError as error:
        problems = {_problem(lines, model, detail) for detail in error.errors(include_url=False)}
        raise ConfigError([f"{path}:{line}: {what}" for line, what in sorted(problems)]) from None


class _Loader(yaml.SafeLoader):
    """YAML without dates, merges and the lone `=`, which are plain text here; `1e6` is a number."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, shape) for tag, shape in resolvers if tag.rsplit(":", 1)[1] in ("bool", "float", "int", "null")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+\Z"), list("-+0123456789")
)

_OPENING = (
    yaml.BlockMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.FlowSequenceStartToken,
)
_CLOSING = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)


def _read_yaml(path: Path, text: str) -> tuple[dict[str, Any], dict[Path_, int]]:
    line, depth = 1, 0
    try:
        for token in yaml.scan(text):
            line = token.start_mark.line + 1
            depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
            refused = f"nested deeper than {MAX_DEPTH} levels" if depth > MAX_DEPTH else _refused(token)
            if refused:
                raise ConfigError([f"{path}:{line}: {refused}"])
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else line
        begun = f" that begins on line {error.context_mark.line + 1}," if error.context_mark else ""
        context = f"{error.context}{begun} " if error.context else ""
        raise ConfigError([f"{path}:{line}: not YAML: {context}{error.problem}"]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError([f"{path}:{line}: not YAML: character #x{error.character:04x} is not allowed"]) from None
    except (ValueError, OverflowError) as error:
        raise ConfigError([f"{path}:{line}: not YAML: {error}"]) from None
    if node is None:
        return {}, {(): 1}
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError([f"{path}:{node.start_mark.line + 1}: settings are `key: value` lines"])
    reading = _Reading(loader)
    tree = reading.value(node, ())
    if reading.problems:
        raise ConfigError([f"{path}:{line}: {what}" for line, what in sorted(reading.problems)])
    return tree, reading.lines


def _refused(token: yaml.Token) -> str | None:
    if isinstance(token, yaml.AliasToken | yaml.AnchorToken | yaml.TagToken):
        return "anchors, aliases and tags (&, *, !) are not used in settings; write it out"
    if isinstance(token, yaml.ScalarToken) and re.search("[\ud800-\udfff]", token.value):
        return "half a character (\\ud800 to \\udfff) is no text"
    return None


class _Reading:
    """One walk over the nodes: their values, the line of each key and list item, and what is wrong with them."""

    def __init__(self, loader: _Loader) -> None:
        self._loader = loader
        self.lines: dict[Path_, int] = {}
        self.problems: list[tuple[int, str]] = []

    def value(self, node: yaml.Node, where: Path_) -> Any:
        line = self.lines.setdefault(where, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return dict(self._pair(key, value, where) for key, value in node.value)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*where, index)) for index, item in enumerate(node.value)]
        try:
            value = self._loader.construct_object(node)
            json.dumps(value)  # a number may have more digits than are ever written out
            return value
        except (ValueError, OverflowError):
            self.problems.append((line, f"{_dotted(where)}: {_shown(node.value)} cannot be read"))
            return None

    def _pair(self, key: yaml.Node, value: yaml.Node, where: Path_) -> tuple[str, Any]:
        """Return a key, which is its text even where YAML reads a number or a truth value, and its value."""
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            self.problems.append((line, f"{_dotted(where) or 'settings'}: a key must be plain text"))
            return "", None
        place = (*where, key.value)
        if place in self.lines:
            self.problems.append((line, f"{_dotted(place)}: stands twice"))
        self.lines[place] = line
        return key.value, self.value(value, place)


def _resolved(value: Any, home: Path) -> Any:
    if isinstance(value, Path):
        return home / value.expanduser()
    if type(value) in (list, tuple):
        return type(value)(_resolved(member, home) for member in value)
    if type(value) is dict:
        return {name: _resolved(member, home) for name, member in value.items()}
    return value


def _problem(lines: dict[Path_, int], model: type[BaseModel], detail: Any) -> tuple[int, str]:
    """Return the line and text of one of pydantic's details, whose path also names types and union members."""
    where: Path_ = ()
    for part in detail["loc"]:
        if (*where, part) in lines:
            where = (*where, part)
    line = lines[where]
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "missing":
        where, message = (*where, detail["loc"][-1]), "is needed and not there"
    elif detail["type"] == "union_tag_not_found":
        where, message = (*where, detail["ctx"]["discriminator"].strip("'")), "is needed and not there"
    elif detail["type"] == "union_tag_invalid":
        where = (*where, detail["ctx"]["discriminator"].strip("'"))
        line = lines.get(where, line)
        message = f"must be one of {detail['ctx']['expected_tags']} (is {_shown(detail['ctx']['tag'])})"
    elif detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(where[-1]), _fields_at(model, where[:-1]), n=1)
        message = "unknown key" + (f' (did you mean "{near[0]}"?)' if near else "")
    elif detail["input"] is None:
        message = f"{message} (is empty)"
    # Our own validators quote what they refuse themselves, unless it may hold a secret.
    elif detail["type"] != "value_error" and isinstance(detail["input"], str | int | float):
        message = f"{message} (is {_shown(detail['input'])})"
    return line, f"{_dotted(where) or 'settings'}: {message}"


def _fields_at(model: type[BaseModel], where: Path_) -> set[str]:
    """Return the names of the fields that may stand at `where`."""
    sections = [model]
    for part in where:
        fields = [section.model_fields[part] for section in sections if part in section.model_fields]
        if fields:
            sections = [inner for field in fields for inner in _sections(field.annotation)]
    return {name for section in sections for name in section.model_fields}


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for inner in getattr(annotation, "__args__", ()) for section in _sections(inner)]


def _dotted(where: Path_) -> str:
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
