"""Public candles of a venue: its history by REST, its present by websocket.

A candle is given out only once it has closed by the venue's own word: by its flag, by a
later candle of the symbol, or because the venue's time was past its close before it was
asked for.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from shared.book.instrument import venue_id
from shared.clock import monotonic_seconds, timeframe_ms
from shared.errors import DataError, VenueRejectedError, VenueUnknownError
from shared.quant.bars import BarRow
from shared.venues.answers import field_of, integer_of
from shared.venues.connection import TIMEOUT_MS, ask, open_exchange
from shared.venues.listings import Listing, is_perpetual, read_listing

CandleStream = tuple[str, str]
"""Timeframe and symbol."""

PAGE_CANDLES = 1_000
"""Most candles a venue gives in one answer."""
LATEST_MS = 4_102_444_800_000
"""The year 2100: no instant of a candle is beyond it."""
SUBSCRIBED_AFTER_SECONDS = 10.0
"""By then a stream of a websocket should have begun."""
_STREAMS_PER_REQUEST = 100
_KEEP_ALIVE_MS = 20_000
_TRADING = "TRADING"


@dataclass(frozen=True, slots=True)
class LiveCandle:
    """A candle as a websocket brings it.

    Attributes
    ----------
    row
        Its values so far; final if `is_closed`.
    venue_ms
        The venue's time when it sent them.
    """

    timeframe: str
    row: BarRow
    is_closed: bool
    venue_ms: int


class VenueCandles:
    """The public candles of one venue. Made by `connect`.

    Attributes
    ----------
    listings
        Every perpetual that trades, by our symbol.
    unusable
        Those left out, by the venue's symbol, with the reason.
    """

    def __init__(self, exchange: Any, base_url: str, listed: Collection[Any]) -> None:
        self._exchange = exchange
        self._base_url = base_url
        self.listings: dict[str, Listing] = {}
        self.unusable: dict[str, str] = {}
        for info in listed:
            self._list(info)

    @classmethod
    async def connect(cls, base_url: str, *, timeout_seconds: float = TIMEOUT_MS / 1000) -> Self:
        """Read what a venue lists.

        Parameters
        ----------
        base_url
            Scheme, host and port; no other host is ever called.
        timeout_seconds
            How long an answer may take.

        Raises
        ------
        VenueUnknownError
            If the venue does not answer, or not with a list.
        VenueRejectedError
            If it refuses.
        """
        # ccxt takes half a second and 100 MB to import: only those who follow pay for it.
        from ccxt.async_support import binanceusdm

        exchange = open_exchange(
            binanceusdm, base_url, enableRateLimit=True, timeout=int(timeout_seconds * 1000)
        )
        try:
            with _naming(base_url):
                await ask("load the markets", exchange.load_markets)
                info = await ask("list what trades", exchange.fapiPublicGetExchangeInfo)
                # A venue that states no limits, such as the paper venue, need not be spared.
                listed = field_of(info, "symbols")
                exchange.enableRateLimit = bool(info.get("rateLimits", True))
                return cls(exchange, base_url, listed)
        except BaseException:
            await exchange.close()
            raise

    async def close(self) -> None:
        """Close the connections."""
        await self._exchange.close()

    def find(self, symbol: str) -> str | None:
        """Return our name of a symbol that somebody wrote, with or without the settling coin.

        Parameters
        ----------
        symbol
            Such as `BTC/USDT` or `BTC/USDT:USDT`.

        Raises
        ------
        DataError
            If it is of neither form.
        """
        name = venue_id(symbol)
        return next((ours for ours, of in self.listings.items() if of.venue_symbol == name), None)

    async def venue_time_ms(self) -> int:
        """Return the venue's time in milliseconds since 1970.

        Raises
        ------
        VenueUnknownError
            If the venue does not answer.
        """
        with _naming(self._base_url):
            return integer_of(
                await ask("ask the time", self._exchange.fapiPublicGetTime), "serverTime"
            )

    async def page(
        self,
        symbol: str,
        timeframe: str,
        after_ms: int,
        until_ms: int,
        most: int = PAGE_CANDLES,
    ) -> list[BarRow]:
        """Return the first candles of a symbol that close in (after, until], in order.

        Parameters
        ----------
        symbol, timeframe
            Of which candles.
        after_ms, until_ms
            Milliseconds since 1970. The end must not be beyond the venue's time as it was
            before this call: what has closed by then has its final values.
        most
            Of so many at most.

        Returns
        -------
        list
            Rows as the venue gives them, with NaN for a number that is none. It is empty
            also where the venue has nothing in the span it looked at, but has later ones.

        Raises
        ------
        VenueUnknownError
            If the venue does not answer.
        VenueRejectedError
            If it refuses, or the symbol is not listed.
        """
        listing = self._listing(symbol)
        bar_ms = timeframe_ms(timeframe)
        if until_ms <= after_ms:
            return []
        # One more than fit into the span: the candle still open may come last.
        n_wanted = min(most, PAGE_CANDLES, (until_ms - after_ms) // bar_ms + 1)
        doing = f"fetch {timeframe} candles of {symbol}"
        question = {
            "symbol": listing.venue_symbol,
            "interval": timeframe,
            "startTime": after_ms,
            "limit": n_wanted,
        }
        with _naming(self._base_url):
            # Not ccxt's unified call: to it a page of HTML is a list without candles.
            found = await ask(doing, self._exchange.fapiPublicGetKlines, question)
            try:
                if not isinstance(found, list):
                    raise TypeError("it is no list")
                rows = [_row(symbol, bar_ms, *candle[:6]) for candle in found]
            except (TypeError, ValueError, LookupError) as error:
                raise VenueUnknownError(
                    f"{doing}: the answer is unreadable ({error}): {str(found)[:200]}"
                ) from error
        return [row for row in rows if after_ms < (row[1] or 0) <= until_ms]

    async def history(
        self, symbol: str, timeframe: str, after_ms: int, until_ms: int
    ) -> AsyncIterator[list[BarRow]]:
        """Yield every candle of a symbol that closes in (after, until], page by page.

        An empty stretch is passed over, with an empty page for each thousand candles that
        could have been in it, so that a reader sees how far it has come.

        Parameters
        ----------
        symbol, timeframe, after_ms, until_ms
            As `page`.

        Raises
        ------
        VenueUnknownError, VenueRejectedError
            As `page`.
        """
        page_ms = PAGE_CANDLES * timeframe_ms(timeframe)
        while after_ms < until_ms:
            rows = await self.page(symbol, timeframe, after_ms, until_ms)
            after_ms = (rows[-1][1] or 0) if rows else after_ms + page_ms
            yield rows

    def open_feed(self, take: Callable[[LiveCandle], None]) -> CandleFeed:
        """Open a websocket that gives every candle of the streams added to it to `take`."""
        from ccxt.pro import binanceusdm

        class Stream(binanceusdm):  # type: ignore[misc]
            """ccxt's client, every candle of which goes to the feed as it comes.

            ccxt would keep them and wake whoever waits, once for any number of them.
            """

            def handle_ohlcv(self, client: Any, message: Any) -> None:
                feed.receive(message)

        exchange = open_exchange(
            Stream,
            self._base_url,
            enableRateLimit=True,
            options={"ws": {"keepAlive": _KEEP_ALIVE_MS}},
        )
        exchange.set_markets_from_exchange(self._exchange)
        feed = CandleFeed(exchange, self._base_url, self.listings, self._market, take)
        return feed

    def _list(self, info: Any) -> None:
        name = str(field_of(info, "symbol"))
        if not is_perpetual(info) or info.get("status", _TRADING) != _TRADING:
            return
        try:
            listing = read_listing(info)
            self._market(listing)
        except (DataError, VenueRejectedError) as error:
            self.unusable[name] = str(error)
        else:
            self.listings[listing.instrument.symbol] = listing

    def _listing(self, symbol: str) -> Listing:
        try:
            return self.listings[symbol]
        except KeyError:
            raise VenueRejectedError(
                f"{symbol} does not trade at {self._base_url}: choose one of the "
                f"{len(self.listings)} symbols that do"
            ) from None

    def _market(self, listing: Listing) -> str:
        """Return ccxt's name of a listing."""
        for market in self._exchange.markets_by_id.get(listing.venue_symbol, ()):
            if market["swap"]:
                return str(market["symbol"])
        raise VenueRejectedError(
            f"ccxt knows no perpetual {listing.venue_symbol} at {self._base_url}: leave it out"
        )


