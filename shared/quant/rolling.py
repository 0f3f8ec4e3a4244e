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


@compiled
def window_ols(y: Float1D, x: Float1D) -> tuple[float, float]:
    """Regress `y` on `x` and a constant.

    Parameters
    ----------
    y, x : ndarray of float64, shape (w,)
        The window, w >= 2.

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
    mean_y = sum_of_deviations(y, origin_y) / n
    mean_x = sum_of_deviations(x, origin_x) / n
    covariance = sum_of_products(y, origin_y, mean_y, x, origin_x, mean_x)
    variance = sum_of_products(x, origin_x, mean_x, x, origin_x, mean_x)
    if variance == 0.0:
        return math.nan, math.nan
    beta = covariance / variance
    return beta, (origin_y + mean_y) - beta * (origin_x + mean_x)


@compiled
def sum_of_deviations(values: Float1D, origin: float) -> float:
    """Return the sum of values less an origin, in eight interleaved parts of a fixed order.

    Written out, because only sums that have names stay in the processor's registers.
    """
    n = len(values)
    whole = n - n % 8
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = rest = 0.0
    for i in range(0, whole, 8):
        part = values[i : i + 8]
        s0 += part[0] - origin
        s1 += part[1] - origin
        s2 += part[2] - origin
        s3 += part[3] - origin
        s4 += part[4] - origin
        s5 += part[5] - origin
        s6 += part[6] - origin
        s7 += part[7] - origin
    for i in range(whole, n):
        rest += values[i] - origin
    return ((s0 + s4) + (s1 + s5)) + ((s2 + s6) + (s3 + s7)) + rest


@compiled
def sum_of_products(
    a: Float1D, origin_a: float, mean_a: float, b: Float1D, origin_b: float, mean_b: float
) -> float:
    """Return the sum of products of deviations from origin plus mean, in eight parts."""
    n = len(a)
    whole = n - n % 8
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = rest = 0.0
    for i in range(0, whole, 8):
        p, q = a[i : i + 8], b[i : i + 8]
        s0 += ((p[0] - origin_a) - mean_a) * ((q[0] - origin_b) - mean_b)
        s1 += ((p[1] - origin_a) - mean_a) * ((q[1] - origin_b) - mean_b)
        s2 += ((p[2] - origin_a) - mean_a) * ((q[2] - origin_b) - mean_b)
        s3 += ((p[3] - origin_a) - mean_a) * ((q[3] - origin_b) - mean_b)
        s4 += ((p[4] - origin_a) - mean_a) * ((q[4] - origin_b) - mean_b)
        s5 += ((p[5] - origin_a) - mean_a) * ((q[5] - origin_b) - mean_b)
        s6 += ((p[6] - origin_a) - mean_a) * ((q[6] - origin_b) - mean_b)
        s7 += ((p[7] - origin_a) - mean_a) * ((q[7] - origin_b) - mean_b)
    for i in range(whole, n):
        rest += ((a[i] - origin_a) - mean_a) * ((b[i] - origin_b) - mean_b)
    return ((s0 + s4) + (s1 + s5)) + ((s2 + s6) + (s3 + s7)) + rest


@compiled
def window_mean_std(values: Float1D) -> tuple[float, float]:
    """Return mean and sample standard deviation (n - 1 in the denominator).

    Parameters
    ----------
    values : ndarray of float64, shape (w,)
        The window, w >= 2.

    Returns
    -------
    mean, std : float
        NaN where a value is NaN; the std of a constant window is exactly 0.
    """
    n = len(values)
    origin = values[0]
    mean = sum_of_deviations(values, origin) / n
    squares = sum_of_products(values, origin, mean, values, origin, mean)
    return origin + mean, math.sqrt(squares / (n - 1))


@compiled
def window_half_life(values: Float1D, cap_bars: float) -> float:
    """Return the bars in which a deviation from the mean halves.

    Parameters
    ----------
    values : ndarray of float64, shape (w,)
        The window, w >= 3.
    cap_bars
        Returned where the values do not revert, or revert more slowly than this.

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
    level = values[:-1]
    slope = window_ols(values[1:] - level, level)[0]
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
    for last in range(window - 1, len(y)):
        first = last - window + 1
        beta[last], alpha[last] = window_ols(y[first : last + 1], x[first : last + 1])
    return beta, alpha


@compiled
def _rolling_mean_std(values: Float1D, window: int) -> tuple[Float1D, Float1D]:
    mean, std = np.full(len(values), np.nan), np.full(len(values), np.nan)
    for last in range(window - 1, len(values)):
        mean[last], std[last] = window_mean_std(values[last - window + 1 : last + 1])
    return mean, std


@compiled
def _rolling_half_life(values: Float1D, window: int, cap_bars: float) -> Float1D:
    half_life = np.full(len(values), np.nan)
    for last in range(window - 1, len(values)):
        half_life[last] = window_half_life(values[last - window + 1 : last + 1], cap_bars)
    return half_life
