from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from shared.errors import DataError
from shared.quant.multiple_testing import benjamini_hochberg, benjamini_yekutieli
from shared.quant.typing import Float1D

# Benjamini and Hochberg (1995), section 3.2: fifteen p-values of a heart attack trial, of
# which their procedure rejects the first four at 5 %.
PUBLISHED = """
    0.0001 0.0004 0.0019 0.0095 0.0201 0.0278 0.0298 0.0344 0.0459
    0.3240 0.4262 0.5719 0.6528 0.7590 1.0000
"""


def many_p_values() -> Float1D:
    rng = np.random.default_rng(1995)
    p_values = np.concatenate([rng.beta(0.2, 5.0, size=300), rng.uniform(size=700)])
    p_values[[3, 50, 51]] = 0.0, 1.0, 1.0
    p_values[100:110] = p_values[99]  # ties
    return rng.permutation(p_values)


def test_the_published_example_rejects_four() -> None:
    p_values = np.array(PUBLISHED.split(), dtype=np.float64)
    assert np.flatnonzero(benjamini_hochberg(p_values) <= 0.05).tolist() == [0, 1, 2, 3]


def test_hochberg_equals_statsmodels() -> None:
    p_values = many_p_values()
    expected = multipletests(p_values, method="fdr_bh")[1]
    np.testing.assert_allclose(benjamini_hochberg(p_values), expected, rtol=1e-13, atol=0)


def test_yekutieli_equals_statsmodels() -> None:
    p_values = many_p_values()
    expected = multipletests(p_values, method="fdr_by")[1]
    np.testing.assert_allclose(benjamini_yekutieli(p_values), expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("adjust", [benjamini_hochberg, benjamini_yekutieli])
def test_q_values_rise_with_p_values_and_are_never_below_them(
    adjust: Callable[[Float1D], Float1D],
) -> None:
    p_values = np.sort(many_p_values())
    q_values = adjust(p_values)
    assert (np.diff(q_values) >= 0.0).all()
    assert (q_values >= p_values).all()
    assert q_values.max() <= 1.0


def test_one_test_needs_no_adjustment() -> None:
    assert benjamini_hochberg(np.array([0.03])).tolist() == [0.03]
    assert benjamini_yekutieli(np.array([0.03])).tolist() == [0.03]


def test_no_tests_give_no_q_values() -> None:
    assert benjamini_hochberg(np.empty(0)).shape == (0,)
    assert benjamini_yekutieli(np.empty(0)).shape == (0,)


@pytest.mark.parametrize("value", [np.nan, -0.01, 1.01])
def test_a_value_that_is_no_probability_is_refused(value: float) -> None:
    with pytest.raises(DataError, match="test 1 is not within"):
        benjamini_hochberg(np.array([0.5, value]))


def test_a_matrix_is_refused() -> None:
    with pytest.raises(DataError, match="one value per test"):
        benjamini_yekutieli(np.zeros((2, 2)))
