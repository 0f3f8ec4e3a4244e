"""How likely the gates let a known Sharpe ratio through, against simulated backtests."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtr

from shared.errors import DataError
from shared.quant import gate_power
from shared.quant.backtest_overfitting import backtest_overfitting, expected_overfitting
from shared.quant.gate_power import power_of_gates
from shared.quant.gate_settings import GateSettings
from shared.quant.sharpe_ratio import (
    deflated_sharpe_ratio,
    expected_maximum_sharpe,
    track_record,
)
from shared.quant.typing import Float2D

SETTINGS = GateSettings()


def power(annual_sharpe: float, n_returns: int, n_trials: int, **options: Any) -> float:
    terms: dict[str, Any] = {"periods_per_year": 365, "settings": SETTINGS} | options
    return power_of_gates(annual_sharpe, n_returns=n_returns, n_trials=n_trials, **terms)


@pytest.mark.parametrize(
    ("annual_sharpe", "n_returns", "n_trials"), [(2.0, 91, 1), (5.0, 365, 50), (3.0, 365, 10)]
)
def test_the_power_of_one_that_stands_alone_is_that_of_simulated_backtests(
    annual_sharpe: float, n_returns: int, n_trials: int
) -> None:
    rng = np.random.default_rng(3)
    n_passed = 0
    for _ in range(1000):
        record = track_record(rng.normal(annual_sharpe / 365**0.5, 1.0, n_returns))
        deflated = deflated_sharpe_ratio(record, n_trials, 1 / (n_returns - 1))
        n_passed += record.sharpe_ratio * 365**0.5 >= 1 and deflated >= 0.95
    assert power(annual_sharpe, n_returns, n_trials) == pytest.approx(n_passed / 1000, abs=0.05)


def test_the_power_is_what_a_user_should_know() -> None:
    assert power(2.0, 91, 1) == pytest.approx(0.25, abs=0.02)
    assert power(2.0, 91, 50) < 0.01
    assert power(5.0, 365, 50) >= 0.8
    assert power(0.0, 365, 1) <= 0.05
    # Over a long history the Sharpe ratio that is asked for is the gate that binds.
    assert power(1.0, 365 * 50, 1) == pytest.approx(0.5, abs=0.01)
    # No ratio of three returns, however large, is as sure as 99 %.
    assert power(90.0, 3, 1, settings=GateSettings(deflated_sharpe_min=0.99)) == 0
    with pytest.raises(DataError, match="2 returns"):
        power(1.0, 2, 1)


def lenient(overfitting_max: float) -> GateSettings:
    """Return thresholds of the Sharpe ratios that any positive one passes."""
    return GateSettings(
        sharpe_min=1e-9, deflated_sharpe_min=0.5 + 1e-9, overfitting_max=overfitting_max
    )


def test_more_passes_where_more_overfitting_is_allowed() -> None:
    shares = [
        power(3.0, 365, 3, n_models=1, settings=lenient(overfitting_max))
        for overfitting_max in (0.01, 0.05, 0.2, 0.499)
    ]
    assert all(less < more for less, more in pairwise(shares))


def test_a_strategy_has_to_be_better_than_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_power, "expected_overfitting", lambda cases, *_: np.zeros(len(cases)))
    # Without skill, above the best that luck expects of three and above a rule as good as itself.
    expected = (1 - ndtr(expected_maximum_sharpe(3, 1.0)) ** 2) / 2
    found = power(0.0, 365, 3, n_models=1, settings=lenient(0.05))
    assert found == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("n_models", [1, 3, 9])
def test_a_higher_sharpe_ratio_and_a_longer_history_pass_more_often(n_models: int) -> None:
    by_sharpe = [power(float(sharpe), 182, 50, n_models=n_models) for sharpe in range(0, 13, 2)]
    by_length = [power(4.0, n_days, 50, n_models=n_models) for n_days in (60, 120, 240, 480, 960)]
    for shares in (by_sharpe, by_length):
        assert all(less < more for less, more in pairwise(shares))
        assert shares[-1] > 0.95


def test_models_that_were_not_counted_as_trials_are_refused() -> None:
    for n_models, n_trials in ((0, 10), (9, 10), (1, 1)):
        with pytest.raises(DataError, match=f"{n_models} models.*{n_trials} trials"):
            power(2.0, 91, n_trials, n_models=n_models)


def returns_of(
    annual_sharpe: float, n_days: int, n_models: int, rng: np.random.Generator
) -> Float2D:
    """Return one strategy with skill, others without and one that stood still."""
    returns = rng.normal(size=(n_days, n_models + 2))
    returns[:, 0] += annual_sharpe / 365**0.5
    returns[:, -1] = 0.0
    return returns


@pytest.mark.parametrize(
    ("annual_sharpe", "n_days", "n_models"), [(3.0, 364, 3), (5.0, 182, 9), (5.0, 364, 9)]
)
def test_expected_overfitting_is_that_of_cross_validated_returns(
    annual_sharpe: float, n_days: int, n_models: int
) -> None:
    rng = np.random.default_rng(4)
    backtests = [returns_of(annual_sharpe, n_days, n_models, rng) for _ in range(150)]
    measured = np.array([backtest_overfitting(returns).probability for returns in backtests])
    ratios = np.array(
        [[track_record(each).sharpe_ratio for each in returns.T] for returns in backtests]
    )
    expected = expected_overfitting(ratios, n_days, rng)
    # Of the same backtests: what is left is how unlike their blocks are.
    assert expected.mean() == pytest.approx(measured.mean(), abs=0.02)
    assert (expected <= 0.05).mean() == pytest.approx((measured <= 0.05).mean(), abs=0.06)
    assert np.corrcoef(expected, measured)[0, 1] > 0.9


def test_overfitting_of_one_strategy_is_not_a_question() -> None:
    with pytest.raises(DataError, match="at least two strategies"):
        expected_overfitting(np.zeros((5, 1)), 100, np.random.default_rng(0))
