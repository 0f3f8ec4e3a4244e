"""What a track record was like: growth, risk, trades and exposure.

A figure that does not exist for a record, such as the profit factor of one without a losing
trade, is None rather than infinite, so that it can be stored and compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from shared.errors import DataError
from shared.quant.sharpe_ratio import track_record
from shared.quant.typing import Bool1D, Float1D, Int1D


@dataclass(frozen=True, slots=True)
class Performance:
    """Growth and risk of an equity curve. Shares are of 1, not of 100.

    Attributes
    ----------
    n_periods
        Returns it was measured on.
    total_return
        Last equity over first, less 1.
    annual_growth
        Compound annual growth rate (CAGR); -1 where everything was lost.
    annual_volatility
        Standard deviation of the returns, annualised.
    sharpe_ratio, sortino_ratio
        Mean return over standard deviation, and over downside deviation, annualised. No
        Sortino ratio without a losing period.
    calmar_ratio
        Annual growth over maximum drawdown; none without a drawdown.
    max_drawdown
        Largest loss from a peak, as a share of the peak.
    longest_drawdown_periods
        Longest time from a peak until it was reached again, or until the end.
    hit_rate
        Share of winning periods among those that won or lost; none where none did.
    skewness, kurtosis
        Of the returns; 0 and 3 for normal ones.
    """

    n_periods: int
    total_return: float
    annual_growth: float
    annual_volatility: float
    sharpe_ratio: float
    sortino_ratio: float | None
    calmar_ratio: float | None
    max_drawdown: float
    longest_drawdown_periods: int
    hit_rate: float | None
    skewness: float
    kurtosis: float


@dataclass(frozen=True, slots=True)
class TradeStatistics:
    """What the closed trades were like.

    Attributes
    ----------
    n_trades, n_wins, n_losses
        A trade that made exactly nothing is neither a win nor a loss.
    win_rate
        Wins among all trades.
    profit_factor
        Sum of the gains over sum of the losses; none without a loss.
    mean_win, mean_loss
        In the unit of the trades' profit, the loss negative.
    mean_profit
        Of all trades.
    mean_hold_bars
        Bars from entry to exit.
    longest_wins, longest_losses
        Most consecutive wins and losses.
    """

    n_trades: int
    n_wins: int
    n_losses: int
    win_rate: float | None
    profit_factor: float | None
    mean_win: float | None
    mean_loss: float | None
    mean_profit: float | None
    mean_hold_bars: float | None
    longest_wins: int
    longest_losses: int


@dataclass(frozen=True, slots=True)
class ExposureStatistics:
    """How much of the equity was at work. Exposures are multiples of equity.

    Attributes
    ----------
    annual_turnover
        Notional traded a year, in multiples of mean equity.
    time_in_market
        Share of periods with a position.
    mean_gross, max_gross
        Gross exposure.
    mean_absolute_net, max_absolute_net
        Size of the net exposure, whatever its side.
    """

    annual_turnover: float
    time_in_market: float
    mean_gross: float
    max_gross: float
    mean_absolute_net: float
    max_absolute_net: float


def returns_of_equity(equity: Float1D) -> Float1D:
    """Return the simple return of every period of an equity curve.

    Parameters
    ----------
    equity : ndarray of float64, shape (n + 1,)
        Finite and positive, oldest first; only the last value may be zero or less.

    Raises
    ------
    DataError
        If the curve is short, not finite or goes on after a total loss.
    """
    if equity.ndim != 1 or len(equity) < 2 or not np.isfinite(equity).all():
        raise DataError(
            f"equity of shape {equity.shape}: give a column of at least two finite values"
        )
    if np.any(equity[:-1] <= 0):
        period = int(np.argmax(equity <= 0))
        raise DataError(
            f"equity is {equity[period]} in period {period} and goes on: end the curve where "
            "everything is lost"
        )
    return np.diff(equity) / equity[:-1]


def drawdowns(equity: Float1D) -> Float1D:
    """Return the loss from the highest equity so far, as a share of it, in every period.

    Examples
    --------
    >>> drawdowns(np.array([100.0, 120.0, 90.0, 130.0])).tolist()
    [0.0, 0.0, 0.25, 0.0]
    """
    peak = np.maximum.accumulate(equity)
    return 1 - equity / peak


def performance(equity: Float1D, *, periods_per_year: float) -> Performance:
    """Measure growth and risk of an equity curve.

    Parameters
    ----------
    equity : ndarray of float64, shape (n + 1,)
        As for `returns_of_equity`, with at least three returns.
    periods_per_year
        Periods of the curve in a year: 365 for days of a market that never closes.

    Raises
    ------
    DataError
        As `returns_of_equity` and `track_record`, or if a year has no periods.

    Notes
    -----
    Downside deviation is the root of the mean of min(r, 0)^2 over all periods.

    References
    ----------
    Sortino, F. A. and Price, L. N. (1994), "Performance measurement in a downside risk
    framework", Journal of Investing 3(3).
    """
    if not 0 < periods_per_year < math.inf:
        raise DataError(f"{periods_per_year} periods per year: give a positive number")
    returns = returns_of_equity(equity)
    record = track_record(returns)
    annual = math.sqrt(periods_per_year)
    growth = float(equity[-1] / equity[0])
    annual_growth = -1.0
    if growth > 0:
        annual_growth = math.expm1(math.log(growth) * periods_per_year / len(returns))
    drawdown = drawdowns(equity)
    max_drawdown = float(drawdown.max())
    downside = math.sqrt(float(np.mean(np.minimum(returns, 0) ** 2)))
    n_wins, n_losses = int((returns > 0).sum()), int((returns < 0).sum())
    return Performance(
        n_periods=len(returns),
        total_return=growth - 1,
        annual_growth=annual_growth,
        annual_volatility=float(returns.std(ddof=1)) * annual,
        sharpe_ratio=record.sharpe_ratio * annual,
        sortino_ratio=float(returns.mean()) / downside * annual if n_losses else None,
        calmar_ratio=annual_growth / max_drawdown if max_drawdown > 0 else None,
        max_drawdown=max_drawdown,
        longest_drawdown_periods=_longest_run(drawdown > 0),
        hit_rate=n_wins / (n_wins + n_losses) if n_wins + n_losses else None,
        skewness=record.skewness,
        kurtosis=record.kurtosis,
    )


def trade_statistics(profit: Float1D, hold_bars: Int1D) -> TradeStatistics:
    """Summarise closed trades.

    Parameters
    ----------
    profit : ndarray of float64, shape (n,)
        Profit of each trade net of costs, in the order in which they were closed.
    hold_bars : ndarray of int64, shape (n,)
        Bars from its entry to its exit.

    Raises
    ------
    DataError
        If the columns differ in length or a profit is not finite.

    Examples
    --------
    >>> statistics = trade_statistics(np.array([3.0, -1.0, -1.0]), np.array([2, 4, 6]))
    >>> statistics.profit_factor, statistics.longest_losses, statistics.mean_hold_bars
    (1.5, 2, 4.0)
    """
    if profit.ndim != 1 or profit.shape != hold_bars.shape or not np.isfinite(profit).all():
        raise DataError(
            f"profit of shape {profit.shape} and bars held of shape {hold_bars.shape}: give one "
            "finite profit and one duration for each trade"
        )
    wins, losses = profit[profit > 0], profit[profit < 0]
    return TradeStatistics(
        n_trades=len(profit),
        n_wins=len(wins),
        n_losses=len(losses),
        win_rate=len(wins) / len(profit) if len(profit) else None,
        profit_factor=float(wins.sum() / -losses.sum()) if len(losses) else None,
        mean_win=float(wins.mean()) if len(wins) else None,
        mean_loss=float(losses.mean()) if len(losses) else None,
        mean_profit=float(profit.mean()) if len(profit) else None,
        mean_hold_bars=float(hold_bars.mean()) if len(profit) else None,
        longest_wins=_longest_run(profit > 0),
        longest_losses=_longest_run(profit < 0),
    )


def exposure_statistics(
    equity: Float1D,
    gross: Float1D,
    net: Float1D,
    traded: Float1D,
    *,
    periods_per_year: float,
) -> ExposureStatistics:
    """Summarise exposure and turnover.

    Parameters
    ----------
    equity, gross, net, traded : ndarray of float64, shape (n,)
        Equity, gross and net notional at the end of each period and notional traded in it, all
        in the same money.
    periods_per_year
        Periods in a year.

    Raises
    ------
    DataError
        If the columns differ in length, are empty, not finite or without equity, or a year has
        no periods.
    """
    columns = (equity, gross, net, traded)
    if equity.ndim != 1 or not len(equity) or len({column.shape for column in columns}) > 1:
        raise DataError(
            f"columns of shapes {[column.shape for column in columns]}: give equity, gross, net "
            "and traded notional for each of the same periods"
        )
    if not all(np.isfinite(column).all() for column in columns) or equity.min() <= 0:
        raise DataError("equity, notional or turnover is not finite, or equity is not positive")
    if not 0 < periods_per_year < math.inf:
        raise DataError(f"{periods_per_year} periods per year: give a positive number")
    gross_share, net_share = gross / equity, np.abs(net) / equity
    return ExposureStatistics(
        annual_turnover=float(traded.sum() / equity.mean() * periods_per_year / len(equity)),
        time_in_market=float((gross > 0).mean()),
        mean_gross=float(gross_share.mean()),
        max_gross=float(gross_share.max()),
        mean_absolute_net=float(net_share.mean()),
        max_absolute_net=float(net_share.max()),
    )


def _longest_run(is_member: Bool1D) -> int:
    """Return the length of the longest run of true values."""
    edges = np.diff(is_member.astype(np.int8), prepend=0, append=0)
    lengths = np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)
    return int(lengths.max(initial=0))
