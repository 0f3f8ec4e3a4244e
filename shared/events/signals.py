"""Events published by signals."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from shared.events.base import Event, Fact, Finite, Instant, Symbol

WHOLE_PPM = 1_000_000
"""Millionths of the whole."""


class Signal(Fact):
    """A wish to enter or to leave a pair.

    Attributes
    ----------
    side
        +1 buys the spread (y bought, x sold), -1 sells it.
    strength
        |z| at the decision.
    confidence
        The model's probability, where a model decided.
    hedge_ratio, intercept, spread_mean, spread_std
        Of the held spread: frozen at entry, repeated on the exit.
    model_sha256
        The model that decided; `None` for the z rule.
    size_ppm
        How much of a pair's gross notional an entry is to get, in millionths.
    """

    sleeve: str
    y: Symbol
    x: Symbol
    action: Literal["enter", "exit"]
    side: Literal[-1, 1]
    reason: str
    strength: Finite
    confidence: Finite | None
    z_score: Finite
    hedge_ratio: Finite
    intercept: Finite
    spread_mean: Finite
    spread_std: Finite
    entered_at: Instant
    close_y: Finite
    close_x: Finite
    roster_closes_at: Instant | None
    model_sha256: str | None = Field(pattern="^[0-9a-f]{64}$")
    size_ppm: int = Field(WHOLE_PPM, gt=0, le=WHOLE_PPM)


class Mark(Fact):
    """The last close of a symbol, carried along so that no stage must ask for it."""

    symbol: Symbol
    price: Finite = Field(gt=0)


class SignalsRaised(Event):
    """Every signal of one close; often none."""

    timeframe: str
    signals: tuple[Signal, ...]
    marks: tuple[Mark, ...]
