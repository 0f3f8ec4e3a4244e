"""Statistics over a moving window of bars.

Every row is computed from its own window alone, in a fixed order of operations and with the
window's first value as origin. A value is therefore, to the bit, a function of the bars in
its window: nothing accumulates, drifts, or depends on where a process was restarted.

The `window_*` kernels take one window and may be called from other kernels; the `rolling_*`
functions take whole columns and check them at the door.
"""

from __future__ import annotations

import math

import numpy as np

from shared.errors import DataError
from shared.quant.compiled import compiled
from shared.quant.typing import Float1D

N_SUMS = 16
"""Length of the array in which a kernel keeps its sums.

A caller gives the same array to every call: what it holds before means nothing.
"""


@compiled
def window_ols(y: Float1D, x: Float1D, sums: Float1D) -> tuple[float, float]:
    """Regress `y` on `x` and a constant.

    Parameters
    ----------
    y, x : ndarray of float64, shape (w,)
        The window, w >= 2.
    sums : ndarray of float64, shape (N_SUMS,)
        Room to work in.

    Returns
    -------
    beta, alpha : float
        Slope and intercept; NaN where `x` is constant or a value is NaN.

    Notes
    -----
    beta = Cov(y, x) / Var(x), alpha = mean(y) - beta mean(x), in two passes over deviations
    from the first value of the window. A constant window has deviations of exactly 0, so it
    is recognised without a tolerance.
    """
    n = len(y)
    origin_y, origin_x = y[0], x[0]
    sum_y, sum_x = _sums_of_two(y, origin_y, x, origin_x, sums)
    mean_y, mean_x = sum_y / n, sum_x / n
    covariance, variance = _sums_of_products(y, origin_y, mean_y, x, origin_x, mean_x, sums)
    if variance == 0.0:
        return math.nan, math.nan
    beta = covariance / variance
    return beta, (origin_y + mean_y) - beta * (origin_x + mean_x)


# Each sum is made of eight interleaved parts, added up in a fixed order. The parts have names,
# because only those stay in the processor's registers; and they are laid side by side in
# `sums` in the end, because that is what makes the compiler keep the eight in one register.
# Two sums in one loop, as a sum waits longer for its own last term than for its next.


@compiled
def _sum_of_parts(sums: Float1D, first: int, rest: float) -> float:
    s = sums[first : first + 8]
    return float(((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7])) + rest)


@compiled
def _sum_of_one(values: Float1D, origin: float, sums: Float1D) -> float:
    """Return the sum of values less an origin."""
    n = len(values)
    whole = n - n % 8
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = rest = 0.0
    for i in range(0, whole, 8):
        p = values[i : i + 8]
        s0 += p[0] - origin
        s1 += p[1] - origin
        s2 += p[2] - origin
        s3 += p[3] - origin
        s4 += p[4] - origin
        s5 += p[5] - origin
        s6 += p[6] - origin
        s7 += p[7] - origin
    for i in range(whole, n):
        rest += values[i] - origin
    sums[0] = s0
    sums[1] = s1
    sums[2] = s2
    sums[3] = s3
    sums[4] = s4
    sums[5] = s5
    sums[6] = s6
    sums[7] = s7
    return _sum_of_parts(sums, 0, rest)


