"""A venue like Binance USD-M as far as candles go, whose clock and faults a test controls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
from aiohttp import WSMsgType, web

BAR_MS = 300_000
HOUR_MS = 3_600_000
INTERVALS = {"5m": BAR_MS, "15m": 3 * BAR_MS, "1h": HOUR_MS}

Answer = Literal["well", "hang up", "html", "limit", "stall", "break off", "nonsense"]
Values = tuple[float, float, float, float, float]


def listing(symbol: str, listed_at_ms: int) -> dict[str, Any]:
    """Return an entry of exchangeInfo."""
    step = {"stepSize": "0.001", "minQty": "0.001", "maxQty": "9000"}
    base = symbol.removesuffix("USDT")
    return {
        "symbol": symbol,
        "pair": symbol,
        "contractType": "PERPETUAL",
        "onboardDate": listed_at_ms,
        "status": "TRADING",
        "baseAsset": base,
        "quoteAsset": "USDT",
        "marginAsset": "USDT",
        "pricePrecision": 2,
        "quantityPrecision": 3,
        "filters": [
            {"filterType": "PRICE_FILTER", "tickSize": "0.01", "minPrice": "1", "maxPrice": "9"},
            {"filterType": "LOT_SIZE", **step},
            {"filterType": "MARKET_LOT_SIZE", **step},
            {"filterType": "MIN_NOTIONAL", "notional": "5"},
        ],
    }


def values_at(symbol: str, opens_at_ms: int) -> Values:
    """Return the candle that a symbol opens with at an instant: a function of the two alone."""
    level = 100.0 + sum(map(ord, symbol)) % 50
    moved = (opens_at_ms // BAR_MS) % 97 / 50
    return (level + moved, level + moved + 0.5, level + moved - 0.25, level + moved + 0.25, 1000.0)


def kline(
    symbol: str, interval: str, opens_at_ms: int, candle: Values, is_closed: bool, at_ms: int
) -> dict[str, Any]:
    """Return a candle as the websocket sends it."""
    opening, high, low, close, volume = map(str, candle)
    return {
        "e": "kline",
        "E": at_ms,
        "s": symbol,
        "k": {
            "t": opens_at_ms,
            "T": opens_at_ms + INTERVALS[interval] - 1,
            "s": symbol,
            "i": interval,
            "o": opening,
            "h": high,
            "l": low,
            "c": close,
            "v": volume,
            "x": is_closed,
        },
    }


@dataclass(eq=False)
class StubVenue:
    """The venue.

    Attributes
    ----------
    now_ms
        Its clock; moved by `step` alone.
    symbols
        When each was listed.
    missing
        Candles (symbol, interval, open) it never has.
    held_back
        Candles that it has, but shows and sends only when they are taken out of here.
    odd
        Candles with values of their own.
    answer
        How it answers REST calls.
    is_silent
        Whether its websocket sends nothing although it is open.
    is_windowed
        Whether it looks only as far from the start as `limit` candles reach.
    dies_at
        It hangs up when asked for the candles of this symbol from this instant on.
    calls
        Every question for candles: symbol, interval, start, limit.
    """

    now_ms: int
    symbols: dict[str, int]
    missing: set[tuple[str, str, int]] = field(default_factory=set)
    held_back: set[tuple[str, str, int]] = field(default_factory=set)
    odd: dict[tuple[str, str, int], Values] = field(default_factory=dict)
    answer: Answer = "well"
    rate_limits: list[dict[str, Any]] = field(default_factory=list)
    is_silent: bool = False
    is_windowed: bool = False
    accepts_websockets: bool = True
    dies_at: tuple[str, int] | None = None
    calls: list[tuple[str, str, int, int]] = field(default_factory=list)
    subscriptions: dict[web.WebSocketResponse, set[str]] = field(default_factory=dict)
    url: str = ""

    # --- what a test does -----------------------------------------------------------------

    async def step(self, to_ms: int) -> None:
        """Move the clock from close to close, sending what closes at each."""
        while self.now_ms + BAR_MS - self.now_ms % BAR_MS <= to_ms:
            self.now_ms += BAR_MS - self.now_ms % BAR_MS
            await self._send_closes()
        self.now_ms = max(self.now_ms, to_ms)

    async def release(self, symbol: str, interval: str, opens_at_ms: int) -> None:
        """Show a candle that was held back, and send it."""
        self.held_back.discard((symbol, interval, opens_at_ms))
        await self._send(symbol, interval, opens_at_ms, is_closed=True)

    async def cut(self) -> None:
        """Break every websocket off."""
        for socket in list(self.subscriptions):
            transport = socket._req.transport if socket._req is not None else None
            if transport is not None:
                transport.abort()
        self.subscriptions.clear()

    def streams(self) -> set[str]:
        """Return what is subscribed to, over all websockets."""
        return {stream for streams in self.subscriptions.values() for stream in streams}

    # --- candles --------------------------------------------------------------------------

    def candle(self, symbol: str, interval: str, opens_at_ms: int) -> Values | None:
        """Return the candle that opens at an instant, if the venue shows one."""
        key = (symbol, interval, opens_at_ms)
        if opens_at_ms < self.symbols[symbol] or opens_at_ms >= self.now_ms:
            return None
        if key in self.missing or key in self.held_back:
            return None
        return self.odd.get(key) or values_at(symbol, opens_at_ms)

    async def _send_closes(self) -> None:
        for interval, bar_ms in sorted(INTERVALS.items(), key=lambda item: -item[1]):
            if self.now_ms % bar_ms == 0:
                for symbol in self.symbols:
                    await self._send(symbol, interval, self.now_ms - bar_ms, is_closed=True)

    async def _send(self, symbol: str, interval: str, opens_at_ms: int, *, is_closed: bool) -> None:
        candle = self.candle(symbol, interval, opens_at_ms)
        if candle is None or self.is_silent:
            return
        opening, high, low, close, volume = map(str, candle)
        message = {
            "e": "kline",
            "E": self.now_ms,
            "s": symbol,
            "k": {
                "t": opens_at_ms,
                "T": opens_at_ms + INTERVALS[interval] - 1,
                "s": symbol,
                "i": interval,
                "o": opening,
                "h": high,
                "l": low,
                "c": close,
                "v": volume,
                "x": is_closed,
            },
        }
        for socket, streams in list(self.subscriptions.items()):
            if f"{symbol.lower()}@kline_{interval}" in streams:
                await self.send_raw(socket, orjson.dumps(message).decode())

    async def send_raw(self, socket: web.WebSocketResponse, text: str) -> None:
        """Send a text as it is; a socket that is gone counts as closed."""
        try:
            await socket.send_str(text)
        except (ConnectionError, RuntimeError):
            self.subscriptions.pop(socket, None)

    # --- routes ---------------------------------------------------------------------------

    async def info(self, _: web.Request) -> web.Response:
        listed = [listing(symbol, at_ms) for symbol, at_ms in self.symbols.items()]
        return web.json_response({"rateLimits": self.rate_limits, "symbols": listed})

    async def time(self, _: web.Request) -> web.Response:
        return web.json_response({"serverTime": self.now_ms})

    async def klines(self, request: web.Request) -> web.Response:
        symbol, interval = request.query["symbol"], request.query["interval"]
        limit, bar_ms = int(request.query["limit"]), INTERVALS[interval]
        start_ms = int(request.query["startTime"])
        if self.dies_at == (symbol, start_ms):
            assert request.transport is not None
            request.transport.close()
        self.calls.append((symbol, interval, start_ms, limit))
        opens_at_ms = max(start_ms, self.symbols[symbol])
        opens_at_ms += -opens_at_ms % bar_ms
        rows: list[list[Any]] = []
        until_ms = self.now_ms
        if self.is_windowed:
            until_ms = min(until_ms, start_ms + limit * bar_ms)
        while opens_at_ms < until_ms and len(rows) < limit:
            candle = self.candle(symbol, interval, opens_at_ms)
            if candle is not None:
                rows.append([opens_at_ms, *map(str, candle), opens_at_ms + bar_ms - 1])
            opens_at_ms += bar_ms
        return web.json_response(rows)

    async def socket(self, request: web.Request) -> web.StreamResponse:
        if not self.accepts_websockets:
            return web.Response(status=503, text="<html>no</html>", content_type="text/html")
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.subscriptions[socket] = set()
        async for message in socket:
            if message.type != WSMsgType.TEXT:
                break
            asked = orjson.loads(message.data)
            if asked["method"] == "SUBSCRIBE":
                self.subscriptions.setdefault(socket, set()).update(asked["params"])
            await socket.send_json({"result": None, "id": asked["id"]})
        self.subscriptions.pop(socket, None)
        return socket


@web.middleware
async def _as_told(request: web.Request, handler: Any) -> web.StreamResponse:
    venue: StubVenue = request.app[VENUE]
    if venue.answer == "well" or "/ws/" in request.path:
        response: web.StreamResponse = await handler(request)
        return response
    if venue.answer == "html":
        return web.Response(text="<html>welcome</html>", content_type="text/html")
    if venue.answer == "nonsense":
        return web.json_response({"surprise": [1, {"a": None}]})
    if venue.answer == "limit":
        return web.json_response({"code": -1003, "msg": "Too many requests."}, status=429)
    assert request.transport is not None
    if venue.answer == "stall":
        await asyncio.Event().wait()  # until the client gives up
    if venue.answer == "break off":
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"[[170000")
    request.transport.close()
    return web.Response()


VENUE = web.AppKey("venue", StubVenue)


@asynccontextmanager
async def serving(venue: StubVenue) -> AsyncIterator[StubVenue]:
    """Serve a venue on a free port; its `url` is set."""
    app = web.Application(middlewares=[_as_told])
    app[VENUE] = venue
    app.router.add_get("/fapi/v1/exchangeInfo", venue.info)
    app.router.add_get("/fapi/v1/time", venue.time)
    app.router.add_get("/fapi/v1/klines", venue.klines)
    app.router.add_get("/market/ws/{number}", venue.socket)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    venue.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield venue
    finally:
        await venue.cut()
        await runner.cleanup()
