"""Sources against what they really meet: pipes that die and stall, HTTP streams, video files, recorded series."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import SecretStr

from device_agent.settings import (
    CameraSource,
    ConveyorSource,
    FolderSource,
    PicameraSource,
    ReadingsSource,
    SourceSettings,
    StreamSource,
    VideoSource,
    WaveformSource,
)
from device_agent.sources.newest import Newest
from device_agent.sources.opencv import picture_of
from device_agent.sources.opening import open_source
from device_agent.sources.source import Capture, Picture, Reading, Source, SourceFailed, SourceFinished, Waveform
from millrace.clock import Instant, SystemClock
from millrace.settings import ConfigError

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
REPOSITORY = Path(__file__).resolve().parents[2]
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no shared data here")
WAIT_S = 60.0


class SetClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.at_s = 1000.0

    def now(self) -> Instant:
        return Instant(int(self.at_s * 1e9), "boot", int(self.at_s * 1e9))

    def uptime_s(self) -> float:
        return self.at_s


@contextmanager
def opened(source_settings: SourceSettings, clock: SetClock | SystemClock | None = None) -> Iterator[Source]:
    source = open_source(source_settings, clock or SystemClock())
    try:
        yield source
    finally:
        source.close()
        source.close()


def wait_until(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.01)


def capture_of(source: Source) -> Capture:
    capture = source.read(WAIT_S)
    assert capture is not None
    return capture


def picture_from(source: Source) -> Picture:
    content = capture_of(source).content
    assert isinstance(content, Picture)
    return content


def values_from(source: Source) -> dict[str, object]:
    content = capture_of(source).content
    assert isinstance(content, Reading)
    return dict(content.values)


def read_on(source: Source) -> None:
    """Read until the source raises."""
    while True:
        source.read(WAIT_S)


def all_of(source: Source) -> list[Capture]:
    captures = []
    while True:
        try:
            captures.append(capture_of(source))
        except SourceFinished:
            return captures


def pixels(level: int = 128, height_px: int = 48, width_px: int = 64) -> NDArray[np.uint8]:
    return np.full((height_px, width_px, 3), level, np.uint8)


def noisy(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def jpeg(picture: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".jpg", picture)[1].tobytes()


def with_thumbnail(picture: bytes, thumbnail: bytes) -> bytes:
    """Return the JPEG with another one, end marker and all, in an APP1 segment."""
    inside = b"Exif\0\0" + thumbnail
    return picture[:2] + b"\xff\xe1" + (len(inside) + 2).to_bytes(2) + inside + picture[2:]


# --- devices that block -----------------------------------------------------------------------------------------------


class Numbered:
    """A device whose frames are numbered; it hangs when told to."""

    def __init__(self) -> None:
        self.grabbed = 0
        self.released = threading.Event()
        self.goes_on = threading.Event()
        self.goes_on.set()

    def grab(self) -> bool:
        self.goes_on.wait(WAIT_S)
        self.grabbed += 1
        time.sleep(0.001)
        return True

    def retrieve(self) -> Capture:
        return Capture(Instant(self.grabbed, "boot", 0), Reading({"frame": self.grabbed}))

    def release(self) -> None:
        self.released.set()


def test_reader_gets_the_newest_frame_and_never_one_that_waited() -> None:
    device = Numbered()
    source = Newest("numbered", lambda: device)
    for _ in range(5):
        seen = device.grabbed
        wait_until(lambda seen=seen: device.grabbed > seen + 5)  # type: ignore[misc]
        before = device.grabbed
        assert capture_of(source).instant.wall_ns >= before
    source.close()
    assert device.released.wait(WAIT_S)


def test_hanging_device_blocks_neither_reader_nor_close() -> None:
    device = Numbered()
    device.goes_on.clear()
    source = Newest("numbered", lambda: device)
    assert source.read(0.05) is None
    source.close()
    assert not device.released.is_set()
    with pytest.raises(SourceFailed, match="closed"):
        source.read(0)
    device.goes_on.set()
    assert device.released.wait(WAIT_S)


def test_raw_camera_frame_is_sent_as_the_camera_made_it() -> None:
    whole = jpeg(noisy())
    raw = np.frombuffer(whole + bytes(777), np.uint8)
    for shaped in (raw, raw[None, :], raw[:, None]):
        assert picture_of(shaped) == Picture(encoded=whole)
    assert picture_of(raw[:50]) is None
    decoded = picture_of(noisy())
    assert decoded is not None
    assert np.array_equal(decoded.pixels, noisy())  # type: ignore[arg-type]


def test_camera_that_is_not_there_fails_by_its_name() -> None:
    with opened(CameraSource(kind="camera", index=255)) as source, pytest.raises(SourceFailed, match="/dev/video255"):
        source.read(WAIT_S)


# --- a camera program -------------------------------------------------------------------------------------------------

CAMERA_PROGRAM = """
import pathlib, sys, time
frames, end, *options = sys.argv[1:]
pathlib.Path(frames, "options").write_text(" ".join(options))
pathlib.Path(frames, "pid").write_text(str(__import__("os").getpid()))
print("made up camera 1.0\\n" + "x" * 200_000, file=sys.stderr)
while not pathlib.Path(frames, "enough").exists():
    for file in sorted(pathlib.Path(frames).glob("*.jpg")):
        content = file.read_bytes()
        for place in range(0, len(content), 500):
            sys.stdout.buffer.write(content[place:place + 500])
            sys.stdout.buffer.flush()
        time.sleep(0.01)
