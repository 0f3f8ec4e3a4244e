"""Trading a feature table: from settings and bars to the compiled loop and its columns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar, get_type_hints

import numba
import numpy as np

from shared.backtest.feature_table import FeatureTable
from shared.backtest.loop import (
    CASH_E8,
    N_COUNTS,
    N_FILLS,
    N_INTENTS,
    N_ORDERS,
    N_POSITIONS,
    PREVIOUS_MS,
    Account,
    Equity,
    Fills,
    Market,
    Orders,
    Positions,
    Terms,
    mark_ticks,
    trade_closes,
)
from shared.backtest.signals import Rows, Signals, raise_signals, rows_by_pair
from shared.book.arithmetic import MOST_UNITS
from shared.book.instrument import SCALES, Instrument
from shared.book.ledger import FUNDING_INTERVAL_MS
from shared.book.sizing import fraction_of_e8
from shared.clock import timeframe_ms
from shared.errors import DataError
from shared.quant.bars import Bars
from shared.quant.compiled import compiled, compiled_parallel
from shared.quant.typing import Bool1D, Float1D, Float2D, Int1D
from shared.sleeves.pairs.features import SpreadSpace
from shared.sleeves.pairs.rules import thresholds_of
from shared.sleeves.pairs.settings import StrategySettings

_FEATURES = ("z_score", "beta", "alpha", "spread_mean", "spread_std", "half_life_bars")
"""The features that the rule reads."""


class Forecaster(Protocol):
    """A model that says how likely an entry is right, of whatever kind it is.

    Attributes
    ----------
    sha256
        Its identity.
    """

    @property
    def sha256(self) -> str: ...  # noqa: D102

    def places_in(self, names: Sequence[str]) -> list[int]:
        """Return where the features it reads stand among others, in its order."""

    def predict_probability(self, features: Float2D) -> Float1D:
        """Return the probability of label 1 for every row of its features."""


@dataclass(frozen=True, eq=False, slots=True)
class Trading:
    """What trading a feature table gave, as columns; see `shared.backtest.loop`."""

    table: FeatureTable
    signals: Signals
    positions: Positions
    orders: Orders
    fills: Fills
    equity: Equity
    n_intents: int


class TradeInputs(NamedTuple):
    """What the loop reads of a table and its bars, made once for any number of runs.

    Attributes
    ----------
    rows
        The columns that decide, without a model's word and without thresholds.
    order : shape (n,)
        What takes rows of the table to these.
    """

    rows: Rows
    order: Int1D
    market: Market


def trade_inputs(
    table: FeatureTable,
    bars: Bars,
    instruments: Mapping[str, Instrument],
    spread_space: SpreadSpace,
) -> TradeInputs:
    """Return what trading a table reads.

    Parameters
    ----------
    table
        Features.
    bars
        Of the trade timeframe.
    instruments
        Units of every symbol of the table.
    spread_space
        Of the features.

    Raises
    ------
    DataError
        If a price or a volume is too large to be counted in ticks or lots.
    """
    first_row, order = rows_by_pair(table.pair, len(table.pairs))
    close_y, close_x = table.close_y[order], table.close_x[order]
    places = np.array([table.feature_names.index(name) for name in _FEATURES])
    features = dict(zip(_FEATURES, _columns_of(table.values, places, order), strict=True))
    is_log = spread_space == "log"
    rows = Rows(
        first_row=first_row,
        close=table.row_close()[order],
        is_active=table.is_active[order],
        close_y=close_y,
        close_x=close_x,
        y=_logarithms(close_y) if is_log else close_y,
        x=_logarithms(close_x) if is_log else close_x,
        z_score=features["z_score"],
        beta=features["beta"],
        alpha=features["alpha"],
        spread_mean=features["spread_mean"],
        spread_std=features["spread_std"],
        half_life=features["half_life_bars"],
        confidence=np.full(len(table.pair), np.nan),
    )
    market = _market(table, bars, instruments)
    mark_ticks(table.first_row, table.pair, table.close_y, table.close_x, market)
    return TradeInputs(rows, order, market)


def trade_table(
    table: FeatureTable,
    inputs: TradeInputs,
    settings: StrategySettings,
    champion: Forecaster | None = None,
) -> Trading:
    """Trade the pairs of a feature table.

    Parameters
    ----------
    table, inputs
        Features, and what was made of them and the bars.
    settings
        Signals, sizes and costs.
    champion
        The model in force over the whole period, if one is.
    """
    limits, terms, market = thresholds_of(settings.signals), _terms(settings), inputs.market
    signals, first_signal = raise_signals(
        _with_confidence(inputs, table, settings, champion),
        table.closes_at_ms,
        limits,
        settings.signals.signals_from == "model",
        settings.signals.probability_threshold,
    )
    account = _account(table, settings, len(market.notional_step))
    n_entries, n_slots = int(np.count_nonzero(signals.reason == 0)), len(account.live)
    equity, positions = _columns(Equity, len(table.closes_at_ms)), _columns(Positions, n_entries)
    # As much as is needed when every order fills at once; else more is taken on the way.
    n_orders = 4 * (n_entries + n_slots)
    orders, fills = _columns(Orders, n_orders), _columns(Fills, n_orders)
    close = 0
    while close < len(table.closes_at_ms):
        orders = _with_room(orders, int(account.counts[N_ORDERS]), 4 * n_slots)
        fills = _with_room(fills, int(account.counts[N_FILLS]), 2 * n_slots)
        close = trade_closes(
            close, market, terms, signals, first_signal, account, positions, orders, fills, equity
        )
    return Trading(
        table,
        signals,
        _cut(positions, int(account.counts[N_POSITIONS])),
        _cut(orders, int(account.counts[N_ORDERS])),
        _cut(fills, int(account.counts[N_FILLS])),
        equity,
        int(account.counts[N_INTENTS]),
    )


def _terms(settings: StrategySettings) -> Terms:
    sizes, costs = settings.portfolio, settings.execution
    return Terms(
        bar_ms=timeframe_ms(settings.trade_timeframe),
        funding_interval_ms=FUNDING_INTERVAL_MS,
        is_log=settings.features.spread_space == "log",
        pair_gross_e8=sizes.pair_gross_e8,
        top_k=sizes.top_k,
        gross_cap_e8=fraction_of_e8(sizes.capital_e8, sizes.gross_cap),
        symbol_cap_e8=fraction_of_e8(sizes.capital_e8, sizes.symbol_cap),
        fee_ppm=costs.fee_ppm,
        slippage_ppm=costs.slippage_ppm,
        impact_ppm=costs.impact_ppm,
        max_participation_ppm=costs.max_participation_ppm,
        funding_ppm=costs.funding_ppm,
        borrow_ppm=costs.borrow_ppm,
    )


def _with_confidence(
    inputs: TradeInputs,
    table: FeatureTable,
    settings: StrategySettings,
    champion: Forecaster | None,
) -> Rows:
    if champion is None or settings.signals.signals_from == "z":
        return inputs.rows
    places = champion.places_in(table.feature_names)
    confidence = champion.predict_probability(table.values[:, places])
    return inputs.rows._replace(confidence=confidence[inputs.order])


@compiled_parallel
def _columns_of(values: Float2D, places: Int1D, order: Int1D) -> Float2D:
    """Return some features of every row in another order, each in a stretch of its own."""
    columns, target = np.empty((len(places), len(order))), np.empty_like(order)
    for n in numba.prange(len(order)):
        target[order[n]] = n
    # The table is read from one end to the other: it may be larger than any cache.
    for row in numba.prange(len(order)):
        for k in range(len(places)):
            columns[k, target[row]] = values[row, places[k]]
    return columns


@compiled
def _logarithms(values: Float1D) -> Float1D:
    """Return logarithms to the bit as `math.log` gives them, which numpy's need not be."""
    result = np.empty_like(values)
    for n in range(len(values)):
        result[n] = math.log(values[n])
    return result


