"""The Engle-Granger test of every ordered pair of a universe at once, at every bar.

The numbers are those of `statsmodels.tsa.stattools.coint`; only the road differs. That
function fits one least squares regression for every lag order of every pair. Here nothing of
a pair is regressed on bars at all:

1. The residual of a pair is e = y - b x, so the products of its lagged changes are a
   quadratic form in b of the products of the changes of y and x. Those are made for all
   series at once, by matrix products (`cross_moments`), and carried on from bar to bar.
2. The moments of a lag follow from those of the lag before, by adding and subtracting the
   bars at the two ends of the sample.
3. Eliminating the lags one by one leaves the regression of every order on the way, and with
   it every order's information criterion.

A test then costs the same for a thousand bars as for ten thousand: about max_lag^3 / 3
multiplications.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
from scipy.special import ndtr

from shared.errors import DataError
from shared.quant.compiled import compiled, compiled_parallel
from shared.quant.cross_moments import LANES, lagged_products, pack, tiles_of, untiled
from shared.quant.typing import Float1D, Float2D, Float3D, Float5D, Int1D, Int2D


@dataclass(frozen=True)
class _MacKinnon:
    """The approximate distribution of the statistic of two series: p = Phi(polynomial).

    One polynomial up to the turning point, one above it; exactly 0 and 1 beyond the ends.
    """

    turning_point: float
    smallest: float
    largest: float
    left_tail: tuple[float, ...]
    right_body: tuple[float, ...]


_MACKINNON = {
    "n": _MacKinnon(
        -1.53,
        -19.62,
        1.51,
        (1.9129, 1.3857, 3.5322e-2),
        (1.5578, 8.558e-1, -2.083e-1, -3.3549e-2),
    ),
    "c": _MacKinnon(
        -2.62,
        -18.86,
        0.92,
        (2.92, 1.5012, 3.9796e-2),
        (2.1945, 6.4695e-1, -2.9198e-1, -4.2377e-2),
    ),
    "ct": _MacKinnon(
        -3.19,
        -21.15,
        0.63,
        (3.6646, 1.5419, 3.6448e-2),
        (2.85, 5.272e-1, -3.6622e-1, -5.1695e-2),
    ),
}

COLLINEAR_SHARE = 100.0 * math.sqrt(np.finfo(np.float64).eps)
"""Unexplained share of the variance at or below which two series count as collinear."""

_CANCELLED_SHARE = 1e-5
"""Share of a series' moment below which its residual is summed from the bars instead."""

EXHAUSTED_SHARE = 1e-12
"""Share of a variable's moment that is rounding error once the others have explained it."""

