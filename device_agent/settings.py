"""An agent's settings: its name, broker and disk, and for each channel a source, a gate and an encoding."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from millrace.images import MAX_ATTRIBUTES_BYTES
from millrace.quota import Policy
from millrace.settings import BrokerSettings, Bytes, ProgramSettings, Seconds, Section, check_name

STREAM_SCHEMES = ("rtsp", "rtsps", "http", "https")
# A sample takes up to 21 bytes of JSON, and an event is at most 1 MiB.
MAX_WINDOW_SAMPLES = 40_000

Name = Annotated[str, AfterValidator(check_name)]
SidePx = Annotated[int, Field(ge=16, le=16384)]
Count = Annotated[int, Field(ge=1)]


def _check_url(value: SecretStr) -> SecretStr:
    """Return a stream's address if it can be one; the message never quotes it, for it may hold a secret."""
    parts = urlsplit(value.get_secret_value())
    if parts.scheme not in STREAM_SCHEMES or not parts.hostname:
        raise ValueError(f"must be an address such as rtsp://camera.local/stream ({', '.join(STREAM_SCHEMES)})")
    return value


class CameraSource(Section):
    """A USB or CSI camera of this machine, through Video4Linux."""

    kind: Literal["camera"]
    index: Annotated[int, Field(ge=0, le=255)] = Field(0, description="The camera's number: 0 is /dev/video0.")
    width_px: SidePx | None = Field(None, description="Picture width in pixels; none for the camera's own choice.")
    height_px: SidePx | None = Field(None, description="Picture height in pixels; none for the camera's own choice.")
    fps: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        None, description="Frames a second asked of the camera; none for its own choice."
    )
    mjpeg: bool = Field(False, description="Ask for the camera's own JPEGs and send them untouched.")


class PicameraSource(Section):
    """A Raspberry Pi camera, through a program that writes JPEGs to its standard output."""

    kind: Literal["picamera"]
    command: Annotated[list[str], Field(min_length=1)] = Field(
        ["rpicam-vid", "-t", "0", "--codec", "mjpeg", "--nopreview", "--flush", "-o", "-"],
        description="Program and arguments; it writes JPEG after JPEG to its standard output.",
    )
    width_px: SidePx | None = Field(None, description="Picture width in pixels; set, it is added as --width.")
    height_px: SidePx | None = Field(None, description="Picture height in pixels; set, it is added as --height.")
    fps: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        None, description="Frames a second; set, it is added as --framerate."
    )


class StreamSource(Section):
    """A network camera."""

    kind: Literal["stream"]
    url: Annotated[SecretStr, AfterValidator(_check_url)] = Field(
        description="Address of the stream (rtsp, rtsps, http, https); never logged beyond its host and path."
    )
    password_file: Path | None = Field(
        None, description="File (mode 0600) with the password of the user that the address names."
    )

    @model_validator(mode="after")
    def _password_of_someone(self) -> StreamSource:
        if self.password_file is not None and not urlsplit(self.url.get_secret_value()).username:
            raise ValueError("password_file is given, but url names no user; write rtsp://user@host/path")
        return self


class VideoSource(Section):
    """A video file, frame after frame."""

    kind: Literal["video"]
    path: Path = Field(description="The video file.")
    realtime: bool = Field(True, description="Keep the file's own frame rate; false gives frames as fast as they go.")
    loop: bool = Field(False, description="Begin again at the end.")


class FolderSource(Section):
    """A folder of pictures, in the order of their names."""

    kind: Literal["folder"]
    path: Path = Field(description="The folder.")
    interval_s: Annotated[float, Field(ge=0)] = Field(1.0, description="Seconds between two pictures; 0 for none.")
    loop: bool = Field(False, description="Begin again at the end; new files are seen then.")
    recursive: bool = Field(False, description="Read folders inside the folder too.")
    truth: Literal["folder", "none"] = Field(
        "none", description="folder: the name of a picture's folder says what it really shows."
    )


class ConveyorSource(Section):
    """A rendered conveyor: parts with known defects, for trying things out."""

    kind: Literal["conveyor"]
    interval_s: Seconds = Field(0.1, description="Seconds between two parts.")
    count: Count | None = Field(None, description="Number of parts; none for without end.")
    seed: int = Field(0, description="The same seed gives the same parts.")
    width_px: SidePx = Field(640, description="Picture width in pixels.")
    height_px: SidePx = Field(480, description="Picture height in pixels.")
    defect_ratio: Annotated[float, Field(ge=0, le=1)] = Field(0.3, description="Share of parts with a defect, 0 to 1.")


