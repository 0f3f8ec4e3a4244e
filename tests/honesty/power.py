"""How often the gates let a strategy of known Sharpe ratio through: seeded returns, no market.

The columns are those of the product at its defaults. A first training has three models and eleven
trials: a fit, a validation and a test of each, the z rule and doing nothing. A full cycle has nine
models and 56 trials, as four choices of parameters are fitted for each. So three are compared
where ten trials are counted, and nine where fifty are. Fits and validations only count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shared.quant.gate_power import power_of_gates
from shared.quant.gates import (
    BACKTEST_GATES,
    GateSettings,
    are_passed,
    judge,
    measure_backtest,
)
from shared.quant.sharpe_ratio import deflated_sharpe_ratio, track_record, variance_of_luck
from shared.quant.trials import Outcome, Trial, TrialLedger
from shared.quant.typing import Float2D

DAYS_PER_YEAR = 365
MODELS_OF = {1: None, 10: 3, 50: 9}
"""Models compared, by the number of trials; a single trial stands alone."""
_DAILY_STD = 0.005
"""About 10 % a year, so that the drawdown of a strategy with an edge stays within its gate."""


@dataclass(frozen=True)
class Power:
    """Shares of strategies that pass, of one true Sharpe ratio, length and number of trials.

    Attributes
    ----------
    analytic
        By `power_of_gates`.
    simulated
        All gates of a backtest, by the functions that judge a cycle.
    """

    analytic: float
    simulated: float


def measure_power(annual_sharpe: float, n_days: int, n_trials: int, n_seeds: int) -> Power:
    """Judge strategies named beforehand, each beside trials without skill."""
    n_passed = 0
    for seed in range(n_seeds):
        rng = np.random.default_rng([n_days, n_trials, round(100 * annual_sharpe), seed])
        n_models = MODELS_OF[n_trials]
        returns = rng.normal(0, _DAILY_STD, (n_days, 1 if n_models is None else n_models + 2))
        returns[:, 0] += annual_sharpe / DAYS_PER_YEAR**0.5 * _DAILY_STD
        if n_models is not None:
            returns[:, -1] = 0.0
        n_passed += _is_passed(returns, n_trials, rng)
    analytic = power_of_gates(
        annual_sharpe,
        n_returns=n_days,
        periods_per_year=DAYS_PER_YEAR,
        n_trials=n_trials,
        n_models=MODELS_OF[n_trials],
        settings=GateSettings(),
    )
    return Power(analytic, n_passed / n_seeds)


def _is_passed(returns: Float2D, n_trials: int, rng: np.random.Generator) -> bool:
    """Tell whether the first column passes, the last but one the z rule, the last one idle."""
    n_days, n_columns = returns.shape
    settings = GateSettings()
    tests = [
        Trial("test", {"column": n}, "test", Outcome(None, track_record(column).sharpe_ratio))
        for n, column in enumerate(returns.T)
    ]
    others = [Trial("fit", {"n": n}, "before", Outcome(0.7)) for n in range(n_trials - n_columns)]
    ledger = TrialLedger([*others, *tests])
    candidate = returns[:, 0]
    deflated = deflated_sharpe_ratio(
        track_record(candidate), ledger.n_trials, variance_of_luck(n_days)
    )
    if deflated < settings.deflated_sharpe_min:
        return False  # whatever the other gates say, which take longer to ask
    evidence = measure_backtest(
        candidate,
        returns[:, -2] if n_columns > 1 else np.zeros(n_days),
        returns,
        n_trials=ledger.n_trials,
        is_out_of_sample=True,
        periods_per_year=DAYS_PER_YEAR,
        settings=settings,
        rng=rng,
    )
    return are_passed(judge(evidence, None, settings), BACKTEST_GATES)
