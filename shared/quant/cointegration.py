"""The Engle-Granger test of every ordered pair of a universe at once.

The numbers are those of `statsmodels.tsa.stattools.coint`; only the road differs. That
function fits one least squares regression for every lag order of every pair. Here a pair's
regressions share one set of moments: the moments of a lag follow from those of the lag
before by adding and subtracting the bars at the two ends of the sample, and eliminating the
lags one by one leaves the regression of every order on the way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
from scipy.special import ndtr

from shared.errors import DataError
from shared.quant.compiled import compiled, compiled_parallel
from shared.quant.typing import Float1D, Float2D

# MacKinnon's approximate distribution of the statistic for two series and a constant:
# p = Phi(polynomial of the statistic), one polynomial up to the turning point, one above.
TURNING_POINT = -2.62
SMALLEST_STATISTIC = -18.86
LARGEST_STATISTIC = 0.92
LEFT_TAIL = (2.92, 1.5012, 3.9796e-2)
RIGHT_BODY = (2.1945, 6.4695e-1, -2.9198e-1, -4.2377e-2)

COLLINEAR_SHARE = 100.0 * math.sqrt(np.finfo(np.float64).eps)
"""Unexplained share of the variance at or below which two series count as collinear."""

EXHAUSTED_SHARE = 1e-12
"""Share of a variable's moment that is rounding error once the others have explained it."""


@dataclass(frozen=True, eq=False)
class EngleGrangerResult:
    """The tests of all ordered pairs: entry [i, j] is series i regressed on series j.

    Attributes
    ----------
    statistic : ndarray of float64, shape (N, N)
        t statistic of the lagged residual. -inf where the pair is almost perfectly
        collinear; NaN where the residual is so regular that its lags leave nothing to
        explain and no test can be made.
    p_value : ndarray of float64, shape (N, N)
        MacKinnon's approximate p-value; 0 for a collinear pair, 1 where no test can be made.
    lag : ndarray of float64, shape (N, N)
        Lagged changes in the residual's regression; 0 where that regression was not run.
    hedge_ratio, intercept : ndarray of float64, shape (N, N)
        Slope and constant of the least squares regression of i on j.
    n_bars
        Bars the tests were made on.

    Notes
    -----
    The diagonal of every array is NaN.
    """

    statistic: Float2D
    p_value: Float2D
    lag: Float2D
    hedge_ratio: Float2D
    intercept: Float2D
    n_bars: int


def engle_granger_all_pairs(
    log_prices: Float2D,
    *,
    trend: str = "c",
    max_lag: int | None = None,
    autolag: str | None = "aic",
) -> EngleGrangerResult:
    """Test every ordered pair of columns for cointegration.

    Parameters
    ----------
    log_prices : ndarray of float64, shape (T, N)
        One column per series, one row per bar, oldest first, without gaps.
    trend
        Deterministic terms of the cointegrating regression; only "c", a constant.
    max_lag
        Largest number of lagged changes; `None` takes Schwert's rule,
        min(ceil(12 (T / 100)^(1/4)), T // 2 - 1).
    autolag
        "aic" takes the number of lags with the lowest Akaike information criterion;
        `None` takes `max_lag`.

    Returns
    -------
    EngleGrangerResult
        Arrays of shape (N, N).

    Raises
    ------
    DataError
        If the matrix is not two-dimensional with at least two columns, holds a value that is
        not finite, has too few rows for `max_lag`, or has a column that never changes; or if
        `trend` or `autolag` is not offered.

    Notes
    -----
    With e the residual of y on x and a constant, the test regresses its change on its level
    and its own k lagged changes,

        de_t = g e_(t-1) + c_1 de_(t-1) + ... + c_k de_(t-k) + u_t,

    and the statistic is g over its standard error. The number of lags is chosen on the bars
    that all orders share; the regression of the chosen order is then run on every bar it can
    use. An entry depends on the bars of its two series alone: to the bit it is the same
    whatever the other columns are, in whichever order and on however many cores.

    The cost is about T max_lag + max_lag^3 / 6 multiplications a pair.

    References
    ----------
    R. F. Engle and C. W. J. Granger (1987), "Co-integration and error correction:
    representation, estimation, and testing", Econometrica 55.
    J. G. MacKinnon (1994), "Approximate asymptotic distribution functions for unit-root and
    cointegration tests", Journal of Business & Economic Statistics 12, tables 1 and 2, with
    the author's coefficients as in statsmodels.
    G. W. Schwert (1989), "Tests for unit roots: a Monte Carlo investigation", Journal of
    Business & Economic Statistics 7.

    Examples
    --------
    >>> rng = np.random.default_rng(7)
    >>> walk = rng.normal(size=500).cumsum()
    >>> log_prices = np.column_stack([1.0 + 2.0 * walk + rng.normal(size=500), walk])
    >>> result = engle_granger_all_pairs(log_prices)
    >>> bool(result.p_value[0, 1] < 0.001), round(float(result.hedge_ratio[0, 1]), 1)
    (True, 2.0)
    """
    if trend != "c":
        raise DataError(f"trend {trend!r} is not offered: use 'c', a constant")
    if autolag not in ("aic", None):
        raise DataError(f"autolag {autolag!r} is not offered: use 'aic' or None")
    _check_log_prices(log_prices)
    n_bars = log_prices.shape[0]
    largest_lag = _checked_max_lag(n_bars, max_lag)
    newest_first = np.ascontiguousarray(log_prices[::-1].T)
    means = newest_first.mean(axis=1)
    centred = newest_first - means[:, np.newaxis]
    hedge_ratio, statistic, lag = _test_all_pairs(centred, largest_lag, autolag == "aic")
    p_value = mackinnon_p_values(statistic)
    # A test that cannot be made is no evidence; the diagonal is no test at all.
    p_value[np.isnan(statistic)] = 1.0
    np.fill_diagonal(p_value, np.nan)
    intercept = means[:, np.newaxis] - hedge_ratio * means[np.newaxis, :]
    return EngleGrangerResult(statistic, p_value, lag, hedge_ratio, intercept, n_bars)


