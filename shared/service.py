"""What every main calls: lifespan, health, metrics, authorisation, logging.

A service is its consumer plus a REST face. `create_service` builds the FastAPI application
around the routes a service provides; the order of start and stop stands in `Runtime`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any, Literal, TextIO, TypeVar, cast

import structlog
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.routing import BaseRoute

from shared.access.audit import AuditMiddleware, AuditTrail, mark_done
from shared.access.authentication import Authenticator
from shared.access.guard import CONTROL, READ, ChangeGuard, Guard, PageGuard, answer_repeats
from shared.bus import log, metrics
from shared.bus.consumer import Consumer, Routes, UnitOfWork
from shared.bus.streams import Streams
from shared.clock import instant_of_ms, monotonic_seconds, utc_now
from shared.database.engine import create_engine, insert_rows, transaction
from shared.database.tables import service_control
from shared.errors import FatalError, SettingsError, StoreError
from shared.redaction import redact_event
from shared.rest import answer_errors, refusals
from shared.settings import Settings, load_settings, refuse_weak_secrets

STALLED_AFTER_SECONDS = 180.0
"""Without progress for so long although events wait, a consumer counts as dead.

Longer than a training or the first compilation of a kernel takes on a busy machine.
"""

_METRICS_EXAMPLE = """# TYPE mnt_bus_lag_events gauge
mnt_bus_lag_events{consumer="signals",topic="features.computed"} 0.0
"""

_OPEN_PATHS = frozenset({"/health", "/ready", "/metrics"})
"""Routes of health: what supervisors, containers and Prometheus ask for without a token."""
_SAFE_METHODS = frozenset({"GET", "HEAD"})
_KEY_HOLDERS = frozenset({"executor"})

_GARBAGE_THRESHOLD = 50_000
"""New objects before they are looked through: a close makes thousands, and they go with it."""

T = TypeVar("T")

logger = structlog.get_logger()


_LIBRARY_LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "redacted": {
            "()": "shared.redaction.RedactingFormatter",
            "format": "%(levelname)s %(name)s %(message)s",
        }
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "redacted"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
}


class _Output:
    """Standard output that loses a line rather than end a service that has to trade.

    A full disk under the log would otherwise raise its error in whatever told of something.
    """

    def __init__(self) -> None:
        self._n_lost = 0

    def write(self, text: str) -> int:
        try:
            if self._n_lost:
                sys.stdout.write(f'{{"event": "log lines lost", "count": {self._n_lost}}}\n')
                self._n_lost = 0
            sys.stdout.write(text)
        except OSError:
            self._n_lost += 1
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):  # a line is counted where it is written
            sys.stdout.flush()


def configure_logging(service: str) -> None:
    """Write structured JSON lines to standard output, bound to the service."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redact_event,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Output())),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)


class Health(BaseModel):
    """Whether a service works, and what is wrong where it does not."""

    service: str
    healthy: bool
    faults: list[str]


class Readiness(BaseModel):
    """Whether a service has started, and what it waits for where it has not."""

    service: str
    ready: bool
    waiting_for: str | None


class Status(BaseModel):
    """How far a service is.

    Attributes
    ----------
    lag, lag_by_stream
        Events that wait, in all and by consumed stream.
    last_close
        Of the last event handled since the process started.
    last_error
        Of the event or the request that last failed, until one has been handled again.
    """

    service: str
    version: str
    state: Literal["starting", "running", "paused"]
    lag: int
    lag_by_stream: dict[str, int]
    last_close: datetime | None
    last_error: str | None


class PauseState(BaseModel):
    """Whether a service handles events."""

    service: str
    state: Literal["running", "paused"]


