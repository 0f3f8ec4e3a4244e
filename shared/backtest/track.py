"""What a backtest amounts to: its days, its trades and its pairs, in money and in shares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shared.backtest.loop import CLOSED
from shared.backtest.result import BacktestResult
from shared.book.arithmetic import charge
from shared.book.execution import FillTerms
from shared.book.ledger import FUNDING_INTERVAL_MS
from shared.clock import TIMEFRAME_MS, timeframe_ms
from shared.quant.compiled import interpreted
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


@dataclass(frozen=True, slots=True)
class SymbolProfit:
    """What one symbol earned over all pairs, in 1e-8 of the quote; holdings at the last marks.

    Attributes
    ----------
    n_fills
        Of all legs in it.
    held_e8
        What was held at each close, times the change of the mark up to the next: signed
        notional times the simple return of the next bar.
    execution_e8
        What fills gained or lost against the mark of the close they are booked at.
    fees_e8, funding_e8
        What it cost.
    """

    symbol: str
    n_fills: int
    held_e8: int
    execution_e8: int
    fees_e8: int
    funding_e8: int

    @property
    def profit_e8(self) -> int:
        """Net of costs."""
        return self.held_e8 + self.execution_e8 - self.fees_e8 - self.funding_e8


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


def symbol_profits(result: BacktestResult, costs: FillTerms) -> tuple[SymbolProfit, ...]:
    """Return what every symbol earned, the best first; together they are the change of equity.

    Parameters
    ----------
    result
        Of a backtest.
    costs
        It was made with: funding is recorded by position, so that of a symbol is charged anew.

    Notes
    -----
    The legs of all pairs in a symbol are one holding: the venue charges funding on its net, so
    that is a figure of the symbol, and only shared out over pairs.
    """
    trading, market = result.trading, result.prepared.inputs.market
    orders, fills = trading.orders, trading.fills
    if not len(fills.order):
        return ()
    names = sorted({symbol for pair in trading.table.pairs for symbol in pair})
    bar_ms = timeframe_ms(result.prepared.settings.trade_timeframe)
    symbol = market.legs[trading.positions.pair[orders.position], orders.leg][fills.order]
    close = market.closes_at_ms.searchsorted(fills.filled_at_ms + bar_ms)
    bought = fills.lots * orders.side[fills.order]
    found = []
    for code in np.unique(symbol).tolist():
        of_symbol = symbol == code
        marks = market.marks_ticks[:, code] * market.notional_step[code]
        paid = fills.price_ticks[of_symbol] * market.notional_step[code]
        lots = np.zeros(len(marks), dtype=np.int64)
        np.add.at(lots, close[of_symbol], bought[of_symbol])
        held = lots.cumsum()
        gained = bought[of_symbol] * (marks[close[of_symbol]] - paid)
        found.append(
            SymbolProfit(
                symbol=names[code],
                n_fills=int(of_symbol.sum()),
                held_e8=int((held[:-1] * np.diff(marks)).sum()),
                execution_e8=int(gained.sum()),
                fees_e8=int(fills.fee_e8[of_symbol].sum()),
                funding_e8=_funding_e8(market.closes_at_ms, held * marks, costs),
            )
        )
    return tuple(sorted(found, key=lambda each: (-each.profit_e8, each.symbol)))


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


def _funding_e8(closes_at_ms: Int1D, net_e8: Int1D, costs: FillTerms) -> int:
    """Return what the venue charges on the net notional that a symbol has at each close."""
    n_instants = np.diff(closes_at_ms // FUNDING_INTERVAL_MS)
    total_e8 = 0
    for close in np.flatnonzero(n_instants) + 1:
        notional_e8 = int(net_e8[close])
        cost_e8 = interpreted(charge)(abs(notional_e8), costs.funding_ppm)
        if notional_e8 < 0:
            cost_e8 += interpreted(charge)(-notional_e8, costs.borrow_ppm)
        total_e8 += int(n_instants[close - 1]) * cost_e8
    return total_e8


def _marked_e8(result: BacktestResult) -> Int1D:
    """Return what the lots each position still holds are worth at the last marks."""
    positions, market = result.trading.positions, result.prepared.inputs.market
    if not len(positions.pair):
        return np.zeros(0, dtype=np.int64)
    value_of_lot = market.marks_ticks[-1] * market.notional_step
    worth: Int1D = (positions.lots * value_of_lot[market.legs[positions.pair]]).sum(axis=1)
    return worth