if end == "die":
    print("ERROR: *** no cameras available ***\\n", file=sys.stderr)
    sys.exit(255)
time.sleep(600)
"""


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    (tmp_path / "program.py").write_text(CAMERA_PROGRAM, encoding="utf-8")
    for number in range(5):
        (tmp_path / f"{number}.jpg").write_bytes(with_thumbnail(jpeg(noisy(number)), jpeg(pixels())))
    return tmp_path


def camera_program(frames: Path, end: str) -> PicameraSource:
    command = [sys.executable, str(frames / "program.py"), str(frames), end]
    return PicameraSource(kind="picamera", command=command, width_px=64, height_px=48, fps=12.5)


def test_camera_program_gives_its_jpegs_untouched_and_ends_with_the_source(frames: Path) -> None:
    with opened(camera_program(frames, "stall")) as source:
        first = picture_from(source)
        assert first.encoded in {file.read_bytes() for file in frames.glob("*.jpg")}
        (frames / "enough").touch()
        assert (frames / "options").read_text() == "--width 64 --height 48 --framerate 12.5"
        while source.read(0.5) is not None:
            pass
        pid = int((frames / "pid").read_text())
        assert Path(f"/proc/{pid}").exists()
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


def test_camera_program_that_dies_fails_with_its_last_words(frames: Path) -> None:
    with opened(camera_program(frames, "die")) as source:
        assert picture_from(source).encoded is not None
        (frames / "enough").touch()
        with pytest.raises(SourceFailed, match=r"no cameras available \*\*\* \(exit 255\)"):
            read_on(source)


def test_camera_program_that_is_not_installed_fails_by_its_name() -> None:
    missing = PicameraSource(kind="picamera", command=["no-such-vid", "-o", "-"])
    with opened(missing) as source, pytest.raises(SourceFailed, match="no-such-vid cannot be started: No such file"):
        source.read(WAIT_S)


# --- network streams --------------------------------------------------------------------------------------------------


class MjpegServer:
    """A network camera: frames until `stalled` is set, then silence until `ended` is."""

    def __init__(self) -> None:
        self.stalled = threading.Event()
        self.ended = threading.Event()
        self.level = 0
        self.paths: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.paths.append(self.path)
                if outer.refuses(self.headers.get("Authorization")):
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="camera"')
                    self.end_headers()
                    return
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                outer.serve(self.wfile.write)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.authorization: str | None = None
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def refuses(self, authorization: str | None) -> bool:
        return self.authorization is not None and authorization != self.authorization

    def serve(self, write: Callable[[bytes], object]) -> None:
        try:
            while not self.ended.wait(0.02):
                if self.stalled.is_set():
                    continue
                self.level = min(self.level + 1, 250)
                part = jpeg(pixels(self.level))
                write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(part) + part + b"\r\n")
        except OSError:
            pass  # The reader has gone, as readers do.

    def close(self) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def camera_server() -> Iterator[MjpegServer]:
    server = MjpegServer()
    yield server
    server.close()


def test_http_stream_gives_frames_and_a_stall_holds_nobody_up(camera_server: MjpegServer) -> None:
    url = SecretStr(f"http://127.0.0.1:{camera_server.port}/video?token=hunter2")
    with opened(StreamSource(kind="stream", url=url)) as source:
        levels = []
        for _ in range(3):
            content = picture_from(source)
            assert content.pixels is not None
            assert content.pixels.shape == (48, 64, 3)
            levels.append(float(content.pixels.mean()))
        assert levels == sorted(levels)
        camera_server.stalled.set()
        while source.read(0.3) is not None:
            pass
    camera_server.ended.set()


def test_stream_that_ends_is_a_failure_to_reopen(camera_server: MjpegServer) -> None:
    url = SecretStr(f"http://127.0.0.1:{camera_server.port}/video")
    with opened(StreamSource(kind="stream", url=url)) as source:
        picture_from(source)
        camera_server.ended.set()
        with pytest.raises(SourceFailed, match="gave no frame"):
            read_on(source)


def test_password_from_a_file_reaches_the_camera(camera_server: MjpegServer, tmp_path: Path) -> None:
    camera_server.authorization = "Basic Ym9iOnNAZmUvIQ=="  # bob, s@fe/!
    secret = tmp_path / "password"
    secret.touch(0o600)
    secret.write_text("s@fe/!\n")
    url = SecretStr(f"http://bob@127.0.0.1:{camera_server.port}/video")
    with opened(StreamSource(kind="stream", url=url, password_file=secret)) as source:
        assert picture_from(source).pixels is not None


def test_password_file_that_others_read_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("s3cret")
    secret.chmod(0o644)
    source = StreamSource(kind="stream", url=SecretStr("http://bob@127.0.0.1/video"), password_file=secret)
    with pytest.raises(ConfigError, match="others may read"):
        open_source(source, SystemClock())


def test_nothing_that_a_failing_stream_prints_holds_its_secret() -> None:
    program = """
