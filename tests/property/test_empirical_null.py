from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from shared.quant.cointegration import engle_granger_all_pairs
from shared.quant.empirical_null import adjusted_by_null, smallest_null_p_values
from shared.quant.typing import Float1D, Float2D

Walk = Callable[[np.random.Generator, int, int], Float2D]

N_COPIES = 39
LEVEL = 0.05
N_UNIVERSES = 40


def gaussian(rng: np.random.Generator, n_bars: int, n_series: int) -> Float2D:
    return rng.normal(size=(n_bars, n_series))


def student(rng: np.random.Generator, n_bars: int, n_series: int) -> Float2D:
    return rng.standard_t(3, size=(n_bars, n_series))


def garch(rng: np.random.Generator, n_bars: int, n_series: int) -> Float2D:
    changes = np.empty((n_bars, n_series))
    variance = np.ones(n_series)
    for bar in range(n_bars):
        changes[bar] = np.sqrt(variance) * rng.normal(size=n_series)
        variance = 0.02 + 0.10 * changes[bar] ** 2 + 0.88 * variance
    return changes


def adjusted(log_prices: Float2D, seed: int) -> Float1D:
    p_value = engle_granger_all_pairs(log_prices).p_value
    made = p_value[~np.isnan(p_value)]
    return adjusted_by_null(made, smallest_null_p_values(log_prices, N_COPIES, seed))


@pytest.mark.parametrize("walk", [gaussian, student, garch])
def test_null_universes_are_rarely_accepted_anything_of(walk: Walk) -> None:
    rng = np.random.default_rng(1)
    n_hits = sum(
        bool((adjusted(0.01 * walk(rng, 300, 8).cumsum(axis=0), seed) <= LEVEL).any())
        for seed in range(N_UNIVERSES)
    )
    two_errors = 2 * np.sqrt(LEVEL * (1 - LEVEL) / N_UNIVERSES)
    assert n_hits / N_UNIVERSES <= LEVEL + two_errors


def test_a_planted_pair_is_accepted_and_nothing_else() -> None:
    rng = np.random.default_rng(2)
    walks = rng.normal(size=(500, 6)).cumsum(axis=0)
    walks[:, 1] = 1.0 + walks[:, 0] + rng.normal(size=500)
    p_value = engle_granger_all_pairs(walks).p_value
    smallest = smallest_null_p_values(walks, N_COPIES, 0)
    is_accepted = adjusted_by_null(p_value.ravel(), smallest).reshape(6, 6) <= LEVEL
    np.fill_diagonal(is_accepted, val=False)
    assert set(zip(*np.nonzero(is_accepted), strict=True)) == {(0, 1), (1, 0)}


def test_the_same_seed_gives_the_same_null_and_a_copy_keeps_the_sizes_of_its_bars() -> None:
    walks = np.random.default_rng(3).normal(size=(200, 4)).cumsum(axis=0)
    first = smallest_null_p_values(walks, N_COPIES, 5)
    assert first.tobytes() == smallest_null_p_values(walks, N_COPIES, 5).tobytes()
    assert first.tobytes() != smallest_null_p_values(walks, N_COPIES, 6).tobytes()
    assert (np.diff(first) >= 0).all()


def test_an_adjusted_p_value_counts_the_copies_at_or_below() -> None:
    null = np.array([0.01, 0.02, 0.02, 0.5])
    found = adjusted_by_null(np.array([0.005, 0.01, 0.02, 1.0]), null)
    assert found.tolist() == [0.2, 0.4, 0.8, 1.0]