def mackinnon_p_values(statistic: Float2D) -> Float2D:
    """Return MacKinnon's p-values of Engle-Granger statistics of two series and a constant.

    Parameters
    ----------
    statistic : ndarray of float64, any shape
        t statistics; NaN gives NaN.

    Returns
    -------
    ndarray of float64, same shape
        Exactly 0 below -18.86 and exactly 1 above 0.92, where the approximation ends.
    """
    # The polynomials are not meant for, and overflow at, what lies beyond the ends.
    inside = np.clip(statistic, SMALLEST_STATISTIC, LARGEST_STATISTIC)
    left = np.polynomial.polynomial.polyval(inside, LEFT_TAIL)
    right = np.polynomial.polynomial.polyval(inside, RIGHT_BODY)
    p_value: Float2D = ndtr(np.where(inside <= TURNING_POINT, left, right))
    p_value[statistic < SMALLEST_STATISTIC] = 0.0
    p_value[statistic > LARGEST_STATISTIC] = 1.0
    return p_value


def _check_log_prices(log_prices: Float2D) -> None:
    if log_prices.ndim != 2 or log_prices.shape[0] < 3 or log_prices.shape[1] < 2:
        raise DataError(
            f"log prices have shape {log_prices.shape}: give (bars, series) with at least three "
            "bars and two series"
        )
    unusable = np.flatnonzero(~np.isfinite(log_prices).all(axis=0))
    if unusable.size:
        raise DataError(
            f"column {unusable[0]} of the log prices holds a value that is not finite: keep the "
            "series that have every bar and a positive price"
        )
    constant = np.flatnonzero(log_prices.max(axis=0) == log_prices.min(axis=0))
    if constant.size:
        raise DataError(
            f"column {constant[0]} of the log prices never changes: leave a series without "
            "movement out"
        )


