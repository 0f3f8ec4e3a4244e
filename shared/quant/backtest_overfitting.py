"""How often the best of many backtests turns out to be below average on the other half."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from shared.errors import DataError
from shared.quant.typing import Float1D, Float2D

_MOST_BLOCKS = 20
"""Beyond this the splits (184,756 of 20 blocks) no longer fit in memory at once."""


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