_BY_AIC, _BY_BIC, _FIXED = range(3)
_RULES = {"aic": _BY_AIC, "bic": _BY_BIC, None: _FIXED}


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
        Slope and constant of the least squares regression of i on j; with a line, the
        constant is the regression's value in the middle of the window.
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
    n_first: int | None = None,
) -> EngleGrangerResult:
    """Test every ordered pair of columns for cointegration.

    Parameters
    ----------
    log_prices : ndarray of float64, shape (T, N)
        One column per series, one row per bar, oldest first, without gaps.
    trend
        Deterministic terms of the cointegrating regression: "c", a constant, "ct", a
        constant and a line, or "n", none.
    max_lag
        Largest number of lagged changes; `None` takes Schwert's rule,
        min(ceil(12 (T / 100)^(1/4)), T // 2 - 1).
    autolag
        "aic" and "bic" take the number of lags with the lowest Akaike or Bayesian
        information criterion; `None` takes `max_lag`.
    n_first
        Test only the pairs that have one of the first so many columns, at the price of
        those; without it all pairs.

    Returns
    -------
    EngleGrangerResult
        Arrays of shape (N, N); NaN where no test was asked for.

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

    The cost is about T max_lag + max_lag^3 / 3 multiplications a pair, the first term as
    matrix products.

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
    require_offered(trend, autolag)
    _check_log_prices(log_prices)
    largest_lag = checked_max_lag(log_prices.shape[0], max_lag)
    levels = np.ascontiguousarray(log_prices[::-1].T)
    n_groups = None if n_first is None else -(-n_first // LANES)
    window = Window.of(levels, largest_lag, is_centred=trend != "n", n_first=n_groups)
    result = pair_tests(window, trend, autolag, n_first=n_groups)
    if n_first is not None:
        for made in (result.statistic, result.p_value, result.lag, result.hedge_ratio,
                     result.intercept):  # fmt: skip
            made[n_first:, n_first:] = np.nan
    return result


@dataclass(frozen=True, eq=False)
class Window:
    """Everything of a window of bars that the tests of its pairs are made from.

    Attributes
    ----------
    levels : ndarray of float64, shape (N, >= first + n_bars)
        The series, newest first; bar s is `levels[:, first + s]`.
    first, n_bars
        Where the window lies in them.
    means : ndarray of float64, shape (N,)
        Of the window.
    cross : ndarray of float64, shape (N, N)
        Sums of products of the series less their means.
    products : ndarray of float64, shape (G, G, max_lag + 1, 8, 8)
        `lagged_products` of their changes.
    """

    levels: Float2D
    first: int
    n_bars: int
    means: Float1D
    cross: Float2D
    products: Float5D

    @classmethod
    def of(
        cls, levels: Float2D, max_lag: int, *, is_centred: bool = True, n_first: int | None = None
    ) -> Window:
        """Return the window of all bars of `levels`, (N, T), newest first.

        Not centred, its means are 0: a regression without a constant. With `n_first` it
        carries the moments of `lagged_products` with that many groups.
        """
        means = levels.mean(axis=1) if is_centred else np.zeros(len(levels))
        centred = levels - means[:, np.newaxis]
        cross = untiled(lagged_products(pack(centred), 0, n_first), len(levels))[:, :, 0]
        products = lagged_products(pack(levels[:, :-1] - levels[:, 1:]), max_lag, n_first)
        return cls(levels, 0, levels.shape[1], means, cross, products)


def pair_tests(
    window: Window, trend: str, autolag: str | None, *, n_first: int | None = None
) -> EngleGrangerResult:
    """Test every ordered pair of a window.

    Parameters
    ----------
    window
        Its series must be finite, and none constant.
    trend, autolag
        As of `engle_granger_all_pairs`.
    n_first
        Test only the pairs with a series of the first so many groups of lanes.
    """
    n_bars, max_lag = window.n_bars, window.products.shape[2] - 1
    oldest_bar = n_bars - 1 - max_lag
    newest = window.levels[:, window.first : window.first + max_lag + 1]
    end = window.first + n_bars
    oldest = window.levels[:, window.first + oldest_bar : end]
    means = window.means[:, np.newaxis]
    newest, oldest = newest - means, oldest - means
    cross, products = window.cross, window.products
    series = range(len(cross))
    if trend == "ct":
        # A series less its own line is all that the regression with a line sees of it
        # (Frisch and Waugh), and the moments follow from the line's.
        ages = np.arange(n_bars) - (n_bars - 1) / 2.0
        spread_of_ages = n_bars * (n_bars * n_bars - 1) / 12.0
        drift = -((window.levels[:, window.first : end] - means) @ ages) / spread_of_ages
        line = drift[:, np.newaxis]
        products = _without_drift(products, newest, oldest, drift, oldest_bar)
        cross = cross - line * line.T * spread_of_ages
        newest = newest + line * ages[: max_lag + 1]
        oldest = oldest + line * ages[oldest_bar:]
    own = np.array([products[i // LANES, i // LANES, :, i % LANES, i % LANES] for i in series])
    hedge_ratio, statistic, lag = _test_all_pairs(
        products,
        own,
        cross,
        window.cross.diagonal().copy(),
        np.ascontiguousarray(newest),
        np.ascontiguousarray(oldest),
        window.levels,
        window.first,
        n_bars,
        _RULES[autolag],
        tiles_of(len(products), len(products) if n_first is None else n_first),
    )
    p_value = mackinnon_p_values(statistic, trend)
    # A test that cannot be made is no evidence; the diagonal is no test at all.
    p_value[np.isnan(statistic)] = 1.0
    np.fill_diagonal(p_value, np.nan)
    # Of the regression at the window's middle with a line, which there is nil.
    intercept = window.means[:, np.newaxis] - hedge_ratio * window.means[np.newaxis, :]
    return EngleGrangerResult(statistic, p_value, lag, hedge_ratio, intercept, n_bars)


def _without_drift(
    products: Float5D, newest: Float2D, oldest: Float2D, drift: Float1D, n_rows: int
) -> Float5D:
    """Return the moments of changes less each series' drift a bar."""
    lagged_sums = pack(newest - oldest)  # (G, max_lag + 1, 8)
    drifts = pack(drift[:, np.newaxis])[:, 0]  # (G, 8)
    line = drifts[:, np.newaxis, np.newaxis, :, np.newaxis]
    other = drifts[np.newaxis, :, np.newaxis, np.newaxis, :]
    sums = lagged_sums[:, 0][:, np.newaxis, np.newaxis, :, np.newaxis]
    others_sums = lagged_sums[np.newaxis, :, :, np.newaxis, :]
    result: Float5D = products - other * sums - line * others_sums + n_rows * line * other
    return result


