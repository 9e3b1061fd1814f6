"""`millrace gateway`: where the gateway's process is put together."""

from __future__ import annotations

import logging
import secrets
import sys
import threading
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import click

from edge_gateway.commit import Committer
from edge_gateway.company import Gateways, Twins
from edge_gateway.engines.engine import EngineFailed
from edge_gateway.intake import Intake
from edge_gateway.line import Line
from edge_gateway.metrics import Metrics
from edge_gateway.models import Models
from edge_gateway.orders import Orders
from edge_gateway.register import Register
from edge_gateway.settings import GatewaySettings
from edge_gateway.sheds import Sheds
from edge_gateway.status import Herald, Uplink
from edge_gateway.store import ANSWER_BYTES, ANSWERS_KEPT, QUARANTINE_PAYLOAD_BYTES, Store
from edge_gateway.swaps import Swaps
from edge_gateway.turns import Turns
from edge_gateway.web.health import Health
from edge_gateway.web.open_inference import OpenInference
from edge_gateway.web.predict import Predict
from edge_gateway.web.raw_inference import RawInference
from edge_gateway.web.room import Room, Share
from edge_gateway.web.server import Web
from edge_gateway.window_models import WindowModels
from edge_gateway.workers import Workers, worker_count
from edge_gateway.writer import Writer
from millrace import clock, jsontext, topics
from millrace.cli import config_option
from millrace.control import Control
from millrace.mqtt import Connection, Will
from millrace.service import Actor, run, set_up_logging
from millrace.settings import ConfigError, load, read_secret

log = logging.getLogger(__name__)

# The network's thread asks for the interpreter at each packet: at Python's 5 ms it reads slower than others write.
SWITCH_INTERVAL_S = 0.0005

TAKEN = (
    topics.Kind.FRAME,
    topics.Kind.READING,
    topics.Kind.WAVEFORM,
    topics.Kind.DEVICE_LEDGER,
    topics.Kind.DEVICE_STATUS,
    topics.Kind.GATEWAY_STATUS,
)


@click.command("gateway")
@config_option
def command(config: Path) -> None:
    """Receive from the floor's broker, infer, store, and answer on the floor.

    Results appear on PREFIX/device/DEVICE/result/CHANNEL; /health, /metrics and /predict on http://127.0.0.1:8470.
    """
    settings = load(config, GatewaySettings)
    set_up_logging(settings.log.level)
    serve(settings)


