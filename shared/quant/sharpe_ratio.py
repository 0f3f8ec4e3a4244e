"""How much a Sharpe ratio proves: its uncertainty, and what luck among many trials explains.

A Sharpe ratio here is per period of the returns it was measured on, unless its name says
annual. Its standard error assumes returns that are not serially correlated: give returns of
days rather than of minutes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from shared.errors import DataError
from shared.quant.typing import Float1D

FEWEST_RETURNS = 3
"""Returns below which skewness and kurtosis say nothing."""


@dataclass(frozen=True, slots=True)
class TrackRecord:
    """What the standard error of a Sharpe ratio depends on.

    Attributes
    ----------
    sharpe_ratio
        Mean over standard deviation of the returns, per period.
    n_returns
        Periods it was measured on.
    skewness, kurtosis
        Third and fourth standardised moment; 0 and 3 for normal returns.

    Raises
    ------
    DataError
        If a number is not finite, there are too few returns, or no returns have such moments.
    """

    sharpe_ratio: float
    n_returns: int
    skewness: float = 0.0
    kurtosis: float = 3.0

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.sharpe_ratio, self.skewness, self.kurtosis))):
            raise DataError(f"track record {self}: give finite moments")
        if self.n_returns < FEWEST_RETURNS:
            raise DataError(f"{self.n_returns} returns: give at least {FEWEST_RETURNS}")
        # Rounding may put a two-point distribution a hair below the bound it lies on.
        if self.kurtosis < (1 + self.skewness**2) * (1 - 1e-9):
            raise DataError(
                f"kurtosis {self.kurtosis} with skewness {self.skewness}: no returns have a "
                "kurtosis below 1 + skewness^2; give the fourth moment itself, not its excess "
                "over 3"
            )


def track_record(returns: Float1D) -> TrackRecord:
    """Measure the moments of returns.

    Parameters
    ----------
    returns : ndarray of float64, shape (n,)
        Finite, of equal periods, net of costs.

    Returns
    -------
    TrackRecord
        With Sharpe ratio 0 for returns that are all zero: nothing was held.

    Raises
    ------
    DataError
        If the array is not one-dimensional, is short or not finite, or its values are all the
        same and not zero.

    Notes
    -----
    The standard deviation of the Sharpe ratio divides by n - 1, the standardised moments use
    central moments over n.

    Examples
    --------
    >>> record = track_record(np.array([0.01, -0.01, 0.02, 0.0]))
    >>> round(record.sharpe_ratio, 4), record.n_returns
    (0.3873, 4)
    """
    if returns.ndim != 1 or len(returns) < FEWEST_RETURNS or not np.isfinite(returns).all():
        raise DataError(
            f"returns of shape {returns.shape}: give a column of at least {FEWEST_RETURNS} "
            "finite returns"
        )
    if returns.min() == returns.max():
        if returns[0] != 0:
            raise DataError(
                f"{len(returns)} returns are all {returns[0]}: a Sharpe ratio needs returns "
                "that vary"
            )
        return TrackRecord(0.0, len(returns))
    deviation = returns - returns.mean()
    variance = np.mean(deviation**2)
    return TrackRecord(
        sharpe_ratio=float(returns.mean() / returns.std(ddof=1)),
        n_returns=len(returns),
        skewness=float(np.mean(deviation**3) / variance**1.5),
        kurtosis=float(np.mean(deviation**4) / variance**2),
    )


def probabilistic_sharpe_ratio(record: TrackRecord, benchmark: float = 0.0) -> float:
    """Return the probability that the true Sharpe ratio exceeds a benchmark.

    Parameters
    ----------
    record
        What was observed.
    benchmark
        Sharpe ratio per period to exceed.

    Notes
    -----
    PSR = Phi((S - S*) sqrt(n - 1) / sqrt(1 - g3 S + (g4 - 1) / 4 S^2), with g3 the skewness
    and g4 the kurtosis.

    References
    ----------
    Bailey, D. H. and Lopez de Prado, M. (2012), "The Sharpe ratio efficient frontier",
    Journal of Risk 15(2), equation 11.

    Examples
    --------
    >>> hedge_fund = TrackRecord(0.458, 24, skewness=-2.448, kurtosis=10.164)
    >>> round(probabilistic_sharpe_ratio(hedge_fund), 3)
    0.913
    """
    excess = (record.sharpe_ratio - benchmark) * math.sqrt(record.n_returns - 1)
    return float(ndtr(excess / math.sqrt(_variance_per_return(record))))


def variance_of_luck(n_returns: int) -> float:
    """Return the variance of the Sharpe ratio of a strategy without skill, per period.

    It is 1 / (n_returns - 1), whatever the skewness and kurtosis of the returns.

    Raises
    ------
    DataError
        If there are fewer than two returns.
    """
    if n_returns < 2:
        raise DataError(f"{n_returns} returns: a Sharpe ratio needs at least 2")
    return 1 / (n_returns - 1)


def expected_maximum_sharpe(n_trials: int, variance_of_trials: float) -> float:
    """Return the best Sharpe ratio that luck alone is expected to find in a number of trials.

    Parameters
    ----------
    n_trials
        Independent trials made, those that were thrown away included.
    variance_of_trials
        Variance of their Sharpe ratios, in the unit (per period or annual) of the result.

    Returns
    -------
    float
        0 for a single trial.

    Raises
    ------
    DataError
        If there is no trial or the variance is negative or not finite.

    Notes
    -----
    sqrt(V) ((1 - c) Phi^-1(1 - 1/N) + c Phi^-1(1 - 1/(N e))), c the Euler-Mascheroni constant.

    References
    ----------
    Bailey, D. H. and Lopez de Prado, M. (2014), "The deflated Sharpe ratio", Journal of
    Portfolio Management 40(5), equation 1.

    Examples
    --------
    >>> round(expected_maximum_sharpe(100, 0.5 / 250), 4)
    0.1132
    """
    if n_trials < 1 or not 0 <= variance_of_trials < math.inf:
        raise DataError(
            f"{n_trials} trials with variance {variance_of_trials} of their Sharpe ratios: "
            "count at least the trial itself and give a variance of at least 0"
        )
    if n_trials == 1:
        return 0.0
    standard = (1 - np.euler_gamma) * ndtri(1 - 1 / n_trials)
    standard += np.euler_gamma * ndtri(1 - 1 / (n_trials * math.e))
    return math.sqrt(variance_of_trials) * float(standard)


def deflated_sharpe_ratio(record: TrackRecord, n_trials: int, variance_of_trials: float) -> float:
    """Return the probability that the best of many trials has a true Sharpe ratio above luck.

    Parameters
    ----------
    record
        Of the trial that was selected.
    n_trials, variance_of_trials
        As for `expected_maximum_sharpe`, the variance per period.

    Notes
    -----
    The probabilistic Sharpe ratio against the expected maximum. It is a probability and never
    negative: ask for 0.95, not for more than 0.

    References
    ----------
    Bailey, D. H. and Lopez de Prado, M. (2014), "The deflated Sharpe ratio", Journal of
    Portfolio Management 40(5), equation 2.

    Examples
    --------
    >>> record = TrackRecord(2.5 / math.sqrt(250), 1250, skewness=-3, kurtosis=10)
    >>> round(deflated_sharpe_ratio(record, 100, 0.5 / 250), 4)
    0.9004
    """
    return probabilistic_sharpe_ratio(record, expected_maximum_sharpe(n_trials, variance_of_trials))


def minimum_track_record_length(
    record: TrackRecord, benchmark: float = 0.0, confidence: float = 0.95
) -> float:
    """Return how many returns it takes to trust that a Sharpe ratio exceeds a benchmark.

    Parameters
    ----------
    record
        Moments as observed; its own length plays no part.
    benchmark
        Sharpe ratio per period to exceed.
    confidence
        Probability to reach, within (0.5, 1).

    Returns
    -------
    float
        In periods; inf where the observed Sharpe ratio does not exceed the benchmark.

    Raises
    ------
    DataError
        If the confidence is out of bounds.

    References
    ----------
    Bailey, D. H. and Lopez de Prado, M. (2012), "The Sharpe ratio efficient frontier",
    Journal of Risk 15(2), equation 13.

    Examples
    --------
    >>> round(minimum_track_record_length(TrackRecord(0.458, 24)), 2)
    15.25
    """
    if not 0.5 < confidence < 1:
        raise DataError(f"confidence {confidence}: give a probability between 0.5 and 1")
    excess = record.sharpe_ratio - benchmark
    if excess <= 0:
        return math.inf
    return 1 + _variance_per_return(record) * (float(ndtri(confidence)) / excess) ** 2


def minimum_backtest_length_years(n_trials: int, annual_sharpe: float = 1.0) -> float:
    """Return the years below which luck among the trials reaches an annual Sharpe ratio.

    Parameters
    ----------
    n_trials
        Independent trials made on the same history.
    annual_sharpe
        The Sharpe ratio that luck should not be expected to show, positive.

    Returns
    -------
    float
        0 for a single trial.

    Raises
    ------
    DataError
        If there is no trial or the Sharpe ratio is not positive.

    Notes
    -----
    Over y years the annual Sharpe ratio of a trial without skill has variance 1 / y, so the
    expected maximum falls to S at y = (E[max of N standard normals] / S)^2.

    References
    ----------
    Bailey, D. H., Borwein, J. M., Lopez de Prado, M. and Zhu, Q. J. (2014),
    "Pseudo-mathematics and financial charlatanism", Notices of the AMS 61(5), theorem 2.

    Examples
    --------
    >>> round(minimum_backtest_length_years(45), 1)
    5.0
    """
    if not 0 < annual_sharpe < math.inf:
        raise DataError(f"annual Sharpe ratio {annual_sharpe}: give a positive number")
    return (expected_maximum_sharpe(n_trials, 1.0) / annual_sharpe) ** 2


def _variance_per_return(record: TrackRecord) -> float:
    """Return n - 1 times the variance of the estimated Sharpe ratio."""
    ratio = record.sharpe_ratio
    variance = 1 - record.skewness * ratio + (record.kurtosis - 1) / 4 * ratio**2
    if variance <= 0:
        raise DataError(
            f"track record {record}: its Sharpe ratio has no sampling variance, as only returns "
            "of two values have; give a longer record"
        )
    return variance
