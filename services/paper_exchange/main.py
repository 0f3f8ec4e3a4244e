"""Paper exchange: a simulated Binance USD-M futures venue.

Consumes
    Nothing; its market is the recorded bars the fleet sees, and ingest moves it from close
    to close by `POST /paper/advance`.
Publishes
    Nothing; it is outside the fleet, as any venue is.
Owns
    Its own store under the home, never the fleet's database.
Serves
    The REST of Binance USD-M as far as market orders need it, `POST /paper/advance`
    (bearer token), `/health`, `/ready`, `/status`, `/metrics`.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator

import structlog
from aiohttp import web

from services.paper_exchange.api import answer_in_json, build_routes
from services.paper_exchange.authentication import Credentials
from services.paper_exchange.handlers import PaperExchange
from services.paper_exchange.settings import Settings, load_settings, read_token
from services.paper_exchange.sources import make_source
from services.paper_exchange.store import Store, VenueState
from services.paper_exchange.streams import Hub
from services.paper_exchange.websockets import build_websockets
from shared.errors import MntError

MAX_REQUEST_BYTES = 65_536
SHUTDOWN_SECONDS = 2.0

logger = structlog.get_logger()


def create_app(settings: Settings) -> web.Application:
    """Build the venue: the market first, because the store is checked against it.

    Raises
    ------
    DataError
        If the recording cannot be used.
    SettingsError
        If the store or the token file cannot be used.
    """
    token = read_token(settings.api_token_file)
    source = make_source(settings)
    fresh = VenueState(source.starts_at_ms, source.starts_at_ms, settings.portfolio.capital_e8)
    store = Store(settings.store_file, fresh)
    hub = Hub()
    try:
        exchange = PaperExchange(source, settings.execution, store, hub)
    except MntError:
        store.close()
        raise
    credentials = Credentials(settings.venue_api_key, settings.venue_api_secret)

    async def live(_: web.Application) -> AsyncIterator[None]:
        logger.info("paper exchange started", **exchange.status())
        moving = asyncio.create_task(source.run(exchange.move), name="market")
        moving.add_done_callback(_end_process)
        yield
        moving.cancel()
        await asyncio.wait({moving})
        store.close()  # last: no request is being answered any more

    async def say_goodbye(_: web.Application) -> None:
        await hub.close()

    app = web.Application(middlewares=[answer_in_json(exchange)], client_max_size=MAX_REQUEST_BYTES)
    app.add_routes(build_routes(exchange, credentials, token))
    app.add_routes(build_websockets(exchange, hub))
    app.on_shutdown.append(say_goodbye)
    app.cleanup_ctx.append(live)
    return app


def run() -> None:
    """Serve until told to stop."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )
    try:
        settings = load_settings()
        app = create_app(settings)
    except MntError as error:
        sys.exit(f"paper_exchange: {error}")
    web.run_app(
        app,
        host=settings.host,
        port=settings.port,
        print=None,
        access_log=None,
        shutdown_timeout=SHUTDOWN_SECONDS,
    )


def _end_process(task: asyncio.Task[None]) -> None:
    """Leave the process when the market has died: the supervisor starts a fresh one."""
    if not task.cancelled() and task.exception() is not None:
        logger.error("the market died", exc_info=task.exception())
        raise SystemExit(1)