def mackinnon_p_values(statistic: Float2D, trend: str = "c") -> Float2D:
    """Return MacKinnon's p-values of Engle-Granger statistics of two series.

    Parameters
    ----------
    statistic : ndarray of float64, any shape
        t statistics; NaN gives NaN.
    trend
        Deterministic terms of the cointegrating regression: "n", "c" or "ct".

    Returns
    -------
    ndarray of float64, same shape
        Exactly 0 and exactly 1 beyond the ends of the approximation (-18.86 and 0.92 for
        "c").
    """
    known = _MACKINNON[trend]
    # The polynomials are not meant for, and overflow at, what lies beyond the ends.
    inside = np.clip(statistic, known.smallest, known.largest)
    left = np.polynomial.polynomial.polyval(inside, known.left_tail)
    right = np.polynomial.polynomial.polyval(inside, known.right_body)
    p_value: Float2D = ndtr(np.where(inside <= known.turning_point, left, right))
    p_value[statistic < known.smallest] = 0.0
    p_value[statistic > known.largest] = 1.0
    return p_value


def require_offered(trend: str, autolag: str | None) -> None:
    """Refuse a trend or a choice of lags that is not offered.

    Raises
    ------
    DataError
        If so.
    """
    if trend not in _MACKINNON:
        raise DataError(f"trend {trend!r} is not offered: use one of {', '.join(_MACKINNON)}")
    if autolag not in _RULES:
        raise DataError(f"autolag {autolag!r} is not offered: use 'aic', 'bic' or None")


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
    require_movement(log_prices)


def require_movement(log_prices: Float2D) -> None:
    """Refuse a window in which a column never changes.

    Raises
    ------
    DataError
        If there is one.
    """
    constant = np.flatnonzero(log_prices.max(axis=0) == log_prices.min(axis=0))
    if constant.size:
        raise DataError(
            f"column {constant[0]} of the log prices never changes: leave a series without "
            "movement out"
        )


