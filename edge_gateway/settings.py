"""A gateway's settings: its broker, its disk, the models bound to channels, what goes up and what stays."""

from __future__ import annotations

import ipaddress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from millrace.quota import Policy
from millrace.settings import BrokerSettings, Bytes, ProgramSettings, Section, check_name

Name = Annotated[str, AfterValidator(check_name)]
Isolate = Literal["auto", "always", "never"]
_YEAR_S = 365 * 86400
FramePolicy = Literal["none", "escalated", "defects", "sample", "all"]


class DelegateSettings(Section):
    """A TensorFlow Lite delegate, by which another chip than the CPU runs a model."""

    library: str = Field(description="Its library: a full path, or a name that the system's loader finds.")
    options: dict[str, str] = Field({}, description="What the library takes as options; values are text.")

    @field_validator("library")
    @classmethod
    def _named_or_full(cls, value: str) -> str:
        if "/" in value and not value.startswith("/"):
            raise ValueError("give a full path, or only the library's name")
        return value


class ModelSettings(Section):
    """One bundle and the channels that it serves."""

    bundle: Path = Field(description="Folder with the model and its manifest.yaml.")
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")] | None = Field(
        None, description="Name of this binding, for `millrace model swap`; none for the name of its folder."
    )
    channels: Annotated[list[str], Field(min_length=1)] = Field(
        ["*/*"], description="Patterns of device/channel that this model serves, such as cam-*/top."
    )
    threshold: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Score below which an answer is not sure, 0 to 1; none for the bundle's own."
    )
    workers_ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0,
        description="Share of the workers that may be at work on this model at once, 0 to 1, at least one of them;"
        " a heavy model with less than all leaves the others theirs.",
    )

    engine: Literal["auto", "litert", "onnx", "reference", "edgetpu", "delegate"] = Field(
        "auto",
        description="What runs it. auto: delegates if there are any, else an Edge TPU if the bundle holds a model for "
        "it and this machine has one, else the CPU; .onnx on TensorRT, CUDA or the CPU, the first that works here.",
    )
    threads: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="Threads of one inference; more than 1 makes a lone frame faster and the line as a whole slower."
    )
    edgetpus: list[Annotated[str, Field(pattern=r"^((usb|pci)?:[0-9]+|usb|pci)$")]] = Field(
        [], description="Edge TPUs to use, such as usb:0 and pci:0, workers in turn; none for all that are there."
    )
    delegates: list[DelegateSettings] = Field(
        [], description="Delegates that run a .tflite model, workers in turn: one for each accelerator."
    )

    isolate: Isolate = Field(
        "auto",
        description="Whether it runs in a process of its own. auto: on an accelerator, and the CPU answers when that "
        "fails; always: on the CPU too, for a model that may crash its runtime; never: in the gateway's own process.",
    )

    @model_validator(mode="after")
    def _engine_and_delegates_agree(self) -> ModelSettings:
        if self.engine == "delegate" and not self.delegates:
            raise ValueError("engine: delegate needs delegates: name its library there")
        if self.delegates and self.engine not in ("auto", "delegate"):
            raise ValueError(f"engine: {self.engine} takes no delegates: set engine: delegate, or leave it out")
        return self

    @property
    def binding(self) -> str:
        """By which name a person speaks of it."""
        return self.name or self.bundle.name

    def serves(self, device: str, channel: str) -> bool:
        """Say whether this model is bound to a channel."""
        return any(fnmatchcase(f"{device}/{channel}", pattern) for pattern in self.channels)

    def engines(self, workers: int) -> int:
        """Return how many of so many workers may be at work on this model at once."""
        return max(1, round(workers * self.workers_ratio))


class AcceleratorSettings(Section):
    """Models on accelerators: each runs in a process of its own, and a twin on the CPU answers when it fails."""

    deadline_s: Annotated[float, Field(gt=0, le=60)] = Field(
        1.0, description="Seconds for one inference in a process of its own; after them it counts as hung."
    )
    open_s: Annotated[float, Field(gt=0, le=3600)] = Field(
        60.0, description="Seconds for such a process to open its model and to give the first answer."
    )
    retry_first_s: Annotated[float, Field(gt=0, le=_YEAR_S)] = Field(
        1.0, description="Seconds before an accelerator that failed is tried again; doubled with each failure."
    )
    retry_longest_s: Annotated[float, Field(gt=0, le=_YEAR_S)] = Field(
        300.0,
        description="Longest of these pauses, in seconds; one that served for so long begins anew with the first.",
    )
    check_every_s: Annotated[float, Field(gt=0)] = Field(
        60.0, description="Seconds between two checks that an accelerator still gives the golden answers."
    )
    tolerance_ratio: Annotated[float, Field(gt=0)] = Field(
        0.1,
        description="How far these may be from the CPU's, as a share of the largest value of each output; two steps of "
        "its quantization are allowed beside it.",
    )