def _market(table: FeatureTable, bars: Bars, instruments: Mapping[str, Instrument]) -> Market:
    symbols = sorted({symbol for pair in table.pairs for symbol in pair})
    units = [instruments[symbol] for symbol in symbols]
    place = {symbol: n for n, symbol in enumerate(symbols)}
    legs = np.array([[place[y], place[x]] for y, x in table.pairs], dtype=np.int64)
    market = Market(
        closes_at_ms=table.closes_at_ms,
        opens=bars.wide(symbols, "open", table.closes_at_ms),
        volumes=bars.wide(symbols, "volume", table.closes_at_ms),
        marks_ticks=np.zeros((len(table.closes_at_ms), len(symbols)), dtype=np.int64),
        legs=legs.reshape(-1, 2),
        price_scale=np.array([SCALES[each.price_decimals] for each in units]),
        lot_scale=np.array([SCALES[each.lot_decimals] for each in units]),
        notional_step=np.array([each.notional_step for each in units], dtype=np.int64),
        min_notional_e8=np.array([each.min_notional_e8 for each in units], dtype=np.int64),
    )
    for name, values, scale in (
        ("open", market.opens, market.price_scale),
        ("volume", market.volumes, market.lot_scale),
    ):
        too_large = np.argwhere(values * scale >= MOST_UNITS)
        if too_large.size:
            close, symbol = too_large[0]
            raise DataError(
                f"{symbols[symbol]}: {name} of {values[close, symbol]} in the bar that "
                f"closes at {table.closes_at_ms[close]} ms is more than {MOST_UNITS:.0e} units: "
                "leave the symbol out or correct the bar"
            )
    return market