@compiled
def _sums_of_two(
    y: Float1D, origin_y: float, x: Float1D, origin_x: float, sums: Float1D
) -> tuple[float, float]:
    """Return the sums of y and of x, each less an origin."""
    n = len(y)
    whole = n - n % 8
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = rest_y = 0.0
    t0 = t1 = t2 = t3 = t4 = t5 = t6 = t7 = rest_x = 0.0
    for i in range(0, whole, 8):
        p, q = y[i : i + 8], x[i : i + 8]
        s0 += p[0] - origin_y
        s1 += p[1] - origin_y
        s2 += p[2] - origin_y
        s3 += p[3] - origin_y
        s4 += p[4] - origin_y
        s5 += p[5] - origin_y
        s6 += p[6] - origin_y
        s7 += p[7] - origin_y
        t0 += q[0] - origin_x
        t1 += q[1] - origin_x
        t2 += q[2] - origin_x
        t3 += q[3] - origin_x
        t4 += q[4] - origin_x
        t5 += q[5] - origin_x
        t6 += q[6] - origin_x
        t7 += q[7] - origin_x
    for i in range(whole, n):
        rest_y += y[i] - origin_y
        rest_x += x[i] - origin_x
    sums[0] = s0
    sums[1] = s1
    sums[2] = s2
    sums[3] = s3
    sums[4] = s4
    sums[5] = s5
    sums[6] = s6
    sums[7] = s7
    sums[8] = t0
    sums[9] = t1
    sums[10] = t2
    sums[11] = t3
    sums[12] = t4
    sums[13] = t5
    sums[14] = t6
    sums[15] = t7
    return _sum_of_parts(sums, 0, rest_y), _sum_of_parts(sums, 8, rest_x)


@compiled
def _sum_of_squares(values: Float1D, origin: float, mean: float, sums: Float1D) -> float:
    """Return the sum of squared deviations from origin plus mean."""
    n = len(values)
    whole = n - n % 8
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = rest = 0.0
    for i in range(0, whole, 8):
        p = values[i : i + 8]
        d0 = (p[0] - origin) - mean
        d1 = (p[1] - origin) - mean
        d2 = (p[2] - origin) - mean
        d3 = (p[3] - origin) - mean
        d4 = (p[4] - origin) - mean
        d5 = (p[5] - origin) - mean
        d6 = (p[6] - origin) - mean
        d7 = (p[7] - origin) - mean
        s0 += d0 * d0
        s1 += d1 * d1
        s2 += d2 * d2
        s3 += d3 * d3
        s4 += d4 * d4
        s5 += d5 * d5
        s6 += d6 * d6
        s7 += d7 * d7
    for i in range(whole, n):
        d = (values[i] - origin) - mean
        rest += d * d
    sums[0] = s0
    sums[1] = s1
    sums[2] = s2
    sums[3] = s3
    sums[4] = s4
    sums[5] = s5
    sums[6] = s6
    sums[7] = s7
    return _sum_of_parts(sums, 0, rest)


@compiled
def _sums_of_products(
    y: Float1D,
    origin_y: float,
    mean_y: float,
    x: Float1D,
    origin_x: float,
    mean_x: float,
    sums: Float1D,
) -> tuple[float, float]:
    """Return the sums of products of deviations, of y with x and of x with itself."""
    n = len(y)
    whole = n - n % 8
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = rest_y = 0.0
    t0 = t1 = t2 = t3 = t4 = t5 = t6 = t7 = rest_x = 0.0
    for i in range(0, whole, 8):
        p, q = y[i : i + 8], x[i : i + 8]
        d0 = (q[0] - origin_x) - mean_x
        d1 = (q[1] - origin_x) - mean_x
        d2 = (q[2] - origin_x) - mean_x
        d3 = (q[3] - origin_x) - mean_x
        d4 = (q[4] - origin_x) - mean_x
        d5 = (q[5] - origin_x) - mean_x
        d6 = (q[6] - origin_x) - mean_x
        d7 = (q[7] - origin_x) - mean_x
        s0 += ((p[0] - origin_y) - mean_y) * d0
        s1 += ((p[1] - origin_y) - mean_y) * d1
        s2 += ((p[2] - origin_y) - mean_y) * d2
        s3 += ((p[3] - origin_y) - mean_y) * d3
        s4 += ((p[4] - origin_y) - mean_y) * d4
        s5 += ((p[5] - origin_y) - mean_y) * d5
        s6 += ((p[6] - origin_y) - mean_y) * d6
        s7 += ((p[7] - origin_y) - mean_y) * d7
        t0 += d0 * d0
        t1 += d1 * d1
        t2 += d2 * d2
        t3 += d3 * d3
        t4 += d4 * d4
        t5 += d5 * d5
        t6 += d6 * d6
        t7 += d7 * d7
    for i in range(whole, n):
        d = (x[i] - origin_x) - mean_x
        rest_y += ((y[i] - origin_y) - mean_y) * d
        rest_x += d * d
    sums[0] = s0
    sums[1] = s1
    sums[2] = s2
    sums[3] = s3
    sums[4] = s4
    sums[5] = s5
    sums[6] = s6
    sums[7] = s7
    sums[8] = t0
    sums[9] = t1
    sums[10] = t2
    sums[11] = t3
    sums[12] = t4
    sums[13] = t5
    sums[14] = t6
    sums[15] = t7
    return _sum_of_parts(sums, 0, rest_y), _sum_of_parts(sums, 8, rest_x)


