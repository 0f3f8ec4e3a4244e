"""The Engle-Granger test of every ordered pair of series that do not begin together.

A pair is tested on the bars that both its series have: those of the shorter one, as nothing
is filled. Series of one length form a group, and a group is tested against all longer series
at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shared.errors import DataError
from shared.quant.cointegration import EngleGrangerResult, engle_granger_all_pairs
from shared.quant.typing import Bool1D, Float2D, Int1D, Int2D

_FIELDS = ("statistic", "p_value", "lag", "hedge_ratio", "intercept")


@dataclass(frozen=True, eq=False)
class RaggedResult:
    """The tests of all ordered pairs: entry [i, j] is series i regressed on series j.

    Attributes
    ----------
    statistic, p_value, lag, hedge_ratio, intercept : ndarray of float64, shape (N, N)
        As in `EngleGrangerResult`; NaN where no test was made: on the diagonal, and where a
        series never changes within the bars that both have.
    n_bars : ndarray of int64, shape (N, N)
        Bars of each test; 0 where none was made.
    """

    statistic: Float2D
    p_value: Float2D
    lag: Float2D
    hedge_ratio: Float2D
    intercept: Float2D
    n_bars: Int2D


def engle_granger_ragged(
    log_prices: Float2D, longest: EngleGrangerResult | None = None
) -> RaggedResult:
    """Test every ordered pair of columns on the bars that both have.

    Parameters
    ----------
    log_prices : ndarray of float64, shape (T, N)
        One column per series, one row per bar, oldest first, all up to the same last bar;
        NaN before a series begins.
    longest
        The tests among the series that have all T bars and change within them, in the order
        of their columns, where they are known already.

    Returns
    -------
    RaggedResult
        Arrays of shape (N, N).

    Raises
    ------
    DataError
        If the matrix is not two-dimensional, a series has a gap, no bar or a value that is
        infinite, is too short for a test, or `longest` is of other series.

    Notes
    -----
    Every entry is, to the bit, that of `engle_granger_all_pairs` of its two series on its own
    bars: lag orders and p-values are those of that many bars. Each pair is tested once, so
    the price is at most that of one window of T bars for all of them, and one more pass over
    the bars per length.
    """
    lengths = bars_of_each(log_prices)
    n_series = len(lengths)
    made = {field: np.full((n_series, n_series), np.nan) for field in _FIELDS}
    n_bars = np.zeros((n_series, n_series), dtype=np.int64)
    for length in np.unique(lengths).tolist():
        rows = log_prices[len(log_prices) - length :]
        # The group comes first: only pairs that have one of it are tested on its bars.
        group = np.flatnonzero((lengths == length) & moves(rows))
        longer = np.flatnonzero((lengths > length) & moves(rows))
        columns = np.concatenate([group, longer])
        if len(group) == 0 or len(columns) < 2:
            continue
        if length == len(log_prices) and longest is not None:
            result = longest
            if len(result.statistic) != len(group):
                raise DataError(
                    f"tests of {len(result.statistic)} longest series, of which there are "
                    f"{len(group)}: give those that change within the window"
                )
        else:
            n_first = len(group) if len(longer) else None
            result = engle_granger_all_pairs(rows[:, columns], n_first=n_first)
        is_made = ~np.isnan(result.hedge_ratio)
        i, j = np.nonzero(is_made)
        for field, values in made.items():
            values[columns[i], columns[j]] = getattr(result, field)[is_made]
        n_bars[columns[i], columns[j]] = length
    return RaggedResult(n_bars=n_bars, **made)


def bars_of_each(log_prices: Float2D) -> Int1D:
    """Return how many bars each column has up to the last row.

    Parameters
    ----------
    log_prices : ndarray of float64, shape (T, N)
        NaN before a series begins.

    Raises
    ------
    DataError
        If the matrix is not two-dimensional, or a column has a gap, no bar at all or a value
        that is infinite.
    """
    if log_prices.ndim != 2:
        raise DataError(f"log prices have shape {log_prices.shape}: give (bars, series)")
    faulty = np.flatnonzero(~has_every_bar(log_prices))
    if faulty.size:
        raise DataError(
            f"column {faulty[0]} of the log prices has a gap, no bar or a value that is not "
            "finite: leave out series that do not have every bar from their first to the last"
        )
    lengths: Int1D = np.isfinite(log_prices).sum(axis=0, dtype=np.int64)
    return lengths


def has_every_bar(log_prices: Float2D) -> Bool1D:
    """Tell which columns are finite from their first bar to the last row, NaN before it."""
    if log_prices.size == 0:
        return np.zeros(log_prices.shape[1], dtype=np.bool_)
    is_there = np.isfinite(log_prices)
    n_before = np.isnan(log_prices).sum(axis=0)
    has_last = is_there[-1] & (is_there.argmax(axis=0) == n_before)
    is_whole: Bool1D = has_last & (is_there.sum(axis=0) + n_before == len(log_prices))
    return is_whole


def moves(log_prices: Float2D) -> Bool1D:
    """Tell which columns change within the rows; one that begins later does not count."""
    changes: Bool1D = log_prices.max(axis=0) > log_prices.min(axis=0)
    return changes
