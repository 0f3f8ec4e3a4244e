"""What the smallest p-value of a universe looks like when nothing in it is cointegrated."""

from __future__ import annotations

import numpy as np

from shared.quant.ragged_cointegration import bars_of_each, engle_granger_ragged
from shared.quant.typing import Float1D, Float2D


def smallest_null_p_values(log_prices: Float2D, n_copies: int, seed: int) -> Float1D:
    """Return the smallest p-value of each of several sign-flipped copies of a universe.

    In a copy the changes of every bar, less their means, keep their sizes and their relation
    to each other and have their sign drawn anew, one for all series. Every spread is then a
    walk without memory; how volatile the bars are, in which clusters, and how the series move
    together is that of the universe itself.

    Parameters
    ----------
    log_prices : ndarray of float64, shape (T, N)
        As of `engle_granger_ragged`: NaN before a series begins. At least two must change.
    n_copies
        Copies to make.
    seed
        Of the signs.

    Returns
    -------
    ndarray of float64, shape (n_copies,)
        In ascending order.

    Raises
    ------
    DataError
        As `engle_granger_ragged`.

    Notes
    -----
    A series that begins later keeps its own bars, mean and length in every copy, so that the
    copies are tested exactly as the universe is: pair by pair on the bars both have.

    References
    ----------
    P. H. Westfall and S. S. Young (1993), "Resampling-based multiple testing", Wiley.
    """
    rng = np.random.default_rng(seed)
    smallest = np.empty(n_copies)
    for copy in range(n_copies):
        signs = rng.choice((-1.0, 1.0), size=len(log_prices) - 1)
        smallest[copy] = np.nanmin(
            engle_granger_ragged(_sign_flipped(log_prices, signs)).p_value, initial=1.0
        )
    return np.sort(smallest)


def _sign_flipped(log_prices: Float2D, signs: Float1D) -> Float2D:
    """Return the walks of the changes less their means, under other signs; each begins at 0."""
    walks = np.full(log_prices.shape, np.nan)
    lengths = bars_of_each(log_prices)
    for length in np.unique(lengths).tolist():
        first = len(log_prices) - length
        columns = np.flatnonzero(lengths == length)
        changes = np.diff(log_prices[first:, columns], axis=0)
        changes -= changes.mean(axis=0)
        changes *= signs[first:, np.newaxis]
        walks[first, columns] = 0.0
        walks[first + 1 :, columns] = changes.cumsum(axis=0)
    return walks


def adjusted_by_null(p_values: Float1D, null_smallest: Float1D) -> Float1D:
    """Return p-values adjusted for all tests of the universe.

    Parameters
    ----------
    p_values : ndarray of float64, shape (m,)
        Of every test.
    null_smallest : ndarray of float64, shape (B,)
        As `smallest_null_p_values` returns them.

    Returns
    -------
    ndarray of float64, shape (m,)
        (1 + copies whose smallest p-value is at or below the test's) / (1 + B): accepting
        those at or below a level accepts anything at all in that share of null universes.
    """
    n_at_or_below = np.searchsorted(null_smallest, p_values, side="right")
    return np.asarray((1 + n_at_or_below) / (1 + len(null_smallest)), dtype=np.float64)
