"""A settings file is one typed object, or every problem in it, each with the line where a person mends it."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from millrace import settings
from millrace.settings import BrokerSettings, ConfigError, ProgramSettings, Section


class Camera(Section):
    kind: Literal["camera"]
    url: str
    fps: Annotated[float, Field(gt=0, le=240)] = 5.0


class Replay(Section):
    kind: Literal["replay"]
    directory: Path
    more: list[Path] = Field(default_factory=list)


Source = Annotated[Camera | Replay, Field(discriminator="kind")]


class Program(ProgramSettings):
    name: Annotated[str, Field(max_length=20)]
    broker: BrokerSettings = BrokerSettings()
    sources: list[Source] = Field(default_factory=list)
    channels: dict[str, Camera] = Field(default_factory=dict)
    limits: list[list[int]] = Field(default_factory=list)
    state_dir: Path = Path("state")
    places: dict[str, Path | None] = Field(default_factory=dict)
    directory: str = "text"
    count: int | None = 1
    rate: float = 1.0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "gateway.yaml"


def loaded(file: Path, text: str | bytes) -> Program:
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return settings.load(file, Program)


def problems(file: Path, text: str | bytes) -> list[str]:
    """Return the problems of a file, each without the file's own name."""
    with pytest.raises(ConfigError) as refused:
        loaded(file, text)
    found = refused.value.problems
    assert str(refused.value) == "\n".join(found)
    assert all(problem.startswith(f"{file}:") and "\n" not in problem and len(problem) < 500 for problem in found)
    return [problem.removeprefix(f"{file}:") for problem in found]


def test_three_problems_are_three_lines_each_where_it_stands(file: Path) -> None:
    text = "name: g1\nbroker:\n  hots: floor\n  port: many\n\n  keepalive_s: 1\n"
    assert problems(file, text) == [
        '3: broker.hots: unknown key (did you mean "host"?)',
        "4: broker.port: Input should be a valid integer (is 'many')",
        "6: broker.keepalive_s: Input should be greater than or equal to 2 (is 1)",
    ]


def test_a_missing_key_stands_on_the_line_of_its_section(file: Path) -> None:
    assert problems(file, "\nrate: 2\nsources:\n  - fps: 3\n    kind: camera\n") == [
        "2: name: is needed and not there",
        "4: sources[0].url: is needed and not there",
    ]
    assert problems(file, "") == problems(file, "# only a comment\n") == ["1: name: is needed and not there"]


def test_members_of_a_union_have_the_paths_that_stand_in_the_file(file: Path) -> None:
    text = """\
name: g1
sources:
  - kind: camera
    url: rtsp://floor
    fps: 0
  - {kind: replay, directory: 5}
  - kind: kamera
  - url: x
  - kind: replay
    directory: d
    more: [a,
      3]
channels:
  top:
    kind: camera
    ulr: x
"""
    assert problems(file, text) == [
        "5: sources[0].fps: Input should be greater than 0 (is 0)",
        "6: sources[1].directory: Input should be a valid string (is 5)",
        "7: sources[2].kind: must be one of 'camera', 'replay' (is 'kamera')",
        "8: sources[3].kind: is needed and not there",
        "12: sources[4].more[1]: Input should be a valid string (is 3)",
        "14: channels.top.url: is needed and not there",
        '16: channels.top.ulr: unknown key (did you mean "url"?)',
    ]


def test_the_hint_names_only_keys_that_may_stand_there(file: Path) -> None:
    assert problems(file, "name: g1\nlog:\n  port: 5\n") == ["3: log.port: unknown key"]
    assert problems(file, "name: g1\nlog:\n  levle: info\n") == ['3: log.levle: unknown key (did you mean "level"?)']


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("count: yes", "Input should be a valid integer (is True)"),
        ('count: "5"', "Input should be a valid integer (is '5')"),
        ("count: 1.5", "Input should be a valid integer (is 1.5)"),
        ("count: [1]", "Input should be a valid integer"),
        ("count: 2026-11-21", "Input should be a valid integer (is '2026-11-21')"),
        ("count: 2026-13-45", "Input should be a valid integer (is '2026-13-45')"),
        ("rate: .nan", "Input should be a finite number (is nan)"),
        ("rate: .inf", "Input should be a finite number (is inf)"),
        ("rate: 1e999", "Input should be a finite number (is inf)"),
        ("rate:", "Input should be a valid number (is empty)"),
        ("rate: =", "Input should be a valid number (is '=')"),
        ("count: 0b_", "'0b_' cannot be read"),
        ("prefix: Acme/line", "prefix 'Acme/line': level 'Acme' must be 1 to 64 of a-z, 0-9 and '-'; try 'acme'"),
        ("state_dir: [a]", "Input should be a valid string"),
        ("broker: floor", "Input should be an object (is 'floor')"),
        ("limits: 5", "Input should be a valid array (is 5)"),
    ],
)
def test_a_value_of_the_wrong_type_is_shown(file: Path, line: str, problem: str) -> None:
    key = line.split(":", maxsplit=1)[0]
    assert problems(file, f"name: g1\n{line}\n") == [f"2: {key}: {problem}"]