import logging, sys
from device_agent.sources.stream import open_stream
from device_agent.sources.source import SourceFailed
from millrace.clock import SystemClock
logging.basicConfig(level=logging.DEBUG)
for scheme in ("http", "rtsp"):
    source = open_stream(SystemClock(), scheme + "://bob:hunter2@127.0.0.1:9/video?token=hunter3", "hunter4")
    try:
        source.read(60)
    except SourceFailed as failure:
        print(failure)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=REPOSITORY, timeout=120, check=True
    )
    assert done.stdout.splitlines() == [
        "stream http://127.0.0.1:9/video cannot be opened",
        "stream rtsp://127.0.0.1:9/video cannot be opened",
    ]
    assert "hunter" not in done.stdout + done.stderr


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "line.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for number in range(6):
        writer.write(pixels(40 * number))
    writer.release()
    return path


def levels_of(captures: list[Capture]) -> list[int]:
    contents = [capture.content for capture in captures]
    return [round(float(np.mean(content.pixels))) for content in contents if isinstance(content, Picture)]  # type: ignore[arg-type]


def test_video_gives_every_frame_and_is_finished(video: Path) -> None:
    with opened(VideoSource(kind="video", path=video, realtime=False)) as source:
        assert levels_of(all_of(source)) == pytest.approx([0, 40, 80, 120, 160, 200], abs=3)


def test_video_keeps_its_own_time_and_a_late_reader_misses_none(video: Path) -> None:
    clock = SetClock()
    with opened(VideoSource(kind="video", path=video), clock) as source:
        taken = [source.read(0)]
        assert source.read(0) is None
        clock.at_s += 0.1001
        taken.append(source.read(0))
        clock.at_s += 60
        taken += [source.read(0), source.read(0)]
        assert source.read(0) is None
        clock.at_s += 0.1001
        taken.append(source.read(0))
        assert levels_of([one for one in taken if one]) == pytest.approx([0, 40, 80, 120, 160], abs=3)


