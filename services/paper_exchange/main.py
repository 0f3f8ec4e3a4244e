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

import logging
import sys
from collections.abc import AsyncIterator

import pyarrow as pa
import structlog
from aiohttp import web

from services.paper_exchange.api import answer_in_json, build_routes
from services.paper_exchange.authentication import Credentials
from services.paper_exchange.handlers import PaperExchange
from services.paper_exchange.market import Market, empty_market, list_market
from services.paper_exchange.settings import Settings, load_settings, read_token
from services.paper_exchange.store import Store, VenueState
from shared.clock import ms_of_instant, utc_now
from shared.errors import MntError
from shared.venues.market import load_market

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
    market = _load(settings)
    fresh = VenueState(market.opens_at_ms, market.opens_at_ms, settings.portfolio.capital_e8)
    store = Store(settings.store_file, fresh)
    try:
        exchange = PaperExchange(market, settings.execution, store)
    except MntError:
        store.close()
        raise
    credentials = Credentials(settings.venue_api_key, settings.venue_api_secret)

    async def close_store(_: web.Application) -> AsyncIterator[None]:
        logger.info("paper exchange started", **exchange.status())
        yield
        store.close()  # last: no request is being answered any more

    app = web.Application(middlewares=[answer_in_json(exchange)], client_max_size=MAX_REQUEST_BYTES)
    app.add_routes(build_routes(exchange, credentials, token))
    app.cleanup_ctx.append(close_store)
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


def _load(settings: Settings) -> Market:
    """Return the recorded market exactly as the fleet's ingest sees it."""
    if not settings.replay.bars:
        logger.warning("no recorded bars: the venue lists no symbol", remedy="MNT_REPLAY__BARS")
        return empty_market(settings.trade_timeframe)
    recorded = load_market(
        settings.replay.bars,
        (),
        settings.trade_timeframe,
        settings.ingest,
        ms_of_instant(utc_now()),
    )
    bars = recorded.checked[settings.trade_timeframe].accepted
    pa.default_memory_pool().release_unused()  # 200 MB that reading a year of bars leaves behind
    return list_market(bars.between(None, settings.replay.end_ms), recorded.instruments)
