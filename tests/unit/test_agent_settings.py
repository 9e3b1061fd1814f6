"""The agent's settings: defaults, every kind of source, and messages that a person can act on."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from device_agent.settings import (
    AgentSettings,
    CameraSource,
    FolderSource,
    ReadingsSource,
    SourceSettings,
    StreamSource,
)
from millrace.settings import ConfigError, load

MINIMAL = """
device: cam-1
state_dir: state
channels:
  top:
    source: {kind: camera}
"""


def loaded(folder: Path, text: str) -> AgentSettings:
    file = folder / "agent.yaml"
    file.write_text(text, encoding="utf-8")
    return load(file, AgentSettings)


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(folder, text)
    return [problem.removeprefix(f"{folder}/agent.yaml:") for problem in caught.value.problems]


def with_source(source: str) -> str:
    return MINIMAL.replace("{kind: camera}", source)


def test_minimal_settings_have_the_defaults_of_the_design(tmp_path: Path) -> None:
    settings = loaded(tmp_path, MINIMAL)
    assert settings.state_dir == tmp_path / "state"
    assert settings.spool.max_bytes == 1 << 30
    assert settings.publish.window_bytes == 2 << 20
    channel = settings.channels["top"]
    assert channel.source == CameraSource(kind="camera")
    assert channel.encode.max_bytes == 512 * 1024
    assert channel.gate.change_ratio is None


def test_path_inside_a_source_is_relative_to_the_file(tmp_path: Path) -> None:
    source = loaded(tmp_path, with_source("{kind: folder, path: pictures}")).channels["top"].source
    assert source == FolderSource(kind="folder", path=tmp_path / "pictures")


def test_column_names_that_look_like_paths_stay_names(tmp_path: Path) -> None:
    source = loaded(tmp_path, with_source("{kind: readings, path: a.csv, columns: [path, command]}"))
    assert source.channels["top"].source == ReadingsSource(
        kind="readings", path=tmp_path / "a.csv", columns=["path", "command"]
    )


def test_unknown_kind_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, with_source("{kind: webcam}"))
    assert problem.startswith("6: channels.top.source.kind: must be one of 'camera', 'picamera', 'stream'")
    assert problem.endswith("(is 'webcam')")


def test_source_without_kind_says_so(tmp_path: Path) -> None:
    assert problems(tmp_path, with_source("{index: 1}")) == ["6: channels.top.source.kind: is needed and not there"]


def test_mistakes_inside_a_source_name_its_own_keys(tmp_path: Path) -> None:
    assert problems(tmp_path, with_source("{kind: video, realtme: true}")) == [
        "6: channels.top.source.path: is needed and not there",
        '6: channels.top.source.realtme: unknown key (did you mean "realtime"?)',
    ]


def test_channel_called_like_a_kind_confuses_no_message(tmp_path: Path) -> None:
    text = MINIMAL.replace("top:", "camera:").replace("{kind: camera}", "{kind: camera, fps: fast}")
    assert problems(tmp_path, text) == ["6: channels.camera.source.fps: Input should be a valid number (is 'fast')"]


def test_bad_channel_name_comes_with_the_nearest_good_one(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, MINIMAL.replace("top:", "Top_Cam:"))
    assert problem.startswith("5: channels.Top_Cam: name 'Top_Cam' must be")
    assert "try 'top-cam'" in problem


def test_device_without_channels_is_refused(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, "device: cam-1\nstate_dir: state\nchannels: {}\n")
    assert problem.startswith("3: channels: ")


def test_pictures_must_fit_into_payloads(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, MINIMAL + "    encode: {max_bytes: 4194304}\n")
    assert "channels.top.encode.max_bytes" in problem
    assert "max_payload_bytes 4194304" in problem


def test_quality_min_above_quality_is_refused(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, MINIMAL + "    encode: {quality: 30}\n")
    assert problem == "7: channels.top.encode: quality_min 40 is above quality 30"


@pytest.mark.parametrize(
    "source",
    [
        "{kind: stream, url: 'ftp://bob:hunter2@cam/x'}",
        "{kind: stream, url: 'rtsp://:hunter2@'}",
        "{kind: stream, url: 'rtsp://cam/?token=hunter2', password_file: pw}",
        "{kind: stream, url: 'rtsp://bob:hunter2@cam/x', fps: 3}",
        "{kind: stream, url: ['rtsp://bob:hunter2@cam/x']}",
    ],
)
def test_no_message_about_a_stream_shows_its_secret(tmp_path: Path, source: str) -> None:
    assert "hunter2" not in "\n".join(problems(tmp_path, with_source(source)))


def test_stream_address_is_hidden_wherever_settings_are_printed(tmp_path: Path) -> None:
    settings = loaded(tmp_path, with_source("{kind: stream, url: 'rtsp://bob:hunter2@cam/x'}"))
    source = settings.channels["top"].source
    assert isinstance(source, StreamSource)
    assert source.url.get_secret_value() == "rtsp://bob:hunter2@cam/x"
    assert "hunter2" not in f"{settings!r} {settings} {settings.model_dump_json()}"


def test_every_setting_of_every_source_is_described() -> None:
    kinds = get_args(get_args(SourceSettings)[0])
    bare = [
        f"{kind.__name__}.{name}"
        for kind in kinds
        for name, field in kind.model_fields.items()
        if name != "kind" and not field.description
    ]
    assert len(kinds) == 8
    assert bare == []
