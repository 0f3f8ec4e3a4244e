"""Events published by the screener."""

from __future__ import annotations

from typing import Literal

from shared.events.base import Event, Fact, Finite, Instant, Symbol


class RosterPair(Fact):
    """A pair on the roster, y regressed on x, with the statistics of its last acceptance."""

    y: Symbol
    x: Symbol
    status: Literal["candidate", "active", "closing_only"]
    accepted_screens: int
    missed_screens: int
    entered_at: Instant | None
    left_at: Instant | None
    statistic: Finite
    p_value: Finite
    q_value: Finite
    lag: int
    hedge_ratio: Finite
    intercept: Finite
    half_life_bars: Finite
    hurst: Finite
    correlation: Finite
    crossings: int
    n_bars: int


class PairsScreened(Event):
    """The roster after one screen; it applies from the first trade close after `closes_at`."""

    timeframe: str
    method: str
    level: Finite
    n_symbols: int
    n_tests: int
    n_accepted: int
    summary: str
    pairs: tuple[RosterPair, ...]