class Runtime:
    """The running parts of one service.

    Parameters
    ----------
    name, version
        Of the service; the version is part of every row's lineage.
    settings
        Its settings.
    """

    def __init__(self, name: str, version: str, settings: Settings) -> None:
        self.name = name
        self.version = version
        self.settings = settings
        self.engine: AsyncEngine = create_engine(
            settings.database_url.get_secret_value(), application=f"mnt-{name}"
        )
        self.streams = Streams(settings.redis_url)
        self._consumer: Consumer | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def consumer(self) -> Consumer:
        """The consumer, once `start` has been given its routes."""
        if self._consumer is None:
            raise FatalError(f"{self.name} has not been started")
        return self._consumer

    @property
    def is_running(self) -> bool:
        """Whether the consuming task lives."""
        return self._task is not None and not self._task.done()

    def start(self, routes: Routes) -> None:
        """Start to consume; servers that are down are waited for in the background."""
        self._consumer = Consumer(self.name, self.version, self.engine, self.streams, routes)
        self._task = asyncio.create_task(self._consumer.run(), name=f"{self.name} consumer")
        self._task.add_done_callback(self._end_process)

    def _end_process(self, task: asyncio.Task[None]) -> None:
        """Leave the process when its consumer has died: the supervisor starts a fresh one."""
        if not task.cancelled() and task.exception() is not None:
            logger.error("consumer died", service=self.name, exc_info=task.exception())
            raise SystemExit(1)

    async def stop(self) -> None:
        """Stop in the order that loses nothing.

        First the consumer, which finishes the event in hand; then the streams, whose broker
        would keep the process alive; the database last.
        """
        if self._consumer is not None:
            await self._consumer.stop()
        if self._task is not None:
            with contextlib.suppress(asyncio.CancelledError):
                done, _ = await asyncio.wait({self._task}, timeout=10)
                if not done:
                    self._task.cancel()
        await self.streams.stop()
        await self.engine.dispose()

    async def lag(self) -> dict[str, int]:
        """Return how many events wait on each consumed stream."""
        offsets = self.consumer.offsets
        if not offsets:
            return {}
        async with transaction(self.engine) as connection:
            heads = await log.heads(connection, offsets)
        lag = {topic: heads.get(topic, 0) - seq for topic, seq in offsets.items()}
        for topic, events in lag.items():
            metrics.LAG.labels(self.name, topic).set(events)
        return lag

    async def status(self) -> Status:
        """Return how far the service is."""
        consumer = self.consumer
        closes_at_ms = consumer.last_closes_at_ms
        lag = await self.lag()
        state: Literal["starting", "running", "paused"] = "starting"
        if consumer.is_started.is_set():
            state = "paused" if consumer.is_paused else "running"
        return Status(
            service=self.name,
            version=self.version,
            state=state,
            lag=sum(lag.values()),
            lag_by_stream=lag,
            last_close=None if closes_at_ms is None else instant_of_ms(closes_at_ms),
            last_error=consumer.last_error,
        )

    async def do(self, name: str, job: Callable[[UnitOfWork], Awaitable[T]]) -> T:
        """Do what a request asks for, as `Consumer.do`, and mark the request done with it.

        Raises
        ------
        MntError
            As `Consumer.do`.
        """

        async def marked(unit: UnitOfWork) -> T:
            answer = await job(unit)
            await mark_done(unit.connection)
            return answer

        return await self.consumer.do(name, marked)

    async def set_paused(self, *, is_paused: bool) -> PauseState:
        """Pause the consumer or let it go on, also after a restart of the process."""
        row = {"service": self.name, "is_paused": is_paused, "changed_at": utc_now()}
        async with transaction(self.engine) as connection:
            await insert_rows(
                connection, service_control, [row], update=("is_paused", "changed_at")
            )
            await mark_done(connection)
        self.consumer.is_paused = is_paused
        self.consumer.wake()
        return PauseState(service=self.name, state="paused" if is_paused else "running")

    async def faults(self) -> list[str]:
        """Return why the service is not well; an empty list means it is."""
        consumer = self.consumer
        if not self.is_running:
            return ["the consumer has stopped"]
        if not consumer.is_started.is_set():
            return []
        faults = [] if self.streams.is_reading else ["a stream subscriber has stopped"]
        idle = monotonic_seconds() - consumer.progressed_at
        if idle > STALLED_AFTER_SECONDS and not consumer.is_paused:
            waiting = sum((await self.lag()).values())
            if waiting > 0:
                faults.append(f"{waiting} events wait and none was handled for {idle:.0f} s")
        return faults