class CandleFeed:
    """One websocket connection, from its opening until it is lost. Made by `open_feed`."""

    def __init__(
        self,
        exchange: Any,
        base_url: str,
        listings: Mapping[str, Listing],
        market_of: Callable[[Listing], str],
        take: Callable[[LiveCandle], None],
    ) -> None:
        self._exchange = exchange
        self._base_url = base_url
        self._listings = listings
        self._market_of = market_of
        self._take = take
        self._symbol_of = {listing.venue_symbol: symbol for symbol, listing in listings.items()}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._latest: dict[CandleStream, LiveCandle] = {}
        self._added_seconds: dict[CandleStream, float] = {}

    def add(self, streams: Collection[CandleStream]) -> None:
        """Subscribe to more candles; those that are subscribed to already stay."""
        new = sorted(set(streams) - self._added_seconds.keys())
        self._added_seconds.update(dict.fromkeys(new, monotonic_seconds()))
        for first in range(0, len(new), _STREAMS_PER_REQUEST):
            batch = new[first : first + _STREAMS_PER_REQUEST]
            names = [
                [self._market_of(self._listings[symbol]), timeframe] for timeframe, symbol in batch
            ]
            # It ends only with the connection, since no candle is left for it to return.
            task = asyncio.create_task(
                ask(
                    f"follow {len(batch)} candle streams of {self._base_url}",
                    self._exchange.watch_ohlcv_for_symbols,
                    names,
                )
            )
            self._tasks.add(task)
            task.add_done_callback(self._end)

    def is_due(self, stream: CandleStream) -> bool:
        """Whether a stream that brings nothing is suspicious: it has brought something before.

        One that never has is given some seconds to begin.
        """
        added_seconds = self._added_seconds.get(stream)
        if added_seconds is None:
            return False
        return stream in self._latest or (
            monotonic_seconds() - added_seconds >= SUBSCRIBED_AFTER_SECONDS
        )

    async def lost(self) -> None:
        """Wait until the connection is lost.

        Raises
        ------
        VenueUnknownError, VenueRejectedError
            Always in the end, saying why.
        """
        await asyncio.shield(self._lost)

    def drop(self, reason: str) -> None:
        """Count the connection as lost."""
        self._lose(VenueUnknownError(f"the websocket of {self._base_url} is given up: {reason}"))

    async def close(self) -> None:
        """Close the connection."""
        await self._exchange.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._lost.cancel()

    def receive(self, message: Any) -> None:
        """Take in a message of the venue with a candle; an unreadable one ends the connection."""
        try:
            candle = self._read(message)
        except (KeyError, TypeError, ValueError, DataError) as error:
            self._lose(
                VenueUnknownError(
                    f"a candle from the websocket of {self._base_url} is unreadable "
                    f"({type(error).__name__} {error}): {str(message)[:200]}"
                )
            )
            return
        stream = (candle.timeframe, str(candle.row[0]))
        before = self._latest.get(stream)
        if before is None or (candle.row[1] or 0) >= (before.row[1] or 0):
            self._latest[stream] = candle
            if before is not None and not before.is_closed and before.row[1] != candle.row[1]:
                self._take(LiveCandle(before.timeframe, before.row, True, candle.venue_ms))
        self._take(candle)

    def _read(self, message: Any) -> LiveCandle:
        values = message["k"]
        timeframe = str(values["i"])
        symbol = self._symbol_of[values["s"]]
        numbers = (values[name] for name in "ohlcv")
        bar_ms, venue_ms = timeframe_ms(timeframe), int(message["E"])
        row = _row(symbol, bar_ms, values["t"], *numbers)
        if not 0 < (row[1] or 0) <= venue_ms + bar_ms < LATEST_MS:
            raise ValueError(f"it closes at {row[1]} ms and was sent at {venue_ms} ms")
        return LiveCandle(timeframe, row, values["x"] is True, venue_ms)

    def _end(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._lose(error)

    def _lose(self, error: BaseException) -> None:
        if not self._lost.done():
            self._lost.set_exception(error)
            self._lost.exception()  # retrieved: nobody may be waiting when it is dropped


@contextmanager
def _naming(base_url: str) -> Iterator[None]:
    """Say of an answer that never came, or is none, whose it was and what to look at."""
    try:
        yield
    except VenueUnknownError as error:
        raise VenueUnknownError(
            f"{base_url}: {error}; it is asked again: see that the venue runs there and that "
            "MNT_VENUE_URL names it",
            error.retry_after,
        ) from error


def _row(symbol: str, bar_ms: int, opens_at_ms: Any, *values: Any) -> BarRow:
    """Return a candle as a row; what is no number becomes NaN, which the checks refuse."""
    opening, high, low, close, volume = map(_number, values)
    return (symbol, int(opens_at_ms) + bar_ms, opening, high, low, close, volume)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
