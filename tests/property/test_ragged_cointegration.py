from __future__ import annotations

from collections.abc import Iterator

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import DataError
from shared.quant.cointegration import engle_granger_all_pairs
from shared.quant.empirical_null import adjusted_by_null, smallest_null_p_values
from shared.quant.mean_reversion import correlation_of_changes
from shared.quant.ragged_cointegration import engle_granger_ragged
from shared.quant.typing import Float2D


@pytest.fixture(scope="module", autouse=True)
def one_core() -> Iterator[None]:
    """Keep the kernels, which give the same bits on any number, from waiting for busy cores."""
    n_threads = numba.get_num_threads()
    numba.set_num_threads(1)
    yield
    numba.set_num_threads(n_threads)


FIELDS = ("statistic", "p_value", "lag", "hedge_ratio", "intercept")
N_BARS = 160


def walks(seed: int, n_series: int) -> Float2D:
    steps = np.random.default_rng(seed).standard_t(4, size=(N_BARS, n_series))
    return 5.0 + 0.01 * steps.cumsum(axis=0)


def begun(log_prices: Float2D, lengths: list[int]) -> Float2D:
    """Return the series without the bars before the last so many of each."""
    ragged = log_prices.copy()
    for column, length in enumerate(lengths):
        ragged[: len(ragged) - length, column] = np.nan
    return ragged


@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.sampled_from([60, 61, 99, N_BARS]), min_size=2, max_size=7),
)
@settings(max_examples=20, deadline=None)
def test_a_pair_is_tested_as_if_it_were_alone_on_the_bars_both_have(
    seed: int, lengths: list[int]
) -> None:
    log_prices = walks(seed, len(lengths))
    found = engle_granger_ragged(begun(log_prices, lengths))
    for i, own in enumerate(lengths):
        for j, other in enumerate(lengths):
            n_bars = 0 if i == j else min(own, other)
            assert found.n_bars[i, j] == n_bars
            if i == j:
                assert all(np.isnan(getattr(found, field)[i, j]) for field in FIELDS)
                continue
            alone = engle_granger_all_pairs(log_prices[-n_bars:, [i, j]])
            for field in FIELDS:
                assert getattr(found, field)[i, j] == getattr(alone, field)[0, 1], field


@pytest.mark.parametrize("n_first", [0, 1, 8, 9, 19])
def test_tests_of_the_first_columns_are_those_of_all(n_first: int) -> None:
    log_prices = walks(3, 19)
    expected, found = (
        engle_granger_all_pairs(log_prices),
        engle_granger_all_pairs(log_prices, n_first=n_first),
    )
    for field in FIELDS:
        values = getattr(expected, field).copy()
        values[n_first:, n_first:] = np.nan
        np.testing.assert_array_equal(getattr(found, field), values)


def test_the_tests_of_the_longest_are_taken_where_they_are_known() -> None:
    lengths = [N_BARS, 80, N_BARS, N_BARS]
    log_prices = begun(walks(4, 4), lengths)
    known = engle_granger_all_pairs(log_prices[:, [0, 2, 3]])
    known.p_value[0, 1] = 0.123
    found = engle_granger_ragged(log_prices, known)
    assert found.p_value[0, 2] == 0.123
    assert found.p_value[0, 1] == engle_granger_ragged(log_prices).p_value[0, 1]
    with pytest.raises(DataError, match="tests of 3 longest series, of which there are 2"):
        engle_granger_ragged(log_prices[:, :3], known)


def test_a_series_that_does_not_move_within_the_common_bars_is_not_tested() -> None:
    log_prices = begun(walks(5, 4), [N_BARS, N_BARS, 80, 80])
    log_prices[-90:, 0] = 1.0
    log_prices[-80:, 3] = 2.0
    n_bars = engle_granger_ragged(log_prices).n_bars
    assert n_bars.tolist() == [
        [0, N_BARS, 0, 0],
        [N_BARS, 0, 80, 0],
        [0, 80, 0, 0],
        [0, 0, 0, 0],
    ]


def test_a_copy_of_a_series_is_collinear_on_the_bars_both_have() -> None:
    log_prices = walks(6, 3)
    log_prices[:, 1] = 3.0 + 2.0 * log_prices[:, 0]
    found = engle_granger_ragged(begun(log_prices, [N_BARS, 80, 80]))
    assert found.statistic[0, 1] == found.statistic[1, 0] == -np.inf
    assert found.p_value[0, 1] == 0.0
    assert found.n_bars[0, 1] == 80


