from __future__ import annotations

import numpy as np
import pytest

from shared.errors import DataError
from shared.quant.bootstrap import SharpeInterval, sharpe_interval
from shared.quant.typing import Float1D


def interval(
    returns: Float1D, seed: int = 0, block_length: int | None = None, confidence: float = 0.95
) -> SharpeInterval:
    return sharpe_interval(
        returns,
        periods_per_year=365,
        rng=np.random.default_rng(seed),
        n_resamples=400,
        block_length=block_length,
        confidence=confidence,
    )


def test_intervals_of_95_percent_hold_the_truth_about_as_often() -> None:
    truth = 0.1 * 365**0.5
    n_held = 0
    for seed in range(60):
        found = interval(np.random.default_rng(seed).normal(0.1, 1.0, 400))
        n_held += found.lower <= truth <= found.upper
    assert 52 <= n_held <= 60


def test_returns_with_memory_get_longer_blocks_and_a_wider_interval() -> None:
    rng = np.random.default_rng(1)
    shocks = rng.normal(0, 1, 1000)
    persistent = np.zeros(1000)
    for i in range(1, 1000):
        persistent[i] = 0.8 * persistent[i - 1] + shocks[i]
    own, single = interval(persistent), interval(persistent, block_length=1)
    assert own.block_length > 5
    assert own.upper - own.lower > 1.5 * (single.upper - single.lower)


def test_the_same_seed_gives_the_same_interval() -> None:
    returns = np.random.default_rng(2).normal(0.1, 1.0, 200)
    assert interval(returns, seed=3) == interval(returns, seed=3)
    assert interval(returns, seed=3) != interval(returns, seed=4)


def test_holding_nothing_is_certain() -> None:
    assert interval(np.zeros(100)) == SharpeInterval(0.0, 0.0, 1)


def test_rare_trades_can_be_resampled() -> None:
    returns = np.zeros(60)
    returns[10] = 0.05
    assert interval(returns).lower == 0


def test_unsound_requests_are_refused() -> None:
    returns = np.random.default_rng(5).normal(size=100)
    with pytest.raises(DataError, match="at least 30"):
        interval(returns[:20])
    with pytest.raises(DataError, match=r"all 1\.0"):
        interval(np.ones(100))
    with pytest.raises(DataError, match=r"confidence 1\.5"):
        interval(returns, confidence=1.5)
