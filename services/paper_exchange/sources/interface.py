"""What the venue knows of its source, and the source of the venue.

A source owns a market and, unless it is led by the hand, moves it from close to close by
calling the venue. The venue alone decides what a close does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from services.paper_exchange.charts import KlineRow, kline
from services.paper_exchange.market import Listing, Market
from services.paper_exchange.refusals import RefusalError
from shared.book.instrument import Instrument


class Venue(Protocol):
    """What a source may do with the venue."""

    market_at_ms: int

    def now_ms(self) -> int:
        """Return venue time."""
        ...

    def move(self, closes_at_ms: int) -> int:
        """Move the market to a close."""
        ...

    def set_clock(self, now_ms: int) -> None:
        """Put the clock forward to an instant, unless it is past it."""
        ...

    def enlist(self, instruments: Mapping[str, Instrument]) -> dict[str, Instrument]:
        """Record the units of what is listed now, by name at the venue.

        Returns
        -------
        dict of str to Instrument
            What must stay listed, though it is not among them, because of its orders.
        """
        ...


class Source(Protocol):
    """What the venue knows of its source.

    Attributes
    ----------
    name
        `lockstep`, `simulated`, `recorded` or `live`.
    identity
        What the prices are made from: a store with orders is of one such market.
    market
        What it shows; the source makes it grow.
    starts_at_ms
        Where a venue without a past begins.
    """

    name: str
    identity: str
    market: Market
    starts_at_ms: int

    @property
    def speed(self) -> float | None:
        """Seconds of the market in one of ours, `None` if it does not move by itself."""
        ...

    @property
    def fault(self) -> str | None:
        """What keeps the market from moving, for people; `None` while nothing does."""
        ...

    def state(self) -> str:
        """Return, for people, what it is doing."""
        ...

    def resume(self, market_at_ms: int, instruments: Mapping[str, Instrument]) -> None:
        """Make the market ready to be shown at an instant and to go on from there.

        Parameters
        ----------
        market_at_ms
            The instant.
        instruments
            What was listed before, by name at the venue.
        """
        ...

    def next_close(self, after_ms: int) -> int | None:
        """Return the close that the market will reach next, `None` if that is not known."""
        ...

    async def run(self, venue: Venue) -> None:
        """Move the market until there is nothing left to move it through."""
        ...

    async def klines(
        self,
        listing: Listing,
        interval: str,
        start_ms: int | None,
        end_ms: int | None,
        limit: int,
        at_ms: int,
    ) -> list[KlineRow]:
        """Return bars of a symbol as `Listing.candles` does, in Binance's shape.

        Raises
        ------
        RefusalError
            -1120 if there are no bars of this interval.
        """
        ...


def own_klines(
    market: Market,
    listing: Listing,
    interval: str,
    start_ms: int | None,
    end_ms: int | None,
    limit: int,
    at_ms: int,
) -> list[KlineRow]:
    """Return bars that the market has at hand, as `Source.klines`."""
    bar_ms = market.intervals.get(interval)
    if bar_ms is None:
        raise RefusalError(
            -1120, f"Invalid interval. This market has {', '.join(market.intervals)}."
        )
    return [kline(each) for each in listing.candles(bar_ms, start_ms, end_ms, limit, at_ms)]
