"""A real exchange's market: its bars move the venue, its history is passed on.

Only public data is asked for, through ccxt. Whatever happens to the exchange or to the line,
the venue keeps what it knows and tries again; while it is cut off it says so, and the market
stands still. What closed meanwhile is fetched, and walked through in order.
"""

from __future__ import annotations

import asyncio
import math
import re
import sqlite3
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from decimal import Decimal
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import numpy as np
import structlog

from services.paper_exchange import metrics
from services.paper_exchange.candles import Candle, Candles
from services.paper_exchange.charts import KlineRow
from services.paper_exchange.market import Listing, Market
from services.paper_exchange.refusals import RefusalError, out_of_order
from services.paper_exchange.sources.interface import Venue
from shared.book.instrument import NOTIONAL_DECIMALS, PERPETUAL, Instrument
from shared.clock import monotonic_seconds, timeframe_ms
from shared.errors import DataError, MntError, SettingsError, VenueUnknownError

ASSET = "USDT"
TIMEOUT_MS = 10_000
HISTORY_BARS = 300
"""Bars kept at hand of every symbol: more than a day of five minutes."""

GRACE_SECONDS = 2.0
"""How long a close waits for the bars of the other symbols before they are asked for."""

SETTLE_MS = 1_000
"""A bar that closed so short ago may still change at the exchange."""

STALLED_MS = 10_000
"""A close that is so late, by the exchange's own clock, is asked for."""

_PAGE_BARS = 1_000
_SYMBOLS_PER_SOCKET = 200
_AT_ONCE = 4
_POLL_SECONDS = 0.25
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 30.0
_DOWN = -1001
_REFUSED = re.compile(r'"code":\s*(-[0-9]+),\s*"msg":\s*"([^"]*)"')

T = TypeVar("T")

logger = structlog.get_logger()


class ClosedBar(NamedTuple):
    """A bar as the stream of the exchange told it."""

    venue_symbol: str
    candle: Candle
    told_at_ms: int


