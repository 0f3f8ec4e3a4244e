from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from shared.errors import DataError
from shared.quant.gates import (
    ALL_GATES,
    BACKTEST_GATES,
    BacktestEvidence,
    GateResult,
    GateSettings,
    ShadowEvidence,
    are_passed,
    judge,
    measure_backtest,
)
from shared.quant.sharpe_ratio import (
    deflated_sharpe_ratio,
    minimum_backtest_length_years,
    track_record,
)
from shared.quant.typing import Float1D, Float2D

SETTINGS = GateSettings()
SHADOW = ShadowEvidence(n_closes=8064, excess_return=0.0)


def measured(
    returns: Float1D,
    trials: Float2D | None = None,
    *,
    z_rule: Float1D | None = None,
    n_trials: int | None = None,
) -> BacktestEvidence:
    trials = returns[:, np.newaxis] if trials is None else trials
    return measure_backtest(
        returns,
        np.zeros(len(returns)) if z_rule is None else z_rule,
        trials,
        n_trials=trials.shape[1] if n_trials is None else n_trials,
        is_out_of_sample=True,
        periods_per_year=365,
        settings=SETTINGS,
        rng=np.random.default_rng(0),
    )


def good_returns(seed: int = 1) -> Float1D:
    """Return a year of days with an annual Sharpe ratio of about 5."""
    return np.random.default_rng(seed).normal(0.0026, 0.01, 365)


GOOD = measured(good_returns())


def verdicts(backtest: BacktestEvidence | None, shadow: ShadowEvidence | None) -> dict[str, str]:
    return {result.gate: result.verdict for result in judge(backtest, shadow, SETTINGS)}


def test_sound_evidence_passes_every_gate() -> None:
    results = judge(GOOD, SHADOW, SETTINGS)
    assert tuple(result.gate for result in results) == ALL_GATES
    assert are_passed(results, ALL_GATES)


@pytest.mark.parametrize(
    ("gate", "evidence"),
    [
        ("out_of_sample", replace(GOOD, is_out_of_sample=False)),
        ("sharpe_net", replace(GOOD, performance=replace(GOOD.performance, sharpe_ratio=0.999))),
        ("max_drawdown", replace(GOOD, performance=replace(GOOD.performance, max_drawdown=0.201))),
        ("deflated_sharpe", replace(GOOD, deflated_sharpe=0.9499)),
        ("overfitting_probability", replace(GOOD, overfitting_probability=0.0501)),
        ("sharpe_over_z_rule", replace(GOOD, sharpe_over_z_rule=0.0)),
    ],
)
def test_one_gate_alone_keeps_a_candidate_out(gate: str, evidence: BacktestEvidence) -> None:
    results = judge(evidence, SHADOW, SETTINGS)
    assert [result.gate for result in results if result.verdict != "passed"] == [gate]
    assert not are_passed(results, BACKTEST_GATES)


@pytest.mark.parametrize(
    ("gate", "shadow"),
    [
        ("shadow_closes", ShadowEvidence(8063, 0.1)),
        ("shadow_excess_return", ShadowEvidence(8064, -1e-9)),
    ],
)
def test_a_challenger_waits_in_the_shadow_until_it_has_shown_enough(
    gate: str, shadow: ShadowEvidence
) -> None:
    results = judge(GOOD, shadow, SETTINGS)
    assert [result.gate for result in results if result.verdict == "failed"] == [gate]
    assert are_passed(results, BACKTEST_GATES)
    assert not are_passed(results, ALL_GATES)


def test_values_at_their_thresholds_pass() -> None:
    edge = replace(
        GOOD,
        performance=replace(GOOD.performance, sharpe_ratio=1.0, max_drawdown=0.2),
        deflated_sharpe=0.95,
        overfitting_probability=0.05,
    )
    assert set(verdicts(edge, SHADOW).values()) == {"passed"}


def test_missing_evidence_passes_nothing() -> None:
    assert set(verdicts(None, None).values()) == {"missing"}
    assert verdicts(GOOD, None)["shadow_closes"] == "missing"
    unknown = replace(GOOD, overfitting_probability=math.nan)
    assert verdicts(unknown, SHADOW)["overfitting_probability"] == "missing"
    assert not are_passed(judge(GOOD, None, SETTINGS), ALL_GATES)
    assert not are_passed((), ALL_GATES)
    results = judge(GOOD, SHADOW, SETTINGS)
    assert not are_passed(results[1:], ALL_GATES)  # a gate left out is a gate not passed


def test_a_verdict_reads_as_a_sentence_of_its_figures() -> None:
    assert str(GateResult("max_drawdown", 0.25, "<=", 0.2, "failed")) == (
        "max_drawdown: 0.25 <= 0.2: failed"
    )
    assert str(judge(None, None, SETTINGS)[1]) == "sharpe_net: nothing >= 1: missing"


def test_the_evidence_is_made_of_its_parts() -> None:
    returns = good_returns()
    rng = np.random.default_rng(2)
    trials = np.column_stack([rng.normal(0, 0.01, (365, 19)), returns])
    trials[:, :19] -= 0.003  # the others lose
    z_rule = rng.normal(0.0005, 0.01, 365)
    found = measured(returns, trials, z_rule=z_rule, n_trials=40)
    assert found.deflated_sharpe == deflated_sharpe_ratio(track_record(returns), 40, 1 / 364)
    assert found.sharpe_over_z_rule == pytest.approx(
        (track_record(returns).sharpe_ratio - track_record(z_rule).sharpe_ratio) * 365**0.5
    )
    assert found.performance.total_return == pytest.approx(np.prod(1 + returns) - 1)
    assert found.overfitting_probability < 0.01
    assert found.sharpe_interval.lower < found.performance.sharpe_ratio
    assert found.n_trials == 40
    assert found.minimum_backtest_years == minimum_backtest_length_years(40)


def test_the_best_of_many_trials_without_skill_is_kept_out() -> None:
    # A year of days, 60 strategies of chance, the best of them shown: no seed passes.
    for seed in range(20):
        trials = np.random.default_rng(seed).normal(0, 0.01, (365, 60))
        best = trials[:, (trials.mean(axis=0) / trials.std(axis=0)).argmax()]
        found = measured(best, trials)
        assert found.performance.sharpe_ratio > 1
        assert not are_passed(judge(found, None, SETTINGS), BACKTEST_GATES)


def test_doing_nothing_is_kept_out() -> None:
    found = measured(np.zeros(365))
    assert not are_passed(judge(found, SHADOW, SETTINGS), BACKTEST_GATES)


def test_unsound_evidence_is_refused() -> None:
    returns = good_returns()
    with pytest.raises(DataError, match="over the same periods"):
        measured(returns, z_rule=np.zeros(10))
    trials = np.column_stack([returns, -returns])
    with pytest.raises(DataError, match="record every trial"):
        measured(returns, trials, n_trials=1)
    with pytest.raises(DataError, match="not among the trials"):
        measured(returns, -trials[:, :1])