def serve(settings: GatewaySettings) -> None:
    """Run a gateway until it is told to stop. Errors: ConfigError, Locked, and whatever ends an actor."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    time = clock.SystemClock()
    settings.broker.password()  # a secret that cannot be used is said now, not at the first connection
    try:
        limits, swaps = settings.limits, Swaps(settings.state_dir)
        models = Models(
            settings.models,
            limits.max_pixels,
            worker_count(settings.workers),
            limits.cache_bytes,
            settings.accelerators,
            models_bytes=limits.models_bytes,
            swaps=swaps,
        )
        workers = Workers(models, settings.workers)
    except EngineFailed as error:
        raise ConfigError([str(error)]) from None
    try:
        _serve_with(models, swaps, workers, settings, time)
    finally:
        workers.close()


def _serve_with(models: Models, swaps: Swaps, workers: Workers, settings: GatewaySettings, time: clock.Clock) -> None:
    windows = _window_models(models, workers, settings)
    store = Store(
        settings.state_dir,
        clock.machine_id(),
        settings.store.max_bytes,
        ballast_bytes=settings.store.ballast_bytes,
        tables_bytes=settings.limits.devices * ANSWERS_KEPT * ANSWER_BYTES
        + settings.store.quarantine_rows * QUARANTINE_PAYLOAD_BYTES,
    )
    swaps.follow(settings.models)  # once the store is open: no other gateway writes here
    metrics = Metrics()
    metrics.show(models.cache)
    metrics.watch(lambda: models.accelerators)
    line = Line(settings.limits.line_frames)
    register, sheds = Register(store, settings.limits), Sheds()
    turns = Turns(settings, register.admits, sheds, metrics, time)
    connection = _connection(settings, turns)
    intake = Intake(settings, turns, line, workers, time)
    gateways, twins = Gateways(settings.gateway, secrets.token_hex(4)), Twins()
    committer = Committer(
        settings,
        store,
        metrics,
        time,
        register=register,
        shares=turns.shares,
        sheds=sheds,
        twins=twins,
        gateways=gateways,
        windows=windows,
    )
    writer = Writer(settings, line, store, committer, connection, metrics, time)
    uplink = Uplink(settings, time)
    herald = Herald(settings, connection, intake, store, models, uplink, time, gateways, twins)
    control = Control(settings.state_dir, Orders(models, swaps))
    # The herald stands last so that it is interrupted first: its farewell needs the connection.
    actors = [
        Actor("mqtt", connection.run, connection.interrupt),
        Actor("intake", intake.run, intake.interrupt, intake.beat),
        Actor("writer", writer.run, writer.interrupt, writer.beat, writes=True),
        Actor("control", control.run, control.interrupt),
    ]
    ready = threading.Event()
    if settings.http.enabled:
        health = Health(intake, writer, herald, uplink, models, metrics)
        web = _web(settings, health, intake, models, workers, metrics)
        ready = web.ready
        actors.append(Actor("http", web.run, web.interrupt))
    else:
        ready.set()
    actors.append(Actor("herald", herald.run, herald.interrupt))
    log.info(
        "gateway_ready gateway=%s epoch=%s models=%s workers=%d held=%d threads=%s",
        settings.gateway,
        store.outbox.epoch,
        ",".join(bundle.name for bundle in models.bundles) or "none",
        workers.count,
        store.outbox.held_rows,
        ",".join(["main", *(actor.name for actor in actors), f"worker*{workers.count}"]),
    )
    try:
        run(actors, time, ready=ready)
    finally:
        store.close()


def _window_models(models: Models, workers: Workers, settings: GatewaySettings) -> WindowModels | None:
    wanted = models.windows()
    if not wanted:
        return None
    names = {place: models.bundles[place].manifest.name for place in wanted}
    windows = WindowModels(settings.models, wanted, names, workers.ask_window)
    windows.check_room(settings.limits.windows_bytes)
    return windows


def _web(
    settings: GatewaySettings, health: Health, intake: Intake, models: Models, workers: Workers, metrics: Metrics
) -> Web:
    http = settings.http
    room = Room(http.max_requests, http.max_bodies_bytes)
    metrics.http_requests.set_function(lambda: room.requests)
    metrics.http_bodies_bytes.set_function(lambda: room.held_bytes)
    half_of_line = max(1, settings.limits.line_frames // 2)
    share = Share(min(http.max_inferences or 2 * workers.count, half_of_line))
    inference = RawInference(models, workers, share, metrics, health.is_moving)
    routes = [
        *health.routes(),
        *Predict(settings, intake, room, share).routes(),
        *OpenInference(settings, inference, room).routes(),
    ]
    token = read_secret(http.token_file) if http.token_file else None
    beside = None if http.grpc_port is None else _grpc(settings, http.grpc_port, token, inference, room)
    return Web(http, token, routes, beside)


def _grpc(
    settings: GatewaySettings, port: int, token: str | None, inference: RawInference, room: Room
) -> AbstractAsyncContextManager[object]:
    try:
        from edge_gateway.web.grpc_service import GrpcService  # an extra that only who asks for it needs
    except ModuleNotFoundError as error:
        missing = (
            f"http: grpc_port: {error.name} is not installed; it comes with the extra `grpc` (docs/dependencies.md)"
        )
        raise ConfigError([missing]) from None
    return GrpcService(settings, port, token, inference, room)


def _connection(settings: GatewaySettings, turns: Turns) -> Connection:
    status = topics.topic(settings.prefix, topics.Kind.GATEWAY_STATUS, settings.gateway)
    return Connection(
        settings.broker,
        f"millrace-gateway-{settings.gateway}",
        Will(status, jsontext.dump({"state": "lost"})),
        [topics.subscription(settings.prefix, kind) for kind in TAKEN],
        persistent=True,
        max_payload_bytes=settings.max_payload_bytes,
        inbox=turns,
    )