class ReadingsSource(Section):
    """A CSV file played back, row after row."""

    kind: Literal["readings"]
    path: Path = Field(description="The CSV file; its first line names the columns.")
    time_column: str | None = Field(
        None, description="Column with each row's time (ISO 8601, or seconds); none for one row a second."
    )
    columns: Annotated[list[str], Field(min_length=1, max_length=255)] | None = Field(
        None, description="Columns to send; none for all that hold numbers."
    )
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = Field(",", description="What parts the columns.")
    speed: Annotated[float, Field(ge=0)] = Field(
        1.0, description="How many times faster than the file's own time; 0 for as fast as it goes."
    )
    loop: bool = Field(False, description="Begin again at the end.")
    count: Count | None = Field(None, description="Number of readings; none for all.")


class WaveformSource(Section):
    """A recorded signal played back, window after window."""

    kind: Literal["waveform"]
    path: Path = Field(description="A .csv or .txt file with a number in each line, or a .npy file.")
    rate_hz: Annotated[float, Field(gt=0)] = Field(description="Samples a second.")
    unit: Annotated[str, Field(max_length=32)] = Field(description="Unit of a sample, such as g or m/s2.")
    window_samples: Annotated[int, Field(ge=1, le=MAX_WINDOW_SAMPLES)] = Field(
        2048, description="Samples in one event; what is left over at the file's end is not sent."
    )
    column: str | Annotated[int, Field(ge=0)] = Field(
        0, description="Which column, by its name in the first line or by its place from 0."
    )
    realtime: bool = Field(True, description="Keep the signal's own rate; false gives windows as fast as they go.")
    loop: bool = Field(False, description="Begin again at the end.")
    count: Count | None = Field(None, description="Number of windows; none for all.")


SourceSettings = Annotated[
    CameraSource
    | PicameraSource
    | StreamSource
    | VideoSource
    | FolderSource
    | ConveyorSource
    | ReadingsSource
    | WaveformSource,
    Field(discriminator="kind"),
]


class GateSettings(Section):
    """Which captures are worth sending."""

    interval_s: Annotated[float, Field(ge=0)] = Field(
        0.0, description="At most one capture in each interval of so many seconds; 0 for all."
    )
    change_ratio: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None,
        description="Send only what differs from the last one sent: pictures by this share of full brightness on "
        "average, readings by this share of any value; none sends all. Waveforms are always sent.",
    )
    keepalive_s: Seconds = Field(60.0, description="Send one after so many seconds even if nothing changed.")


class EncodeSettings(Section):
    """How pictures become bytes."""

    format: Literal["auto", "jpeg", "png"] = Field(
        "auto",
        description="For pixels: auto is PNG if they came from a lossless file and JPEG if not. Pictures that come "
        "encoded stay as they are.",
    )
    quality: Annotated[int, Field(ge=1, le=100)] = Field(85, description="JPEG quality, 1 to 100.")
    quality_min: Annotated[int, Field(ge=1, le=100)] = Field(
        40, description="Lowest quality that max_bytes may ask for; below it the picture is scaled down."
    )
    max_bytes: Annotated[int, Field(ge=4096)] = Field(512 << 10, description="Largest encoded picture in bytes.")

    @model_validator(mode="after")
    def _ordered(self) -> EncodeSettings:
        if self.quality_min > self.quality:
            raise ValueError(f"quality_min {self.quality_min} is above quality {self.quality}")
        return self


class Channel(Section):
    """One camera or sensor of the device."""

    source: SourceSettings = Field(description="Where captures come from.")
    gate: GateSettings = Field(GateSettings(), description="Which captures are sent.")
    encode: EncodeSettings = Field(EncodeSettings(), description="How pictures become bytes.")
    stall_after_s: Seconds = Field(
        10.0, description="Seconds without a capture after which the source is closed and opened again."
    )
    reopen_after_s: Seconds = Field(1.0, description="Seconds before a failed source is opened again.")
    reopen_max_s: Seconds = Field(60.0, description="Longest pause between attempts; the pause doubles up to it.")


Durability = Literal["power", "process"]


