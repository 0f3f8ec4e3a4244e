"""What a backtest amounts to: its days, its trades and its pairs, in money and in shares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shared.backtest.loop import CLOSED
from shared.backtest.result import BacktestResult
from shared.clock import TIMEFRAME_MS, timeframe_ms
from shared.quant.performance import (
    ExposureStatistics,
    TradeStatistics,
    exposure_statistics,
    returns_of_equity,
    trade_statistics,
)
from shared.quant.typing import Float1D, Int1D

DAY_MS = TIMEFRAME_MS["1d"]
DAYS_PER_YEAR = 365.0
"""Days of a market that never closes."""
E8 = 1e8


@dataclass(frozen=True, eq=False)
class DailyTrack:
    """A backtest by UTC days, in the quote currency.

    Attributes
    ----------
    day_ms : ndarray of int64, shape (n,)
        Start of each day.
    equity : ndarray of float64, shape (n + 1,)
        The capital, then the equity at the last close of each day.
    gross, net, traded : ndarray of float64, shape (n,)
        Gross and net notional at the end of the day, and notional traded in it.
    """

    day_ms: Int1D
    equity: Float1D
    gross: Float1D
    net: Float1D
    traded: Float1D

    @property
    def returns(self) -> Float1D:
        """Return of each day."""
        return returns_of_equity(self.equity)

    def exposure(self) -> ExposureStatistics:
        """Summarise exposure and turnover."""
        return exposure_statistics(
            self.equity[1:], self.gross, self.net, self.traded, periods_per_year=DAYS_PER_YEAR
        )


@dataclass(frozen=True, slots=True)
class PairProfit:
    """What one pair earned, in 1e-8 of the quote; an open position at its last marks."""

    pair: str
    n_positions: int
    n_open: int
    profit_e8: int
    fees_e8: int
    funding_e8: int
    trades: TradeStatistics


def daily_track(result: BacktestResult, capital_e8: int) -> DailyTrack:
    """Cut a backtest that began with some capital into UTC days.

    Notes
    -----
    A close at midnight ends the day before it. Days without a close do not exist.
    """
    table = result.trading.table
    day = (table.closes_at_ms - 1) // DAY_MS
    last = np.flatnonzero(np.diff(day, append=day[-1:] + 1)) if len(day) else day
    equity = result.trading.equity
    at_ms = table.closes_at_ms[last]
    net, traded = _net_and_traded(result, at_ms)
    return DailyTrack(
        day_ms=day[last] * DAY_MS,
        equity=np.concatenate([[capital_e8], equity.equity_e8[last]]) / E8,
        gross=equity.gross_e8[last] / E8,
        net=net,
        traded=traded,
    )


def pair_profits(result: BacktestResult) -> tuple[PairProfit, ...]:
    """Return what every pair earned, the best first; together they are the change of equity."""
    positions, table = result.trading.positions, result.trading.table
    profit_e8 = positions.cash_e8 + _marked_e8(result)
    bar_ms = timeframe_ms(result.prepared.settings.trade_timeframe)
    found = []
    for code in np.unique(positions.pair).tolist():
        of_pair = positions.pair == code
        is_closed = of_pair & (positions.state == CLOSED)
        held = (positions.closed_at_ms - positions.opened_at_ms)[is_closed] // bar_ms
        found.append(
            PairProfit(
                pair="~".join(table.pairs[code]),
                n_positions=int(of_pair.sum()),
                n_open=int((of_pair & ~is_closed).sum()),
                profit_e8=int(profit_e8[of_pair].sum()),
                fees_e8=int(positions.fees_e8[of_pair].sum()),
                funding_e8=int(positions.funding_e8[of_pair].sum()),
                trades=trade_statistics(profit_e8[is_closed] / E8, held),
            )
        )
    return tuple(sorted(found, key=lambda pair: (-pair.profit_e8, pair.pair)))


def closed_trades(result: BacktestResult) -> TradeStatistics:
    """Summarise the closed positions of all pairs, in order of their closing."""
    positions = result.trading.positions
    bar_ms = timeframe_ms(result.prepared.settings.trade_timeframe)
    closed = np.flatnonzero(positions.state == CLOSED)
    closed = closed[np.argsort(positions.closed_at_ms[closed], kind="stable")]
    held = (positions.closed_at_ms - positions.opened_at_ms)[closed] // bar_ms
    return trade_statistics(positions.cash_e8[closed] / E8, held)


def spread_increments(result: BacktestResult) -> float:
    """Return the profit of the formula beside the book's: shares of gross, summed over trades.

    Notes
    -----
    side x (dln(y) - beta dln(x)) / (1 + |beta|) over the bars from each entry signal to its
    exit signal, with beta frozen at entry, before costs and without the delay of an order. A
    trade that is still open is left out.
    """
    signals = result.trading.signals
    total = 0.0
    entry_of: dict[int, int] = {}
    for row, (pair, reason) in enumerate(
        zip(signals.pair.tolist(), signals.reason.tolist(), strict=True)
    ):
        if not reason:
            entry_of[pair] = row
            continue
        entry = entry_of.pop(pair)
        beta = float(signals.hedge_ratio[entry])
        change_y = np.log(signals.close_y[row] / signals.close_y[entry])
        change_x = np.log(signals.close_x[row] / signals.close_x[entry])
        gross = 1 + abs(beta)
        total += float(signals.side[entry] * (change_y - beta * change_x) / gross)
    return total


def _net_and_traded(result: BacktestResult, at_ms: Int1D) -> tuple[Float1D, Float1D]:
    """Return net notional at the end of each day and notional traded in it."""
    trading, market = result.trading, result.prepared.inputs.market
    orders, fills = trading.orders, trading.fills
    net, traded = np.zeros(len(at_ms)), np.zeros(len(at_ms))
    if not len(fills.order):
        return net, traded
    symbol = market.legs[trading.positions.pair[orders.position], orders.leg][fills.order]
    step = market.notional_step
    day = at_ms.searchsorted(fills.filled_at_ms, "right")  # filled at the open of a bar
    np.add.at(traded, day, fills.lots * fills.price_ticks * step[symbol] / E8)
    lots = np.zeros((len(at_ms), len(step)), dtype=np.int64)
    np.add.at(lots, (day, symbol), fills.lots * orders.side[fills.order])
    marks = market.marks_ticks[market.closes_at_ms.searchsorted(at_ms)]
    return (lots.cumsum(axis=0) * marks * step).sum(axis=1) / E8, traded


def _marked_e8(result: BacktestResult) -> Int1D:
    """Return what the lots each position still holds are worth at the last marks."""
    positions, market = result.trading.positions, result.prepared.inputs.market
    if not len(positions.pair):
        return np.zeros(0, dtype=np.int64)
    value_of_lot = market.marks_ticks[-1] * market.notional_step
    worth: Int1D = (positions.lots * value_of_lot[market.legs[positions.pair]]).sum(axis=1)
    return worth
