from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import rankdata

from shared.errors import DataError
from shared.quant.backtest_overfitting import backtest_overfitting
from shared.quant.typing import Float1D, Float2D


def logits_by_definition(returns: Float2D, n_blocks: int) -> Float1D:
    """Return what the paper's procedure gives, split by split."""
    blocks = np.split(returns, n_blocks)
    n_strategies = returns.shape[1]
    logits = []
    for chosen in itertools.combinations(range(n_blocks), n_blocks // 2):
        inside = np.concatenate([blocks[i] for i in chosen])
        outside = np.concatenate([blocks[i] for i in range(n_blocks) if i not in chosen])
        best = np.argmax(inside.mean(axis=0) / inside.std(axis=0))
        rank = rankdata(outside.mean(axis=0) / outside.std(axis=0))[best]
        relative = rank / (n_strategies + 1)
        logits.append(np.log(relative / (1 - relative)))
    return np.array(logits)


def test_the_fast_form_agrees_with_the_definition() -> None:
    returns = np.random.default_rng(1).normal(0.5, 1.0, (160, 21))
    evidence = backtest_overfitting(returns, n_blocks=8)
    expected = logits_by_definition(returns, 8)
    np.testing.assert_allclose(evidence.logits, expected, atol=1e-12)
    assert evidence.probability == (expected <= 0).mean()


def test_strategies_without_edge_are_overfitted_half_of_the_time() -> None:
    # 60 seeds of 200 strategies over 1,000 periods, 16 blocks.
    found = [
        backtest_overfitting(np.random.default_rng(seed).normal(size=(1000, 200))).probability
        for seed in range(60)
    ]
    assert np.mean(found) == pytest.approx(0.5, abs=0.1)


def test_an_edge_in_some_strategies_is_no_overfitting() -> None:
    found = []
    for seed in range(10):
        returns = np.random.default_rng(seed).normal(size=(1000, 200))
        returns[:, :20] += 0.15
        found.append(backtest_overfitting(returns).probability)
    assert max(found) <= 0.02


def test_the_best_of_strategies_that_all_lose_is_found_to_lose() -> None:
    returns = np.random.default_rng(3).normal(-0.5, 1.0, (320, 10))
    assert backtest_overfitting(returns, n_blocks=8).probability_of_loss == 1


def test_the_oldest_periods_that_fill_no_block_are_left_out() -> None:
    returns = np.random.default_rng(4).normal(size=(163, 10))
    whole, cut = backtest_overfitting(returns, 8), backtest_overfitting(returns[3:], 8)
    np.testing.assert_array_equal(whole.logits, cut.logits)


def test_a_strategy_that_never_trades_ranks_between_gains_and_losses() -> None:
    rng = np.random.default_rng(5)
    returns = np.column_stack(
        [rng.normal(-0.5, 1, (160, 2)), np.zeros(160), rng.normal(-0.5, 1, (160, 2))]
    )
    # Idle is the best of five on both sides: rank 5 of 6.
    assert backtest_overfitting(returns, 8).logits == pytest.approx(np.log(5.0))


def test_equal_strategies_share_their_rank() -> None:
    returns = np.tile(np.random.default_rng(6).normal(size=(80, 1)), (1, 3))
    np.testing.assert_allclose(backtest_overfitting(returns, 4).logits, 0, atol=1e-12)


def test_unsound_returns_are_refused() -> None:
    returns = np.random.default_rng(7).normal(size=(100, 5))
    with pytest.raises(DataError, match="7 blocks"):
        backtest_overfitting(returns, n_blocks=7)
    with pytest.raises(DataError, match="at least two strategies"):
        backtest_overfitting(returns[:, :1])
    with pytest.raises(DataError, match="20 periods for 16 blocks"):
        backtest_overfitting(returns[:20])
    returns[4, 2] = np.inf
    with pytest.raises(DataError, match="return 4 of strategy 2"):
        backtest_overfitting(returns)