@compiled
def window_mean(values: Float1D, sums: Float1D) -> float:
    """Return the mean.

    Parameters
    ----------
    values : ndarray of float64, shape (w,)
        The window, w >= 1.
    sums : ndarray of float64, shape (N_SUMS,)
        Room to work in.
    """
    return float(values[0] + _sum_of_one(values, values[0], sums) / len(values))


@compiled
def window_mean_std(values: Float1D, sums: Float1D) -> tuple[float, float]:
    """Return mean and sample standard deviation (n - 1 in the denominator).

    Parameters
    ----------
    values : ndarray of float64, shape (w,)
        The window, w >= 2.
    sums : ndarray of float64, shape (N_SUMS,)
        Room to work in.

    Returns
    -------
    mean, std : float
        NaN where a value is NaN; the std of a constant window is exactly 0.
    """
    n = len(values)
    origin = values[0]
    mean = _sum_of_one(values, origin, sums) / n
    squares = _sum_of_squares(values, origin, mean, sums)
    return origin + mean, math.sqrt(squares / (n - 1))


@compiled
def window_half_life(values: Float1D, changes: Float1D, cap_bars: float, sums: Float1D) -> float:
    """Return the bars in which a deviation from the mean halves.

    Parameters
    ----------
    values : ndarray of float64, shape (w,)
        The window, w >= 3.
    changes : ndarray of float64, shape (w - 1,)
        From each value to the next.
    cap_bars
        Returned where the values do not revert, or revert more slowly than this.
    sums : ndarray of float64, shape (N_SUMS,)
        Room to work in.

    Returns
    -------
    float
        In (0, cap_bars]; NaN where a value is NaN.

    Notes
    -----
    The change s[t+1] - s[t] is regressed on s[t] and a constant; with slope b < 0 the half-life
    is ln 2 / -b.

    References
    ----------
    Chan, E. (2013), Algorithmic Trading, Wiley, chapter 2, "Half-life of mean reversion".
    """
    slope = window_ols(changes, values[:-1], sums)[0]
    if math.isnan(slope):
        return cap_bars if _is_constant(values) else math.nan
    if slope >= 0.0:
        return cap_bars
    return min(cap_bars, math.log(2.0) / -slope)


@compiled
def _is_constant(values: Float1D) -> bool:
    """Tell whether all values but the last, the levels of the regression, are equal."""
    for i in range(len(values) - 1):
        if values[i] != values[0]:
            return False
    return not math.isnan(values[-1])


def rolling_ols(y: Float1D, x: Float1D, window: int) -> tuple[Float1D, Float1D]:
    """Regress `y` on `x` and a constant over each window.

    Parameters
    ----------
    y, x : ndarray of float64, shape (n,)
        Oldest first.
    window
        Bars in a window, the present one included; at least 2.

    Returns
    -------
    beta, alpha : ndarray of float64, shape (n,)
        NaN before the first full window, where `x` is constant over the window, and where a
        value in the window is NaN.

    Raises
    ------
    DataError
        If the columns are not one-dimensional and of equal length, or the window is too short.

    Notes
    -----
    Takes n * window steps; see `window_ols` for the formula.

    Examples
    --------
    >>> beta, alpha = rolling_ols(np.array([1.0, 3.0, 5.0]), np.array([0.0, 1.0, 2.0]), 3)
    >>> beta[2].item(), alpha[2].item()
    (2.0, 1.0)
    """
    y, x = _column(y, "y"), _column(x, "x")
    if len(y) != len(x):
        raise DataError(f"y has {len(y)} values and x {len(x)}: join the two on bar time")
    _require_window(window, 2)
    return _rolling_ols(y, x, window)


