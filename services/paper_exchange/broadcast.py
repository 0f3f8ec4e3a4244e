"""What the public streams say when the market reaches a close."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from services.paper_exchange import charts
from services.paper_exchange.market import Listing, Market
from services.paper_exchange.streams import Hub

_STREAM = re.compile(r"(?P<symbol>[a-z0-9]+)@(?P<kind>[A-Za-z]+)(?:_(?P<interval>[0-9]+[a-z]))?")
_SECONDS = re.compile(r"@[0-9]+s$")


class Broadcast:
    """Turns closes into events for those who listen.

    Parameters
    ----------
    hub, market
        Who listens, and to what.
    funding_ppm
        Rate that `markPrice` tells of.
    """

    def __init__(self, hub: Hub, market: Market, funding_ppm: int) -> None:
        self._hub = hub
        self._market = market
        self._funding_ppm = funding_ppm

    def tell_close(self, closes_at_ms: int, now_ms: int) -> None:
        """Publish what a close changed: bars that ended, bars that began, and tickers."""
        for stream in self._hub.streams:
            for event in self._events(stream, closes_at_ms, now_ms, is_close=True):
                self._hub.publish(stream, event)

    def present(self, stream: str, at_ms: int, now_ms: int) -> list[Any]:
        """Return what a stream says at once to who joins it between two closes."""
        return list(self._events(stream, at_ms, now_ms, is_close=False))

    def _events(self, stream: str, at_ms: int, now_ms: int, *, is_close: bool) -> Iterable[Any]:
        if stream.startswith("!"):
            kind = _SECONDS.sub("", stream[1:]).removesuffix("@arr")
            every = [
                event
                for listing in self._market.listings.values()
                if (event := self._event(kind, listing, at_ms, now_ms)) is not None
            ]
            return [every] if every else []
        found = _STREAM.fullmatch(_SECONDS.sub("", stream))
        listing = None if found is None else self._market.listings.get(found["symbol"].upper())
        if found is None or listing is None:
            return []
        if found["kind"] == "kline":
            return _klines(listing, self._market, found["interval"], at_ms, now_ms, is_close)
        event = self._event(found["kind"], listing, at_ms, now_ms)
        return [] if event is None else [event]

    def _event(self, kind: str, listing: Listing, at_ms: int, now_ms: int) -> charts.Payload | None:
        if listing.last_price(at_ms) is None:
            return None
        if kind == "miniTicker":
            return charts.mini_ticker_event(listing, at_ms, now_ms)
        if kind == "ticker":
            return charts.ticker_event(listing, at_ms, now_ms)
        if kind == "markPrice":
            return charts.mark_price_event(listing, at_ms, now_ms, self._funding_ppm)
        return None


def _klines(
    listing: Listing, market: Market, interval: str | None, at_ms: int, now_ms: int, is_close: bool
) -> Iterable[charts.Payload]:
    """Yield the bar that ended at an instant, if one did, and the one that forms."""
    bar_ms = market.intervals.get(interval or "")
    if interval is None or bar_ms is None:
        return
    if is_close and at_ms % bar_ms == 0:
        ended = listing.closed(bar_ms, at_ms)
        if ended is not None:
            yield charts.kline_event(listing, interval, ended, now_ms, is_closed=True)
    forming = listing.forming(bar_ms, at_ms)
    if forming is not None:
        yield charts.kline_event(listing, interval, forming, now_ms, is_closed=False)