@pytest.mark.parametrize(("row", "value"), [(100, np.nan), (N_BARS - 1, np.nan), (20, np.inf)])
def test_a_series_with_a_gap_is_refused(row: int, value: float) -> None:
    log_prices = begun(walks(7, 3), [N_BARS, 80, N_BARS])
    log_prices[row, 1] = value
    with pytest.raises(DataError, match="column 1 of the log prices has a gap"):
        engle_granger_ragged(log_prices)


def test_series_without_bars_or_too_short_are_refused() -> None:
    with pytest.raises(DataError, match="column 2 of the log prices has a gap, no bar"):
        engle_granger_ragged(begun(walks(8, 3), [N_BARS, 80, 0]))
    with pytest.raises(DataError, match="at least three bars"):
        engle_granger_ragged(begun(walks(8, 3), [N_BARS, 80, 2]))
    with pytest.raises(DataError, match=r"shape \(160,\)"):
        engle_granger_ragged(walks(8, 3)[:, 0])


def test_planted_pairs_of_any_lengths_are_found_among_unrelated_walks() -> None:
    rng = np.random.default_rng(9)
    log_prices = rng.normal(size=(600, 12)).cumsum(axis=0)
    lengths = [600, 600, 600, 300, 300, 300, 600, 450, 450, 600, 300, 450]
    planted = {(0, 1), (2, 3), (4, 5)}
    for y, x in planted:
        log_prices[:, y] = 1.0 + log_prices[:, x] + rng.normal(size=600)
    ragged = begun(log_prices, lengths)
    found = engle_granger_ragged(ragged)
    i, j = np.nonzero(found.n_bars)
    q_value = adjusted_by_null(found.p_value[i, j], smallest_null_p_values(ragged, 39, 0))
    is_accepted = q_value <= 0.05
    accepted = {(min(pair), max(pair)) for pair in zip(i[is_accepted], j[is_accepted], strict=True)}
    assert accepted == planted
    assert {int(found.n_bars[pair]) for pair in planted} == {300, 600}


def test_ragged_null_universes_are_rarely_accepted_anything_of() -> None:
    rng = np.random.default_rng(12)
    lengths = [300, 300, 150, 300, 200, 150, 300, 200]
    n_universes, n_hits = 40, 0
    for seed in range(n_universes):
        changes = rng.standard_t(3, size=(300, 8))
        ragged = begun(0.01 * changes.cumsum(axis=0), lengths)
        smallest = smallest_null_p_values(ragged, 39, seed)
        p_value = engle_granger_ragged(ragged).p_value
        n_hits += bool((adjusted_by_null(p_value[~np.isnan(p_value)], smallest) <= 0.05).any())
    assert n_hits / n_universes <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / n_universes)


def test_the_copies_of_a_universe_leave_no_series_out() -> None:
    # The planted copy of a short series would be missed if short series were not in the null.
    full = walks(11, 4)
    long_alone = smallest_null_p_values(full[:, :2], 39, 1)
    with_short = smallest_null_p_values(begun(full, [N_BARS, N_BARS, 70, 90]), 39, 1)
    assert (with_short <= long_alone).all()
    assert with_short.tolist() != long_alone.tolist()
    assert (
        smallest_null_p_values(begun(full, [N_BARS, 0, 70, 90])[:, [0]], 5, 1).tolist() == [1.0] * 5
    )


@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([1e-3, 0.5, 2.0, 1e4]),
    shift=st.floats(-50, 50),
)
@settings(max_examples=30, deadline=None)
def test_units_change_no_statistic_and_the_correlation_has_no_direction(
    seed: int, scale: float, shift: float
) -> None:
    log_prices = walks(seed, 3)
    ragged = begun(log_prices, [N_BARS, 80, 100])
    moved = begun(shift + scale * log_prices, [N_BARS, 80, 100])
    for field in ("statistic", "p_value", "hedge_ratio"):
        np.testing.assert_allclose(
            getattr(engle_granger_ragged(moved), field),
            getattr(engle_granger_ragged(ragged), field),
            rtol=1e-6,
            atol=1e-12,
        )
    one = correlation_of_changes(log_prices[:, :2], log_prices[:, 1:])
    other = correlation_of_changes(log_prices[:, 1:], log_prices[:, :2])
    assert one.tolist() == other.tolist()
    np.testing.assert_allclose(
        correlation_of_changes(shift + scale * log_prices[:, :2], log_prices[:, 1:]), one, atol=1e-8
    )