def test_nested_lists_have_their_indexes_and_lines(file: Path) -> None:
    assert problems(file, "name: g1\nlimits:\n  - [1, 2]\n  - - 3\n    - x\n") == [
        "5: limits[1][1]: Input should be a valid integer (is 'x')"
    ]


def test_a_long_value_is_shown_in_part(file: Path) -> None:
    (problem,) = problems(file, f"name: {'x' * 100_000}\n")
    assert problem.startswith("1: name: String should have at most 20 characters (is 'xxx")
    (problem,) = problems(file, f"name: g1\ncount: {'9' * 5000}\n")
    assert problem.startswith("2: count: '999")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: a\nrate: 1\nname: b\n", "3: name: stands twice"),
        ("name: a\nbroker:\n  port: 1\n  port: 2\n", "4: broker.port: stands twice"),
        ("sources:\n  - {kind: camera, kind: replay}\n", "2: sources[0].kind: stands twice"),
        ("1: a\n'1': b\n", "2: 1: stands twice"),
        ("name: a\n? [b, c]\n: 1\n", "2: settings: a key must be plain text"),
        ("broker:\n  {a: 1}: 1\n", "2: broker: a key must be plain text"),
        ("name: a\nbroker: &b\n  port: 1\n", "2: anchors, aliases and tags (&, *, !) are not used"),
        ("name: *b\n", "1: anchors, aliases and tags"),
        ("name: !!python/object/apply:os.system [ls]\n", "1: anchors, aliases and tags"),
        ("name: a\ncount: !!int x\n", "2: anchors, aliases and tags"),
        ("- a\n", "1: settings are `key: value` lines"),
        ("# c\n\n41\n", "3: settings are `key: value` lines"),
        ("name: a\n\trate: 1\n", "2: not YAML: while scanning"),
        (
            "name: a\nrate: 'b\n",
            "3: not YAML: while scanning a quoted scalar that begins on line 2, found",
        ),
        ("name: [a\nrate: 1\n", "2: not YAML: while parsing a flow sequence"),
        ("name: a\n---\nname: b\n", "2: not YAML: expected a single document in the stream"),
        ("name: a: b\n", "1: not YAML: mapping values are not allowed here"),
        ("name: a\nrate: \x07\n", "2: not YAML: character #x0007 is not allowed"),
        ('name: a\nrate: "\\UFFFFFFFF"\n', "2: not YAML: "),
        ('rate: 1\nname: "\\ud800"\n', "2: half a character"),
        (f"%YAML {'9' * 5000}.1\n---\nname: a\n", "1: not YAML: "),
        (b"name: a\nrate: \xff\n", "2: not UTF-8"),
        (b"\xff\xfen\0", "1: not UTF-8"),
        ("name: a\nlimits: " + "[" * 40 + "]" * 40, "2: nested deeper than 32 levels"),
        ("[" * 250_000, "1: nested deeper than 32 levels"),
    ],
)
def test_a_file_that_is_no_settings_says_what_and_where(file: Path, text: str | bytes, problem: str) -> None:
    assert problems(file, text)[0].startswith(problem)


def test_a_billion_laughs_are_refused_before_they_are_read(file: Path) -> None:
    laughs = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        laughs += f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    assert problems(file, laughs)[0].startswith("1: anchors, aliases and tags")


def test_keys_are_their_text_and_never_a_crash(file: Path) -> None:
    assert problems(file, "name: a\n1: x\nyes: x\nnull: x\n2026-11-21: x\n<<: {rate: 1}\n") == [
        "2: 1: unknown key",
        "3: yes: unknown key",
        "4: null: unknown key",
        "5: 2026-11-21: unknown key",
        "6: <<: unknown key",
    ]
    assert loaded(file, "name: a\nplaces: {1: /a, on: /b}\n").places == {"1": Path("/a"), "on": Path("/b")}


def test_more_than_256_kb_are_not_read(file: Path) -> None:
    with pytest.raises(ConfigError, match="at most 262144 bytes"):
        loaded(file, "name: a\n" + "#" * settings.MAX_FILE_BYTES)
    with pytest.raises(ConfigError, match="at most 262144 bytes"):
        settings.load(Path("/dev/zero"), Program)


def test_a_file_that_is_not_there_or_a_directory_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the settings: No such file"):
        settings.load(tmp_path / "none.yaml", Program)
    with pytest.raises(ConfigError, match="cannot read the settings: Is a directory"):
        settings.load(tmp_path, Program)