def create_service(
    name: str,
    version: str,
    settings: Settings,
    build: Callable[[Runtime], Routes],
    *routers: APIRouter,
) -> FastAPI:
    """Build the application of a service.

    Parameters
    ----------
    name, version, settings
        Who it is and what it was told.
    build
        Makes the routes of the consumer from the runtime; called once at start.
    *routers
        REST routes of the service's own; one with the path and method of a common route
        stands in its place.
    """
    _refuse_needless_keys(name, settings)
    configure_logging(name)
    runtime = Runtime(name, version, settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        runtime.start(build(runtime))
        logger.info("service started", port=settings.port)
        yield
        await runtime.stop()

    app = FastAPIOffline(
        title=f"mntrading {name}",
        version=version,
        lifespan=lifespan,
        description=f"Control of the {name} service. Every route but /health, /ready and /metrics "
        "needs a token with the scope it names.",
        responses=refusals(400, 422, 503),
    )
    trail = AuditTrail(runtime.engine)
    app.state.runtime = runtime
    app.state.service_name = name
    app.state.authenticator = Authenticator(settings.api_token_file, runtime.engine)
    app.state.audit_trail = trail
    app.add_middleware(AuditMiddleware, trail=trail)
    answer_errors(app)
    answer_repeats(app)
    common = _common_routes(runtime)
    own = {operation for router in routers for operation in _operations(*router.routes)}
    common.routes[:] = [route for route in common.routes if own.isdisjoint(_operations(route))]
    for router in (common, *routers):
        _require_guards(router)
        app.include_router(router)
    return app


def _refuse_needless_keys(name: str, settings: Settings) -> None:
    """Refuse to run a service that could leak trading keys which it has no use for."""
    has_keys = settings.venue_api_key is not None or settings.venue_api_secret is not None
    if has_keys and name not in _KEY_HOLDERS:
        raise SettingsError(
            f"{name} is given trading keys, which are for the executor alone: unset "
            "MNT_VENUE_API_KEY, MNT_VENUE_API_SECRET and their _FILE forms for it"
        )


def _require_guards(router: APIRouter) -> None:
    """Refuse to serve a route that does not say which scope it needs.

    Also writes the refusals of its guard into its documentation.
    """
    for route in router.routes:
        if not isinstance(route, APIRoute) or route.path in _OPEN_PATHS:
            continue
        if not any(isinstance(each.dependency, Guard) for each in route.dependencies):
            raise FatalError(
                f"route {route.path} names no scope: give it dependencies=[READ], [CONTROL] "
                "or [TRADE] of shared.access.guard"
            )
        is_page = any(isinstance(each.dependency, PageGuard) for each in route.dependencies)
        if is_page and not _SAFE_METHODS.issuperset(route.methods or ()):
            raise FatalError(
                f"route {route.path} takes a password and changes state, so that any site could "
                "make a browser ask for it: give it [CONTROL] or [TRADE] in place of [PAGE]"
            )
        is_change = any(isinstance(each.dependency, ChangeGuard) for each in route.dependencies)
        documented = refusals(401, 403, 409, 429) if is_change else refusals(401, 403, 429)
        route.responses = {**documented, **route.responses}


def _operations(*routes: BaseRoute) -> set[tuple[str, str]]:
    """Return path and method of everything that routes answer to."""
    found = (route for route in routes if isinstance(route, APIRoute))
    return {(route.path, method) for route in found for method in route.methods or ()}


def runtime_of(request: Request) -> Runtime:
    """Return the runtime of the service that a request was sent to."""
    runtime: Runtime = request.app.state.runtime
    return runtime


ServedBy = Annotated[Runtime, Depends(runtime_of)]
"""Parameter of a route: the runtime of its service."""


def serve(application: str) -> None:
    """Run an application factory until it is told to stop.

    Leaves with a message when a setting is wrong or the address cannot be listened on.
    """
    try:
        settings = load_settings()
        refuse_weak_secrets(settings)
    except SettingsError as error:
        raise SystemExit(str(error)) from None
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise SystemExit(
                f"{settings.host}:{settings.port} cannot be listened on ({error.strerror}): "
                "stop what uses it, or set MNT_HOST and MNT_PORT"
            ) from error
    # What has been imported stays: without this a collection looks through all of it, and the
    # close that is being handled waits for it.
    gc.freeze()
    gc.set_threshold(_GARBAGE_THRESHOLD)
    try:
        uvicorn.run(
            application,
            factory=True,
            host=settings.host,
            port=settings.port,
            log_config=_LIBRARY_LOGGING,
            log_level="warning",
            access_log=False,
            # A header could otherwise claim any address, and every guess come from another one.
            proxy_headers=False,
            timeout_graceful_shutdown=10,
        )
    except SettingsError as error:
        raise SystemExit(str(error)) from None


def _common_routes(runtime: Runtime) -> APIRouter:
    """Return the routes every service has."""
    router = APIRouter()

    @router.get(
        "/health",
        summary="Whether the consumer, and not just the process, lives",
        responses={503: {"model": Health}},
    )
    async def health(response: Response) -> Health:
        """Answer 503 with the faults when it does not."""
        try:
            faults = await runtime.faults()
        except StoreError as error:
            faults = [str(error)]
        response.status_code = 503 if faults else 200
        return Health(service=runtime.name, healthy=not faults, faults=faults)

    @router.get(
        "/ready",
        summary="Whether the service has its lock, its state and its streams",
        responses={503: {"model": Readiness}},
    )
    async def ready(response: Response) -> Readiness:
        """Answer 503 with what it waits for until it has."""
        consumer = runtime.consumer
        is_ready = consumer.is_started.is_set() and runtime.is_running
        response.status_code = 200 if is_ready else 503
        return Readiness(service=runtime.name, ready=is_ready, waiting_for=consumer.last_error)

    @router.get(
        "/metrics",
        summary="Prometheus metrics",
        response_class=PlainTextResponse,
        responses={200: {"content": {"text/plain": {"example": _METRICS_EXAMPLE}}}},
    )
    async def show_metrics() -> Response:
        """Answer in the exposition format of Prometheus."""
        with contextlib.suppress(StoreError):
            await runtime.lag()
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @router.get("/status", dependencies=[READ], summary="Lag, last close and state")
    async def status() -> Status:
        """Tell how many events wait, what was handled last and what went wrong last."""
        return await runtime.status()

    @router.post(
        "/pause",
        dependencies=[CONTROL],
        summary="Stop handling events; they wait",
    )
    async def pause() -> PauseState:
        """Let the event in hand finish and handle no further one, also after a restart."""
        return await runtime.set_paused(is_paused=True)

    @router.post(
        "/resume",
        dependencies=[CONTROL],
        summary="Handle events again",
    )
    async def resume() -> PauseState:
        """Go on with the events that wait."""
        return await runtime.set_paused(is_paused=False)

    return router
