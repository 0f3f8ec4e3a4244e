"""When to enter and when to leave a pair.

The one decision function of the sleeve: the signals service, the backtest and research call
it with the features of a close and get the signals of that close. The hedge ratio,
intercept, mean and deviation of the spread are frozen at entry: exits look at the spread
that is held, not at one whose ratio has moved since.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

from pydantic import BaseModel, Field, model_validator

from shared.clock import instant_of_ms
from shared.events.features import FeatureRow, FeaturesComputed
from shared.events.signals import WHOLE_PPM, Signal, SignalsRaised
from shared.quant.compiled import compiled, interpreted
from shared.sleeves.pairs.features import held_z
from shared.sleeves.pairs.stored_model import StoredModel

SLEEVE = "pairs"


class SignalSettings(BaseModel, frozen=True, extra="forbid"):
    """Thresholds of the z rule and of the model.

    Attributes
    ----------
    signals_from
        `z`: the rule alone; `model`: enter only on the champion's word; `auto`: on the
        champion's word where there is a champion, else by the rule.
    entry_z, stop_z
        Enter when entry_z <= |z| < stop_z; leave when the held spread has moved against us
        to stop_z.
    exit_z
        Leave when the held spread is back within exit_z of its mean.
    max_hold_bars
        Leave after so many trade closes in any case.
    cooldown_bars
        Trade closes after an exit before the pair may be entered again.
    missing_closes_limit
        Leave a held pair after so many trade closes without features of it.
    hedge_ratio_min, hedge_ratio_max
        Bounds of the rolling hedge ratio at entry.
    probability_threshold
        Smallest probability of the model that enters.
    half_life_reference_bars
        A pair whose spread takes longer than this to halve is entered with so much less of its
        gross notional: reference / half-life. None enters all alike.
    """

    signals_from: Literal["z", "model", "auto"] = "auto"
    entry_z: float = Field(2.0, gt=0)
    exit_z: float = Field(0.5, ge=0)
    stop_z: float = Field(4.0, gt=0)
    max_hold_bars: int = Field(288, gt=0)
    cooldown_bars: int = Field(12, ge=0)
    missing_closes_limit: int = Field(12, gt=0)
    hedge_ratio_min: float = Field(0.2, gt=0)
    hedge_ratio_max: float = Field(5.0, gt=0)
    probability_threshold: float = Field(0.55, ge=0, le=1)
    # Left out of what names a run where it is off: such a run is the one it was without it.
    half_life_reference_bars: float | None = Field(
        None, gt=0, exclude_if=lambda value: value is None
    )

    @model_validator(mode="after")
    def _thresholds_are_ordered(self) -> SignalSettings:
        if not self.exit_z < self.entry_z < self.stop_z:
            raise ValueError(
                f"exit_z {self.exit_z} < entry_z {self.entry_z} < stop_z {self.stop_z} must hold"
            )
        return self


class PairTrade(NamedTuple):
    """What the rule remembers of one pair: the trade it is in, or the one it just left.

    Attributes
    ----------
    side
        +1 or -1 while held, 0 in the cool-down after an exit.
    bars_held, missing_closes
        Trade closes since entry, and of late without features.
    cooldown_left
        Trade closes until the pair may be entered again.
    model_sha256
        The model that opened the trade, if one did.
    """

    y: str
    x: str
    side: int
    entered_at_ms: int
    hedge_ratio: float
    intercept: float
    spread_mean: float
    spread_std: float
    last_close_y: float
    last_close_x: float
    bars_held: int = 0
    missing_closes: int = 0
    cooldown_left: int = 0
    model_sha256: str | None = None


Trades = Mapping[tuple[str, str], PairTrade]

EXIT_REASONS = ("", "reverted", "stopped", "held_too_long", "features_missing")
"""Why a trade is left, by the number the compiled rule gives; none is the first."""


class Thresholds(NamedTuple):
    """The settings that the compiled rules read, under their names there."""

    entry_z: float
    exit_z: float
    stop_z: float
    max_hold_bars: int
    cooldown_bars: int
    missing_closes_limit: int
    hedge_ratio_min: float
    hedge_ratio_max: float
    half_life_reference_bars: float


def thresholds_of(settings: SignalSettings) -> Thresholds:
    """Return the thresholds of the settings; without a reference of half-lives it is 0."""
    values = {name: getattr(settings, name) for name in Thresholds._fields}
    # Of one type in any case, or the rules would be compiled a second time.
    values["half_life_reference_bars"] = settings.half_life_reference_bars or 0.0
    return Thresholds(**values)


@compiled
def size_ppm(half_life_bars: float, limits: Thresholds) -> int:
    """Return how much of a pair's gross notional an entry gets, in millionths.

    Notes
    -----
    min(1, reference / half-life), rounded down: capital that is bound for longer earns less of
    the same stretch. Never nothing, so that what is too small is refused by the venue's minimum.
    """
    if limits.half_life_reference_bars <= 0 or half_life_bars <= limits.half_life_reference_bars:
        return WHOLE_PPM
    return max(1, math.floor(WHOLE_PPM * (limits.half_life_reference_bars / half_life_bars)))


@compiled
def may_enter(z_score: float, beta: float, spread_std: float, limits: Thresholds) -> bool:
    """Tell whether the features of a bar allow an entry by the rule."""
    return (
        limits.entry_z <= abs(z_score) < limits.stop_z
        and limits.hedge_ratio_min <= beta <= limits.hedge_ratio_max
        and spread_std > 0  # features by hand: no spread to measure exits by
    )


@compiled
def exit_reason(distance: float, bars_held: int, missing_closes: int, limits: Thresholds) -> int:
    """Return why a trade is left, as an index of `EXIT_REASONS`.

    Parameters
    ----------
    distance
        How far the spread stands on the side it was entered from, in deviations: positive
        is not home yet.
    bars_held, missing_closes
        As in `PairTrade`, the present close included.
    limits
        Thresholds.
    """
    if distance <= limits.exit_z:
        return 1
    if distance >= limits.stop_z:
        return 2
    if bars_held >= limits.max_hold_bars:
        return 3
    if missing_closes >= limits.missing_closes_limit:
        return 4
    return 0


# As the interpreter runs them, one pair at a time.
_size_ppm = interpreted(size_ppm)
_may_enter = interpreted(may_enter)
_exit_reason = interpreted(exit_reason)


def decide_signals(
    trades: Trades,
    computed: FeaturesComputed,
    settings: SignalSettings,
    spread_space: Literal["log", "price"],
    champion: StoredModel | None,
    last_closes_at_ms: int | None,
) -> tuple[SignalsRaised, dict[tuple[str, str], PairTrade]]:
    """Decide the signals of one close.

    Parameters
    ----------
    trades
        What the rule remembers, by pair.
    computed
        Features of the close.
    settings, spread_space
        Thresholds, and the space of the spread.
    champion
        The model in force for this close, or `None`.
    last_closes_at_ms
        The close decided last, or `None` before the first. More features of the same one,
        from a symbol whose bar came late, do not count as another bar; those of an earlier
        one decide nothing.

    Returns
    -------
    SignalsRaised, dict
        The event to publish and what to remember from now on.
    """
    closes_at_ms = computed.closes_at_ms
    if last_closes_at_ms is not None and closes_at_ms < last_closes_at_ms:
        return _raised(computed, ()), dict(trades)
    n_bars = 1 if closes_at_ms != last_closes_at_ms else 0
    close = _Close(
        computed,
        closes_at_ms,
        n_bars,
        {name: i for i, name in enumerate(computed.feature_names)},
        settings,
        thresholds_of(settings),
        spread_space,
        None if settings.signals_from == "z" else champion,
    )
    rows = {(row.y, row.x): row for row in computed.rows}
    remembered: dict[tuple[str, str], PairTrade] = {}
    signals: list[Signal] = []
    for key in sorted(rows.keys() | trades.keys()):
        trade, row = trades.get(key), rows.get(key)
        signal: Signal | None = None
        if trade is not None and trade.side:
            trade, signal = _follow(trade, row, close)
        elif trade is not None and (trade.cooldown_left > 1 or n_bars == 0):
            trade = trade._replace(cooldown_left=trade.cooldown_left - n_bars)
        else:
            trade = None
            if row is not None:
                trade, signal = _consider(row, close)
        if trade is not None:
            remembered[key] = trade
        if signal is not None:
            signals.append(signal)
    return _raised(computed, signals), remembered


@dataclass(frozen=True, slots=True)
class _Close:
    """What the decisions of one close have in common.

    Attributes
    ----------
    n_bars
        How many trade closes it counts as: one, or none where it was decided on before.
    position
        Of a feature among the values of a row, by its name.
    model
        Decides on entries, where one does.
    """

    computed: FeaturesComputed
    at_ms: int
    n_bars: int
    position: Mapping[str, int]
    settings: SignalSettings
    limits: Thresholds
    spread_space: Literal["log", "price"]
    model: StoredModel | None


def _raised(computed: FeaturesComputed, signals: Iterable[Signal]) -> SignalsRaised:
    return SignalsRaised.of_rows(
        signals,
        closes_at=computed.closes_at,
        timeframe=computed.timeframe,
        roster_closes_at=computed.roster_closes_at,
        marks=marks_of(computed),
    )


def marks_of(computed: FeaturesComputed) -> dict[str, float]:
    """Return the closes of every symbol that has features, in order of the symbol."""
    prices = dict(zip(computed.y, computed.close_y, strict=True))
    prices |= zip(computed.x, computed.close_x, strict=True)
    return dict(sorted(prices.items()))


def _consider(row: FeatureRow, close: _Close) -> tuple[PairTrade | None, Signal | None]:
    """Enter a pair, or leave it alone."""
    position, values = close.position, row.values
    z_score, beta = values[position["z_score"]], values[position["beta"]]
    spread_std = values[position["spread_std"]]
    if row.status != "active" or not _may_enter(z_score, beta, spread_std, close.limits):
        return None, None
    settings, model = close.settings, close.model
    if model is None and settings.signals_from == "model":
        return None, None
    confidence = None
    if model is not None:
        confidence = model.probability_of_row(close.computed.feature_names, values)
        if confidence < settings.probability_threshold:
            return None, None
    # In order, here and below: with names it takes twice as long, for every pair and close.
    trade = PairTrade(
        row.y,
        row.x,
        -1 if z_score > 0 else 1,
        close.at_ms,
        beta,
        values[position["alpha"]],
        values[position["spread_mean"]],
        spread_std,
        row.close_y,
        row.close_x,
        model_sha256=None if model is None else model.sha256,
    )
    reason = "z_score" if model is None else "model"
    size = WHOLE_PPM
    if settings.half_life_reference_bars is not None:
        size = _size_ppm(values[position["half_life_bars"]], close.limits)
    entered_at = close.computed.closes_at
    return trade, _signal(trade, trade.side, "enter", reason, z_score, entered_at, confidence, size)


def _follow(
    trade: PairTrade, row: FeatureRow | None, close: _Close
) -> tuple[PairTrade, Signal | None]:
    """Hold a trade for as many more closes as this one counts, or leave it."""
    bars_held = trade.bars_held + close.n_bars
    if row is None:
        missing_closes = trade.missing_closes + close.n_bars
        close_y, close_x = trade.last_close_y, trade.last_close_x
    else:
        missing_closes, close_y, close_x = 0, row.close_y, row.close_x
    z_score = held_z(
        close_y,
        close_x,
        trade.hedge_ratio,
        trade.intercept,
        trade.spread_mean,
        trade.spread_std,
        close.spread_space,
    )
    reason = _exit_reason(-trade.side * z_score, bars_held, missing_closes, close.limits)
    followed = PairTrade(
        trade.y,
        trade.x,
        0 if reason else trade.side,
        trade.entered_at_ms,
        trade.hedge_ratio,
        trade.intercept,
        trade.spread_mean,
        trade.spread_std,
        close_y,
        close_x,
        bars_held,
        missing_closes,
        close.settings.cooldown_bars if reason else trade.cooldown_left,
        trade.model_sha256,
    )
    if not reason:
        return followed, None
    entered_at = instant_of_ms(trade.entered_at_ms)
    return followed, _signal(
        followed, trade.side, "exit", EXIT_REASONS[reason], z_score, entered_at
    )


def _signal(
    trade: PairTrade,
    side: int,
    action: Literal["enter", "exit"],
    reason: str,
    z_score: float,
    entered_at: datetime,
    confidence: float | None = None,
    size: int = WHOLE_PPM,
) -> Signal:
    return Signal(
        SLEEVE,
        trade.y,
        trade.x,
        action,
        1 if side > 0 else -1,
        reason,
        abs(z_score),
        confidence,
        z_score,
        trade.hedge_ratio,
        trade.intercept,
        trade.spread_mean,
        trade.spread_std,
        entered_at,
        trade.last_close_y,
        trade.last_close_x,
        trade.model_sha256,
        size,
    )
