"""What a model must have shown before it may trade."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from shared.errors import DataError
from shared.quant.backtest_overfitting import backtest_overfitting
from shared.quant.bootstrap import SharpeInterval, sharpe_interval
from shared.quant.gate_settings import ALL_GATES as ALL_GATES
from shared.quant.gate_settings import BACKTEST_GATES as BACKTEST_GATES
from shared.quant.gate_settings import GateSettings as GateSettings
from shared.quant.performance import Performance, performance
from shared.quant.sharpe_ratio import (
    deflated_sharpe_ratio,
    minimum_backtest_length_years,
    minimum_track_record_length,
    probabilistic_sharpe_ratio,
    track_record,
    variance_of_luck,
)
from shared.quant.typing import Float1D, Float2D

Comparison = Literal[">=", "<=", ">"]
Verdict = Literal["passed", "failed", "missing"]


@dataclass(frozen=True, slots=True)
class BacktestEvidence:
    """What a backtest net of costs shows. Sharpe ratios are annual.

    Attributes
    ----------
    is_out_of_sample
        Whether no bar behind it took part in choosing pairs, features or the model.
    performance
        Of the candidate.
    probabilistic_sharpe, deflated_sharpe
        Probability that the true Sharpe ratio exceeds 0, and what luck finds.
    n_trials
        Trials behind the deflation.
    overfitting_probability
        By combinatorially symmetric cross-validation over the trials.
    sharpe_interval
        Confidence interval of the Sharpe ratio.
    sharpe_over_z_rule
        By how much the Sharpe ratio exceeds that of the z rule over the same periods.
    minimum_backtest_years
        Length below which luck among the trials reaches the Sharpe ratio that is asked for.
    minimum_track_record_periods
        Length at which this Sharpe ratio would be significant; infinite if it is not positive.
    """

    is_out_of_sample: bool
    performance: Performance
    probabilistic_sharpe: float
    deflated_sharpe: float
    n_trials: int
    overfitting_probability: float
    sharpe_interval: SharpeInterval
    sharpe_over_z_rule: float
    minimum_backtest_years: float
    minimum_track_record_periods: float


@dataclass(frozen=True, slots=True)
class ShadowEvidence:
    """What a challenger did in the champion's shadow.

    Attributes
    ----------
    n_closes
        Trade closes it lasted.
    excess_return
        Its return less the champion's, both net of costs; without a champion its own return.
    """

    n_closes: int
    excess_return: float


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate, its evidence and its verdict.

    Attributes
    ----------
    gate
        Name.
    value
        What was measured; None where nothing was.
    comparison, threshold
        The gate is passed where `value comparison threshold` holds.
    verdict
        `missing` evidence is no evidence: it keeps a model out as `failed` does.
    """

    gate: str
    value: float | None
    comparison: Comparison
    threshold: float
    verdict: Verdict

    def __str__(self) -> str:
        value = "nothing" if self.value is None else f"{self.value:.6g}"
        return f"{self.gate}: {value} {self.comparison} {self.threshold:g}: {self.verdict}"


