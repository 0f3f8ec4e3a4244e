"""How fast and how surely a spread comes back, for many spreads at once.

Every function takes spreads as the columns of one matrix. A column's figure depends on that
column alone, to the bit.
"""

from __future__ import annotations

import math

import numpy as np

from shared.errors import DataError
from shared.quant.typing import Float1D, Float2D, Int1D

FEWEST_BARS = 20
"""Bars below which none of these figures means anything."""

LAGS_PER_SAMPLE = 10
"""The longest lag of the Hurst exponent fits so many times into the sample."""


def half_life_bars(spreads: Float2D) -> Float1D:
    """Return how many bars a deviation from the mean takes to halve.

    Parameters
    ----------
    spreads : ndarray of float64, shape (T, K)
        One spread per column, oldest bar first.

    Returns
    -------
    ndarray of float64, shape (K,)
        In bars; inf where the spread does not come back.

    Raises
    ------
    DataError
        If the matrix is not two-dimensional, is short, holds a value that is not finite or
        has a column that never changes.

    Notes
    -----
    Least squares of ds_t = a + g s_(t-1) + u_t, the discrete Ornstein-Uhlenbeck process;
    half-life = -ln 2 / g for g < 0.

    References
    ----------
    E. Chan (2013), Algorithmic Trading, chapter 2, example 2.4 and equation 2.6.

    Examples
    --------
    >>> spread = np.array([0.5**t for t in range(30)])[:, np.newaxis]
    >>> half_life_bars(spread).round(4).tolist()  # g = -1/2
    [1.3863]
    """
    rows = _checked_rows(spreads)
    level = rows[:, :-1]
    deviation = level - level.mean(axis=1, keepdims=True)
    change = np.diff(rows, axis=1)
    variation = (deviation * deviation).sum(axis=1)
    # A spread that moves in its last bar alone has no variation to regress on.
    reversion = np.zeros(len(rows))
    np.divide((deviation * change).sum(axis=1), variation, out=reversion, where=variation > 0.0)
    half_life = np.full(len(rows), np.inf)
    np.divide(-math.log(2.0), reversion, out=half_life, where=reversion < 0.0)
    return half_life


def hurst_exponent(spreads: Float2D) -> Float1D:
    """Return how the size of a spread's moves grows with their duration.

    About 0.5 for a random walk, lower for a spread that comes back, 1 for a straight line.

    Parameters
    ----------
    spreads : ndarray of float64, shape (T, K)
        One spread per column, oldest bar first.

    Returns
    -------
    ndarray of float64, shape (K,)
        NaN where a spread repeats itself exactly at one of the lags.

    Raises
    ------
    DataError
        If the matrix is not two-dimensional, is short, holds a value that is not finite or
        has a column that never changes.

    Notes
    -----
    The generalised Hurst exponent of order 2: the slope of log root-mean-square(s_(t+lag) -
    s_t) on log lag, by least squares, at the lags 1, 2, 4, ... up to T / 10. Rescaled range,
    the older estimator, is biased upwards on windows of this length.

    References
    ----------
    T. Di Matteo, T. Aste and M. M. Dacorogna (2005), "Long-term memories of developed and
    emerging markets: using the scaling analysis to characterize their stage of development",
    Journal of Banking & Finance 29, equations 1 and 2 with q = 2.

    Examples
    --------
    >>> walk = np.random.default_rng(3).normal(size=4000).cumsum()
    >>> hurst_exponent(walk[:, np.newaxis]).round(1).tolist()
    [0.5]
    """
    rows = _checked_rows(spreads)
    longest = rows.shape[1] // LAGS_PER_SAMPLE
    lags = [2**power for power in range(longest.bit_length())]
    log_sizes = np.full((len(lags), len(rows)), np.nan)
    for position, lag in enumerate(lags):
        mean_square = ((rows[:, lag:] - rows[:, :-lag]) ** 2).mean(axis=1)
        np.log(mean_square, out=log_sizes[position], where=mean_square > 0.0)
    log_lags = np.log(lags)
    weights = (log_lags - log_lags.mean()) / ((log_lags - log_lags.mean()) ** 2).sum()
    exponent = np.zeros(len(rows))
    for weight, log_size in zip(weights, log_sizes, strict=True):
        exponent += weight * (log_size / 2.0)
    return exponent


def zero_crossings(spreads: Float2D) -> Int1D:
    """Return how often each spread crosses its mean.

    Parameters
    ----------
    spreads : ndarray of float64, shape (T, K)
        One spread per column, oldest bar first.

    Returns
    -------
    ndarray of int64, shape (K,)
        Changes of side; a bar exactly on the mean counts to the side before it.

    Raises
    ------
    DataError
        If the matrix is not two-dimensional, is short, holds a value that is not finite or
        has a column that never changes.

    Examples
    --------
    >>> wave = np.array([1.0, -1.0] * 10)[:, np.newaxis]
    >>> zero_crossings(wave).tolist()
    [19]
    """
    rows = _checked_rows(spreads)
    side = np.sign(rows - rows.mean(axis=1, keepdims=True))
    bars = np.arange(rows.shape[1])
    last_off_the_mean = np.maximum.accumulate(np.where(side != 0.0, bars, 0), axis=1)
    side = np.take_along_axis(side, last_off_the_mean, axis=1)
    crossings: Int1D = (side[:, 1:] * side[:, :-1] < 0.0).sum(axis=1, dtype=np.int64)
    return crossings


def correlation_of_changes(a: Float2D, b: Float2D) -> Float1D:
    """Return the correlation of the changes of two sets of series, column by column.

    Parameters
    ----------
    a, b : ndarray of float64, shape (T, K)
        Log prices give the correlation of log returns.

    Returns
    -------
    ndarray of float64, shape (K,)
        Pearson's coefficient; NaN where one of the two changes by the same amount every bar.

    Raises
    ------
    DataError
        If the shapes differ, or a matrix is not two-dimensional, is short, holds a value that
        is not finite or has a column that never changes.

    Examples
    --------
    >>> a = np.array([[float(t % 3)] for t in range(30)])
    >>> correlation_of_changes(a, 5.0 - 2.0 * a).round(12).tolist()
    [-1.0]
    """
    if a.shape != b.shape:
        raise DataError(f"series have shapes {a.shape} and {b.shape}: give pairs of columns")
    change_a = np.diff(_checked_rows(a), axis=1)
    change_b = np.diff(_checked_rows(b), axis=1)
    change_a = change_a - change_a.mean(axis=1, keepdims=True)
    change_b = change_b - change_b.mean(axis=1, keepdims=True)
    scale = np.sqrt((change_a**2).sum(axis=1) * (change_b**2).sum(axis=1))
    correlation = np.full(len(scale), np.nan)
    np.divide((change_a * change_b).sum(axis=1), scale, out=correlation, where=scale > 0.0)
    return correlation


def _checked_rows(spreads: Float2D) -> Float2D:
    """Return the columns as contiguous rows, whose sums do not depend on their neighbours."""
    if spreads.ndim != 2 or spreads.shape[0] < FEWEST_BARS:
        raise DataError(
            f"spreads have shape {spreads.shape}: give (bars, spreads) with at least "
            f"{FEWEST_BARS} bars"
        )
    rows = np.ascontiguousarray(spreads.T)
    unusable = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if unusable.size:
        raise DataError(
            f"spread {unusable[0]} holds a value that is not finite: give bars without gaps"
        )
    constant = np.flatnonzero(rows.max(axis=1) == rows.min(axis=1))
    if constant.size:
        raise DataError(f"spread {constant[0]} never changes: leave it out")
    return rows