def rolling_mean_std(values: Float1D, window: int) -> tuple[Float1D, Float1D]:
    """Return mean and sample standard deviation of each window.

    Parameters
    ----------
    values : ndarray of float64, shape (n,)
        Oldest first.
    window
        Bars in a window, the present one included; at least 2.

    Returns
    -------
    mean, std : ndarray of float64, shape (n,)
        NaN before the first full window and where a value in the window is NaN.

    Raises
    ------
    DataError
        If the column is not one-dimensional or the window is too short.

    Examples
    --------
    >>> mean, std = rolling_mean_std(np.array([1.0, 2.0, 3.0]), 3)
    >>> mean[2].item(), std[2].item()
    (2.0, 1.0)
    """
    _require_window(window, 2)
    return _rolling_mean_std(_column(values, "values"), window)


def rolling_half_life(values: Float1D, window: int, cap_bars: float) -> Float1D:
    """Return the half-life of reversion, in bars, over each window.

    Parameters
    ----------
    values : ndarray of float64, shape (n,)
        Oldest first, for instance a spread.
    window
        Bars in a window, the present one included; at least 3.
    cap_bars
        Largest half-life reported, also for values that do not revert.

    Returns
    -------
    ndarray of float64, shape (n,)
        NaN before the first full window and where a value in the window is NaN.

    Raises
    ------
    DataError
        If the column is not one-dimensional, the window is too short or the cap not positive.

    Examples
    --------
    >>> rolling_half_life(np.array([8.0, 4.0, 2.0, 1.0]), 4, 100.0)[3].round(4).item()
    1.3863
    """
    _require_window(window, 3)
    if not 0 < cap_bars < math.inf:
        raise DataError(f"half-life cap of {cap_bars} bars: give a positive finite number")
    return _rolling_half_life(_column(values, "values"), window, cap_bars)


def _column(values: Float1D, name: str) -> Float1D:
    """Return an own contiguous copy, so that one machine-code form serves every caller."""
    column = np.array(values, dtype=np.float64)
    if column.ndim != 1:
        raise DataError(f"{name} has shape {column.shape}: give one dimension, oldest bar first")
    return column


def _require_window(window: int, shortest: int) -> None:
    if window < shortest:
        raise DataError(f"window of {window} bars: give at least {shortest}")


@compiled
def _rolling_ols(y: Float1D, x: Float1D, window: int) -> tuple[Float1D, Float1D]:
    beta, alpha = np.full(len(y), np.nan), np.full(len(y), np.nan)
    sums = np.empty(N_SUMS)
    for last in range(window - 1, len(y)):
        first = last - window + 1
        beta[last], alpha[last] = window_ols(y[first : last + 1], x[first : last + 1], sums)
    return beta, alpha


@compiled
def _rolling_mean_std(values: Float1D, window: int) -> tuple[Float1D, Float1D]:
    mean, std = np.full(len(values), np.nan), np.full(len(values), np.nan)
    sums = np.empty(N_SUMS)
    for last in range(window - 1, len(values)):
        mean[last], std[last] = window_mean_std(values[last - window + 1 : last + 1], sums)
    return mean, std


@compiled
def _rolling_half_life(values: Float1D, window: int, cap_bars: float) -> Float1D:
    half_life = np.full(len(values), np.nan)
    changes = values[1:] - values[:-1]
    sums = np.empty(N_SUMS)
    for last in range(window - 1, len(values)):
        first = last - window + 1
        half_life[last] = window_half_life(
            values[first : last + 1], changes[first:last], cap_bars, sums
        )
    return half_life