class Live:
    """A market that follows an exchange.

    Parameters
    ----------
    exchange
        Its name in ccxt.
    url
        Scheme, host and port in place of its own; empty for its own.
    symbols
        Those to list, as ccxt writes them; empty for all.
    timeframe
        The bars that orders trade against.
    """

    name = "live"
    speed = 1.0
    starts_at_ms = 0

    def __init__(self, exchange: str, url: str, symbols: tuple[str, ...], timeframe: str) -> None:
        self.identity = f"live {exchange}"
        self.market = Market({}, np.empty(0, dtype=np.int64), timeframe_ms(timeframe), ASSET)
        self.fault: str | None = f"not connected to {exchange} yet"
        self._exchange = exchange
        self._url = url
        self._symbols = symbols
        self._timeframe = timeframe
        self._rest: Any = None
        self._followed: list[str] = []
        self._asked_at_ms = 0
        self._told: asyncio.Queue[ClosedBar] = asyncio.Queue()

    def state(self) -> str:
        """Return, for people, what it is doing."""
        return "running" if self.fault is None else f"waiting for {self._exchange}: {self.fault}"

    def resume(self, market_at_ms: int, instruments: Mapping[str, Instrument]) -> None:
        """List what was listed before, until the exchange says what it lists now."""
        for name, instrument in instruments.items():
            listing = Listing(name, instrument, self.market.bar_ms, Candles.none())
            self.market.listings.setdefault(name, listing)

    def next_close(self, after_ms: int) -> int | None:
        """Return `None`: the clock is the exchange's, and a close may come late."""
        return None

    async def klines(
        self,
        listing: Listing,
        interval: str,
        start_ms: int | None,
        end_ms: int | None,
        limit: int,
        at_ms: int,
    ) -> list[KlineRow]:
        """Return what the exchange answers, of any interval it has.

        Raises
        ------
        RefusalError
            What the exchange refuses; -1001 while it does not answer.
        """
        if self.fault is not None:
            raise out_of_order(self.fault)
        wanted = {
            "symbol": listing.venue_symbol,
            "interval": interval,
            "startTime": start_ms,
            "endTime": end_ms,
            "limit": limit,
        }
        given = {name: value for name, value in wanted.items() if value is not None}
        try:
            rows = await _answer(self._rest.fapiPublicGetKlines(given))
        except VenueUnknownError as error:
            refused = _REFUSED.search(str(error))
            if refused is not None and int(refused[1]) != _DOWN:
                raise RefusalError(int(refused[1]), refused[2]) from error
            raise out_of_order(str(error)) from error
        try:
            return [[int(row[0]), *row[1:6], int(row[6]), *row[7:]] for row in rows]
        except (TypeError, ValueError, LookupError) as error:
            raise out_of_order(f"klines came back as {str(rows)[:100]}") from error

    async def run(self, venue: Venue) -> None:
        """Follow the exchange for ever, connecting again whenever it is lost."""
        self._rest = self._client()
        pause_seconds = _FIRST_PAUSE_SECONDS
        try:
            while True:
                began_at = monotonic_seconds()
                try:
                    await self._list(venue)
                    await self._catch_up(venue)
                    await self._follow(venue)
                except (MntError, sqlite3.Error) as error:
                    if self.fault is None:
                        logger.warning("exchange lost", exchange=self._exchange, error=str(error))
                    self.fault = str(error)[:500]
                    metrics.UPSTREAM_FAULTS.inc()
                if monotonic_seconds() - began_at > _LONGEST_PAUSE_SECONDS:
                    pause_seconds = _FIRST_PAUSE_SECONDS
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
        finally:
            await _close(self._rest)

    # --- what is listed -------------------------------------------------------------------

    async def _list(self, venue: Venue) -> None:
        """Take over what the exchange lists, in so far as the book can count in it."""
        markets = await _answer(self._rest.load_markets(True))
        found: dict[str, Instrument] = {}
        listed_at_ms: dict[str, int | None] = {}
        for market in _perpetuals(markets):
            try:
                found[market["id"]] = _instrument(market)
                listed_at_ms[market["id"]] = market.get("created")
            except DataError as error:
                logger.warning("symbol left out", error=str(error))
        names = {instrument.symbol: name for name, instrument in found.items()}
        absent = [symbol for symbol in self._symbols if symbol not in names]
        if absent or not found:
            raise SettingsError(
                f"{self._exchange} does not list {', '.join(absent) or 'anything'} as perpetuals "
                f"in {ASSET}: correct MNT_MARKET__SYMBOLS"
            )
        self._followed = [names[symbol] for symbol in self._symbols] or sorted(found)
        chosen = {name: found[name] for name in self._followed}
        kept = venue.enlist(chosen)
        before = dict(self.market.listings)
        self.market.listings.clear()
        for name, instrument in {**chosen, **kept}.items():
            bars = before[name].bars if name in before else Candles.none()
            self.market.listings[name] = Listing(
                name,
                instrument,
                self.market.bar_ms,
                bars,
                listed_at_ms=listed_at_ms.get(name),
            )

    def _client(self) -> Any:
        # ccxt takes half a second and 100 MB to import: only a live market pays for it.
        import ccxt.pro

        told, bar_ms, timeframe = self._told, self.market.bar_ms, self._timeframe

        class Client(getattr(ccxt.pro, self._exchange)):  # type: ignore[misc]
            """ccxt's client, which also tells when a bar has closed."""

            def handle_ohlcv(self, client: Any, message: Any) -> None:
                bar = message.get("k", {})
                if bar.get("x") and bar.get("i") == timeframe:
                    closed = _closed_bar(message, bar_ms)
                    if _is_sound(closed.venue_symbol, closed.candle):
                        told.put_nowait(closed)
                super().handle_ohlcv(client, message)

        client = Client(
            {
                "timeout": TIMEOUT_MS,
                "enableRateLimit": not self._url,
                "options": {"fetchCurrencies": False, "fetchMargins": False},
            }
        )
        if self._url:
            client.urls["api"] = _on_host(client.urls["api"], self._url)
        return client

    # --- following ------------------------------------------------------------------------

    async def _catch_up(self, venue: Venue) -> None:
        """Fetch what has closed since, and move the market through it."""
        bar_ms = self.market.bar_ms
        now_ms = int(await _answer(self._rest.fetch_time()))
        up_to_ms = (now_ms - SETTLE_MS) // bar_ms * bar_ms
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def fetch(listing: Listing) -> Candles:
            async with at_once:
                return await self._fetch(listing, venue.market_at_ms, up_to_ms)

        listings = [self.market.listings[name] for name in self._followed]
        fetched = await asyncio.gather(*(fetch(listing) for listing in listings))
        self._grow(
            {
                listing.venue_symbol: candles
                for listing, candles in zip(listings, fetched, strict=True)
            }
        )
        last_ms = self.market.last_close(up_to_ms)
        if last_ms is not None:
            venue.move(last_ms)
        venue.set_clock(now_ms)
        self._asked_at_ms = venue.now_ms()
        self.fault = None

    async def _fetch(self, listing: Listing, market_at_ms: int, up_to_ms: int) -> Candles:
        """Return the closed bars of a symbol after those at hand."""
        bar_ms = self.market.bar_ms
        if len(listing.bars):
            from_ms = int(listing.bars.closes_at_ms[-1])
        else:
            from_ms = min(market_at_ms or up_to_ms, up_to_ms) - HISTORY_BARS * bar_ms
        fetched: list[Candle] = []
        while from_ms < up_to_ms:
            asked = {
                "symbol": listing.venue_symbol,
                "interval": self._timeframe,
                "startTime": from_ms,
                "limit": _PAGE_BARS,
            }
            rows = await _answer(self._rest.fapiPublicGetKlines(asked))
            candles = [_candle(row, bar_ms) for row in _rows(rows)]
            fetched += [candle for candle in candles if candle.closes_at_ms <= up_to_ms]
            if len(candles) < _PAGE_BARS:
                break
            from_ms = candles[-1].closes_at_ms
        sound = [candle for candle in fetched if _is_sound(listing.venue_symbol, candle)]
        return Candles.of(sound) if sound else Candles.none()

    def _grow(self, bars: Mapping[str, Candles]) -> None:
        """Take in bars after those at hand, and let go of old ones."""
        market = self.market
        closes = np.unique(np.concatenate([candles.closes_at_ms for candles in bars.values()]))
        last_ms = market.last_close(int(np.iinfo(np.int64).max)) or 0
        market.grow(closes[closes > last_ms], bars)
        if len(market.closes_at_ms) > 2 * HISTORY_BARS:
            market.forget(int(market.closes_at_ms[-HISTORY_BARS - 1]))

    async def _follow(self, venue: Venue) -> None:
        """Move the market by what the streams tell until one of them breaks."""
        names, step = self._followed, _SYMBOLS_PER_SOCKET
        parts = [names[first : first + step] for first in range(0, len(names), step)]
        watching = [
            asyncio.create_task(self._watch(part), name="exchange stream") for part in parts
        ]
        try:
            while True:
                told = await self._next_close(venue, watching)
                if told is None:
                    await self._catch_up(venue)
                else:
                    self._grow({name: Candles.of([bar.candle]) for name, bar in told.items()})
                    venue.move(next(iter(told.values())).candle.closes_at_ms)
                    venue.set_clock(max(bar.told_at_ms for bar in told.values()))
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)

    async def _watch(self, names: list[str]) -> None:
        """Listen until the stream breaks; the client tells of bars that close."""
        wanted = [[self.market.listings[name].instrument.symbol, self._timeframe] for name in names]
        client = self._client()
        client.set_markets(self._rest.markets)
        try:
            while True:
                await _answer(client.watch_ohlcv_for_symbols(wanted))
        finally:
            await _close(client)

    async def _next_close(
        self, venue: Venue, watching: list[asyncio.Task[None]]
    ) -> dict[str, ClosedBar] | None:
        """Return the bars of the next close; `None` if some of them must be asked for."""
        told: dict[str, ClosedBar] = {}
        first_at = 0.0
        close_ms = venue.market_at_ms + self.market.bar_ms
        while True:
            for task in watching:
                if task.done():
                    task.result()
            with suppress(TimeoutError):
                bar = await asyncio.wait_for(self._told.get(), _POLL_SECONDS)
                if bar.candle.closes_at_ms > close_ms:
                    return None
                if bar.candle.closes_at_ms == close_ms and bar.venue_symbol in self._followed:
                    first_at = first_at or monotonic_seconds()
                    told[bar.venue_symbol] = bar
            if len(told) == len(self._followed):
                return told
            if told and monotonic_seconds() - first_at > GRACE_SECONDS:
                return None
            if venue.now_ms() > max(close_ms, self._asked_at_ms) + STALLED_MS:
                return None