def checked_max_lag(n_bars: int, max_lag: int | None) -> int:
    """Return the largest lag order, given or by Schwert's rule.

    Raises
    ------
    DataError
        If the bars cannot carry it.
    """
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
    products: Float5D,
    own: Float2D,
    cross: Float2D,
    variation: Float1D,
    newest: Float2D,
    oldest: Float2D,
    levels: Float2D,
    first: int,
    n_bars: int,
    rule: int,
    tiles: Int2D,
) -> tuple[Float2D, Float2D, Float2D]:
    """Return hedge ratio, statistic and lag, each (N, N).

    Parameters
    ----------
    products
        Moments of the changes of the centred series, (G, G, max_lag + 1, 8, 8).
    own
        Those of each series with itself, (N, max_lag + 1).
    cross
        Products of the centred series themselves, (N, N).
    variation
        Squares of the series less their means, (N,): what collinearity is judged by.
    newest, oldest
        The first and last max_lag + 1 bars of the centred series, (N, max_lag + 1), newest
        first.
    levels, first, n_bars
        The series, newest first: bar s is levels[:, first + s]. Centring them is a
        difference in a constant and a line, which `newest` and `oldest` tell.
    rule
        How the number of lags is chosen: `_BY_AIC`, `_BY_BIC` or `_FIXED`.
    tiles
        Pairs of groups to test, (m, 2).
    """
    n_series = len(cross)
    max_lag = newest.shape[1] - 1
    hedge_ratio = np.full((n_series, n_series), np.nan)
    statistic = np.full((n_series, n_series), np.nan)
    lag = np.full((n_series, n_series), np.nan)
    discounts = _discounts(max_lag, n_bars - 1 - max_lag, rule)
    for tile in numba.prange(len(tiles)):
        group, other = tiles[tile]
        residual = np.zeros((LANES, 2, max_lag + 1))
        changes = np.zeros((LANES, 2, max_lag))
        autocovariance = np.zeros((LANES, max_lag + 1))
        spread = np.zeros(LANES)
        orders = np.empty(LANES, dtype=np.int64)
        moments = np.empty((max_lag + 2, max_lag + 2))
        lanes = np.zeros((max_lag + 2, max_lag + 2, LANES))
        edges = np.zeros((2, max_lag, LANES))
        for a in range(min(LANES, n_series - group * LANES)):
            i = group * LANES + a
            n_lanes = min(LANES, n_series - other * LANES)
            for b in range(n_lanes):
                j = other * LANES + b
                orders[b] = -1
                if i == j:
                    continue
                slope = cross[i, j] / cross[j, j]
                hedge_ratio[i, j] = slope
                lag[i, j] = 0.0
                spread[b] = cross[i, i] - slope * cross[i, j]
                if spread[b] <= COLLINEAR_SHARE * variation[i]:
                    statistic[i, j] = -np.inf
                    continue
                orders[b] = max_lag
                for s in range(max_lag + 1):
                    residual[b, 0, s] = newest[i, s] - slope * newest[j, s]
                    residual[b, 1, s] = oldest[i, s] - slope * oldest[j, s]
                for s in range(max_lag):
                    changes[b, 0, s] = residual[b, 0, s] - residual[b, 0, s + 1]
                    changes[b, 1, s] = residual[b, 1, s] - residual[b, 1, s + 1]
                for k in range(max_lag + 1):
                    mixed = products[group, other, k, a, b] + products[other, group, k, b, a]
                    autocovariance[b, k] = own[i, k] + slope * (slope * own[j, k] - mixed)
                if autocovariance[b, 0] < _CANCELLED_SHARE * own[i, 0] or (
                    spread[b] < _CANCELLED_SHARE * variation[i]
                ):
                    spread[b] = _sum_over_bars(
                        levels[i, first : first + n_bars],
                        levels[j, first : first + n_bars],
                        slope,
                        residual[b],
                        autocovariance[b],
                    )
            if rule != _FIXED:
                _fill_lanes(residual, changes, autocovariance, spread, edges, lanes)
                _choose_orders(lanes, discounts, orders)
            for b in range(n_lanes):
                order = orders[b]
                if order >= 0:
                    j = other * LANES + b
                    _fill_moments(
                        residual[b], changes[b], autocovariance[b], spread[b], order, moments
                    )
                    statistic[i, j] = _level_statistic(moments, order, n_bars - 1 - order)
                    lag[i, j] = order
    return hedge_ratio, statistic, lag


@compiled
def _discounts(max_lag: int, n_rows: int, rule: int) -> Float1D:
    """Return by which factor the unexplained must fall for so many coefficients more.

    n log(u) + price k is lower than before when u is less than exp(-price k / n) of what it
    was: comparing with these spares the logarithms.
    """
    price = math.log(n_rows) if rule == _BY_BIC else 2.0
    discounts: Float1D = np.exp(-price / n_rows * np.arange(max_lag + 2))
    return discounts


