"""Events published by ingest."""

from __future__ import annotations

from pydantic import Field

from shared.events.base import Event, Fact, Symbol


class Bar(Fact):
    """One symbol's bar.

    Prices and volume are taken as they come: a value that breaks a rule sends this bar to
    quarantine with a reason instead of the whole event to the dead letters.
    """

    symbol: Symbol
    open: float
    high: float
    low: float
    close: float
    volume: float


class BarsClosed(Event):
    """The bars of one venue and timeframe that closed at one instant.

    A symbol that comes late comes in a further event of the same close.
    """

    venue: str = Field(min_length=1, max_length=40)
    timeframe: str = Field(pattern="^(1m|5m|15m|1h|4h|1d)$")
    bars: tuple[Bar, ...] = Field(min_length=1)
