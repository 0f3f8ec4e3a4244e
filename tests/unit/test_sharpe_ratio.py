from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from shared.errors import DataError
from shared.quant.sharpe_ratio import (
    TrackRecord,
    deflated_sharpe_ratio,
    expected_maximum_sharpe,
    minimum_backtest_length_years,
    minimum_track_record_length,
    probabilistic_sharpe_ratio,
    track_record,
)


def test_moments_are_those_of_scipy() -> None:
    returns = np.random.default_rng(1).gamma(2.0, 0.01, 500) - 0.015
    record = track_record(returns)
    assert record.n_returns == 500
    assert record.sharpe_ratio == pytest.approx(np.mean(returns) / np.std(returns, ddof=1))
    assert record.skewness == pytest.approx(stats.skew(returns))
    assert record.kurtosis == pytest.approx(stats.kurtosis(returns, fisher=False))


def test_holding_nothing_has_a_sharpe_ratio_of_zero_and_proves_nothing() -> None:
    record = track_record(np.zeros(100))
    assert record.sharpe_ratio == 0
    assert probabilistic_sharpe_ratio(record) == 0.5


def test_the_expected_maximum_is_that_of_simulated_luck() -> None:
    rng = np.random.default_rng(2)
    best = rng.normal(0, 0.3, (4000, 200)).max(axis=1).mean()
    assert expected_maximum_sharpe(200, 0.09) == pytest.approx(best, rel=0.01)


def test_one_trial_needs_no_deflation() -> None:
    record = TrackRecord(0.1, 400, -0.5, 5.0)
    assert deflated_sharpe_ratio(record, 1, 0.0) == probabilistic_sharpe_ratio(record)
    assert minimum_backtest_length_years(1) == 0


def test_more_trials_deflate_more() -> None:
    record = TrackRecord(0.1, 1000)
    deflated = [deflated_sharpe_ratio(record, n, 0.001) for n in (1, 2, 10, 100, 1000)]
    assert deflated == sorted(deflated, reverse=True)
    assert deflated[-1] < 0.6 < deflated[0]


def test_the_minimum_length_is_the_length_at_which_the_confidence_is_reached() -> None:
    record = TrackRecord(0.12, 50, -1.0, 6.0)
    length = minimum_track_record_length(record, benchmark=0.05, confidence=0.95)
    for n_returns, is_enough in ((math.ceil(length), True), (math.floor(length), False)):
        longer = TrackRecord(0.12, n_returns, -1.0, 6.0)
        assert (probabilistic_sharpe_ratio(longer, 0.05) >= 0.95) is is_enough


def test_no_length_proves_what_was_not_observed() -> None:
    assert minimum_track_record_length(TrackRecord(0.05, 50), benchmark=0.05) == math.inf


def test_the_minimum_backtest_length_falls_with_the_square_of_the_sharpe_ratio() -> None:
    one, two = (minimum_backtest_length_years(45, sharpe) for sharpe in (1.0, 2.0))
    assert one == pytest.approx(4 * two)


def test_unsound_evidence_is_refused() -> None:
    with pytest.raises(DataError, match=r"all 0\.01"):
        track_record(np.full(10, 0.01))
    with pytest.raises(DataError, match="at least 3 finite"):
        track_record(np.array([0.1, 0.2, np.nan]))
    with pytest.raises(DataError, match="not its excess"):
        TrackRecord(0.1, 100, kurtosis=0.0)
    with pytest.raises(DataError, match="2 returns"):
        TrackRecord(0.1, 2)
    with pytest.raises(DataError, match="0 trials"):
        expected_maximum_sharpe(0, 1.0)
    with pytest.raises(DataError, match="variance -1"):
        expected_maximum_sharpe(5, -1.0)
    with pytest.raises(DataError, match=r"confidence 1\.0"):
        minimum_track_record_length(TrackRecord(0.1, 100), confidence=1.0)
    with pytest.raises(DataError, match="no sampling variance"):
        probabilistic_sharpe_ratio(TrackRecord(1.0, 10, skewness=2.0, kurtosis=5.0))
