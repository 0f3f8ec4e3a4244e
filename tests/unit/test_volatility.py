from __future__ import annotations

import itertools

import numpy as np
import pytest

from shared.quant.volatility import annual_volatility, largest_share


def test_volatility_of_a_hedged_book_is_what_the_hedge_leaves() -> None:
    # Two symbols that move as one: opposite holdings cancel.
    covariance = np.full((2, 2), 4e-4)
    assert annual_volatility(np.array([100.0, -100.0]), covariance, 1_000.0, 365.0) == 0.0
    alone = annual_volatility(np.array([100.0, 0.0]), covariance, 1_000.0, 365.0)
    assert alone == pytest.approx(0.1 * 0.02 * np.sqrt(365))


def test_the_largest_share_is_the_largest_that_keeps_to_the_bound() -> None:
    rng = np.random.default_rng(7)
    outcomes = set()
    grid = np.linspace(0, 1, 2_001)
    for _ in range(300):
        root = rng.normal(size=(3, 3))
        covariance = root @ root.T
        held, added = rng.normal(size=3), rng.normal(size=3)
        most = float(rng.uniform(0.1, 6.0))
        share = largest_share(held, added, covariance, most)
        books = held + grid[:, None] * added
        fits = np.einsum("ij,jk,ik->i", books, covariance, books) <= most
        expected = grid[fits].max() if fits.any() else 0.0
        assert share == pytest.approx(expected, abs=1e-3)
        outcomes.add("all" if share == 1 else "none" if share == 0 else "part")
    assert outcomes == {"all", "none", "part"}


def test_nothing_to_add_fits_only_a_book_that_fits() -> None:
    held, nothing = np.array([1.0]), np.zeros(1)
    for most, share in itertools.product((0.5, 2.0), (0.0, 1.0)):
        found = largest_share(held, nothing, np.eye(1), most)
        assert (found == share) is (share == (most > 1))
