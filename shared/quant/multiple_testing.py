"""Control of the false discovery rate over many tests."""

from __future__ import annotations

import numpy as np

from shared.errors import DataError
from shared.quant.typing import Float1D


def benjamini_hochberg(p_values: Float1D) -> Float1D:
    """Return q-values that hold for independent or positively dependent tests.

    Accepting the tests with a q-value of at most `level` keeps the expected share of false
    ones among them at `level` or below.

    Parameters
    ----------
    p_values : ndarray of float64, shape (m,)
        Of every test made, accepted or not.

    Returns
    -------
    ndarray of float64, shape (m,)
        Adjusted p-values in the order given; never below the p-value, never falling as the
        p-value rises.

    Raises
    ------
    DataError
        If the array is not one-dimensional or holds a value outside [0, 1], NaN included.

    Notes
    -----
    With the p-values in ascending order, q_(i) = min over j >= i of p_(j) m / j.

    References
    ----------
    Y. Benjamini and Y. Hochberg (1995), "Controlling the false discovery rate: a practical
    and powerful approach to multiple testing", Journal of the Royal Statistical Society B 57.

    Examples
    --------
    >>> benjamini_hochberg(np.array([0.01, 0.04, 0.02, 0.5])).round(4).tolist()
    [0.04, 0.0533, 0.04, 0.5]
    """
    return _step_up(p_values, 1.0)


def benjamini_yekutieli(p_values: Float1D) -> Float1D:
    """Return q-values that hold whatever the dependence between the tests.

    Parameters
    ----------
    p_values : ndarray of float64, shape (m,)
        Of every test made, accepted or not.

    Returns
    -------
    ndarray of float64, shape (m,)
        Adjusted p-values in the order given.

    Raises
    ------
    DataError
        If the array is not one-dimensional or holds a value outside [0, 1], NaN included.

    Notes
    -----
    The q-values of Benjamini and Hochberg times 1 + 1/2 + ... + 1/m, at most 1.

    References
    ----------
    Y. Benjamini and D. Yekutieli (2001), "The control of the false discovery rate in multiple
    testing under dependency", Annals of Statistics 29, theorem 1.3.

    Examples
    --------
    >>> benjamini_yekutieli(np.array([0.01, 0.5])).tolist()
    [0.03, 0.75]
    """
    return _step_up(p_values, float((1.0 / np.arange(1, len(p_values) + 1)).sum()))


def _step_up(p_values: Float1D, dependence_factor: float) -> Float1D:
    if p_values.ndim != 1:
        raise DataError(f"p-values have shape {p_values.shape}: give one value per test")
    outside = np.flatnonzero(~((p_values >= 0.0) & (p_values <= 1.0)))
    if outside.size:
        raise DataError(
            f"p-value {p_values[outside[0]]} of test {outside[0]} is not within [0, 1]: leave out "
            "tests that were not made"
        )
    n_tests = len(p_values)
    order = np.argsort(p_values, kind="stable")
    scaled = p_values[order] * (n_tests * dependence_factor / np.arange(1, n_tests + 1))
    q_values = np.empty(n_tests)
    q_values[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return q_values