class OverflowSettings(Section):
    """What goes above `store.high_water_ratio`, for each kind; a ledger record names each range that went.

    Results, alarms and ledger records stay, and nothing goes by its age.
    """

    frame: Literal["keep_result_drop_frame", "reject", "drop_oldest", "thin"] = Field(
        "keep_result_drop_frame",
        description="keep_result_drop_frame: frames that come and have a result are not stored. reject: they are, "
        "until the store is full and devices keep what they have. drop_oldest: the oldest that wait go. "
        "thin: every second one of these, so that the whole outage stays covered.",
    )
    reading: Policy = Field("reject", description="reject, drop_oldest or thin, for readings.")
    waveform: Policy = Field("reject", description="reject, drop_oldest or thin, for waveforms.")


class PolicySettings(Section):
    """What goes up to the cloud and what is kept here; results, alarms and ledger records always go up."""

    channels: str = Field("*/*", description="Pattern of device/channel to which this policy applies.")
    frames: FramePolicy = Field("none", description="Which frames go up: none, escalated, defects, sample or all.")
    keep_frames: FramePolicy = Field("defects", description="Which frames are kept on this disk, within the retention.")
    sample_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        0.01, description="Share of frames that `sample` takes, 0 to 1."
    )
    readings: Literal["none", "all"] = Field(
        "all", description="Which readings and waveforms go up; the rest stays here."
    )
    overflow: OverflowSettings = Field(
        OverflowSettings(), description="What goes of the channel when the store is nearly full."
    )


_DEFAULT_POLICY = PolicySettings()


class StoreSettings(Section):
    """The gateway's disk."""

    max_bytes: Bytes = Field(
        8 << 30, description="Most bytes of rows and frames held; beyond it devices keep what they have."
    )
    high_water_ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9, description="Share of max_bytes above which goes what policies' overflow lets go, 0 to 1."
    )
    ballast_bytes: Annotated[int, Field(ge=0)] = Field(
        16 << 20,
        description="Bytes set aside beside gateway.db and given back when others have filled the disk, so that "
        "purging, ledger records and alarms work; 0 for none. At most an eighth of the disk.",
    )
    retention_s: Annotated[float, Field(ge=0)] = Field(
        7 * 86400.0, description="Seconds for which what is settled stays here, counted while the gateway runs."
    )
    retention_bytes: Bytes = Field(
        4 << 30, description="Bytes above which the oldest settled rows and frames go early."
    )
    commit_rows: Annotated[int, Field(ge=1, le=1000)] = Field(
        6, description="Results gathered at most before they are committed, published and acknowledged together."
    )
    commit_delay_ms: Annotated[float, Field(ge=0, le=1000)] = Field(
        12.0, description="Milliseconds for which a result waits for others at most; none wait when the line is idle."
    )
    quarantine_rows: Annotated[int, Field(ge=0)] = Field(
        1000, description="Malformed messages kept for a look, oldest gone first; all are counted."
    )