class DurabilitySettings(Section):
    """What an event survives from the moment it is kept, for each kind; ledger records always survive a power cut."""

    frame: Durability = Field(
        "process",
        description="power: on disk at once, survives a power cut. process: in memory, survives any end of the "
        "program; it goes to the disk when its receipt is late, and spares the card when it is not.",
    )
    reading: Durability = Field("power", description="The same for readings.")
    waveform: Durability = Field("power", description="The same for waveforms.")


class OverflowSettings(Section):
    """What goes when the spool is nearly full, for each kind; a ledger record names each range that went."""

    frame: Policy = Field(
        "thin",
        description="reject: none that is held; new ones are refused when the spool is full. drop_oldest: the oldest. "
        "thin: every second one from the oldest on, so that the whole outage stays covered.",
    )
    reading: Policy = Field("reject", description="The same for readings.")
    waveform: Policy = Field("reject", description="The same for waveforms.")


class SpoolSettings(Section):
    """The queue on this machine's disk."""

    max_bytes: Bytes = Field(1 << 30, description="Largest size of the spool in bytes.")
    commit_delay_ms: Annotated[float, Field(ge=0, le=1000)] = Field(
        0.0, description="Milliseconds for which a commit gathers further events; 0 gathers what came meanwhile."
    )
    min_free_bytes: Annotated[int, Field(ge=0)] = Field(64 << 20, description="Bytes left free on the disk.")
    ballast_bytes: Annotated[int, Field(ge=0)] = Field(
        4 << 20,
        description="Bytes set aside beside spool.db and given back when others have filled the disk, so that "
        "forgetting and ledger records work; 0 for none. At most an eighth of the disk.",
    )
    overflow: OverflowSettings = Field(OverflowSettings(), description="What goes when the spool is nearly full.")
    high_water_ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9, description="Share of max_bytes from which on held events go, where overflow lets them."
    )
    durability: DurabilitySettings = Field(DurabilitySettings(), description="What survives a power cut.")
    ram_dir: Path | None = Field(
        None,
        description="Private folder in memory (tmpfs) for durability process; none for the service's runtime folder, "
        "or /dev/shm where there is none. What is not on tmpfs is not used: all is kept on disk then.",
    )
    ram_max_bytes: Bytes = Field(64 << 20, description="Most bytes kept in that folder; beyond it the disk is used.")
    spill_after_s: Seconds = Field(
        5.0,
        description="Seconds without a receipt after which what is in memory goes to the disk; a power cut takes no "
        "more than that.",
    )


class PublishSettings(Section):
    """How the spool is sent."""

    resend_after_s: Seconds = Field(
        5.0,
        description="Seconds without a receipt after which events are sent again; longer where receipts take longer.",
    )
    resend_max_s: Annotated[float, Field(gt=0, le=600)] = Field(
        60.0,
        description="Longest pause between two resends; the pause doubles up to it. A gateway waits 900 s for a bad "
        "folder of pictures and must hear of a frame again within that.",
    )
    window_bytes: Bytes = Field(
        2 << 20, description="Most bytes sent and not yet receipted; a gateway may ask for less."
    )


class AgentSettings(ProgramSettings):
    """An agent's settings file."""

    device: Name = Field(description="This device's name: a-z, 0-9 and '-'; its account at the broker.")
    broker: BrokerSettings = Field(BrokerSettings(), description="How to reach the broker.")
    state_dir: Path = Field(description="Folder for the spool; it must be on a disk that keeps what it is given.")
    spool: SpoolSettings = Field(SpoolSettings(), description="The queue on this machine's disk.")
    publish: PublishSettings = Field(PublishSettings(), description="How the spool is sent.")
    channels: Annotated[dict[Name, Channel], Field(min_length=1)] = Field(
        description="The device's cameras and sensors by name."
    )

    @model_validator(mode="after")
    def _pictures_fit_payloads(self) -> AgentSettings:
        for name, channel in self.channels.items():
            needed = channel.encode.max_bytes + MAX_ATTRIBUTES_BYTES
            if needed > self.max_payload_bytes:
                raise ValueError(
                    f"channels.{name}.encode.max_bytes and {MAX_ATTRIBUTES_BYTES} bytes of attributes are {needed}, "
                    f"more than max_payload_bytes {self.max_payload_bytes}"
                )
        return self
