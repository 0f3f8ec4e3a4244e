"""Events published by signals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from shared.columns import columns_of
from shared.events.base import Event, Fact, Finite, Instant, Symbol, require_one_length

WHOLE_PPM = 1_000_000
"""Millionths of the whole."""

Action = Literal["enter", "exit"]
Side = Literal[-1, 1]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
PartPpm = Annotated[int, Field(gt=0, le=WHOLE_PPM)]
Price = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Signal(NamedTuple):
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
    y: str
    x: str
    action: Action
    side: Side
    reason: str
    strength: float
    confidence: float | None
    z_score: float
    hedge_ratio: float
    intercept: float
    spread_mean: float
    spread_std: float
    entered_at: datetime
    close_y: float
    close_x: float
    model_sha256: str | None
    size_ppm: int = WHOLE_PPM


class SignalFact(Fact):
    """A signal by itself, outside its event: as `Signal`, with the roster it was decided on."""

    sleeve: str
    y: Symbol
    x: Symbol
    action: Action
    side: Side
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
    model_sha256: Sha256 | None
    size_ppm: PartPpm = WHOLE_PPM

    @classmethod
    def of(cls, signal: Signal, roster_closes_at: datetime | None) -> Self:
        """Return a signal of an event as a fact of its own."""
        return cls(**signal._asdict(), roster_closes_at=roster_closes_at)

    @property
    def signal(self) -> Signal:
        """The signal as its event had it."""
        return Signal(**{name: getattr(self, name) for name in Signal._fields})


class SignalsRaised(Event):
    """Every signal of one close, often none, as columns of one length.

    Attributes
    ----------
    roster_closes_at
        The screen whose roster was followed; `None` before the first one.
    sleeve, y, ..., size_ppm
        One entry for each signal: the fields of `Signal`.
    marks
        The last close of every symbol with features, so that no stage must ask for it.
    """

    version: Literal[2] = 2  # type: ignore[assignment]  # the first had an object for each signal

    timeframe: str
    roster_closes_at: Instant | None
    sleeve: tuple[str, ...]
    y: tuple[Symbol, ...]
    x: tuple[Symbol, ...]
    action: tuple[Action, ...]
    side: tuple[Side, ...]
    reason: tuple[str, ...]
    strength: tuple[Finite, ...]
    confidence: tuple[Finite | None, ...]
    z_score: tuple[Finite, ...]
    hedge_ratio: tuple[Finite, ...]
    intercept: tuple[Finite, ...]
    spread_mean: tuple[Finite, ...]
    spread_std: tuple[Finite, ...]
    entered_at: tuple[Instant, ...]
    close_y: tuple[Finite, ...]
    close_x: tuple[Finite, ...]
    model_sha256: tuple[Sha256 | None, ...]
    size_ppm: tuple[PartPpm, ...]
    marks: dict[Symbol, Price]

    @classmethod
    def of_rows(
        cls,
        rows: Iterable[Signal],
        *,
        closes_at: datetime,
        timeframe: str,
        roster_closes_at: datetime | None,
        marks: Mapping[str, float],
    ) -> Self:
        """Return the event of the signals of a close."""
        return cls(
            closes_at=closes_at,
            timeframe=timeframe,
            roster_closes_at=roster_closes_at,
            marks=dict(marks),
            **columns_of(Signal._fields, rows),
        )

    @property
    def columns(self) -> dict[str, tuple[Any, ...]]:
        """The columns of the signals by the names that a `Signal` has for them."""
        return {name: getattr(self, name) for name in Signal._fields}

    @property
    def rows(self) -> tuple[Signal, ...]:
        """The columns signal by signal."""
        return tuple(map(Signal._make, zip(*self.columns.values(), strict=True)))

    @model_validator(mode="after")
    def _columns_fit(self) -> Self:
        require_one_length(self.columns)
        return self