def _checked_max_lag(n_bars: int, max_lag: int | None) -> int:
    """Return the largest lag order, given or by Schwert's rule, that the bars can carry."""
    by_rule = min(math.ceil(12.0 * (n_bars / 100.0) ** 0.25), n_bars // 2 - 1)
    largest = by_rule if max_lag is None else max_lag
    if largest < 0:
        raise DataError(f"max_lag is {largest}: give 0 or more")
    # The longest regression has n_bars - 1 - largest rows and largest + 1 coefficients, and
    # one degree of freedom must be left over for the variance of its error.
    if n_bars - 2 - 2 * largest < 1:
        raise DataError(
            f"{n_bars} bars cannot carry {largest} lags: give at least {2 * largest + 3} bars or "
            "a smaller max_lag"
        )
    return largest


@compiled_parallel
def _test_all_pairs(
    centred: Float2D, max_lag: int, choose_lag: bool
) -> tuple[Float2D, Float2D, Float2D]:
    """Return hedge ratio, statistic and lag, each (N, N), of centred series (N, T).

    The series run newest bar first, so that a lag is a step forward.
    """
    n_series, n_bars = centred.shape
    hedge_ratio = np.full((n_series, n_series), np.nan)
    statistic = np.full((n_series, n_series), np.nan)
    lag = np.full((n_series, n_series), np.nan)
    variation = np.empty(n_series)
    for i in range(n_series):
        variation[i] = _dot(centred[i], centred[i])
    for i in numba.prange(n_series):
        residual = np.empty(n_bars)
        changes = np.empty(n_bars - 1)
        autocovariance = np.empty(max_lag + 1)
        moments = np.empty((max_lag + 2, max_lag + 2))
        for j in range(n_series):
            if i == j:
                continue
            slope = _dot(centred[j], centred[i]) / variation[j]
            _fill_residual(centred[i], centred[j], slope, residual, changes)
            hedge_ratio[i, j] = slope
            lag[i, j] = 0.0
            if _dot(residual, residual) <= COLLINEAR_SHARE * variation[i]:
                statistic[i, j] = -np.inf
                continue
            _fill_autocovariance(changes, autocovariance)
            order = max_lag
            if choose_lag:
                _fill_moments(residual, changes, autocovariance, max_lag, moments)
                order = _order_of_lowest_aic(moments, max_lag, n_bars - 1 - max_lag)
            if order >= 0:
                _fill_moments(residual, changes, autocovariance, order, moments)
                statistic[i, j] = _level_statistic(moments, order, n_bars - 1 - order)
                lag[i, j] = order
    return hedge_ratio, statistic, lag


@compiled
def _dot(a: Float1D, b: Float1D) -> float:
    """Return the sum of products, in eight interleaved parts: fast, and of a fixed order."""
    n = len(a)
    whole = n - n % 8
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = rest = 0.0
    for t in range(0, whole, 8):
        s0 += a[t] * b[t]
        s1 += a[t + 1] * b[t + 1]
        s2 += a[t + 2] * b[t + 2]
        s3 += a[t + 3] * b[t + 3]
        s4 += a[t + 4] * b[t + 4]
        s5 += a[t + 5] * b[t + 5]
        s6 += a[t + 6] * b[t + 6]
        s7 += a[t + 7] * b[t + 7]
    for t in range(whole, n):
        rest += a[t] * b[t]
    return ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7)) + rest


@compiled
def _fill_residual(
    y: Float1D, x: Float1D, slope: float, residual: Float1D, changes: Float1D
) -> None:
    """Write the residual of y on x and its changes, newest first."""
    for s in range(len(y)):
        residual[s] = y[s] - slope * x[s]
    for s in range(len(changes)):
        changes[s] = residual[s] - residual[s + 1]


@compiled
def _fill_autocovariance(changes: Float1D, autocovariance: Float1D) -> None:
    """Write the sums of change times lagged change over the bars that have every lag.

    The time loop is outside and takes four bars a turn so that the compiler can vectorise
    over the lags without altering the order of any sum.
    """
    n_lags = len(autocovariance)
    n = len(changes) - (n_lags - 1)
    whole = n - n % 4
    autocovariance[:] = 0.0
    for s in range(0, whole, 4):
        d0, d1, d2, d3 = changes[s], changes[s + 1], changes[s + 2], changes[s + 3]
        for k in range(n_lags):
            autocovariance[k] += (d0 * changes[s + k] + d1 * changes[s + 1 + k]) + (
                d2 * changes[s + 2 + k] + d3 * changes[s + 3 + k]
            )
    for s in range(whole, n):
        for k in range(n_lags):
            autocovariance[k] += changes[s] * changes[s + k]