def test_looped_video_begins_again(video: Path) -> None:
    with opened(VideoSource(kind="video", path=video, realtime=False, loop=True)) as source:
        assert levels_of([capture_of(source) for _ in range(8)])[5:] == pytest.approx([200, 0, 40], abs=3)


@pytest.mark.parametrize("content", [None, b"", b"this is no video"])
def test_video_that_cannot_be_read_fails(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "x.mp4").write_bytes(content)
    with pytest.raises(SourceFailed, match=r"x\.mp4"):
        open_source(VideoSource(kind="video", path=tmp_path / "x.mp4"), SystemClock())


def test_folder_passes_jpeg_and_png_through_and_decodes_the_rest_exactly(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.PNG", "c.bmp", "d.tiff", "e.webp"):
        (tmp_path / name).write_bytes(cv2.imencode(Path(name).suffix.lower(), noisy())[1].tobytes())
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "f.jpg").write_bytes(b"torn")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "g.jpg").write_bytes(jpeg(noisy()))
    with opened(FolderSource(kind="folder", path=tmp_path, interval_s=0)) as source:
        captures = all_of(source)
    contents = [capture.content for capture in captures]
    assert [isinstance(content, Picture) and content.lossless for content in contents] == [False] * 2 + [True] * 3
    assert contents[0] == Picture(encoded=(tmp_path / "a.jpg").read_bytes())
    assert contents[1] == Picture(encoded=(tmp_path / "b.PNG").read_bytes())
    for content in contents[2:4]:
        assert isinstance(content, Picture)
        assert np.array_equal(content.pixels, noisy())  # type: ignore[arg-type]
    assert {capture.truth for capture in captures} == {None}


