"""`millrace demo`: parts go by, results appear, the cloud is cut off and comes back, and nothing is lost."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from millrace import topics
from millrace.demo.account import Account, CloudView, promised, settle_account
from millrace.demo.proxy import LinkProxy
from millrace.demo.stage import (
    DEVICE,
    GUEST,
    START_TIMEOUT_S,
    VIEWER,
    BrokerKind,
    Plan,
    Stage,
    StageFailed,
    shipped_bundle,
    wait_until,
)
from millrace.demo.watch import Watch
from millrace.settings import BrokerSettings

FRAMES_PER_S = 10
PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
PATIENCE_S = 60.0
TICK_S = 0.05


@click.command("demo")
@click.option(
    "--seconds", type=click.FloatRange(6, 3600), default=30.0, show_default=True, help="How long parts go by."
)
@click.option("--headless", is_flag=True, help="Say nothing on the way.")
@click.option("--json", "as_json", is_flag=True, help="Print the account as one JSON object and nothing else.")
@click.option(
    "--broker",
    type=click.Choice(["embedded", "mosquitto"]),
    default="embedded",
    show_default=True,
    help="embedded: amqtt, needs nothing; mosquitto: the one installed here, with accounts and ACL.",
)
@click.option(
    "--frames",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of pictures instead of the conveyor; folders inside it are the true labels.",
)
@click.option(
    "--model",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Bundle folder; the shipped `parts` without it.",
)
@click.option(
    "--readings",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV file to play back as readings as well.",
)
@click.option(
    "--waveform",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File of samples (.csv, .txt, .npy) to play back as waveforms as well.",
)
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    help="New folder for settings, logs and databases; else they go at the end.",
)
def command(
    seconds: float,
    headless: bool,
    as_json: bool,
    broker: BrokerKind,
    frames: Path | None,
    model: Path | None,
    readings: Path | None,
    waveform: Path | None,
    keep: Path | None,
) -> None:
    """Run agent, broker, gateway, sync worker and cloud on this machine, and cut the cloud off for a third of the time.

    The link is really cut (black hole, then refused) and the cloud is killed once with SIGKILL while it catches up.
    Exit 0 only if every promised event is in the cloud exactly once.
    """
    quiet = headless or as_json
    say = _silent if quiet else click.echo
    try:
        with _home(keep) as home:
            plan = Plan(
                home, broker, _channels(seconds, frames, readings, waveform), model or shipped_bundle("parts"), []
            )
            account = Demo(plan, seconds, say).run()
    except StageFailed as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        click.echo(account.json())
    else:
        say("")
        if account.p50_ms is not None:
            say(f"capture to answer on the floor: p50 {account.p50_ms:.1f} ms, p99 {account.p99_ms:.1f} ms")
        if account.readings or account.waveforms:
            say(f"of these, in the cloud as they are: {account.readings} readings, {account.waveforms} waveforms")
        click.echo(account.line())
    sys.exit(0 if account.whole else 1)


@dataclass
class Demo:
    """One run from the first capture to the account."""

    plan: Plan
    seconds: float
    say: Any
    _last: dict[str, Any] = field(default_factory=dict)
    _in_cloud: int = 0

    def run(self) -> Account:
        """Return the account of a run. StageFailed if a program did not do its part."""
        stage = Stage(self.plan)
        proxy = LinkProxy(stage.cloud_port)
        watch = None
        try:
            self.say(f"Starting {self.plan.broker} broker, cloud, gateway, sync worker and agent on this machine …")
            stage.open(proxy.port)
            login = {"username": VIEWER, "password_file": stage.passwords / VIEWER} if stage.passwords else {}
            watch = Watch(BrokerSettings(port=stage.broker_port, **login), self._show)
            if not wait_until(lambda: watch.connected, START_TIMEOUT_S):
                raise StageFailed("the viewer cannot connect to the broker")
            self._introduce(stage, watch)
            return self._act(stage, proxy, watch)
        finally:
            proxy.close()
            if watch is not None:
                watch.close()
            stage.close()

    def _introduce(self, stage: Stage, watch: Watch) -> None:
        login = f' -u {GUEST} -P "$(cat {stage.passwords / GUEST})"' if stage.passwords else ""
        self.say("Watch it yourself, in another terminal:")
        results = topics.subscription(topics.DEFAULT_PREFIX, topics.Kind.RESULT)
        self.say(f"  mosquitto_sub -p {stage.broker_port}{login} -v -t '{results}'")
        self.say(f"  curl http://127.0.0.1:{stage.http_port}/health")
        self.say("Below: the last answer, what the part really is, score, whose answer counts, time in the gateway.")
        self.say("")

    def _show(self, device: str, data: dict[str, Any]) -> None:
        self._last = data

    def _act(self, stage: Stage, proxy: LinkProxy, watch: Watch) -> Account:
        cloud = CloudView(stage.cloud_port, stage.reader_token)
        cursor = 0
        stage.programs["agent"].start()
        begun_s = time.monotonic()
        cut_s, restored_s, drained_s = 0.0, 0.0, None
        waiting_at_restore = 0
        done: set[str] = set()
        said_s = -1
        while True:
            now_s = time.monotonic() - begun_s
            stage.check()
            rows, cursor = self._news(cloud, cursor)
            self._in_cloud += rows
            if "cut" not in done and now_s >= self.seconds / 3:
                done.add("cut")
                proxy.set_state("black_hole")
                cut_s = time.monotonic()
                self._announce(begun_s, "the cloud is cut off: packets vanish")
            if "refused" not in done and now_s >= self.seconds / 2:
                done.add("refused")
                proxy.set_state("refuse")
                self._announce(begun_s, "still cut off: connections are refused")
            if "restored" not in done and "refused" in done and time.monotonic() - cut_s >= self.seconds / 3:
                done.add("restored")
                waiting_at_restore = len(watch.latencies_ms)
                proxy.set_state("pass")
                restored_s = time.monotonic()
                self._announce(begun_s, f"the link is back; {waiting_at_restore - self._in_cloud} results wait")
            if "killed" not in done and "restored" in done and time.monotonic() - restored_s > 0.3:
                done.add("killed")
                stage.restart_cloud()
                self._announce(begun_s, "the cloud was killed (SIGKILL) while it caught up, and started again")
            if drained_s is None and "killed" in done and self._in_cloud >= waiting_at_restore:
                drained_s = time.monotonic()
                self._announce(begun_s, f"caught up: drained in {drained_s - restored_s:.1f} s")
            if int(now_s) > said_s:
                said_s = int(now_s)
                self._tell(now_s, watch, linked="cut" not in done or "restored" in done)
            if drained_s is not None and now_s >= self.seconds and self._finished(stage, cloud, watch):
                break
            if now_s > self.seconds + PATIENCE_S:
                self.say("gave up waiting: what is missing is counted below")
                break
            time.sleep(TICK_S)
        drain_s = None if drained_s is None else drained_s - restored_s
        latencies = list(watch.latencies_ms.values())
        return settle_account(stage.home, cloud, DEVICE, restored_s - cut_s, drain_s, latencies)

    def _announce(self, begun_s: float, text: str) -> None:
        self.say(f"--- {time.monotonic() - begun_s:4.1f} s  {text}")

    def _news(self, cloud: CloudView, cursor: int) -> tuple[int, int]:
        try:
            rows, cursor = cloud.results(cursor)
        except OSError:  # it is being killed
            return 0, cursor
        return len(rows), cursor

    def _tell(self, now_s: float, watch: Watch, linked: bool) -> None:
        last = self._last
        shown = "  waiting for the first part"
        if last:
            truth = f" (is {last['truth']})" if "truth" in last else ""
            shown = f"  last: {last['label']}{truth} {last['score']:.2f}, {last['decision']}, {last['total_ms']:.1f} ms"
        link = "up  " if linked else "DOWN"
        counts = f"answered {len(watch.latencies_ms):4d}  in the cloud {self._in_cloud:4d}"
        self.say(f"{now_s:5.1f} s  {counts}  link {link}{shown}")

    def _finished(self, stage: Stage, cloud: CloudView, watch: Watch) -> bool:
        """Whether every source is at its end and the cloud accounts for every promised event."""
        states = watch.device_status.get("channels", {}).values()
        if not states or any(state != "finished" for state in states):
            return False
        minted = sum(seqs.count() for seqs in promised(stage.home / "agent").values())
        try:
            audit = cloud.audit()
        except OSError:
            return False
        accounted: int = sum(
            row["held"] + sum(row["declared"].values())
            for row in audit["origins"]
            if row["origin"] == f"device/{DEVICE}"
        )
        return accounted >= minted


def _channels(seconds: float, frames: Path | None, readings: Path | None, waveform: Path | None) -> dict[str, Any]:
    """Return the agent's channels: a conveyor or a folder, and what else is to be played back."""
    count = round(seconds * FRAMES_PER_S)
    source: dict[str, Any] = {"kind": "conveyor", "interval_s": 1 / FRAMES_PER_S, "count": count, "seed": 7}
    if frames is not None:
        pictures = [path for path in frames.rglob("*") if path.suffix.lower() in PICTURES]
        if not pictures:
            raise click.ClickException(f"{frames}: no pictures there ({', '.join(sorted(PICTURES))})")
        labelled = all(path.parent != frames for path in pictures)
        source = {
            "kind": "folder",
            "path": str(frames.resolve()),
            "recursive": True,
            "interval_s": min(1.0, seconds / len(pictures)),
            "truth": "folder" if labelled else "none",
        }
    channels: dict[str, Any] = {"top": {"source": source}}
    if readings is not None:
        channels["room"] = {"source": {"kind": "readings", "path": str(readings.resolve()), "speed": 0, "count": 500}}
    if waveform is not None:
        channels["bearing"] = {
            "source": {
                "kind": "waveform",
                "path": str(waveform.resolve()),
                "rate_hz": 12000,
                "unit": "g",
                "window_samples": 2048,
            }
        }
    return channels


@contextmanager
def _home(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="millrace-demo-") as folder:
            yield Path(folder)
        return
    try:
        keep.mkdir(parents=True)
    except FileExistsError:
        raise click.ClickException(f"{keep} is there already; name a new folder") from None
    yield keep.resolve()


def _silent(*_: Any) -> None:
    """Say nothing."""