@compiled
def _fill_moments(
    residual: Float1D, changes: Float1D, autocovariance: Float1D, order: int, moments: Float2D
) -> None:
    """Write the cross products of the regression with `order` lags, a symmetric matrix.

    Its variables are lag 1 .. lag `order`, then the level, then the target; its sample is
    every bar that has `order` lags. `autocovariance` is of the bars that have `max_lag` lags,
    one less than its length.
    """
    max_lag = len(autocovariance) - 1
    level, target = order, order + 1
    n_rows = len(changes) - order
    newest = changes[:order]
    oldest = changes[n_rows:]

    # Target against lags: the bars that have `order` lags but not `max_lag` are added.
    for k in range(order + 1):
        total = autocovariance[k]
        for s in range(len(changes) - max_lag, n_rows):
            total += changes[s] * changes[s + k]
        row = target if k == 0 else k - 1
        moments[row, target] = total
        moments[target, row] = total

    # Lag i + 1 against lag j + 1 is lag i against lag j moved back by one bar: it gains the
    # product at the old end of the series and loses the one at the new end.
    for i in range(order):
        for j in range(order):
            if j < i:
                moments[i, j] = moments[j, i]
                continue
            if i > 0:
                before = moments[i - 1, j - 1]
            else:
                before = moments[target, j - 1] if j > 0 else moments[target, target]
            moments[i, j] = before + oldest[i] * oldest[j] - newest[i] * newest[j]

    # Level against target: the sum of e_t^2 - e_(t-1)^2 = 2 e_(t-1) de_t + de_t^2 telescopes.
    # Then e_(t-1) = e_(t-2) + de_(t-1) leads from each lag to the next.
    cross = (residual[0] ** 2 - residual[n_rows] ** 2 - moments[target, target]) / 2.0
    moments[level, target] = moments[target, level] = cross
    for k in range(order):
        cross += residual[n_rows + 1] * oldest[k] - residual[1] * newest[k] + moments[0, k]
        moments[k, level] = moments[level, k] = cross
    held = residual[1 : n_rows + 1]
    moments[level, level] = _dot(held, held)


@compiled
def _order_of_lowest_aic(moments: Float2D, max_lag: int, n_rows: int) -> int:
    """Return the lag order of the lowest AIC, the lower of equals; -1 if none can be told.

    Before lag k + 1 is eliminated, the last two rows are the regression of order k.
    Overwrites the moments.
    """
    target = max_lag + 1
    smallest = EXHAUSTED_SHARE * moments[target, target]
    lowest, chosen = np.inf, -1
    n_used = 1  # coefficients that explain something: the level, and lags that are not nil
    for order in range(max_lag + 1):
        unexplained = _unexplained(moments, max_lag)
        if not unexplained > smallest:
            return -1
        aic = n_rows * math.log(unexplained) + 2.0 * n_used
        if aic < lowest:
            lowest, chosen = aic, order
        if order < max_lag:
            n_used += _eliminate(moments, order, target)
    return chosen


@compiled
def _level_statistic(moments: Float2D, order: int, n_rows: int) -> float:
    """Return the t statistic of the level beside `order` lags. Overwrites the moments."""
    level, target = order, order + 1
    smallest = EXHAUSTED_SHARE * moments[target, target]
    n_used = 1
    for k in range(order):
        n_used += _eliminate(moments, k, target)
    unexplained = _unexplained(moments, order)
    if not unexplained > smallest:
        return math.nan
    standard_error = math.sqrt(unexplained / (n_rows - n_used) * moments[level, level])
    return float(moments[level, target] / standard_error)


@compiled
def _unexplained(moments: Float2D, level: int) -> float:
    """Return the target's sum of squares that the level leaves, the lags being eliminated."""
    target = level + 1
    if not moments[level, level] > 0.0:
        return math.nan
    return float(moments[target, target] - moments[level, target] ** 2 / moments[level, level])


@compiled
def _eliminate(moments: Float2D, k: int, last: int) -> int:
    """Take variable k out of those after it; return 1, or 0 where nothing is left of it.

    A lag is nil where a series moves only in bars that the lag does not reach. The whole
    block is worked, not its upper half: whole rows are what the compiler vectorises.
    """
    if not moments[k, k] > EXHAUSTED_SHARE * moments[last, last]:
        return 0
    inverse = 1.0 / moments[k, k]
    pivot_row = moments[k, k + 1 : last + 1]
    for i in range(len(pivot_row)):
        factor = pivot_row[i] * inverse
        row = moments[k + 1 + i, k + 1 : last + 1]
        for j in range(len(pivot_row)):
            row[j] -= factor * pivot_row[j]
    return 1