def test_relative_paths_are_relative_to_the_file_and_only_paths(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.chdir("/")
    text = """\
name: g1
directory: not/a/path
state_dir: ../var
broker: {password_file: secrets/g1, ca_file: ~/ca.pem}
sources:
  - {kind: replay, directory: frames, more: [a, /b]}
channels: {state_dir: {kind: camera, url: state_dir}}
places: {a: x, b: null, directory: y}
"""
    program = loaded(file, text)
    assert program.directory == "not/a/path"
    assert program.state_dir == tmp_path / "../var"
    assert program.broker.password_file == tmp_path / "secrets/g1"
    assert program.broker.ca_file == Path("/home/somebody/ca.pem")
    assert program.sources == [Replay(kind="replay", directory=tmp_path / "frames", more=[tmp_path / "a", Path("/b")])]
    assert program.channels["state_dir"].url == "state_dir"
    assert program.places == {"a": tmp_path / "x", "b": None, "directory": tmp_path / "y"}


def test_what_is_not_given_has_its_default_and_numbers_are_read_as_people_write_them(file: Path) -> None:
    program = loaded(file, "\ufeffname: g1\nrate: 1e3\ncount: 1_000\n")
    assert (program.rate, program.count, program.state_dir) == (1000.0, 1000, Path("state"))
    assert program.broker == BrokerSettings()
    assert loaded(file, "name: g1\nrate: 2\ncount:\nprefix: acme/plant1/line3\n").count is None


@pytest.mark.parametrize("number", ["0x" + "f" * 4000, ":".join("1" * 300) + ".0"], ids=["digits", "minutes"])
def test_a_number_that_no_computer_writes_out_is_a_problem_of_its_line(file: Path, number: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(file, f"name: g1\nrate: {number}\n")
    (problem,) = refused.value.problems
    assert problem.startswith(f"{file}:2: rate: ")
    assert problem.endswith("... cannot be read")


WORDS = (
    """name broker sources kind camera port : - [ ] { } , ' " | > # ? &a *a !!int --- ... 1 0x_ 1:60 ~ = << no .inf @"""
)
SNIPPETS = st.sampled_from([*WORDS.split(), ": ", "- ", "\n", "\n  ", "\n- ", "\t", "\r", "\\", "\x85", "%YAML 1.1\n"])


@given(text=st.lists(SNIPPETS, max_size=30).map("".join) | st.text(max_size=60) | st.binary(max_size=60))
def test_any_file_is_settings_or_problems(tmp_path_factory: pytest.TempPathFactory, text: str | bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    try:
        found = [f"{file}: {loaded(file, text).name}"]
    except ConfigError as refused:
        found = refused.problems
    assert found
    assert all(line.startswith(f"{file}:") and "\n" not in line for line in found)


def sections(model: type[BaseModel]) -> list[type[BaseModel]]:
    inner = [field.annotation for field in model.model_fields.values()]
    found = [each for each in inner if isinstance(each, type) and issubclass(each, BaseModel)]
    return [model, *(deeper for each in found for deeper in sections(each))]


@pytest.mark.parametrize("model", [*sections(ProgramSettings), BrokerSettings])
def test_every_shipped_field_is_described(model: type[BaseModel]) -> None:
    assert all(field.description for field in model.model_fields.values())


def test_a_secret_that_others_may_read_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2\n", encoding="utf-8")
    for mode in (0o600, 0o400):
        secret.chmod(mode)
        assert BrokerSettings(password_file=secret).password() == "hunter2"
    for mode in (0o640, 0o604, 0o660, 0o644, 0o610):
        secret.chmod(mode)
        with pytest.raises(ConfigError, match="others may read this secret") as refused:
            settings.read_secret(secret)
        assert f"chmod 600 {secret}" in str(refused.value)
        assert "hunter2" not in str(refused.value)
    assert BrokerSettings().password() is None


@pytest.mark.parametrize(
    ("content", "why"), [(b"", "is empty"), (b" \n", "is empty"), (b"\xff", "not UTF-8 at byte 0")]
)
def test_a_secret_that_is_no_text_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(content)
    secret.chmod(0o600)
    with pytest.raises(ConfigError, match=why):
        settings.read_secret(secret)


def test_a_secret_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the secret: No such file"):
        settings.read_secret(tmp_path / "none")
    with pytest.raises(ConfigError, match="cannot read the secret: Is a directory"):
        settings.read_secret(tmp_path)


def test_a_credential_that_systemd_guards_by_an_acl_is_taken_whatever_its_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "broker-password"
    secret.write_text("hunter2\n", encoding="utf-8")
    secret.chmod(0o440)
    with pytest.raises(ConfigError, match="others may read this secret"):
        settings.read_secret(secret)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert settings.read_secret(secret) == "hunter2"