class LimitSettings(Section):
    """Bounds on what is accepted and held in memory."""

    inbox_bytes: Bytes = Field(
        16 << 20,
        description="Bytes received that wait for their turn; beyond it the device with most of them is turned away.",
    )
    device_events_s: Annotated[float, Field(gt=0)] = Field(
        5000.0, description="Events per second above which any device is turned away, with bursts of two seconds."
    )
    device_bytes_s: Annotated[float, Field(gt=0)] = Field(
        float(64 << 20),
        description="Bytes per second above which any device is turned away, with bursts of two seconds.",
    )
    line_frames: Annotated[int, Field(ge=2, le=4096)] = Field(
        32,
        description="Frames in the pipeline at once, between intake and commit; or eight times as many readings. "
        "A device whose frames are being inferred has at most three quarters of it, so that others find room.",
    )
    devices: Annotated[int, Field(ge=1)] = Field(
        1000, description="Devices known at most; what more there are is not taken, and an alarm names one."
    )
    epochs_per_device: Annotated[int, Field(ge=2)] = Field(
        64, description="Epochs known of a device at most; beyond it one that was quiet for an hour makes room."
    )
    ahead_ranges: Annotated[int, Field(ge=1)] = Field(
        1000, description="Ranges received ahead of a hole, for each epoch; beyond it the device sends the rest again."
    )
    window_bytes: Bytes = Field(2 << 20, description="Bytes that each device may have under way without a receipt.")
    models_bytes: Bytes = Field(
        1 << 30,
        description="Memory that all models may take together, a new version beside the old one while it takes over;"
        " what an accelerator or a process of its own holds is not counted.",
    )
    cache_bytes: Annotated[int, Field(ge=0)] = Field(
        4 << 20,
        description="Bytes of answers kept, so that a picture equal to an earlier one costs no inference; 0 for none.",
    )
    windows_bytes: Bytes = Field(
        16 << 20,
        description="Bytes of readings held for models that take windows of them; beyond it the device that was quiet"
        " longest loses the windows that it had begun.",
    )
    max_pixels: Annotated[int, Field(ge=1)] = Field(
        12_000_000, description="Largest picture in pixels; its header is checked before anything is decoded."
    )


class HttpSettings(Section):
    """The gateway's own page: /health, /metrics, /predict, /batch_predict and /v2."""

    enabled: bool = Field(True, description="Whether to serve HTTP at all.")
    host: str = Field("127.0.0.1", description="Address to listen on; any but loopback needs token_file.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8470, description="TCP port.")
    grpc_port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        None, description="TCP port for /v2 in its gRPC form; none for off. It needs the extra `grpc`."
    )
    token_file: Path | None = Field(None, description="File (mode 0600) with the bearer token that callers must show.")
    predict_timeout_s: Annotated[float, Field(gt=0)] = Field(
        30.0,
        description="Seconds after which a request gives up, on a body that still comes and then on an answer.",
    )
    batch_pictures: Annotated[int, Field(ge=1, le=1000)] = Field(
        16, description="Pictures in one /batch_predict at most."
    )
    max_requests: Annotated[int, Field(ge=1)] = Field(
        32, description="Requests for inference served at once; the next is told to come again (503)."
    )
    max_bodies_bytes: Bytes = Field(
        32 << 20,
        description="Bytes of such requests' bodies held at once; one may use them all, but for the others (503).",
    )
    max_inferences: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Inferences for HTTP in the pipeline at once, so that the floor's frames wait behind few of them, "
        "at most half of limits.line_frames; 0 for two for each worker.",
    )

    @model_validator(mode="after")
    def _guarded(self) -> HttpSettings:
        try:
            loopback = self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            loopback = False
        if not loopback and self.token_file is None:
            raise ValueError(f"host {self.host!r} is not loopback: set token_file, or listen on 127.0.0.1")
        return self


class GatewaySettings(ProgramSettings):
    """Everything of a gateway."""

    gateway: Name = Field(description="This gateway's name; unique on the floor.")
    broker: BrokerSettings = Field(BrokerSettings(), description="The broker on the floor.")
    state_dir: Path = Field(description="Folder for gateway.db and frames; the sync worker reads it as the same user.")
    uplink: Literal["cloud", "none"] = Field(
        "cloud", description="cloud: rows are final when the cloud has them; none: at their commit."
    )
    workers: Annotated[int, Field(ge=0, le=64)] = Field(0, description="Inference threads; 0 for one each core.")
    models: list[ModelSettings] = Field([], description="Models and the channels that they serve.")
    accelerators: AcceleratorSettings = Field(
        AcceleratorSettings(), description="How models on accelerators are looked after."
    )
    policies: list[PolicySettings] = Field(
        [], description="What goes up and what stays, by channel; the first that fits counts, then the defaults."
    )
    store: StoreSettings = Field(StoreSettings(), description="The gateway's disk.")
    limits: LimitSettings = Field(LimitSettings(), description="Bounds on what is accepted and held in memory.")
    http: HttpSettings = Field(HttpSettings(), description="The gateway's own page.")
    status_interval_s: Annotated[float, Field(gt=0)] = Field(
        10.0, description="Seconds between two status messages when nothing else calls for one."
    )

    def policy(self, device: str, channel: str) -> PolicySettings:
        """Return the first policy that fits a channel, or the defaults."""
        name = f"{device}/{channel}"
        return next((policy for policy in self.policies if fnmatchcase(name, policy.channels)), _DEFAULT_POLICY)
