from __future__ import annotations

import numpy as np
import pytest

from shared.errors import DataError
from shared.quant.performance import (
    drawdowns,
    exposure_statistics,
    performance,
    returns_of_equity,
    trade_statistics,
)


def test_performance_by_hand() -> None:
    # Returns +10 %, -10 %, +10 %, 0 over a year of four periods.
    equity = np.array([100.0, 110.0, 99.0, 108.9, 108.9])
    found = performance(equity, periods_per_year=4)
    deviation = np.std([0.1, -0.1, 0.1, 0.0], ddof=1)
    assert found.n_periods == 4
    assert found.total_return == pytest.approx(0.089)
    assert found.annual_growth == pytest.approx(0.089)
    assert found.annual_volatility == pytest.approx(2 * deviation)
    assert found.sharpe_ratio == pytest.approx(2 * 0.025 / deviation)
    assert found.sortino_ratio == pytest.approx(2 * 0.025 / 0.05)  # root of 0.01 / 4
    assert found.max_drawdown == pytest.approx(0.1)
    assert found.calmar_ratio == pytest.approx(0.89)
    assert found.longest_drawdown_periods == 3  # 110 is not seen again
    assert found.hit_rate == pytest.approx(2 / 3)


def test_growth_is_compounded_to_a_year() -> None:
    equity = np.power(1.01, np.arange(11.0))
    equity[5] *= 1.001
    assert performance(equity, periods_per_year=20).annual_growth == pytest.approx(1.01**20 - 1)


def test_a_total_loss_ends_the_curve() -> None:
    found = performance(np.array([100.0, 120.0, 60.0, 0.0]), periods_per_year=365)
    assert (found.annual_growth, found.max_drawdown) == (-1.0, 1.0)
    with pytest.raises(DataError, match=r"0\.0 in period 1 and goes on"):
        returns_of_equity(np.array([100.0, 0.0, 10.0]))


def test_ratios_without_a_loss_do_not_exist() -> None:
    rising = performance(np.array([1.0, 1.1, 1.3, 1.4]), periods_per_year=365)
    assert rising.sortino_ratio is None
    assert rising.calmar_ratio is None
    idle = performance(np.ones(5), periods_per_year=365)
    assert (idle.sharpe_ratio, idle.hit_rate, idle.longest_drawdown_periods) == (0, None, 0)


def test_a_drawdown_is_measured_from_the_peak() -> None:
    assert drawdowns(np.array([50.0, 100.0, 80.0, 100.0, 75.0])).tolist() == pytest.approx(
        [0, 0, 0.2, 0, 0.25]
    )


def test_trades_by_hand() -> None:
    found = trade_statistics(
        np.array([1.0, 2.0, -1.0, 0.0, -1.0, -2.0, 5.0]), np.array([1, 1, 2, 3, 4, 5, 5])
    )
    assert (found.n_trades, found.n_wins, found.n_losses) == (7, 3, 3)
    assert found.win_rate == pytest.approx(3 / 7)
    assert found.profit_factor == pytest.approx(8 / 4)
    assert (found.mean_win, found.mean_loss) == pytest.approx((8 / 3, -4 / 3))
    assert found.mean_profit == pytest.approx(4 / 7)
    assert found.mean_hold_bars == 3
    assert (found.longest_wins, found.longest_losses) == (2, 2)  # nothing won ends both


def test_no_trades_have_no_rates() -> None:
    found = trade_statistics(np.empty(0), np.empty(0, dtype=np.int64))
    assert (found.n_trades, found.win_rate, found.profit_factor) == (0, None, None)
    assert (found.longest_wins, found.mean_hold_bars) == (0, None)


def test_exposure_by_hand() -> None:
    found = exposure_statistics(
        equity=np.array([100.0, 100.0, 200.0, 200.0]),
        gross=np.array([50.0, 0.0, 200.0, 100.0]),
        net=np.array([-10.0, 0.0, 20.0, -20.0]),
        traded=np.array([50.0, 50.0, 200.0, 100.0]),
        periods_per_year=365,
    )
    assert found.annual_turnover == pytest.approx(400 / 150 / 4 * 365)
    assert found.time_in_market == 0.75
    assert (found.mean_gross, found.max_gross) == pytest.approx((0.5, 1.0))
    assert (found.mean_absolute_net, found.max_absolute_net) == pytest.approx((0.075, 0.1))


def test_unsound_columns_are_refused() -> None:
    ones = np.ones(4)
    with pytest.raises(DataError, match="one finite profit"):
        trade_statistics(ones, np.array([1]))
    with pytest.raises(DataError, match="each of the same periods"):
        exposure_statistics(ones, ones, ones, ones[1:], periods_per_year=365)
    with pytest.raises(DataError, match="equity is not positive"):
        exposure_statistics(0 * ones, ones, ones, ones, periods_per_year=365)
    with pytest.raises(DataError, match="periods per year"):
        performance(np.arange(1.0, 9.0), periods_per_year=0)
    with pytest.raises(DataError, match="at least two finite"):
        performance(np.array([1.0, np.nan]), periods_per_year=365)