@compiled
def _fill_lanes(
    residual: Float3D,
    changes: Float3D,
    autocovariance: Float2D,
    spread: Float1D,
    edges: Float3D,
    moments: Float3D,
) -> None:
    """Do what `_fill_moments` does with all lags, for eight pairs, without the lower triangle.

    `edges` is room for the changes of both ends with the lanes last.
    """
    max_lag = changes.shape[2]
    level, target = max_lag, max_lag + 1
    for v in range(LANES):
        for s in range(max_lag):
            edges[0, s, v] = changes[v, 0, s]
            edges[1, s, v] = changes[v, 1, s]
        for k in range(max_lag):
            moments[k, target, v] = autocovariance[v, k + 1]
        moments[target, target, v] = autocovariance[v, 0]
        for j in range(max_lag):
            before = autocovariance[v, j]
            moments[0, j, v] = (
                before + changes[v, 1, 0] * changes[v, 1, j] - changes[v, 0, 0] * changes[v, 0, j]
            )
    for i in range(1, max_lag):
        new, old = edges[0, i], edges[1, i]
        for j in range(i, max_lag):
            m0 = moments[i - 1, j - 1, 0] + old[0] * edges[1, j, 0] - new[0] * edges[0, j, 0]
            m1 = moments[i - 1, j - 1, 1] + old[1] * edges[1, j, 1] - new[1] * edges[0, j, 1]
            m2 = moments[i - 1, j - 1, 2] + old[2] * edges[1, j, 2] - new[2] * edges[0, j, 2]
            m3 = moments[i - 1, j - 1, 3] + old[3] * edges[1, j, 3] - new[3] * edges[0, j, 3]
            m4 = moments[i - 1, j - 1, 4] + old[4] * edges[1, j, 4] - new[4] * edges[0, j, 4]
            m5 = moments[i - 1, j - 1, 5] + old[5] * edges[1, j, 5] - new[5] * edges[0, j, 5]
            m6 = moments[i - 1, j - 1, 6] + old[6] * edges[1, j, 6] - new[6] * edges[0, j, 6]
            m7 = moments[i - 1, j - 1, 7] + old[7] * edges[1, j, 7] - new[7] * edges[0, j, 7]
            moments[i, j, 0] = m0
            moments[i, j, 1] = m1
            moments[i, j, 2] = m2
            moments[i, j, 3] = m3
            moments[i, j, 4] = m4
            moments[i, j, 5] = m5
            moments[i, j, 6] = m6
            moments[i, j, 7] = m7
    for v in range(LANES):
        cross = (residual[v, 0, 0] ** 2 - residual[v, 1, 0] ** 2 - autocovariance[v, 0]) / 2.0
        moments[level, target, v] = cross
        for k in range(max_lag):
            cross += (
                residual[v, 1, 1] * changes[v, 1, k]
                - residual[v, 0, 1] * changes[v, 0, k]
                + moments[0, k, v]
            )
            moments[k, level, v] = cross
        held = spread[v] - residual[v, 0, 0] ** 2
        for s in range(1, max_lag + 1):
            held -= residual[v, 1, s] ** 2
        moments[level, level, v] = held


@compiled
def _choose_orders(moments: Float3D, discounts: Float1D, orders: Int1D) -> None:
    """Put the order of the lowest criterion into each lane of `orders` that is not negative.

    Of equals the lower; -1 if none can be told. Before lag k + 1 is eliminated, the last two
    rows are the regression of order k. Overwrites the moments.
    """
    max_lag = len(moments) - 2
    level, target = max_lag, max_lag + 1
    smallest = EXHAUSTED_SHARE * moments[target, target]
    lowest = np.full(LANES, np.inf)
    n_since = np.ones(LANES, dtype=np.int64)  # coefficients more than the lowest has
    inverse = np.empty(LANES)
    for order in range(max_lag + 1):
        for v in range(LANES):
            if orders[v] < 0:
                continue
            unexplained = math.nan
            if moments[level, level, v] > 0.0:
                unexplained = (
                    moments[target, target, v]
                    - moments[level, target, v] ** 2 / moments[level, level, v]
                )
            if not unexplained > smallest[v]:
                orders[v] = -1
            elif unexplained < lowest[v] * discounts[n_since[v]]:
                lowest[v], orders[v], n_since[v] = unexplained, order, 0
        if order == max_lag:
            break
        for v in range(LANES):
            # A lag is nil where a series moves only in bars that the lag does not reach.
            is_nil = not moments[order, order, v] > EXHAUSTED_SHARE * moments[target, target, v]
            inverse[v] = 0.0 if is_nil else 1.0 / moments[order, order, v]
            n_since[v] += 0 if is_nil else 1
        for i in range(order + 1, max_lag + 2):
            pivot, row = moments[order], moments[i]
            factor = pivot[i] * inverse
            for j in range(i, max_lag + 2):
                # All read before any is written: the compiler then sees eight lanes.
                r0 = row[j, 0] - factor[0] * pivot[j, 0]
                r1 = row[j, 1] - factor[1] * pivot[j, 1]
                r2 = row[j, 2] - factor[2] * pivot[j, 2]
                r3 = row[j, 3] - factor[3] * pivot[j, 3]
                r4 = row[j, 4] - factor[4] * pivot[j, 4]
                r5 = row[j, 5] - factor[5] * pivot[j, 5]
                r6 = row[j, 6] - factor[6] * pivot[j, 6]
                r7 = row[j, 7] - factor[7] * pivot[j, 7]
                row[j, 0] = r0
                row[j, 1] = r1
                row[j, 2] = r2
                row[j, 3] = r3
                row[j, 4] = r4
                row[j, 5] = r5
                row[j, 6] = r6
                row[j, 7] = r7


