"""Volatility of a book of holdings, and how much more of it fits below a bound."""

from __future__ import annotations

import math

from shared.quant.typing import Float1D, Float2D


def annual_volatility(
    notionals: Float1D, covariance: Float2D, capital: float, periods_per_year: float
) -> float:
    """Return the annual volatility of holdings, as a share of the capital.

    Parameters
    ----------
    notionals : ndarray of float64, shape (N,)
        Signed, in the currency of the capital.
    covariance : ndarray of float64, shape (N, N)
        Of the simple returns of a period.
    capital, periods_per_year
        What it is a share of, and how many periods a year has.

    Examples
    --------
    >>> import numpy as np
    >>> annual_volatility(np.array([100.0]), np.array([[1e-4]]), 1000.0, 400.0)
    0.02
    """
    variance = float(notionals @ covariance @ notionals)
    return math.sqrt(max(0.0, variance) * periods_per_year) / capital


def largest_share(
    held: Float1D, added: Float1D, covariance: Float2D, most_variance: float
) -> float:
    """Return how much of an addition keeps the variance of a book within a bound.

    Parameters
    ----------
    held, added : ndarray of float64, shape (N,)
        Signed notionals: what stays, and what is to come.
    covariance : ndarray of float64, shape (N, N)
        Of returns.
    most_variance
        Bound of the variance, in squared currency.

    Returns
    -------
    float
        The largest s of 0 to 1 for which held + s * added keeps to the bound, 0 where none does.

    Notes
    -----
    The variance is a parabola a s^2 + 2 b s + c with a = added' C added, b = held' C added and
    c = held' C held. An addition that hedges what is held may bring a book back within.
    """
    curvature = float(added @ covariance @ added)
    slope = float(held @ covariance @ added)
    excess = float(held @ covariance @ held) - most_variance
    if curvature + 2 * slope + excess <= 0:
        return 1.0
    discriminant = slope**2 - curvature * excess
    if curvature <= 0 or discriminant < 0:
        return 0.0
    first = (-slope - math.sqrt(discriminant)) / curvature
    last = (math.sqrt(discriminant) - slope) / curvature
    # The whole addition breaks the bound, so what keeps to it ends before 1 or begins after it.
    return max(0.0, last) if first <= 1 else 0.0
