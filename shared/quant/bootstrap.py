"""Confidence intervals from resampling a series in blocks, so that its memory survives."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from shared.errors import DataError
from shared.quant.typing import Float1D

FEWEST_RETURNS = 30
"""Returns below which an interval from resampling is too narrow to be believed."""


@dataclass(frozen=True, slots=True)
class SharpeInterval:
    """A confidence interval of an annual Sharpe ratio.

    Attributes
    ----------
    lower, upper
        Its ends.
    block_length
        Mean length of the resampled blocks, in periods.
    """

    lower: float
    upper: float
    block_length: int


def sharpe_interval(
    returns: Float1D,
    *,
    periods_per_year: float,
    rng: np.random.Generator,
    confidence: float = 0.95,
    n_resamples: int = 1000,
    block_length: int | None = None,
) -> SharpeInterval:
    """Return a confidence interval of the annual Sharpe ratio by the stationary bootstrap.

    Parameters
    ----------
    returns : ndarray of float64, shape (n,)
        Finite, of equal periods, oldest first.
    periods_per_year
        Periods of the returns in a year.
    rng
        Source of the resamples.
    confidence
        Share of intervals that hold the true value, within (0, 1).
    n_resamples
        How many; the ends are percentiles of their Sharpe ratios.
    block_length
        Mean length of a block; by default the length that suits the returns' own memory.

    Returns
    -------
    SharpeInterval
        Of zero width at 0 where all returns are zero.

    Raises
    ------
    DataError
        If the returns are few, not finite or all the same and not zero, or an argument is out
        of bounds.

    References
    ----------
    Politis, D. N. and Romano, J. P. (1994), "The stationary bootstrap", JASA 89, section 2.
    Politis, D. N. and White, H. (2004), "Automatic block-length selection for the dependent
    bootstrap", Econometric Reviews 23, with the correction of Patton et al. (2009).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> interval = sharpe_interval(rng.normal(0.1, 1, 500), periods_per_year=365, rng=rng)
    >>> interval.lower < 0.1 * 365**0.5 < interval.upper
    True
    """
    # Imports statsmodels, which services that resample nothing should not pay for.
    from arch.bootstrap import StationaryBootstrap, optimal_block_length

    if not 0 < confidence < 1 or n_resamples < 100 or not 0 < periods_per_year < math.inf:
        raise DataError(
            f"confidence {confidence}, {n_resamples} resamples, {periods_per_year} periods per "
            "year: give a share between 0 and 1, at least 100 and a positive number"
        )
    if returns.ndim != 1 or len(returns) < FEWEST_RETURNS or not np.isfinite(returns).all():
        raise DataError(
            f"returns of shape {returns.shape}: give a column of at least {FEWEST_RETURNS} "
            "finite returns"
        )
    if returns.min() == returns.max():
        if returns[0] != 0:
            raise DataError(f"{len(returns)} returns are all {returns[0]}: give ones that vary")
        return SharpeInterval(0.0, 0.0, 1)
    if block_length is None:
        block_length = math.ceil(max(1.0, optimal_block_length(returns)["stationary"].iloc[0]))
    resampled = StationaryBootstrap(block_length, returns, seed=rng)
    sharpe = resampled.apply(_sharpe_ratio, n_resamples)[:, 0] * math.sqrt(periods_per_year)
    tail = 100 * (1 - confidence) / 2
    lower, upper = np.percentile(sharpe, [tail, 100 - tail])
    return SharpeInterval(float(lower), float(upper), block_length)


def _sharpe_ratio(returns: Float1D) -> Float1D:
    deviation = returns.std(ddof=1)
    # A resample may consist of idle periods alone: nothing was held.
    return np.array([returns.mean() / deviation if deviation > 0 else 0.0])
