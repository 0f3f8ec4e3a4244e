"""`mnt check`: whether what decides looks ahead, and how far back it looks, on real bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from shared.backtest.candidates import training_set
from shared.backtest.engine import run_backtest
from shared.backtest.preparation import Prepared, prepare_with
from shared.backtest.result import BacktestResult
from shared.book.instrument import Instrument, instruments_from_bars
from shared.clock import instant_of_ms, ms_of_instant, timeframe_ms, utc_now
from shared.errors import DataError, SettingsError
from shared.events.screener import PairsScreened, RosterPair
from shared.quant.bar_checks import CheckedBars
from shared.quant.bars import Bars, Field, RawBars
from shared.quant.lookahead import Columns, Leak, truncation_check, warmup_bars_needed
from shared.settings import strategy_of
from shared.sleeves.pairs.features import Pair, feature_names, pair_features, warmup_bars
from shared.sleeves.pairs.labels import LabelKind, LabelSettings
from shared.sleeves.pairs.settings import SCREEN_TIMEFRAME, StrategySettings
from shared.venues.market import RecordedMarket, load_market

_FIELDS: tuple[Field, ...] = ("open", "high", "low", "close", "volume")
_ACCOUNT = "check"
_LABELLED: tuple[LabelKind, ...] = get_args(LabelKind)


@dataclass(frozen=True, eq=False)
class JoinedBars:
    """The last bars that both legs of a pair have.

    Attributes
    ----------
    columns
        `closes_at_ms`, and `y_open` to `x_volume`.
    instruments
        Units of both legs, from all of their bars: a unit is no forecast.
    """

    pair: Pair
    venue: str
    columns: Columns
    instruments: dict[str, Instrument]


@dataclass(frozen=True)
class LookaheadCheck:
    """What was compared, and what leaks.

    Attributes
    ----------
    outputs
        Names of everything compared.
    n_orders
        Orders among it: without any, trading was not put to the test.
    """

    pair: Pair
    n_bars: int
    n_points: int
    outputs: tuple[str, ...]
    n_orders: int
    leaks: tuple[Leak, ...]


@dataclass(frozen=True)
class WarmupCheck:
    """How many bars each feature needs, and how many the sleeve gives it.

    Attributes
    ----------
    needed
        By feature; None where more bars kept changing it, or it had no value.
    given
        Bars that a full row is computed from.
    """

    pair: Pair
    needed: dict[str, int | None]
    given: int

    @property
    def too_long(self) -> tuple[str, ...]:
        """The features that need more than they are given."""
        return tuple(
            name for name, bars in self.needed.items() if bars is None or bars > self.given
        )


def check_lookahead(
    bars: Sequence[Path],
    overrides: Sequence[str],
    *,
    pair: str | None,
    n_bars: int,
    n_points: int,
    seed: int,
) -> LookaheadCheck:
    """Take the future away at many points and compare all that was decided before.

    Parameters
    ----------
    bars, overrides
        Files and settings.
    pair
        As `Y~X`; by default the two symbols of the largest turnover.
    n_bars
        How many of the newest bars are looked at.
    n_points
        Points drawn at random, after the warm-up.
    seed
        Of points and of the bars that replace the future.

    Raises
    ------
    DataError
        If the files hold too few bars of both symbols.
    SettingsError
        If the pair is not written as two symbols of the files.
    """
    strategy = strategy_of(overrides)
    joined = _joined(bars, strategy, pair, n_bars, fewest=warmup_bars(strategy.features) + 100)
    rng = np.random.default_rng(seed)
    first, last = warmup_bars(strategy.features), len(joined.columns["closes_at_ms"]) - 1
    points = rng.choice(np.arange(first, last), size=min(n_points, last - first), replace=False)

    def pipeline(columns: Columns) -> Columns:
        return _decisions(columns, joined, strategy)

    reach = {f"label_{kind}": LabelSettings(kind=kind).bars_ahead for kind in _LABELLED}
    # A fill during bar t was decided on the close before.
    reach["filled_side"] = -1
    whole = pipeline(joined.columns)
    leaks = truncation_check(pipeline, joined.columns, points.tolist(), rng=rng, reach_bars=reach)
    return LookaheadCheck(
        joined.pair, last + 1, len(points), tuple(whole), int((whole["order_y"] != 0).sum()), leaks
    )


def check_warmup(
    bars: Sequence[Path],
    overrides: Sequence[str],
    *,
    pair: str | None,
    n_points: int,
    seed: int,
) -> WarmupCheck:
    """Find how many bars each feature needs until more change nothing.

    Parameters
    ----------
    bars, overrides, pair, seed
        As for `check_lookahead`.
    n_points
        Bars at which features are compared, each with twice the warm-up before it.

    Raises
    ------
    DataError, SettingsError
        As for `check_lookahead`.
    """
    strategy = strategy_of(overrides)
    given = warmup_bars(strategy.features)
    needed = 2 * given + 200
    joined = _joined(bars, strategy, pair, needed, fewest=needed)
    points = np.random.default_rng(seed).choice(np.arange(2 * given, needed), n_points, False)

    def pipeline(columns: Columns) -> Columns:
        return _features(columns, strategy)

    return WarmupCheck(
        joined.pair, warmup_bars_needed(pipeline, joined.columns, points.tolist()), given
    )


def _features(columns: Columns, strategy: StrategySettings) -> dict[str, NDArray[Any]]:
    values = pair_features(
        columns["y_close"],
        columns["x_close"],
        columns["y_volume"],
        columns["x_volume"],
        strategy.features,
    )
    names = feature_names(strategy.features)
    return {name: values[:, place] for place, name in enumerate(names)}


def _decisions(
    columns: Columns, joined: JoinedBars, strategy: StrategySettings
) -> dict[str, NDArray[Any]]:
    """Return features, labels, signals, orders and fills of every bar."""
    prepared = _prepared(columns, joined, strategy)
    closes_at_ms = columns["closes_at_ms"]
    decided = _features(columns, strategy)
    bar_ms = timeframe_ms(strategy.trade_timeframe)
    for kind in _LABELLED:
        label = np.full(len(closes_at_ms), np.nan)
        found = training_set(prepared, LabelSettings(kind=kind))
        label[closes_at_ms.searchsorted(found.starts * bar_ms)] = found.labels
        decided[f"label_{kind}"] = label
    result = run_backtest(prepared, strategy, account=_ACCOUNT)
    return decided | _traded(result, closes_at_ms)


def _traded(result: BacktestResult, closes_at_ms: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    n_bars = len(closes_at_ms)
    columns = {
        name: np.zeros(n_bars, dtype=np.int64)
        for name in ("signal", "order_y", "order_x", "filled_side")
    }
    signals, orders, fills = result.trading.signals, result.trading.orders, result.trading.fills
    # An exit is told from an entry, and one reason from another.
    columns["signal"][signals.close] = signals.side * (1 + signals.reason)
    created = closes_at_ms.searchsorted(orders.created_at_ms)
    signed = orders.side * orders.quantity_lots
    for leg, name in enumerate(("order_y", "order_x")):
        np.add.at(columns[name], created[orders.leg == leg], signed[orders.leg == leg])
    # Filled at the open of a bar: the one that closes next.
    bar = closes_at_ms.searchsorted(fills.filled_at_ms, "right")
    is_y = orders.leg[fills.order] == 0
    columns["filled_side"][bar[is_y]] = orders.side[fills.order][is_y]
    return columns


def _prepared(columns: Columns, joined: JoinedBars, strategy: StrategySettings) -> Prepared:
    closes_at_ms = columns["closes_at_ms"]
    n_bars = len(closes_at_ms)
    symbols = tuple(sorted(joined.pair))
    legs = ["y" if symbol == joined.pair[0] else "x" for symbol in symbols]
    bars = Bars.from_raw(
        RawBars(
            joined.venue,
            strategy.trade_timeframe,
            symbols,
            np.repeat(np.arange(2, dtype=np.int32), n_bars),
            np.tile(closes_at_ms, 2),
            *(np.concatenate([columns[f"{leg}_{name}"] for leg in legs]) for name in _FIELDS),
        )
    )
    market = RecordedMarket(
        joined.venue,
        {strategy.trade_timeframe: CheckedBars(bars, (), 0, {})},
        joined.instruments,
    )
    before_ms = int(closes_at_ms[0]) - timeframe_ms(strategy.trade_timeframe)
    return prepare_with(
        market, strategy, (_roster(joined.pair, before_ms),), start_ms=None, end_ms=None
    )


def _roster(pair: Pair, at_ms: int) -> PairsScreened:
    """Return a roster that holds one pair whatever it is like: only time is checked here."""
    y, x = pair
    at = instant_of_ms(at_ms)
    return PairsScreened(
        closes_at=at,
        timeframe=SCREEN_TIMEFRAME,
        method="given",
        level=1.0,
        n_symbols=2,
        n_tests=0,
        n_accepted=1,
        summary="given by hand",
        pairs=(
            RosterPair(
                y=y, x=x, status="active", accepted_screens=1, missed_screens=0, entered_at=at,
                left_at=None, statistic=0.0, p_value=1.0, q_value=1.0, lag=0, hedge_ratio=1.0,
                intercept=0.0, half_life_bars=1.0, hurst=0.5, correlation=0.0, crossings=0,
                n_bars=0,
            ),
        ),
    )  # fmt: skip


def _joined(
    paths: Sequence[Path], strategy: StrategySettings, pair: str | None, n_bars: int, fewest: int
) -> JoinedBars:
    timeframe = strategy.trade_timeframe
    market = load_market(paths, (), timeframe, strategy.ingest, ms_of_instant(utc_now()))
    bars = market.checked[timeframe].accepted
    names = _legs(pair, bars)
    closes = bars.closes()
    wide = {
        f"{leg}_{name}": bars.wide([symbol], name, closes)[:, 0]
        for leg, symbol in zip("yx", names, strict=True)
        for name in _FIELDS
    }
    is_there = np.isfinite(wide["y_close"]) & np.isfinite(wide["x_close"])
    rows = np.flatnonzero(is_there)[-n_bars:]
    if len(rows) < fewest:
        raise DataError(
            f"{'~'.join(names)} has {len(rows)} joined bars of {timeframe} and the check needs "
            f"{fewest}: give more bars or set shorter windows"
        )
    columns = {"closes_at_ms": closes[rows], **{name: c[rows] for name, c in wide.items()}}
    instruments = instruments_from_bars(bars)
    return JoinedBars(
        names, market.venue, columns, {symbol: instruments[symbol] for symbol in names}
    )


def _legs(pair: str | None, bars: Bars) -> Pair:
    if pair is None:
        turnover = np.bincount(
            bars.symbol_code, weights=bars.close * bars.volume, minlength=len(bars.symbols)
        )
        largest = np.argsort(-turnover, kind="stable")[:2]
        if len(largest) < 2:
            raise DataError("the files hold one symbol: a pair needs two")
        return bars.symbols[int(largest[1])], bars.symbols[int(largest[0])]
    y, _, x = pair.partition("~")
    unknown = {y, x} - set(bars.symbols)
    if unknown or y == x:
        raise SettingsError(
            f"--pair {pair!r}: write two different symbols of the files as Y~X; they hold "
            f"{', '.join(bars.symbols)}"
        )
    return y, x