async def _answer(call: Awaitable[T]) -> T:
    """Return what ccxt returns.

    Raises
    ------
    VenueUnknownError
        For whatever it raises; it stumbles over answers that are no JSON, too.
    """
    from ccxt.base.errors import BaseError

    try:
        return await call
    except (BaseError, OSError) as error:
        raise VenueUnknownError(f"{type(error).__name__}: {str(error)[:300]}") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise VenueUnknownError(
            f"the answer is unreadable ({type(error).__name__}: {str(error)[:300]})"
        ) from error


async def _close(client: Any) -> None:
    """Close a client, whatever state it is in."""
    with suppress(MntError):
        await _answer(client.close())


def _perpetuals(markets: Mapping[str, Any]) -> list[Any]:
    return [
        market
        for market in markets.values()
        if market["swap"] and market["linear"] and market["active"] and market["settle"] == ASSET
    ]


def _instrument(market: Mapping[str, Any]) -> Instrument:
    """Return the units of a listing of the exchange.

    Raises
    ------
    DataError
        If the book cannot count in them.
    """
    name, info = market["id"], market["info"]
    filters = {each["filterType"]: each for each in info["filters"]}
    smallest = Decimal(filters.get("MIN_NOTIONAL", {}).get("notional", "0"))
    return Instrument(
        symbol=market["symbol"],
        price_decimals=_decimals(name, Decimal(filters["PRICE_FILTER"]["tickSize"])),
        lot_decimals=_decimals(name, Decimal(filters["LOT_SIZE"]["stepSize"])),
        min_notional_e8=int(smallest.scaleb(NOTIONAL_DECIMALS)),
        price_source=str(info.get("priceSource", PERPETUAL)),
    )