def measure_backtest(
    returns: Float1D,
    z_rule_returns: Float1D,
    trial_returns: Float2D,
    *,
    n_trials: int,
    is_out_of_sample: bool,
    periods_per_year: float,
    settings: GateSettings,
    rng: np.random.Generator,
    n_blocks: int = 16,
) -> BacktestEvidence:
    """Measure the evidence of a backtest.

    Parameters
    ----------
    returns : ndarray of float64, shape (T,)
        Returns of the candidate out of sample, net of costs, of equal periods such as days.
    z_rule_returns : ndarray of float64, shape (T,)
        Returns of the z rule over the same periods, net of the same costs.
    trial_returns : ndarray of float64, shape (T, K)
        Returns of the trials that the candidate was selected from, itself among them.
    n_trials
        Trials ever made, by the ledger: at least K.
    is_out_of_sample
        Whether no bar behind the returns took part in choosing what was traded.
    periods_per_year
        Periods of the returns in a year.
    settings
        Whose Sharpe ratio the minimum backtest length is for.
    rng
        Of the bootstrap.
    n_blocks
        Of the cross-validation of trials.

    Raises
    ------
    DataError
        If the columns differ in length, the ledger counts fewer trials than are given, the
        candidate is not among them, or as the measures it is made of.

    Notes
    -----
    With one trial nothing was selected, and the probability of overfitting is 0.
    """
    if not len(returns) == len(z_rule_returns) == len(trial_returns) or trial_returns.ndim != 2:
        raise DataError(
            f"returns of shapes {returns.shape}, {z_rule_returns.shape} and "
            f"{trial_returns.shape}: give candidate, z rule and trials over the same periods"
        )
    if n_trials < trial_returns.shape[1]:
        raise DataError(
            f"{n_trials} trials on the ledger and {trial_returns.shape[1]} given: record every "
            "trial before it is judged"
        )
    if not (trial_returns == returns[:, np.newaxis]).all(axis=0).any():
        raise DataError("the candidate is not among the trials: give those it was selected from")
    record = track_record(returns)
    annual = math.sqrt(periods_per_year)
    overfitting = 0.0
    if trial_returns.shape[1] > 1:
        overfitting = backtest_overfitting(trial_returns, n_blocks).probability
    return BacktestEvidence(
        is_out_of_sample=is_out_of_sample,
        performance=performance(_equity(returns), periods_per_year=periods_per_year),
        probabilistic_sharpe=probabilistic_sharpe_ratio(record),
        deflated_sharpe=deflated_sharpe_ratio(record, n_trials, variance_of_luck(len(returns))),
        n_trials=n_trials,
        overfitting_probability=overfitting,
        sharpe_interval=sharpe_interval(returns, periods_per_year=periods_per_year, rng=rng),
        sharpe_over_z_rule=(record.sharpe_ratio - track_record(z_rule_returns).sharpe_ratio)
        * annual,
        minimum_backtest_years=minimum_backtest_length_years(n_trials, settings.sharpe_min),
        minimum_track_record_periods=minimum_track_record_length(record),
    )


def judge(
    backtest: BacktestEvidence | None,
    shadow: ShadowEvidence | None,
    settings: GateSettings,
) -> tuple[GateResult, ...]:
    """Hold evidence against every gate.

    Parameters
    ----------
    backtest, shadow
        What was measured; None where it was not, which passes no gate.
    settings
        Thresholds.

    Returns
    -------
    tuple of GateResult
        Always the same gates in the same order.

    Examples
    --------
    >>> print(judge(None, ShadowEvidence(9000, 0.01), GateSettings())[-2])
    shadow_closes: 9000 >= 8064: passed
    """
    values: dict[str, float] = {}
    if backtest is not None:
        values |= {
            "out_of_sample": float(backtest.is_out_of_sample),
            "sharpe_net": backtest.performance.sharpe_ratio,
            "max_drawdown": backtest.performance.max_drawdown,
            "deflated_sharpe": backtest.deflated_sharpe,
            "overfitting_probability": backtest.overfitting_probability,
            "sharpe_over_z_rule": backtest.sharpe_over_z_rule,
        }
    if shadow is not None:
        values |= {
            "shadow_closes": float(shadow.n_closes),
            "shadow_excess_return": shadow.excess_return,
        }
    rules: tuple[tuple[str, Comparison, float], ...] = (
        ("out_of_sample", ">=", 1.0),
        ("sharpe_net", ">=", settings.sharpe_min),
        ("max_drawdown", "<=", settings.drawdown_max),
        ("deflated_sharpe", ">=", settings.deflated_sharpe_min),
        ("overfitting_probability", "<=", settings.overfitting_max),
        ("sharpe_over_z_rule", ">", 0.0),
        ("shadow_closes", ">=", float(settings.shadow_closes_min)),
        ("shadow_excess_return", ">=", 0.0),
    )
    return tuple(
        _gate(gate, values.get(gate), comparison, threshold)
        for gate, comparison, threshold in rules
    )


def are_passed(results: Iterable[GateResult], gates: Iterable[str]) -> bool:
    """Tell whether every gate named is among the results and passed.

    Parameters
    ----------
    results
        As `judge` returns them.
    gates
        `BACKTEST_GATES` or `ALL_GATES`.
    """
    passed = {result.gate for result in results if result.verdict == "passed"}
    return passed.issuperset(gates)


def _gate(name: str, value: float | None, comparison: Comparison, threshold: float) -> GateResult:
    if value is None or math.isnan(value):
        return GateResult(name, None, comparison, threshold, "missing")
    is_passed = {
        ">=": value >= threshold,
        "<=": value <= threshold,
        ">": value > threshold,
    }[comparison]
    return GateResult(name, value, comparison, threshold, "passed" if is_passed else "failed")


def _equity(returns: Float1D) -> Float1D:
    return np.concatenate([[1.0], (1 + returns).cumprod()])
