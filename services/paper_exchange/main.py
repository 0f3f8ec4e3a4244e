"""Paper exchange: a simulated Binance, spot and USD-M futures.

Consumes
    Nothing of the fleet. Its market is made from a seed, read from recorded bars, or followed
    at a real exchange, and moves by itself; in a replay ingest moves it from close to close by
    `POST /paper/advance`.
Publishes
    Nothing on the bus; it is outside the fleet, as any venue is. Websocket streams of bars,
    tickers and marks, and of the account to who has its listen key.
Owns
    Its own store under the home, never the fleet's database.
Serves
    The REST and websockets of Binance spot (`/api`, `/ws`, `/stream`, `/ws-api`) and USD-M
    (`/fapi`, `/market`, `/public`, `/private`) as far as ccxt and ccxt.pro need them for bars,
    orders, balances and positions; `POST /paper/advance`, `GET` and `PUT /paper/faults` (bearer
    token), `/health`, `/ready`, `/status`, `/metrics`.
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
from services.paper_exchange.exchange import PaperExchange
from services.paper_exchange.faults import Faults
from services.paper_exchange.matching import Product
from services.paper_exchange.settings import (
    Settings,
    load_settings,
    read_token,
    refuse_weak_secrets,
)
from services.paper_exchange.sources.choice import make_source
from services.paper_exchange.store import Store, VenueState
from services.paper_exchange.streams import Hub
from services.paper_exchange.websockets import build_websockets
from shared.errors import MntError
from shared.redaction import redact_event

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
    capital_e8 = settings.portfolio.capital_e8
    fresh = VenueState(source.starts_at_ms, source.starts_at_ms, capital_e8, capital_e8)
    store = Store(settings.store_file, fresh, source.identity)
    credentials = Credentials(settings.venue_api_key, settings.venue_api_secret)
    listen_keys = {product: credentials.listen_key(product) for product in Product}
    names = {key: f"account {product}" for product, key in listen_keys.items()}
    faults = Faults(settings.faults, names)
    hub = Hub(faults.of_message)
    try:
        exchange = PaperExchange(source, settings.execution, store, hub, listen_keys, faults)
    except MntError:
        store.close()
        raise

    async def live(_: web.Application) -> AsyncIterator[None]:
        logger.info("paper exchange started", **exchange.status())
        moving = asyncio.create_task(source.run(exchange), name="market")
        moving.add_done_callback(_end_process)
        yield
        moving.cancel()
        await asyncio.wait({moving})
        store.close()  # last: no request is being answered any more

    async def say_goodbye(_: web.Application) -> None:
        await hub.close()

    app = web.Application(middlewares=[answer_in_json(exchange)], client_max_size=MAX_REQUEST_BYTES)
    app.add_routes(build_routes(exchange, credentials, token))
    app.add_routes(build_websockets(exchange, hub, credentials))
    app.on_shutdown.append(say_goodbye)
    app.cleanup_ctx.append(live)
    return app


def run() -> None:
    """Serve until told to stop."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redact_event,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )
    try:
        settings = load_settings()
        refuse_weak_secrets(settings)
        app = create_app(settings)
    except MntError as error:
        sys.exit(f"paper_exchange: {error}")
    try:
        web.run_app(
            app,
            host=settings.host,
            port=settings.port,
            print=None,
            access_log=None,
            shutdown_timeout=SHUTDOWN_SECONDS,
        )
    except OSError as error:
        sys.exit(
            f"paper_exchange: {settings.host}:{settings.port} cannot be listened on "
            f"({error.strerror}): stop what uses it, or set MNT_HOST and MNT_PORT"
        )


def _end_process(task: asyncio.Task[None]) -> None:
    """Leave the process when the market has died: the supervisor starts a fresh one."""
    if not task.cancelled() and task.exception() is not None:
        logger.error("the market died", exc_info=task.exception())
        raise SystemExit(1)
