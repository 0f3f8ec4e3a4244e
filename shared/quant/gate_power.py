"""How likely a strategy of known Sharpe ratio passes the gates of a backtest.

Worth knowing beforehand: a short history lets almost nothing pass, and waiting then tells more
than trying again.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
from scipy.special import ndtr, ndtri

from shared.errors import DataError
from shared.quant.backtest_overfitting import expected_overfitting
from shared.quant.gate_settings import GateSettings
from shared.quant.sharpe_ratio import expected_maximum_sharpe, variance_of_luck
from shared.quant.typing import Float1D, Float2D

Value = TypeVar("Value", float, Float1D)

_N_BACKTESTS = 2500
"""Drawn for a share with a standard error of at most one point."""
_SEED = 0
"""Always the same draws, so that the power is a function of its arguments."""


def power_of_gates(
    annual_sharpe: float,
    *,
    n_returns: int,
    periods_per_year: float,
    n_trials: int,
    settings: GateSettings,
    n_models: int | None = None,
) -> float:
    """Return the probability that a true Sharpe ratio passes the gates of a backtest.

    Parameters
    ----------
    annual_sharpe
        The true one, net of costs.
    n_returns, periods_per_year
        Length of the backtest.
    n_trials
        Trials made, the others without skill.
    settings
        Thresholds.
    n_models
        Models compared for overfitting, itself among them, beside the z rule and doing nothing.
        None for a strategy that stands alone: nothing was chosen and there is no rule to exceed.

    Raises
    ------
    DataError
        If there are fewer than three returns, a number is out of bounds, or more is compared than
        was tried.

    Notes
    -----
    Of the gates of the Sharpe ratio, of the deflated one, of overfitting and of the z rule,
    together; that of drawdown is left out, as it depends on volatility. Returns are normal and
    independent over time and between strategies. An estimated Sharpe ratio is then normal about
    the true S with variance (1 + S^2 / 2) / (n - 1), and passes both gates of the Sharpe ratio
    above a value in closed form. With n_models the other ratios are drawn about 0, and what
    passes is counted, overfitting by `expected_overfitting`. No return is drawn.

    Examples
    --------
    A Sharpe ratio of 2 over three months, with one trial and with fifty:

    >>> for n_trials in (1, 50):
    ...     power = power_of_gates(
    ...         2.0,
    ...         n_returns=91,
    ...         periods_per_year=365,
    ...         n_trials=n_trials,
    ...         settings=GateSettings(),
    ...     )
    ...     print(round(power, 2))
    0.25
    0.0
    """
    if n_returns < 3 or not 0 < periods_per_year < math.inf:
        raise DataError(
            f"{n_returns} returns, {periods_per_year} periods per year: give at least three and a "
            "positive number"
        )
    if n_models is not None and not 1 <= n_models <= n_trials - 2:
        raise DataError(
            f"{n_models} models, the z rule and doing nothing of {n_trials} trials: compare at "
            "least one model, and count all of them as trials"
        )
    if n_models is None:
        needed = _needed(n_returns, periods_per_year, n_trials, settings)
        true = annual_sharpe / math.sqrt(periods_per_year)
        return float(ndtr((true - needed) / math.sqrt(_variance(true, n_returns))))
    return power_among(
        np.array([annual_sharpe, *[0.0] * n_models]),
        np.eye(n_models + 1),
        n_returns=n_returns,
        periods_per_year=periods_per_year,
        n_trials=n_trials,
        settings=settings,
    )


def power_among(
    annual_sharpes: Float1D,
    correlation: Float2D,
    *,
    n_returns: int,
    periods_per_year: float,
    n_trials: int,
    settings: GateSettings,
) -> float:
    """Return the probability that the first of some strategies passes the gates of a backtest.

    Parameters
    ----------
    annual_sharpes : ndarray of float64, shape (K,)
        True ones net of costs: of the candidate, of the models it is compared with, and last of
        the z rule. Doing nothing is compared with them.
    correlation : ndarray of float64, shape (K, K)
        Of their returns.
    n_returns, periods_per_year, n_trials, settings
        As for `power_of_gates`.

    Notes
    -----
    As for `power_of_gates`, with estimated ratios that are correlated as the returns are.
    """
    true = annual_sharpes / math.sqrt(periods_per_year)
    needed = _needed(n_returns, periods_per_year, n_trials, settings)
    rng = np.random.default_rng(_SEED)
    drawn = rng.normal(size=(_N_BACKTESTS, len(true)))
    # At even quantiles, so that its own part of the integral has no error of sampling.
    drawn[:, 0] = ndtri((rng.permutation(_N_BACKTESTS) + 0.5) / _N_BACKTESTS)
    drawn = np.sqrt(_variance(true, n_returns)) * (drawn @ np.linalg.cholesky(correlation).T)
    ratios = np.column_stack([true + drawn, np.zeros(_N_BACKTESTS)])
    is_passed = (ratios[:, 0] >= needed) & (ratios[:, 0] > ratios[:, -2])
    with_idle = np.eye(len(true) + 1)
    with_idle[:-1, :-1] = correlation
    overfitting = expected_overfitting(ratios[is_passed], n_returns, rng, with_idle)
    return float((overfitting <= settings.overfitting_max).sum() / _N_BACKTESTS)


def _variance(true: Value, n_returns: int) -> Value:
    """Return the variance of the estimate of a true Sharpe ratio of normal returns."""
    return (1 + true**2 / 2) * variance_of_luck(n_returns)


def _needed(
    n_returns: int, periods_per_year: float, n_trials: int, settings: GateSettings
) -> float:
    """Return the least Sharpe ratio per period that passes the two gates of it."""
    best_of_luck = expected_maximum_sharpe(n_trials, variance_of_luck(n_returns))
    # (s - b) sqrt(n - 1) / sqrt(1 + s^2 / 2) >= z from the greater root of
    # (1 - u / 2) s^2 - 2 b s + b^2 - u = 0 on, u = z^2 / (n - 1).
    u = float(ndtri(settings.deflated_sharpe_min)) ** 2 / (n_returns - 1)
    if u >= 2:
        return math.inf
    leading = 1 - u / 2
    root = math.sqrt(best_of_luck**2 - leading * (best_of_luck**2 - u))
    return max((best_of_luck + root) / leading, settings.sharpe_min / math.sqrt(periods_per_year))
