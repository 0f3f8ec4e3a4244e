"""Cointegration of whole baskets, and hedge ratios that treat both legs alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shared.errors import DataError
from shared.quant.typing import Float1D, Float2D


@dataclass(frozen=True, eq=False)
class JohansenResult:
    """Johansen's test of a basket of N series.

    Attributes
    ----------
    trace, max_eigenvalue : ndarray of float64, shape (N,)
        Statistics of "at most r relations", r = 0 .. N - 1.
    trace_critical, max_eigenvalue_critical : ndarray of float64, shape (N, 3)
        Critical values at 10, 5 and 1 %.
    weights : ndarray of float64, shape (N, N)
        Column r holds the series' weights in relation r, the surest first.
    """

    trace: Float1D
    trace_critical: Float2D
    max_eigenvalue: Float1D
    max_eigenvalue_critical: Float2D
    weights: Float2D

    def rank(self, level: float = 0.05) -> int:
        """Return how many relations the trace test finds at 10, 5 or 1 %.

        Raises
        ------
        DataError
            At any other level.
        """
        columns = {0.1: 0, 0.05: 1, 0.01: 2}
        if level not in columns:
            raise DataError(f"no critical values at level {level}: use one of {list(columns)}")
        exceeds = self.trace > self.trace_critical[:, columns[level]]
        return len(exceeds) if exceeds.all() else int(np.argmin(exceeds))


def johansen(prices: Float2D, *, trend_order: int = 0, lagged_changes: int = 1) -> JohansenResult:
    """Test a basket for cointegrating relations, by `statsmodels`.

    Parameters
    ----------
    prices : ndarray of float64, shape (T, N)
        Prices or their logarithms, oldest bar first, N of 2 to 12.
    trend_order
        -1 for no deterministic term, 0 for a constant, 1 for a line.
    lagged_changes
        Lags of the changes in the model.

    Raises
    ------
    DataError
        If the matrix is not of that shape, holds a value that is not finite, or a series is a
        combination of the others.

    References
    ----------
    S. Johansen (1991), "Estimation and hypothesis testing of cointegration vectors in Gaussian
    vector autoregressive models", Econometrica 59.
    """
    # A second to import, for those few who test baskets.
    from statsmodels.tsa.vector_ar.vecm import coint_johansen

    if prices.ndim != 2 or not 2 <= prices.shape[1] <= 12:
        raise DataError(f"prices have shape {prices.shape}: give (bars, series), 2 to 12 series")
    if not np.isfinite(prices).all():
        raise DataError("prices hold a value that is not finite: leave such bars out")
    if trend_order not in (-1, 0, 1) or lagged_changes < 0:
        raise DataError(
            f"trend_order {trend_order}, lagged_changes {lagged_changes}: give -1, 0 or 1, and 0 "
            "or more"
        )
    if np.linalg.matrix_rank(prices - prices.mean(axis=0)) < prices.shape[1]:
        raise DataError("a series is a combination of the others: leave one of them out")
    found = coint_johansen(prices, trend_order, lagged_changes)
    return JohansenResult(found.lr1, found.cvt, found.lr2, found.cvm, found.evec)


def total_least_squares(y: Float2D, x: Float2D) -> Float1D:
    """Return hedge ratios by total least squares, errors at right angles to the line.

    Unlike the regression of y on x, that of x on y gives just the inverse.

    Parameters
    ----------
    y, x : ndarray of float64, shape (T, K)
        The legs of K pairs.

    Returns
    -------
    ndarray of float64, shape (K,)
        Slopes; NaN where the legs do not move together at all.

    Raises
    ------
    DataError
        If the shapes differ or there are fewer than two bars.

    References
    ----------
    W. E. Deming (1943), "Statistical adjustment of data", with equal error variances.
    """
    if y.shape != x.shape or y.ndim != 2 or len(y) < 2:
        raise DataError(f"legs have shapes {y.shape} and {x.shape}: give (bars, pairs) twice")
    y, x = y - y.mean(axis=0), x - x.mean(axis=0)
    variance_y, variance_x = (y * y).sum(axis=0), (x * x).sum(axis=0)
    covariance = (y * x).sum(axis=0)
    difference = variance_y - variance_x
    slope = np.full(y.shape[1], np.nan)
    np.divide(
        difference + np.sqrt(difference**2 + 4.0 * covariance**2),
        2.0 * covariance,
        out=slope,
        where=covariance != 0.0,
    )
    return slope
