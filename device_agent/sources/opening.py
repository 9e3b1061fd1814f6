"""From a channel's settings to its opened source; each kind's module is imported only when it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

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
from millrace.settings import read_secret

if TYPE_CHECKING:
    from device_agent.sources.source import Source
    from millrace.clock import Clock


def open_source(settings: SourceSettings, clock: Clock) -> Source:
    """Return the opened source.

    Errors: SourceFailed (open it again later; a source may also raise it at its first read), ConfigError for a secret
    that cannot be used.
    """
    values = {name: getattr(settings, name) for name in type(settings).model_fields if name != "kind"}
    match settings:
        case CameraSource():
            from device_agent.sources.camera import open_camera

            return open_camera(clock, **values)
        case PicameraSource():
            from device_agent.sources.picamera import open_picamera

            return open_picamera(clock, **values)
        case StreamSource():
            from device_agent.sources.stream import open_stream

            password = None if settings.password_file is None else read_secret(settings.password_file)
            return open_stream(clock, settings.url.get_secret_value(), password)
        case VideoSource():
            from device_agent.sources.video import Video

            return Video(clock, **values)
        case FolderSource():
            from device_agent.sources.folder import Folder

            truth_from_folder = values.pop("truth") == "folder"
            return Folder(clock, **values, truth_from_folder=truth_from_folder)
        case ConveyorSource():
            from device_agent.sources.conveyor import Conveyor

            return Conveyor(clock, rate_hz=1.0 / values.pop("interval_s"), **values)
        case ReadingsSource():
            from device_agent.sources.readings import Readings

            return Readings(clock, **values)
        case WaveformSource():
            from device_agent.sources.waveform import Waveforms

            return Waveforms(clock, **values)
    assert_never(settings)
