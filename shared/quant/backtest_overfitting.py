"""How often the best of many backtests turns out to be below average on the other half."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from shared.errors import DataError
from shared.quant.typing import Float1D, Float2D

_MOST_BLOCKS = 20
"""Beyond this the splits (184,756 of 20 blocks) no longer fit in memory at once."""
N_SPLITS_DRAWN = 500
"""Splits that the expected probability of overfitting is averaged over."""


@dataclass(frozen=True, eq=False)
class OverfittingEvidence:
    """How the strategy that was best in sample did out of sample, over all splits.

    Attributes
    ----------
    probability
        Probability of backtest overfitting: share of splits in which it was at or below the
        median out of sample. About 0.5 where there is nothing to find.
    probability_of_loss
        Share of splits in which it lost out of sample.
    logits : ndarray of float64, shape (n_splits,)
        ln(w / (1 - w)) of its relative rank w out of sample; positive is above the median.
    """

    probability: float
    probability_of_loss: float
    logits: Float1D


def backtest_overfitting(returns: Float2D, n_blocks: int = 16) -> OverfittingEvidence:
    """Estimate the probability of backtest overfitting by symmetric cross-validation (CSCV).

    Parameters
    ----------
    returns : ndarray of float64, shape (T, K)
        Returns of K strategies over the same T periods, oldest first.
    n_blocks
        Blocks of time, an even number. Half of them are in sample, the others out of sample,
        in every combination: 12,870 splits of 16 blocks.

    Returns
    -------
    OverfittingEvidence

    Raises
    ------
    DataError
        If fewer than two strategies are given, a return is not finite, the blocks are odd or
        too many, or a block would hold fewer than two periods.

    Notes
    -----
    Strategies are ranked by Sharpe ratio; one without variation over a half has 0 there. Ties
    share their mean rank r, and w = r / (K + 1). Blocks are of equal length: the oldest
    T mod n_blocks periods are left out. Block sums are added up, so the cost is that of two
    matrix products of shape (splits, blocks) x (blocks, K).

    References
    ----------
    Bailey, D. H., Borwein, J. M., Lopez de Prado, M. and Zhu, Q. J. (2017), "The probability
    of backtest overfitting", Journal of Computational Finance 20(4), section 3.

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(size=(160, 20))
    >>> noise[:, 3] += 1.0  # one strategy has an edge and is found on either half
    >>> backtest_overfitting(noise, n_blocks=8).probability
    0.0
    """
    _require_sound(returns, n_blocks)
    n_strategies = returns.shape[1]
    sharpe = _sharpe_of_halves(returns, n_blocks)
    # In lexicographic order the complement of a combination stands as far from the end as
    # itself from the start.
    out_of_sample = sharpe[::-1]
    best = sharpe.argmax(axis=1)[:, np.newaxis]
    of_best = np.take_along_axis(out_of_sample, best, axis=1)
    n_below = (out_of_sample < of_best).sum(axis=1)
    n_tied = (out_of_sample == of_best).sum(axis=1)  # itself included
    rank = n_below + (n_tied + 1) / 2
    relative = rank / (n_strategies + 1)
    return OverfittingEvidence(
        probability=float((relative <= 0.5).mean()),
        probability_of_loss=float((of_best < 0).mean()),
        logits=np.log(relative / (1 - relative)),
    )


def expected_overfitting(
    sharpe_ratios: Float2D,
    n_returns: int,
    rng: np.random.Generator,
    correlation: Float2D | None = None,
) -> Float1D:
    """Return the probability of overfitting to expect of strategies whose Sharpe ratios are known.

    Parameters
    ----------
    sharpe_ratios : ndarray of float64, shape (M, K)
        Of K strategies over all of a test, per period, in each of M cases. One of exactly 0 is of
        a strategy that stood still.
    n_returns
        Periods of the test.
    rng
        Of the numeric integration.
    correlation : ndarray of float64, shape (K, K)
        Of their returns; none by default.

    Returns
    -------
    ndarray of float64, shape (M,)
        By `N_SPLITS_DRAWN` splits a case, so with a standard error of 1 % at 5 %.

    Raises
    ------
    DataError
        If there are fewer than two strategies or three returns.

    Notes
    -----
    For normal returns, independent over time, and Sharpe ratios that are small per period. Let S
    be the ratio over all n periods. Its halves have ratios S + D and S - D, where D is half the
    difference of the mean of n / 2 periods and that of the others, in deviations: drawn without
    replacement, D is nearly normal with mean 0 and variance 1 / n, whatever S is. So the
    probability is that of the strategy with the largest S + D having an S - D at or below the
    median, over D that are correlated as the returns are.

    Examples
    --------
    >>> ratios = np.array([[0.3, 0.0, 0.05, -0.02], [0.06, 0.0, 0.05, -0.02]])
    >>> expected = expected_overfitting(ratios, 365, np.random.default_rng(0))
    >>> bool(expected[0] < 0.01), bool(expected[1] > 0.05)
    (True, True)
    """
    if sharpe_ratios.ndim != 2 or sharpe_ratios.shape[1] < 2 or n_returns < 3:
        raise DataError(
            f"Sharpe ratios of shape {sharpe_ratios.shape} over {n_returns} returns: give a "
            "column for each of at least two strategies, and at least three returns"
        )
    deviation = np.where(sharpe_ratios == 0, 0.0, n_returns**-0.5)
    shared = (
        np.eye(sharpe_ratios.shape[1]) if correlation is None else np.linalg.cholesky(correlation)
    )
    expected = np.empty(len(sharpe_ratios))
    for case, (ratio, spread) in enumerate(zip(sharpe_ratios, deviation, strict=True)):
        drawn = spread * (rng.normal(size=(N_SPLITS_DRAWN, len(ratio))) @ shared.T)
        out_of_sample = ratio - drawn
        of_best = out_of_sample[np.arange(N_SPLITS_DRAWN), (ratio + drawn).argmax(axis=1)]
        n_below = (out_of_sample < of_best[:, np.newaxis]).sum(axis=1)
        # Its rank n_below + 1 is at most half of K + 1.
        expected[case] = (2 * n_below < len(ratio)).mean()
    return expected


def _sharpe_of_halves(returns: Float2D, n_blocks: int) -> Float2D:
    """Return the Sharpe ratio of every strategy over every choice of half of the blocks."""
    n_periods, n_strategies = returns.shape
    n_used = n_periods // n_blocks * n_blocks
    used = returns[n_periods - n_used :]
    mean = used.mean(axis=0)
    # Centred, so that sums of squares do not cancel for means far from zero.
    blocks = (used - mean).reshape(n_blocks, -1, n_strategies)
    halves = list(itertools.combinations(range(n_blocks), n_blocks // 2))
    is_chosen = np.zeros((len(halves), n_blocks))
    np.put_along_axis(is_chosen, np.array(halves), 1.0, axis=1)
    n_half = n_used / 2
    shift = is_chosen @ blocks.sum(axis=1) / n_half
    variance = is_chosen @ (blocks**2).sum(axis=1) / n_half - shift**2
    # A strategy that stood still has only the rounding of its centred sums for a variance.
    negligible = 1e-20 * (mean**2 + (blocks**2).max(axis=(0, 1)))
    sharpe = np.zeros((len(halves), n_strategies))
    np.divide(
        mean + shift, np.sqrt(np.maximum(variance, 0)), out=sharpe, where=variance > negligible
    )
    return sharpe


def _require_sound(returns: Float2D, n_blocks: int) -> None:
    if n_blocks < 2 or n_blocks % 2 or n_blocks > _MOST_BLOCKS:
        raise DataError(f"{n_blocks} blocks: give an even number from 2 to {_MOST_BLOCKS}")
    if returns.ndim != 2 or returns.shape[1] < 2:
        raise DataError(
            f"returns of shape {returns.shape}: give one column for each of at least two strategies"
        )
    if len(returns) < 2 * n_blocks:
        raise DataError(
            f"{len(returns)} periods for {n_blocks} blocks: give at least {2 * n_blocks} periods "
            "or fewer blocks"
        )
    if not np.isfinite(returns).all():
        row, column = np.argwhere(~np.isfinite(returns))[0]
        raise DataError(
            f"return {row} of strategy {column} is {returns[row, column]}: give finite returns"
        )