def _account(table: FeatureTable, settings: StrategySettings, n_symbols: int) -> Account:
    counts = np.zeros(N_COUNTS, dtype=np.int64)
    counts[CASH_E8], counts[PREVIOUS_MS] = settings.portfolio.capital_e8, -1
    n_pairs = len(table.pairs)
    # A pair has one position at a time.
    n_slots = min(settings.portfolio.top_k, n_pairs)
    return Account(
        counts=counts,
        live=np.zeros(n_slots, dtype=np.int64),
        position_of=np.full(n_pairs, -1),
        net_e8=np.zeros(n_symbols, dtype=np.int64),
        gross_e8=np.zeros(n_symbols, dtype=np.int64),
        entries=np.zeros(n_pairs, dtype=np.int64),
        exits=np.zeros(n_pairs, dtype=np.int64),
        openings=np.zeros((n_slots, 5), dtype=np.int64),
    )


Columns = TypeVar("Columns", Positions, Orders, Fills, Equity)

_PAIRED = frozenset({"lots", "caps_e8", "working"})
"""Columns of `Positions` with one value for each leg."""
_DTYPES: Mapping[Any, Mapping[str, Any]] = {
    kind: {
        name: np.bool_ if declared == Bool1D else np.int64
        for name, declared in get_type_hints(kind).items()
    }
    for kind in (Positions, Orders, Fills, Equity)
}


def _columns(kind: type[Columns], n: int) -> Columns:
    """Return columns of n rows, each of the type it is declared with."""
    made: list[Any] = []
    for name, dtype in _DTYPES[kind].items():
        shape = (n, 2) if kind is Positions and name in _PAIRED else (n,)
        made.append(np.zeros(shape, dtype))
    return _of(kind, made)


def _with_room(columns: Columns, n_used: int, n_more: int) -> Columns:
    """Return columns with room for more rows, at least twice as long when they grow."""
    if len(columns[0]) >= n_used + n_more:
        return columns
    grown = _columns(type(columns), max(2 * len(columns[0]), n_used + n_more))
    for new, old in zip(grown, columns, strict=True):
        new[:n_used] = old[:n_used]
    return grown


def _cut(columns: Columns, n: int) -> Columns:
    return _of(type(columns), [column[:n] for column in columns])


def _of(kind: type[Columns], columns: Sequence[Any]) -> Columns:
    return kind(*columns)