def test_folder_takes_the_truth_from_the_folders_name_and_loops(tmp_path: Path) -> None:
    for label in ("scratch", "ok"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.jpg").write_bytes(jpeg(noisy()))
    tree = FolderSource(kind="folder", path=tmp_path, interval_s=0, recursive=True, truth="folder", loop=True)
    with opened(tree) as source:
        assert [capture_of(source).truth for _ in range(4)] == ["ok", "scratch", "ok", "scratch"]


def test_folder_without_pictures_fails(tmp_path: Path) -> None:
    with opened(FolderSource(kind="folder", path=tmp_path)) as source, pytest.raises(SourceFailed, match="no picture"):
        source.read(0)


def test_folder_keeps_its_interval(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.jpg").write_bytes(jpeg(noisy()))
    clock = SetClock()
    with opened(FolderSource(kind="folder", path=tmp_path, interval_s=2.0), clock) as source:
        assert source.read(0) is not None
        clock.at_s += 1.9
        assert source.read(0) is None
        clock.at_s += 0.1
        assert source.read(0) is not None


@needs_data
def test_labelled_surfaces_come_with_their_class() -> None:
    steel = FolderSource(kind="folder", path=DATA / "surfaces" / "xsdd", interval_s=0, recursive=True, truth="folder")
    with opened(steel) as source:
        captures = all_of(source)
    assert len(captures) > 1000
    assert len({capture.truth for capture in captures}) == 7
    assert all(isinstance(capture.content, Picture) and capture.content.encoded for capture in captures)


# --- recorded series --------------------------------------------------------------------------------------------------


def table(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_keep_the_files_own_time_divided_by_speed(tmp_path: Path) -> None:
    path = table(tmp_path, "time,t\n2020-01-01 00:00:00,1\n2020-01-01T00:01:00Z,2\n2020-01-01 00:00:30,3\nlater,4\n")
    clock = SetClock()
    series = ReadingsSource(kind="readings", path=path, time_column="time", speed=60)
    with opened(series, clock) as source:
        moments = []
        for _ in range(4):
            while (capture := source.read(0)) is None:
                clock.at_s += 0.25
            moments.append(capture.instant.wall_ns / 1e9 - 1000)
    assert moments == [0, 1, 2, 3]


def test_reading_holds_the_original_time_and_skips_what_is_no_number(tmp_path: Path) -> None:
    path = table(tmp_path, "at;Volume Flow;2nd;state\n0.5;1.5;nan;ok\n1;;1e999;ok\n1.5;7;3;4\n")
    series = ReadingsSource(kind="readings", path=path, time_column="at", delimiter=";", speed=0)
    with opened(series, SetClock()) as source:
        assert values_from(source) == {"at": 0.5, "Volume_Flow": 1.5}
        assert values_from(source) == {"at": 1.5, "Volume_Flow": 7.0, "_2nd": 3.0, "state": 4.0}
        assert source.skipped_cells == 5  # type: ignore[attr-defined]
        with pytest.raises(SourceFinished):
            source.read(0)


def test_chosen_columns_loop_and_count(tmp_path: Path) -> None:
    path = table(tmp_path, "a,b\n1,2\n3,4\n")
    series = ReadingsSource(kind="readings", path=path, columns=["b"], speed=0, loop=True, count=5)
    with opened(series) as source:
        contents = [capture.content for capture in all_of(source)]
    assert contents == [Reading({"b": value}) for value in (2.0, 4.0, 2.0, 4.0, 2.0)]


@pytest.mark.parametrize(
    ("text", "columns", "says"),
    [
        ("a,b\n1,2\n", ["c"], "no column 'c'; the first line has 'a', 'b'"),
        ("a;b\n1;2\n", None, "no row with a number; is the delimiter ','"),
        ("", None, "no row with a number"),
        ("x y,x-y,x_y\n1,2,3\n", None, "two columns would both be called 'x_y'"),
        (",".join(f"c{n}" for n in range(300)), None, "300 columns; name at most 255"),
    ],
)
def test_table_that_cannot_be_played_says_why(tmp_path: Path, text: str, columns: list[str] | None, says: str) -> None:
    series = ReadingsSource(kind="readings", path=table(tmp_path, text), columns=columns)
    with opened(series) as source, pytest.raises(SourceFailed, match=says):
        source.read(0)


def test_missing_table_fails(tmp_path: Path) -> None:
    missing = ReadingsSource(kind="readings", path=tmp_path / "none.csv")
    with opened(missing) as source, pytest.raises(SourceFailed, match=r"none\.csv: .*No such file"):
        source.read(0)


@needs_data
@pytest.mark.parametrize(
    ("name", "time_column", "delimiter", "rows", "names"),
    [
        ("nab/machine_temperature_system_failure.csv", "timestamp", ",", 22695, {"timestamp", "value"}),
        (
            "occupancy/datatest.csv",
            "date",
            ",",
            2665,
            {"date", "Temperature", "Humidity", "Light", "CO2", "HumidityRatio", "Occupancy"},
        ),
        (
            "skab/anomaly-free/anomaly-free.csv",
            "datetime",
            ";",
            9405,
            {
                "datetime",
                "Accelerometer1RMS",
                "Accelerometer2RMS",
                "Current",
                "Pressure",
                "Temperature",
                "Thermocouple",
                "Voltage",
                "Volume_Flow_RateRMS",
            },
        ),
    ],
)
def test_real_series_play_to_their_end(name: str, time_column: str, delimiter: str, rows: int, names: set[str]) -> None:
    series = ReadingsSource(
        kind="readings", path=DATA / "sensors" / name, time_column=time_column, delimiter=delimiter, speed=0
    )
    with opened(series) as source:
        contents = [capture.content for capture in all_of(source)]
    assert len(contents) == rows
    assert all(isinstance(content, Reading) and set(content.values) == names for content in contents)


def windows_of(source: Source) -> list[Waveform]:
    contents = [capture.content for capture in all_of(source)]
    return [content for content in contents if isinstance(content, Waveform)]


@pytest.mark.parametrize("suffix", ["txt", "csv", "npy"])
def test_windows_are_whole_and_in_order(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"signal.{suffix}"
    samples = np.arange(10) / 4
    if suffix == "npy":
        np.save(path, samples)
    else:
        path.write_text("\n".join(f"{value}" for value in samples))
    signal = WaveformSource(kind="waveform", path=path, rate_hz=100, unit="g", window_samples=4, realtime=False)
    with opened(signal) as source:
        assert windows_of(source) == [
            Waveform(100, "g", (0.0, 0.25, 0.5, 0.75)),
            Waveform(100, "g", (1.0, 1.25, 1.5, 1.75)),
        ]


def test_windows_keep_the_signals_own_rate_and_count(tmp_path: Path) -> None:
    path = tmp_path / "signal.txt"
    path.write_text("1\n2\n3\n")
    clock = SetClock()
    signal = WaveformSource(kind="waveform", path=path, rate_hz=2, unit="g", window_samples=2, loop=True, count=2)
    with opened(signal, clock) as source:
        assert source.read(0) is not None
        clock.at_s += 0.9
        assert source.read(0) is None
        clock.at_s += 0.1
        assert source.read(0) is not None
        with pytest.raises(SourceFinished):
            source.read(0)


def test_column_is_found_by_name_or_place(tmp_path: Path) -> None:
    path = tmp_path / "signal.csv"
    path.write_text('"t_s",acc_g\n0,5\n1,oops\n2,6\n')
    for column in ("acc_g", 1):
        signal = WaveformSource(
            kind="waveform", path=path, rate_hz=1, unit="g", window_samples=2, column=column, realtime=False
        )
        with opened(signal) as source:
            assert windows_of(source) == [Waveform(1, "g", (5.0, 6.0))]
            assert source.skipped_lines == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "content", "column", "says"),
    [
        ("a.csv", b"x,y\n1,2\n", "z", "no column 'z'; the first line has x, y"),
        ("a.csv", b"x,y\n1,2\n", 2, "no column 2; the first line has 2"),
        ("a.csv", b"1\n2\n", 0, "fewer than window_samples 4"),
        ("a.csv", b"", 0, "fewer than window_samples 4"),
        ("a.npy", b"not numpy", 0, r"a\.npy"),
        ("a.npy", b"", 0, r"a\.npy"),
    ],
)
def test_signal_that_cannot_be_played_says_why(
    tmp_path: Path, name: str, content: bytes, column: str | int, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    signal = WaveformSource(kind="waveform", path=tmp_path / name, rate_hz=1, unit="g", window_samples=4, column=column)
    with opened(signal) as source, pytest.raises(SourceFailed, match=says):
        source.read(0)


@needs_data
def test_real_bearing_signal_gives_its_windows() -> None:
    signal = WaveformSource(
        kind="waveform",
        path=DATA / "sensors" / "cwru" / "1797_or_021.csv",
        rate_hz=12_000,
        unit="g",
        column="acc_g",
        realtime=False,
    )
    with opened(signal) as source:
        windows = windows_of(source)
    assert len(windows) == 48_000 // 2048
    assert windows[0].samples[:3] == (0.10436, 0.01746, 0.11655)


# --- all of them ------------------------------------------------------------------------------------------------------


def test_conveyor_opens_by_its_settings() -> None:
    with opened(
        ConveyorSource(kind="conveyor", count=1, seed=3, defect_ratio=1.0, width_px=320, height_px=240)
    ) as belt:
        capture = capture_of(belt)
        assert isinstance(capture.content, Picture)
        assert capture.content.pixels is not None
        assert capture.content.pixels.shape == (240, 320, 3)
        assert capture.truth in {"scratch", "missing_screw", "stain"}


def test_agent_for_sensors_loads_neither_numpy_nor_opencv(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    (tmp_path / "signal.txt").write_text("1\n2\n")
    program = """
import json, pathlib, sys
from device_agent.gate import Gate, signature
from device_agent.settings import ReadingsSource, WaveformSource
from device_agent.sources.opening import open_source
from millrace.clock import SystemClock
folder = pathlib.Path(sys.argv[1])
for settings in (
    ReadingsSource(kind="readings", path=folder / "table.csv"),
    WaveformSource(kind="waveform", path=folder / "signal.txt", rate_hz=1, unit="g", window_samples=2),
):
    source = open_source(settings, SystemClock())
    capture = source.read(1)
    assert Gate(0, 0.1, 60).admits(lambda: signature(capture.content), 0)
    source.close()
print(json.dumps(sorted({"numpy", "cv2"} & set(sys.modules))))
"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, env=environment, check=True
    )
    assert json.loads(done.stdout) == []
