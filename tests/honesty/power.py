"""How often the gates let a strategy of known Sharpe ratio through: seeded returns, no market."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from shared.quant.gates import (
    BACKTEST_GATES,
    GateSettings,
    are_passed,
    judge,
    measure_backtest,
    power_of_gates,
)
from shared.quant.sharpe_ratio import deflated_sharpe_ratio, track_record
from shared.quant.trials import Outcome, Trial, TrialLedger

DAYS_PER_YEAR = 365
COLUMNS = 11
"""Most strategies compared for overfitting: three families with three labels, the z rule and doing
nothing, as in `mnt cycle full`. Other trials are on the ledger only."""
_DAILY_STD = 0.005
"""About 10 % a year, so that the drawdown of a strategy with an edge stays within its gate."""


@dataclass(frozen=True)
class Power:
    """Shares of strategies that pass, of one true Sharpe ratio, length and number of trials.

    Attributes
    ----------
    analytic
        Of the two gates of the Sharpe ratio, where luck alone makes the trials differ.
    analytic_of_ledger
        Likewise, where the trials differ by luck and by the skill of the one that has some.
    simulated
        All gates of the backtest, where luck alone makes the trials differ.
    simulated_of_ledger
        All gates, as the ledger measures the variance.
    """

    analytic: float
    analytic_of_ledger: float
    simulated: float
    simulated_of_ledger: float


def measure_power(annual_sharpe: float, n_days: int, n_trials: int, n_seeds: int) -> Power:
    """Judge strategies named beforehand, each beside trials without skill."""
    settings = GateSettings()
    luck = 1 / (n_days - 1)
    daily = annual_sharpe / DAYS_PER_YEAR**0.5
    passed = [0, 0]
    for seed in range(n_seeds):
        rng = np.random.default_rng([n_days, n_trials, round(100 * annual_sharpe), seed])
        trials = rng.normal(0, _DAILY_STD, (n_days, n_trials))
        trials[:, 0] += daily * _DAILY_STD
        ledger = TrialLedger(
            Trial("strategy", {"n": n}, "", Outcome(None, track_record(returns).sharpe_ratio))
            for n, returns in enumerate(trials.T)
        )
        columns = trials[:, :COLUMNS]
        evidence = measure_backtest(
            columns[:, 0],
            columns[:, -1] if n_trials > 1 else np.zeros(n_days),
            columns,
            n_trials=ledger.n_trials,
            variance_of_trials=luck,
            is_out_of_sample=True,
            periods_per_year=DAYS_PER_YEAR,
            settings=settings,
            rng=rng,
        )
        deflated = deflated_sharpe_ratio(
            track_record(columns[:, 0]), n_trials, ledger.variance_beside(ledger.trials[0], n_days)
        )
        for n, each in enumerate((evidence, replace(evidence, deflated_sharpe=deflated))):
            passed[n] += are_passed(judge(each, None, settings), BACKTEST_GATES)

    def analytic(variance: float) -> float:
        return power_of_gates(
            annual_sharpe,
            n_returns=n_days,
            periods_per_year=DAYS_PER_YEAR,
            n_trials=n_trials,
            variance_of_trials=variance,
            settings=settings,
        )

    # One skilled trial of N adds its squared Sharpe ratio over N to the sample's variance.
    return Power(
        analytic(luck), analytic(luck + daily**2 / n_trials), *(n / n_seeds for n in passed)
    )