def _decimals(name: str, step: Decimal) -> int:
    decimals = -step.normalize().adjusted() if step > 0 else -1
    if decimals < 0 or step != Decimal(1).scaleb(-decimals):
        raise DataError(f"{name} has a step of {step}: the book counts in tenths, hundredths, ...")
    return decimals


def _closed_bar(message: Any, bar_ms: int) -> ClosedBar:
    bar = message["k"]
    row = [bar["t"], bar["o"], bar["h"], bar["l"], bar["c"], bar["v"]]
    return ClosedBar(str(bar["s"]), _candle(row, bar_ms), int(message["E"]))


def _rows(rows: Any) -> list[Any]:
    if not isinstance(rows, list):
        raise VenueUnknownError(f"klines came back as {str(rows)[:100]}: expected a list")
    return rows


def _candle(row: Any, bar_ms: int) -> Candle:
    try:
        opens_at_ms, *values = int(row[0]), *(float(value) for value in row[1:6])
        return Candle(opens_at_ms, opens_at_ms + bar_ms, *values)
    except (TypeError, ValueError, LookupError) as error:
        raise VenueUnknownError(f"a bar came as {str(row)[:100]}") from error


def _is_sound(venue_symbol: str, candle: Candle) -> bool:
    """Tell whether orders may trade against a bar; without it the symbol has none there."""
    is_sound = (
        0.0 < candle.low <= min(candle.open, candle.close)
        and max(candle.open, candle.close) <= candle.high < math.inf
        and 0.0 <= candle.volume < math.inf
    )
    if not is_sound:
        logger.warning("bar left out", symbol=venue_symbol, bar=candle)
    return is_sound


def _on_host(urls: Any, base_url: str) -> Any:
    """Return ccxt's addresses with scheme and host of another place."""
    if isinstance(urls, dict):
        return {name: _on_host(url, base_url) for name, url in urls.items()}
    address, base = urlsplit(urls), urlsplit(base_url)
    secure = "s" if base.scheme == "https" else ""
    scheme = "ws" if address.scheme.startswith("ws") else "http"
    return f"{scheme}{secure}://{base.netloc}{address.path}"
