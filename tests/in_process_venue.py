"""A venue in the process of a test: one symbol whose bar i opens at 10 + i and stays there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from services.paper_exchange.candles import Candle, Candles
from services.paper_exchange.gate import Answer
from services.paper_exchange.in_process import InProcessVenue
from services.paper_exchange.market import Listing, Market
from shared.book.execution import FillTerms
from shared.book.instrument import Instrument
from shared.venues.faults import FaultSettings

BAR_MS = 300_000
T0 = 1_704_067_200_000
COIN = Instrument("AAA/USDT", 2, 3, 500_000_000, "perpetual")
TERMS = FillTerms(fee_ppm=0, slippage_ppm=0, max_participation_ppm=1_000_000, funding_ppm=0)
CAPITAL_E8 = 10**13


def close_ms(number: int) -> int:
    return T0 + (number + 1) * BAR_MS


def market(n_bars: int = 50) -> Market:
    candles = [
        Candle(close_ms(i) - BAR_MS, close_ms(i), 10.0 + i, 10.0 + i, 10.0 + i, 10.0 + i, 1e6)
        for i in range(n_bars)
    ]
    bars = Candles.of(candles)
    return Market({"AAAUSDT": Listing("AAAUSDT", COIN, BAR_MS, bars)}, bars.closes_at_ms, BAR_MS)


@contextmanager
def venue_with(faults: FaultSettings | None = None) -> Iterator[InProcessVenue]:
    """Open a venue that stands at its first close."""
    venue = InProcessVenue(market(), TERMS, CAPITAL_E8, faults)
    try:
        venue.advance(close_ms(0))
        yield venue
    finally:
        venue.close()


def place(venue: InProcessVenue, client_order_id: str, **changed: Any) -> Answer:
    """Ask for a USD-M order to buy one at the market, unless told otherwise."""
    order = {"symbol": "AAAUSDT", "side": "BUY", "type": "MARKET", "quantity": "1"}
    return venue.request(
        "POST", "/fapi/v1/order", {**order, "newClientOrderId": client_order_id, **changed}
    )


def rest(venue: InProcessVenue, client_order_id: str, **changed: Any) -> Answer:
    """Ask for a USD-M order far below the market."""
    limit = {"type": "LIMIT", "timeInForce": "GTC", "price": "9", **changed}
    return place(venue, client_order_id, **limit)


def find(venue: InProcessVenue, client_order_id: str) -> Answer:
    """Ask for a USD-M order."""
    asked = {"symbol": "AAAUSDT", "origClientOrderId": client_order_id}
    return venue.request("GET", "/fapi/v1/order", asked)


def n_orders(venue: InProcessVenue) -> int:
    """Return how many orders the venue has ever accepted."""
    return venue.exchange.store.counts()["orders"]