@compiled
def _sum_over_bars(
    y: Float1D, x: Float1D, slope: float, residual: Float2D, autocovariance: Float1D
) -> float:
    """Sum a residual's products bar by bar; return its own sum of squares.

    Where a residual is a millionth of the series it comes from, the difference of their
    moments has lost the digits that this keeps. `residual` has its two ends already, which
    tell the constant and the line that the residual of the raw series must lose.
    """
    n_bars = len(y)
    max_lag = len(autocovariance) - 1
    values = np.empty(n_bars)
    for s in range(n_bars):
        values[s] = y[s] - slope * x[s]
    # The same two bars in both: what differs is a line through them.
    constant = values[0] - residual[0, 0]
    drift = (values[n_bars - 1] - residual[1, max_lag] - constant) / (n_bars - 1)
    for s in range(n_bars):
        values[s] -= constant + drift * s
    total = 0.0
    for s in range(n_bars):
        total += values[s] * values[s]
    autocovariance[:] = 0.0
    for s in range(n_bars - 1 - max_lag):
        change = values[s] - values[s + 1]
        for k in range(max_lag + 1):
            autocovariance[k] += change * (values[s + k] - values[s + k + 1])
    return total


@compiled
def _fill_moments(
    residual: Float2D,
    changes: Float2D,
    autocovariance: Float1D,
    spread: float,
    order: int,
    moments: Float2D,
) -> None:
    """Write the cross products of the regression with `order` lags, a symmetric matrix.

    Its variables are lag 1 .. lag `order`, then the level, then the target; its sample is
    every bar that has `order` lags. `residual` and `changes` are those at the new and at the
    old end of the window, `spread` is the sum of all squared residuals, and `autocovariance`
    is of the bars that have `max_lag` lags, one less than its length.
    """
    max_lag = len(autocovariance) - 1
    level, target = order, order + 1
    n_more = max_lag - order  # bars that have `order` lags but not `max_lag`
    newest = changes[0, :order]
    oldest = changes[1, n_more:]

    for k in range(order + 1):
        total = autocovariance[k]
        for s in range(n_more):
            total += changes[1, s] * changes[1, s + k]
        row = target if k == 0 else k - 1
        moments[row, target] = total
        moments[target, row] = total

    # Lag i + 1 against lag j + 1 is lag i against lag j moved back by one bar: it gains the
    # product at the old end of the series and loses the one at the new end.
    for i in range(order):
        for j in range(i, order):
            if i > 0:
                before = moments[i - 1, j - 1]
            else:
                before = moments[target, j - 1] if j > 0 else moments[target, target]
            moments[i, j] = before + oldest[i] * oldest[j] - newest[i] * newest[j]
    for i in range(order):
        for j in range(i):
            moments[i, j] = moments[j, i]

    # Level against target: the sum of e_t^2 - e_(t-1)^2 = 2 e_(t-1) de_t + de_t^2 telescopes.
    # Then e_(t-1) = e_(t-2) + de_(t-1) leads from each lag to the next.
    cross = (residual[0, 0] ** 2 - residual[1, n_more] ** 2 - moments[target, target]) / 2.0
    moments[level, target] = moments[target, level] = cross
    for k in range(order):
        cross += residual[1, n_more + 1] * oldest[k] - residual[0, 1] * newest[k] + moments[0, k]
        moments[k, level] = moments[level, k] = cross
    held = spread - residual[0, 0] ** 2
    for s in range(n_more + 1, max_lag + 1):
        held -= residual[1, s] ** 2
    moments[level, level] = held


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
