from __future__ import annotations

import numba
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.quant.cointegration import EngleGrangerResult, engle_granger_all_pairs
from shared.quant.multiple_testing import benjamini_hochberg, benjamini_yekutieli
from shared.quant.typing import Float2D

FIELDS = ("statistic", "p_value", "lag", "hedge_ratio", "intercept")


def walks(seed: int, n_bars: int, n_series: int) -> Float2D:
    return np.random.default_rng(seed).normal(size=(n_bars, n_series)).cumsum(axis=0)


def assert_same_bits(first: EngleGrangerResult, second: EngleGrangerResult) -> None:
    for field in FIELDS:
        assert getattr(first, field).tobytes() == getattr(second, field).tobytes(), field


def part(result: EngleGrangerResult, columns: list[int]) -> EngleGrangerResult:
    entries = np.ix_(columns, columns)
    return EngleGrangerResult(
        result.statistic[entries],
        result.p_value[entries],
        result.lag[entries],
        result.hedge_ratio[entries],
        result.intercept[entries],
        result.n_bars,
    )


@given(
    seed=st.integers(0, 2**32 - 1),
    n_bars=st.integers(30, 400),
    order=st.permutations(range(6)),
    n_kept=st.integers(2, 6),
)
@settings(max_examples=60, deadline=None)
def test_a_pair_does_not_feel_the_other_series_nor_their_order(
    seed: int, n_bars: int, order: list[int], n_kept: int
) -> None:
    series = walks(seed, n_bars, 6)
    chosen = order[:n_kept]
    assert_same_bits(
        engle_granger_all_pairs(series[:, chosen]), part(engle_granger_all_pairs(series), chosen)
    )


def test_cores_and_memory_layout_do_not_touch_a_bit() -> None:
    series = walks(11, 700, 20)
    on_all_cores = engle_granger_all_pairs(series)
    assert_same_bits(on_all_cores, engle_granger_all_pairs(np.asfortranarray(series)))
    n_threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        on_one_core = engle_granger_all_pairs(series)
    finally:
        numba.set_num_threads(n_threads)
    assert_same_bits(on_all_cores, on_one_core)


@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.floats(1e-3, 1e3),
    shift=st.floats(-20.0, 20.0),
    backwards=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_units_of_one_series_change_its_line_and_nothing_else(
    seed: int, scale: float, shift: float, backwards: bool
) -> None:
    series = walks(seed, 250, 3)
    factor = -scale if backwards else scale
    changed = series.copy()
    changed[:, 1] = shift + factor * series[:, 1]
    before, after = engle_granger_all_pairs(series), engle_granger_all_pairs(changed)
    off_diagonal = ~np.eye(3, dtype=np.bool_)
    np.testing.assert_allclose(
        after.statistic[off_diagonal], before.statistic[off_diagonal], rtol=1e-6, atol=1e-8
    )
    np.testing.assert_array_equal(after.lag, before.lag)
    # Regressed on: the slope takes the inverse factor. Regressed: it takes the factor.
    np.testing.assert_allclose(
        after.hedge_ratio[0, 1], before.hedge_ratio[0, 1] / factor, rtol=1e-6
    )
    np.testing.assert_allclose(
        after.hedge_ratio[1, 0], before.hedge_ratio[1, 0] * factor, rtol=1e-6
    )
    np.testing.assert_allclose(
        after.intercept[1, 0], shift + factor * before.intercept[1, 0], rtol=1e-6, atol=1e-6
    )


def test_false_discoveries_among_unrelated_walks_stay_at_the_level() -> None:
    n_universes, n_series, level = 200, 8, 0.05
    off_diagonal = ~np.eye(n_series, dtype=np.bool_)
    with_discovery = {"hochberg": 0, "yekutieli": 0, "p_value": 0}
    n_below_level = 0
    for universe in range(n_universes):
        result = engle_granger_all_pairs(walks(universe, 1000, n_series))
        p_value = result.p_value[off_diagonal]
        with_discovery["hochberg"] += bool((benjamini_hochberg(p_value) <= level).any())
        with_discovery["yekutieli"] += bool((benjamini_yekutieli(p_value) <= level).any())
        with_discovery["p_value"] += bool((p_value <= level).any())
        n_below_level += int((p_value <= level).sum())
    # 10 of 200 are expected at most; a binomial count exceeds 20 once in a thousand times.
    assert with_discovery["hochberg"] <= 20
    assert with_discovery["yekutieli"] <= with_discovery["hochberg"]
    # What the control is for: without it, most universes show a pair. The size of one test,
    # whose p-value is asymptotic, is close to the level.
    assert with_discovery["p_value"] > 120
    share_below_level = n_below_level / (n_universes * off_diagonal.sum())
    assert 0.04 < share_below_level < 0.07


def test_a_tied_pair_is_found_among_unrelated_walks() -> None:
    for universe in range(20):
        series = walks(universe, 1000, 8)
        noise = np.random.default_rng(1000 + universe).normal(size=1000)
        series[:, 3] = 2.0 * series[:, 5] + noise
        result = engle_granger_all_pairs(series)
        off_diagonal = ~np.eye(8, dtype=np.bool_)
        q_value = np.full((8, 8), np.nan)
        q_value[off_diagonal] = benjamini_hochberg(result.p_value[off_diagonal])
        assert q_value[3, 5] <= 0.01
        assert q_value[5, 3] <= 0.01
